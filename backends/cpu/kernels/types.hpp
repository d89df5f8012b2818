// Element types that C++ lacks, and conversions between all element types.
//
//   float x = to_f32(h[i]);                       // from bf16, f16, fp8 or any arithmetic type
//   h[i] = from_f32<bf16>(x);                     // round to nearest, ties to even
//   convert_row<float, bf16>(dst, src, n);        // vectorized; dst and src must not overlap
//
// Conversions follow torch (2.13): fp8_e4m3 has no infinity and saturates at 448, fp8_e5m2 and f16 overflow to
// infinity, float to integer truncates, anything to bool is x != 0.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "isa.hpp"

namespace mcomp {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};
struct fp8_e4m3 {
  uint8_t bits;
};
struct fp8_e5m2 {
  uint8_t bits;
};
struct complex64 {
  float re, im;
};

template <class To, class From>
MCOMP_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast between sizes");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

namespace detail {

MCOMP_INLINE float bf16_to_f32(uint16_t bits) { return bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

MCOMP_INLINE uint16_t bf16_from_f32(float x) {
  const uint32_t u = bit_cast<uint32_t>(x);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>(x == x ? rounded : 0x7fc0u);
}

MCOMP_INLINE float f16_to_f32(uint16_t bits) {
#if defined(MCOMP_X86_SIMD)
  return _cvtsh_ss(bits);
#else
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
  const float normal = bit_cast<float>((magnitude << 13) + (112u << 23));
  const float subnormal = bit_cast<float>((magnitude << 13) | (113u << 23)) - bit_cast<float>(113u << 23);
  const float special = bit_cast<float>((magnitude << 13) | 0x7f800000u);
  const float r = magnitude >= 0x7c00u ? special : magnitude < 0x0400u ? subnormal : normal;
  return bit_cast<float>(bit_cast<uint32_t>(r) | sign);
#endif
}

// Float to a small format with `Mantissa` explicit bits and the given exponent bias: the rounded magnitude bits, with
// overflow left to the caller (the result then is at least the pattern after the largest finite one).
template <int Mantissa, int Bias>
MCOMP_INLINE uint32_t narrow_magnitude(uint32_t magnitude) {
  constexpr int drop = 23 - Mantissa;
  constexpr uint32_t smallest_normal = static_cast<uint32_t>(128 - Bias) << 23;
  // Adding this constant aligns a subnormal result's unit with the float's last bit, so the hardware rounds it.
  constexpr uint32_t aligner = static_cast<uint32_t>(127 - Bias + 1 + drop) << 23;
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + bit_cast<float>(aligner)) - aligner;
  const uint32_t odd = (magnitude >> drop) & 1u;
  const uint32_t normal =
      (magnitude - (static_cast<uint32_t>(127 - Bias) << 23) + ((1u << (drop - 1)) - 1u) + odd) >> drop;
  return magnitude < smallest_normal ? subnormal : normal;
}

MCOMP_INLINE uint16_t f16_from_f32(float x) {
#if defined(MCOMP_X86_SIMD)
  return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
#else
  const uint32_t u = bit_cast<uint32_t>(x), magnitude = u & 0x7fffffffu, sign = (u >> 16) & 0x8000u;
  uint32_t r = narrow_magnitude<10, 15>(magnitude);
  r = r > 0x7c00u || magnitude >= 0x47800000u ? 0x7c00u : r;
  r = magnitude > 0x7f800000u ? 0x7e00u : r;
  return static_cast<uint16_t>(r | sign);
#endif
}

MCOMP_INLINE float e5m2_to_f32(uint8_t bits) { return f16_to_f32(static_cast<uint16_t>(bits << 8)); }

MCOMP_INLINE uint8_t e5m2_from_f32(float x) {
  const uint32_t u = bit_cast<uint32_t>(x), magnitude = u & 0x7fffffffu, sign = (u >> 24) & 0x80u;
  uint32_t r = narrow_magnitude<2, 15>(magnitude);
  r = r > 0x7cu || magnitude >= 0x47800000u ? 0x7cu : r;
  r = magnitude > 0x7f800000u ? 0x7fu : r;
  return static_cast<uint8_t>(r | sign);
}

MCOMP_INLINE float e4m3_to_f32(uint8_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80u) << 24, magnitude = bits & 0x7fu;
  const float normal = bit_cast<float>((magnitude << 20) + (120u << 23));
  const float subnormal = bit_cast<float>((magnitude << 20) | (121u << 23)) - bit_cast<float>(121u << 23);
  const float r = magnitude == 0x7fu ? bit_cast<float>(0x7fc00000u) : magnitude < 8u ? subnormal : normal;
  return bit_cast<float>(bit_cast<uint32_t>(r) | sign);
}

