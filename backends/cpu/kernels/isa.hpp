// Instruction set selection and the vector vocabulary that the kernels share.
//
// Exactly one of MCOMP_ISA_AVX512, MCOMP_ISA_AVX2, MCOMP_ISA_PORTABLE is given on the command line; MCOMP_VNNI and
// MCOMP_BF16 come on top of AVX-512. Vectors are GCC vector types (g++ and clang): +, -, *, /, comparisons, and
// `mask ? a : b` work on all of them; what follows adds loads, stores, fused multiply-add, rounding and reductions.
//
//   vf32 s = vset(0.0f);
//   int64_t i = 0;
//   for (; i + kLanes <= n; i += kLanes) s = vfma(vload(a + i), vload(b + i), s);
//   if (i < n) s = vfma(vload_n(a + i, n - i), vload_n(b + i, n - i), s);    // lanes past n read as zero
//   float dot = vsum(s);
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(MCOMP_ISA_AVX512) + defined(MCOMP_ISA_AVX2) + defined(MCOMP_ISA_PORTABLE) != 1
#error "define exactly one of MCOMP_ISA_AVX512, MCOMP_ISA_AVX2, MCOMP_ISA_PORTABLE"
#endif

#if defined(MCOMP_ISA_AVX512) || defined(MCOMP_ISA_AVX2)
#include <immintrin.h>
#define MCOMP_X86_SIMD 1
#endif

#define MCOMP_INLINE inline __attribute__((always_inline))
#define MCOMP_NOINLINE __attribute__((noinline))
// Attribute of a lambda that must be inlined: [&](auto i) MCOMP_LAMBDA { ... }
#define MCOMP_LAMBDA __attribute__((always_inline))

namespace mcomp {

#if defined(MCOMP_ISA_AVX512)
constexpr int kVectorBytes = 64;
constexpr int kVectorRegisters = 32;
constexpr const char* kIsaName = "avx512";
#elif defined(MCOMP_ISA_AVX2)
constexpr int kVectorBytes = 32;
constexpr int kVectorRegisters = 16;
constexpr const char* kIsaName = "avx2";
#else
constexpr int kVectorBytes = 16;
constexpr int kVectorRegisters = 16;
constexpr const char* kIsaName = "portable";
#endif

constexpr int kLanes = kVectorBytes / 4;    // 32-bit lanes of a vector
constexpr int kLanes64 = kVectorBytes / 8;  // 64-bit lanes of a vector

typedef float vf32 __attribute__((vector_size(kVectorBytes)));
typedef double vf64 __attribute__((vector_size(kVectorBytes)));
typedef int32_t vi32 __attribute__((vector_size(kVectorBytes)));
typedef uint32_t vu32 __attribute__((vector_size(kVectorBytes)));
typedef int64_t vi64 __attribute__((vector_size(kVectorBytes)));

namespace detail {
typedef float vf32_any __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
typedef double vf64_any __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
typedef int32_t vi32_any __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));

template <class F, int... I>
MCOMP_INLINE void unroll_sequence(F&& f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>{}), ...);
}
}  // namespace detail

// Calls f(integral_constant<int, 0>) ... f(integral_constant<int, N - 1>) in order, without a loop: arrays that f
// indexes with its argument can live in registers. f's body should carry MCOMP_LAMBDA.
template <int N, class F>
MCOMP_INLINE void unroll(F&& f) {
  detail::unroll_sequence(static_cast<F&&>(f), std::make_integer_sequence<int, N>{});
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
constexpr int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }

// ---- loads and stores. Any alignment; the *_n forms touch only the first n elements (0 <= n <= lanes).

