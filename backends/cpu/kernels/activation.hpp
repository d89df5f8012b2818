// Activation functions, scalar and vectorizable; included by math.hpp. Names and limits are torch.nn.functional's.
//
//     for (int64_t i = r.begin; i < r.end; ++i) out[i] = math::silu(x[i]) * gate[i];
// Absolute error against the exact value: below 1e-6 max(1, |x|) in float; below kCoarse in the functions named coarse,
// for results that are requantized to 8 bits at once with a scale well above that. Polynomials are least-maximum fits.
#pragma once

#include "math.hpp"

namespace mcomp {
namespace math {

template <class T>
inline T relu(T x) {
  return x < T(0) ? T(0) : x;
}
template <class T>
inline T relu6(T x) {
  return between(x, T(0), T(6));
}
template <class T>
inline T leaky_relu(T x, T slope) {
  return x > T(0) ? x : x * slope;
}
template <class T>
inline T threshold(T x, T limit, T value) {
  return x <= limit ? value : x;
}
template <class T>
inline T hardtanh(T x, T low, T high) {
  return between(x, low, high);
}

namespace detail {

// Horner's rule, highest coefficient first.
template <class... C>
inline float horner(float u, float highest, C... rest) {
  float p = highest;
  ((p = p * u + rest), ...);
  return p;
}
// The smaller of two floats that are not negative, the second not NaN: as integers, so that it is one instruction.
inline float least(float a, float b) {
  const int32_t i = bits_of(a), j = bits_of(b);
  return float_of(i < j ? i : j);
}
// 0 below 0, 1 above 1; any number for NaN.
inline float unit_interval(float x) {
  const int32_t i = bits_of(x), low = i < 0 ? 0 : i;
  return float_of(low < 0x3f800000 ? low : 0x3f800000);
}
// exp with results below the smallest normal float, and above 2^127.5, as 2^-126 and infinity.
inline float exp_clipped(float x) {
  x = x > 88.5f ? 88.5f : x;
  x = x < -87.0f ? -87.0f : x;
  const Reduced d = reduce_ln2(x);
  return (1.0f + expm1_reduced(d.r)) * power_of_two(d.n);
}

}  // namespace detail

template <class T>
inline T sigmoid(T x) {
  return T(1) / (T(1) + exp(-x));
}
inline float sigmoid(float x) { return 1.0f / (1.0f + detail::exp_clipped(-x)); }
template <class T>
inline T silu(T x) {
  return x / (T(1) + exp(-x));
}
inline float silu(float x) { return x / (1.0f + detail::exp_clipped(-x)); }
template <class T>
inline T log_sigmoid(T x) {
  const T low = x < T(0) ? x : (x != x ? x : T(0));
  return low - log1p(exp(-abs(x)));
}
// log(1 + exp(beta x)) / beta, x itself where beta x > threshold.
template <class T>
inline T softplus(T x, T beta = T(1), T limit = T(20)) {
  const T z = x * beta;
  const T y = log1p(exp(z)) / beta;
  return z > limit ? x : y;
}
template <class T>
inline T mish(T x) {
  return x * tanh(log1p(exp(x)));
}
template <class T>
inline T softsign(T x) {
  return x / (T(1) + abs(x));
}
template <class T>
inline T tanhshrink(T x) {
  return x - tanh(x);
}
template <class T>
inline T hardshrink(T x, T limit) {
  return (x >= -limit && x <= limit) ? T(0) : x;
}
template <class T>
inline T softshrink(T x, T limit) {
  return x > limit ? x - limit : (x < -limit ? x + limit : (x != x ? x : T(0)));
}

template <class T>
inline T gelu_erf(T x) {
  return x * T(0.5) * (T(1) + erf(x * T(0.70710678118654752440)));
}
// x (1/2 + x P(x^2)), the factor 0 or 1 beyond |x| = 4.88: no division.
inline float gelu_erf(float x) {
  const float u = detail::least(x * x, 23.8144f) * 0.0839828f - 1.0f;
  const float p = detail::horner(u, -9.516429e-4f, 2.539642e-3f, -2.8759746e-3f, 4.3589207e-3f, -9.433951e-3f,
                                 1.5756886e-2f, -2.2512587e-2f, 3.0838951e-2f, -4.057335e-2f, 5.238584e-2f,
                                 -7.189171e-2f, 0.1448178f);
  return x * detail::unit_interval(x * p + 0.5f);
}
// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
template <class T>
inline T gelu_tanh(T x) {
  const T u = T(0.79788456080286535588) * (x + T(0.044715) * (x * x * x));
  return T(0.5) * x * (T(1) + tanh(u));
}
inline float gelu_tanh(float x) {
  const float u = detail::least(x * x, 21.6225f) * 0.09249624f - 1.0f;
  const float p = detail::horner(u, -5.828279e-4f, 1.8263699e-3f, -2.546322e-3f, 3.6065462e-3f, -7.0378967e-3f,
                                 1.260349e-2f, -1.9881178e-2f, 2.926223e-2f, -4.050314e-2f, 5.3996623e-2f,
                                 -7.515646e-2f, 0.15193932f);
  return x * detail::unit_interval(x * p + 0.5f);
}

constexpr float kCoarse = 1.6e-4f;

namespace detail {

// max(x, 0) - P(|x|), where P(y) is close to -gelu(-y) up to 3.9 and constant beyond; NaN for NaN, -P(3.9) for -inf.
template <class... C>
inline float gelu_coarse(float x, C... c) {
  const float tail = horner(least(std::fabs(x), 3.9f), c...);
  return (x < 0.0f ? 0.0f : x) - tail;
}

}  // namespace detail

inline float gelu_erf_coarse(float x) {
  return detail::gelu_coarse(x, -6.83158e-4f, 1.04377875e-2f, -6.0135253e-2f, 0.14618842f, -5.021708e-2f, -0.38711533f,
                             0.50023216f, -1.4781547e-4f);
}
inline float gelu_tanh_coarse(float x) {
  return detail::gelu_coarse(x, -6.595105e-4f, 1.0103756e-2f, -5.8334757e-2f, 0.14163557f, -4.490397e-2f, -0.38954282f,
                             0.5005725f, -1.4236053e-4f);
}

template <class T>
inline T quick_gelu(T x) {
  return x / (T(1) + exp(T(-1.702) * x));
}

template <class T>
inline T hardsigmoid(T x) {
  return between(x + T(3), T(0), T(6)) / T(6);
}
template <class T>
inline T hardswish(T x) {
  return x * between(x + T(3), T(0), T(6)) / T(6);
}
template <class T>
inline T elu(T x, T alpha = T(1), T scale = T(1), T input_scale = T(1)) {
  return x > T(0) ? x * scale : expm1(x * input_scale) * (alpha * scale);
}
template <class T>
inline T celu(T x, T alpha = T(1)) {
  return x > T(0) ? x : alpha * expm1(x / alpha);
}
template <class T>
inline T selu(T x) {
  return elu(x, T(1.6732632423543772848170429916717), T(1.0507009873554804934193349852946));
}

template <class T>
inline T logit(T x) {
  return log(x / (T(1) - x));
}
template <class T>
inline T xlogy(T x, T y) {
  const T v = x * log(y);
  return y != y ? y : (x == T(0) ? T(0) : v);
}
template <class T>
inline T logaddexp(T a, T b) {
  const T high = maximum(a, b);
  const T v = high + log1p(exp(-abs(a - b)));
  return (a == b && is_inf(a)) ? a : v;
}

}  // namespace math
}  // namespace mcomp