MCOMP_INLINE uint8_t e4m3_from_f32(float x) {
  const uint32_t u = bit_cast<uint32_t>(x), magnitude = u & 0x7fffffffu, sign = (u >> 24) & 0x80u;
  uint32_t r = narrow_magnitude<3, 7>(magnitude);
  r = r > 0x7eu || magnitude >= 0x43f00000u ? 0x7eu : r;
  r = magnitude > 0x7f800000u ? 0x7fu : r;
  return static_cast<uint8_t>(r | sign);
}

}  // namespace detail

template <class T>
struct is_small_float : std::false_type {};
template <>
struct is_small_float<bf16> : std::true_type {};
template <>
struct is_small_float<f16> : std::true_type {};
template <>
struct is_small_float<fp8_e4m3> : std::true_type {};
template <>
struct is_small_float<fp8_e5m2> : std::true_type {};

MCOMP_INLINE float to_f32(bf16 x) { return detail::bf16_to_f32(x.bits); }
MCOMP_INLINE float to_f32(f16 x) { return detail::f16_to_f32(x.bits); }
MCOMP_INLINE float to_f32(fp8_e4m3 x) { return detail::e4m3_to_f32(x.bits); }
MCOMP_INLINE float to_f32(fp8_e5m2 x) { return detail::e5m2_to_f32(x.bits); }
template <class T>
MCOMP_INLINE std::enable_if_t<std::is_arithmetic<T>::value, float> to_f32(T x) {
  return static_cast<float>(x);
}

// Any element type to any other. Complex to real takes the real part.
template <class To, class From>
MCOMP_INLINE To convert(From x) {
  if constexpr (std::is_same<To, From>::value) {
    return x;
  } else if constexpr (std::is_same<To, complex64>::value) {
    return complex64{convert<float>(x), 0.0f};
  } else if constexpr (std::is_same<From, complex64>::value) {
    if constexpr (std::is_same<To, bool>::value) return x.re != 0.0f || x.im != 0.0f;
    return convert<To>(x.re);
  } else if constexpr (is_small_float<From>::value) {
    return convert<To>(to_f32(x));
  } else if constexpr (std::is_same<To, bf16>::value) {
    return bf16{detail::bf16_from_f32(static_cast<float>(x))};
  } else if constexpr (std::is_same<To, f16>::value) {
    return f16{detail::f16_from_f32(static_cast<float>(x))};
  } else if constexpr (std::is_same<To, fp8_e4m3>::value) {
    return fp8_e4m3{detail::e4m3_from_f32(static_cast<float>(x))};
  } else if constexpr (std::is_same<To, fp8_e5m2>::value) {
    return fp8_e5m2{detail::e5m2_from_f32(static_cast<float>(x))};
  } else if constexpr (std::is_same<To, bool>::value) {
    return x != From(0);
  } else if constexpr (std::is_same<To, uint8_t>::value && std::is_floating_point<From>::value) {
    return static_cast<uint8_t>(static_cast<int64_t>(x));
  } else {
    return static_cast<To>(x);
  }
}

template <class To>
MCOMP_INLINE To from_f32(float x) {
  return convert<To>(x);
}

// ---- vectors of kLanes elements, converted to and from float

MCOMP_INLINE vf32 vload(const bf16* p) {
#if defined(MCOMP_ISA_AVX512)
  return (vf32)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16);
#elif defined(MCOMP_ISA_AVX2)
  return (vf32)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16);
#else
  vf32 v{};
  for (int i = 0; i < kLanes; ++i) v[i] = to_f32(p[i]);
  return v;
