// One loop per elementary function, as the generator writes them.
#include "math.hpp"

using namespace mcomp;

#define API extern "C" __attribute__((visibility("default")))
#define UNARY(name)                                          \
  API void name##_f32(const float* x, float* y, int64_t n) { \
    for (int64_t i = 0; i < n; ++i) y[i] = math::name(x[i]); \
  }
#define BINARY(name, type, suffix)                                             \
  API void name##_##suffix(const type* a, const type* b, type* y, int64_t n) { \
    for (int64_t i = 0; i < n; ++i) y[i] = math::name(a[i], b[i]);             \
  }

UNARY(exp)
UNARY(exp_nonpositive)
UNARY(exp2)
UNARY(expm1)
UNARY(log)
UNARY(log2)
UNARY(log10)
UNARY(log1p)
UNARY(tanh)
UNARY(erf)
UNARY(sin)
UNARY(cos)
UNARY(tan)
UNARY(sigmoid)
UNARY(silu)
UNARY(log_sigmoid)
UNARY(softplus)
UNARY(mish)
UNARY(softsign)
UNARY(tanhshrink)
UNARY(gelu_erf)
UNARY(gelu_tanh)
UNARY(gelu_erf_coarse)
UNARY(gelu_tanh_coarse)
UNARY(hardsigmoid)
UNARY(hardswish)
UNARY(elu)
UNARY(celu)
UNARY(selu)
UNARY(relu)
UNARY(relu6)
UNARY(round)
UNARY(floor)
UNARY(ceil)
UNARY(trunc)
UNARY(sign)
UNARY(rsqrt)
UNARY(atan)
UNARY(asinh)
BINARY(pow, float, f32)
BINARY(floor_div, float, f32)
BINARY(remainder, float, f32)
BINARY(fmod, float, f32)
BINARY(maximum, float, f32)
BINARY(minimum, float, f32)
BINARY(fmax, float, f32)
BINARY(fmin, float, f32)
BINARY(logaddexp, float, f32)
BINARY(xlogy, float, f32)

#define INTEGER(type, suffix)       \
  BINARY(add, type, suffix)         \
  BINARY(sub, type, suffix)         \
  BINARY(mul, type, suffix)         \
  BINARY(floor_div, type, suffix)   \
  BINARY(trunc_div, type, suffix)   \
  BINARY(remainder, type, suffix)   \
  BINARY(fmod, type, suffix)        \
  BINARY(shift_left, type, suffix)  \
  BINARY(shift_right, type, suffix) \
  BINARY(maximum, type, suffix)     \
  BINARY(pow, type, suffix)
INTEGER(int64_t, i64)
INTEGER(int32_t, i32)
INTEGER(int8_t, i8)
INTEGER(uint8_t, u8)