MCOMP_INLINE vf32 vload(const float* p) { return *reinterpret_cast<const detail::vf32_any*>(p); }
MCOMP_INLINE vf64 vload(const double* p) { return *reinterpret_cast<const detail::vf64_any*>(p); }
MCOMP_INLINE vi32 vload(const int32_t* p) { return *reinterpret_cast<const detail::vi32_any*>(p); }
MCOMP_INLINE void vstore(float* p, vf32 v) { *reinterpret_cast<detail::vf32_any*>(p) = v; }
MCOMP_INLINE void vstore(double* p, vf64 v) { *reinterpret_cast<detail::vf64_any*>(p) = v; }
MCOMP_INLINE void vstore(int32_t* p, vi32 v) { *reinterpret_cast<detail::vi32_any*>(p) = v; }

MCOMP_INLINE vf32 vset(float x) { return x - vf32{}; }
MCOMP_INLINE vf64 vset(double x) { return x - vf64{}; }
MCOMP_INLINE vi32 vset(int32_t x) { return x - vi32{}; }

#if defined(MCOMP_ISA_AVX512)
MCOMP_INLINE __mmask16 lane_mask(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
MCOMP_INLINE vf32 vload_n(const float* p, int64_t n) { return (vf32)_mm512_maskz_loadu_ps(lane_mask(n), p); }
MCOMP_INLINE vi32 vload_n(const int32_t* p, int64_t n) { return (vi32)_mm512_maskz_loadu_epi32(lane_mask(n), p); }
MCOMP_INLINE void vstore_n(float* p, vf32 v, int64_t n) { _mm512_mask_storeu_ps(p, lane_mask(n), (__m512)v); }
MCOMP_INLINE void vstore_n(int32_t* p, vi32 v, int64_t n) { _mm512_mask_storeu_epi32(p, lane_mask(n), (__m512i)v); }
#elif defined(MCOMP_ISA_AVX2)
MCOMP_INLINE __m256i lane_mask(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
MCOMP_INLINE vf32 vload_n(const float* p, int64_t n) { return (vf32)_mm256_maskload_ps(p, lane_mask(n)); }
MCOMP_INLINE vi32 vload_n(const int32_t* p, int64_t n) { return (vi32)_mm256_maskload_epi32(p, lane_mask(n)); }
MCOMP_INLINE void vstore_n(float* p, vf32 v, int64_t n) { _mm256_maskstore_ps(p, lane_mask(n), (__m256)v); }
MCOMP_INLINE void vstore_n(int32_t* p, vi32 v, int64_t n) { _mm256_maskstore_epi32(p, lane_mask(n), (__m256i)v); }
#else
MCOMP_INLINE vf32 vload_n(const float* p, int64_t n) {
  vf32 v{};
  for (int i = 0; i < kLanes; ++i)
    if (i < n) v[i] = p[i];
  return v;
}
MCOMP_INLINE vi32 vload_n(const int32_t* p, int64_t n) {
  vi32 v{};
  for (int i = 0; i < kLanes; ++i)
    if (i < n) v[i] = p[i];
  return v;
}
MCOMP_INLINE void vstore_n(float* p, vf32 v, int64_t n) {
  for (int i = 0; i < kLanes; ++i)
    if (i < n) p[i] = v[i];
}
MCOMP_INLINE void vstore_n(int32_t* p, vi32 v, int64_t n) {
  for (int i = 0; i < kLanes; ++i)
    if (i < n) p[i] = v[i];
}
#endif

// ---- arithmetic

// a * b + c, rounded once where the ISA has a fused instruction.
MCOMP_INLINE vf32 vfma(vf32 a, vf32 b, vf32 c) {
#if defined(MCOMP_ISA_AVX512)
  return (vf32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(MCOMP_ISA_AVX2)
  return (vf32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}
MCOMP_INLINE vf64 vfma(vf64 a, vf64 b, vf64 c) {
#if defined(MCOMP_ISA_AVX512)
  return (vf64)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(MCOMP_ISA_AVX2)
  return (vf64)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;
#endif
}

// x86 rule: the second operand when either is NaN or both are zero. vmax_nan / vmin_nan propagate NaN as torch does.
MCOMP_INLINE vf32 vmax(vf32 a, vf32 b) {
#if defined(MCOMP_ISA_AVX512)
  return (vf32)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(MCOMP_ISA_AVX2)
  return (vf32)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}
MCOMP_INLINE vf32 vmin(vf32 a, vf32 b) {
#if defined(MCOMP_ISA_AVX512)
  return (vf32)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(MCOMP_ISA_AVX2)
  return (vf32)_mm256_min_ps((__m256)a, (__m256)b);
#else
  return a < b ? a : b;
#endif
}
MCOMP_INLINE vf32 vmax_nan(vf32 a, vf32 b) { return a != a ? a : vmax(a, b); }
MCOMP_INLINE vf32 vmin_nan(vf32 a, vf32 b) { return a != a ? a : vmin(a, b); }

MCOMP_INLINE vf32 vabs(vf32 a) { return (vf32)((vi32)a & 0x7fffffff); }

MCOMP_INLINE vf32 vsqrt(vf32 a) {
#if defined(MCOMP_ISA_AVX512)
  return (vf32)_mm512_sqrt_ps((__m512)a);
#elif defined(MCOMP_ISA_AVX2)
  return (vf32)_mm256_sqrt_ps((__m256)a);
#else
  for (int i = 0; i < kLanes; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
#endif
}

// Nearest integer, ties to even, as float.
MCOMP_INLINE vf32 vround(vf32 a) {
#if defined(MCOMP_ISA_AVX512)
  return (vf32)_mm512_roundscale_ps((__m512)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(MCOMP_ISA_AVX2)
  return (vf32)_mm256_round_ps((__m256)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  // Adding and taking away 2^23 rounds at the unit; larger magnitudes are integers already.
  vf32 magic = vset(8388608.0f);
  vf32 sign = (vf32)((vi32)a & (int32_t)0x80000000);
  vf32 m = vabs(a);
  volatile vf32 shifted = m + magic;
  vf32 r = (vf32)((vi32)(shifted - magic) | (vi32)sign);
  return m < magic ? r : a;
#endif
}

// Nearest integer, ties to even. Out of range or NaN: INT32_MIN (x86) or undefined (portable): clamp first.
MCOMP_INLINE vi32 vround_i32(vf32 a) {
#if defined(MCOMP_ISA_AVX512)
  return (vi32)_mm512_cvtps_epi32((__m512)a);
#elif defined(MCOMP_ISA_AVX2)
  return (vi32)_mm256_cvtps_epi32((__m256)a);
#else
  return __builtin_convertvector(vround(a), vi32);
#endif
}
MCOMP_INLINE vi32 vtrunc_i32(vf32 a) { return __builtin_convertvector(a, vi32); }
MCOMP_INLINE vf32 vto_f32(vi32 a) { return __builtin_convertvector(a, vf32); }

// ---- reductions over the lanes

MCOMP_INLINE float vsum(vf32 v) {
#if defined(MCOMP_ISA_AVX512)
  return _mm512_reduce_add_ps((__m512)v);
#else
  float s = 0.0f;
  for (int step = kLanes / 2; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) v[i] += v[i + step];
  s = v[0];
  return s;
#endif
}
MCOMP_INLINE float vreduce_max(vf32 v) {
#if defined(MCOMP_ISA_AVX512)
  return _mm512_reduce_max_ps((__m512)v);
#else
  float m = v[0];
  for (int i = 1; i < kLanes; ++i) m = m > v[i] ? m : v[i];
  return m;
#endif
}
MCOMP_INLINE float vreduce_min(vf32 v) {
#if defined(MCOMP_ISA_AVX512)
  return _mm512_reduce_min_ps((__m512)v);
#else
  float m = v[0];
  for (int i = 1; i < kLanes; ++i) m = m < v[i] ? m : v[i];
  return m;
#endif
}
MCOMP_INLINE int32_t vsum(vi32 v) {
#if defined(MCOMP_ISA_AVX512)
  return _mm512_reduce_add_epi32((__m512i)v);
#else
  uint32_t s = 0;
  for (int i = 0; i < kLanes; ++i) s += static_cast<uint32_t>(v[i]);
  return static_cast<int32_t>(s);
#endif
}

}  // namespace mcomp