#endif
}
MCOMP_INLINE vf32 vload(const f16* p) {
#if defined(MCOMP_ISA_AVX512)
  return (vf32)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(MCOMP_ISA_AVX2)
  return (vf32)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  vf32 v{};
  for (int i = 0; i < kLanes; ++i) v[i] = to_f32(p[i]);
  return v;
#endif
}
MCOMP_INLINE void vstore(bf16* p, vf32 v) {
#if defined(MCOMP_X86_SIMD)
  const vu32 u = (vu32)v;
  const vu32 rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const vu32 r = v == v ? rounded : (vu32{} + 0x7fc0u);
#if defined(MCOMP_ISA_AVX512)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16((__m512i)r));
#else
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32((__m256i)r, (__m256i)r), 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
#endif
#else
  for (int i = 0; i < kLanes; ++i) p[i] = from_f32<bf16>(v[i]);
#endif
}
MCOMP_INLINE void vstore(f16* p, vf32 v) {
#if defined(MCOMP_ISA_AVX512)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(MCOMP_ISA_AVX2)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes; ++i) p[i] = from_f32<f16>(v[i]);
#endif
}

namespace detail {

// kLanes elements of any of these types as float.
MCOMP_INLINE vf32 load_as_f32(const float* p) { return vload(p); }
MCOMP_INLINE vf32 load_as_f32(const bf16* p) { return vload(p); }
MCOMP_INLINE vf32 load_as_f32(const f16* p) { return vload(p); }
MCOMP_INLINE vf32 load_as_f32(const uint8_t* p) {
#if defined(MCOMP_ISA_AVX512)
  return vto_f32((vi32)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(MCOMP_ISA_AVX2)
  return vto_f32((vi32)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  vf32 v{};
  for (int i = 0; i < kLanes; ++i) v[i] = static_cast<float>(p[i]);
  return v;
#endif
}
MCOMP_INLINE vf32 load_as_f32(const int8_t* p) {
#if defined(MCOMP_ISA_AVX512)
  return vto_f32((vi32)_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(MCOMP_ISA_AVX2)
  return vto_f32((vi32)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  vf32 v{};
  for (int i = 0; i < kLanes; ++i) v[i] = static_cast<float>(p[i]);
  return v;
#endif
}

// The first n elements, 0 <= n < kLanes; the other lanes are zero.
template <class T>
MCOMP_INLINE vf32 load_as_f32_n(const T* p, int64_t n) {
  alignas(64) T held[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) held[i] = p[i];
  return load_as_f32(held);
}
#if defined(MCOMP_ISA_AVX512)
template <>
MCOMP_INLINE vf32 load_as_f32_n(const float* p, int64_t n) {
  return vload_n(p, n);
}
template <>
MCOMP_INLINE vf32 load_as_f32_n(const uint8_t* p, int64_t n) {
  return vto_f32((vi32)_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lane_mask(n), p)));
}
template <>
MCOMP_INLINE vf32 load_as_f32_n(const int8_t* p, int64_t n) {
  return vto_f32((vi32)_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(lane_mask(n), p)));
}
#endif
}  // namespace detail

// First n elements only, 0 <= n <= kLanes; the other lanes read as zero.
template <class T>
MCOMP_INLINE std::enable_if_t<is_small_float<T>::value, vf32> vload_n(const T* p, int64_t n) {
  float wide[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) wide[i] = to_f32(p[i]);
  return vload(wide);
}
template <class T>
MCOMP_INLINE std::enable_if_t<is_small_float<T>::value> vstore_n(T* p, vf32 v, int64_t n) {
  float wide[kLanes];
  vstore(wide, v);
  for (int64_t i = 0; i < n; ++i) p[i] = from_f32<T>(wide[i]);
}

// dst[i] = convert<To>(src[i]) for i in [0, n). Reads n * sizeof(From) bytes, writes n * sizeof(To).
template <class To, class From>
inline void convert_row(To* __restrict dst, const From* __restrict src, int64_t n) {
  constexpr bool vector_in =
      std::is_same<From, float>::value || std::is_same<From, bf16>::value || std::is_same<From, f16>::value;
  constexpr bool vector_out =
      std::is_same<To, float>::value || std::is_same<To, bf16>::value || std::is_same<To, f16>::value;
  int64_t i = 0;
  if constexpr (std::is_same<To, From>::value) {
    if (n > 0) std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(To));
    return;
  } else if constexpr (vector_in && vector_out) {
    for (; i + kLanes <= n; i += kLanes) vstore(dst + i, vload(src + i));
  }
  for (; i < n; ++i) dst[i] = convert<To>(src[i]);
}

}  // namespace mcomp
