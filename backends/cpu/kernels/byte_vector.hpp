// Vectors of bytes for the kernels that multiply bytes of several rows with each other's place: interleaving, sums of
// four products, and the way back to bytes. ByteVector<64> needs AVX-512, <32> AVX2; <16> is there for all.
//
//   using V = ByteVector<32>;
//   using D = ByteSums<V>;
//   const auto ab = V::zip8<false>(a, b), cd = V::zip8<false>(c, d);                   // within lanes of 16 bytes
//   sums0 = D::dot(sums0, D::row(V::zip16<false>(ab, cd)), D::columns(w));             // channels 0-3 of each lane
//   sums1 = D::dot(sums1, D::row(V::zip16<true>(ab, cd)), D::columns(w + D::kColumnBytes));   // channels 4-7
//
// Byte i of lane l is channel 16 * l + i. After interleaving four vectors, quarter q holds channels 16 * l + 4 * q + j
// (j < 4) of every lane l; narrow16 and narrow8 of the quarters restore the order of the channels.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "isa.hpp"

namespace mcomp {
namespace detail {

// Channel that element e of quarter q of a block of `bytes` channels stands for.
constexpr int64_t quarter_channel(int64_t q, int64_t e) { return e / 4 * 16 + 4 * q + e % 4; }

// kMasks: loading part of a vector costs no more than all of it.
#if defined(MCOMP_ISA_AVX512)
constexpr bool kMasked = true;
#else
constexpr bool kMasked = false;
#endif

template <int Bytes>
struct ByteVector;

// Copies n >= W bytes in pieces of W, the last of which may overlap the one before.
template <int W>
MCOMP_INLINE void copy_pieces(char* to, const char* from, int64_t n) {
  for (int64_t i = 0; i + W < n; i += W) std::memcpy(to + i, from + i, W);
  std::memcpy(to + n - W, from + n - W, W);
}
// Calls f with the width of pieces, a power of two, in which n > 0 bytes are copied: calls of memcpy take longer than that for
// a few.
template <class F>
MCOMP_INLINE void with_pieces(int64_t n, const F& f) {
  if (n >= 16) return f(std::integral_constant<int, 16>{});
  if (n >= 8) return f(std::integral_constant<int, 8>{});
  if (n >= 4) return f(std::integral_constant<int, 4>{});
  f(std::integral_constant<int, 1>{});
}
MCOMP_INLINE void copy_few(char* to, const char* from, int64_t n) {
  with_pieces(n, [&](auto width) MCOMP_LAMBDA { copy_pieces<width>(to, from, n); });
}

#if !defined(MCOMP_X86_SIMD)

template <>
struct ByteVector<16> {
  typedef uint8_t Bytes __attribute__((vector_size(16)));
  typedef float Floats __attribute__((vector_size(16)));
  typedef int16_t Shorts __attribute__((vector_size(16)));
  typedef int32_t Ints __attribute__((vector_size(16)));
  static constexpr int kBytes = 16;
  static constexpr bool kMasks = kMasked;
  static MCOMP_INLINE Bytes load(const void* p) {
    Bytes v;
    std::memcpy(&v, p, 16);
    return v;
  }
  static MCOMP_INLINE Bytes load_n(const void* p, int64_t n) {
    Bytes v{};
    std::memcpy(&v, p, static_cast<size_t>(n));
    return v;
  }
  static MCOMP_INLINE void store(void* p, Bytes v) { std::memcpy(p, &v, 16); }
  static MCOMP_INLINE Bytes set8(int x) { return Bytes{} + static_cast<uint8_t>(x); }
  static MCOMP_INLINE Bytes set16(int x) { return (Bytes)(Shorts{} + static_cast<int16_t>(x)); }
  static MCOMP_INLINE Bytes set32(int32_t x) { return (Bytes)(Ints{} + x); }
  static MCOMP_INLINE Floats setf(float x) { return x - Floats{}; }
  static MCOMP_INLINE Bytes exclusive_or(Bytes a, Bytes b) { return a ^ b; }
  template <bool High>
  static MCOMP_INLINE Bytes zip8(Bytes a, Bytes b) {
    Bytes v;
    for (int i = 0; i < 8; ++i) v[2 * i] = a[i + 8 * High], v[2 * i + 1] = b[i + 8 * High];
    return v;
  }
  template <bool High>
  static MCOMP_INLINE Bytes zip16(Bytes a, Bytes b) {
    Shorts v;
    for (int i = 0; i < 4; ++i) v[2 * i] = ((Shorts)a)[i + 4 * High], v[2 * i + 1] = ((Shorts)b)[i + 4 * High];
    return (Bytes)v;
  }
  static MCOMP_INLINE Bytes low_bytes(Bytes a) { return (Bytes)((Shorts)a & 255); }
  static MCOMP_INLINE Bytes high_bytes(Bytes a) { return (Bytes)(((Shorts)a >> 8) & 255); }
  static MCOMP_INLINE Bytes add(Bytes a, Bytes b) { return (Bytes)((Ints)a + (Ints)b); }
  static MCOMP_INLINE Bytes mul(Bytes a, Bytes b) { return (Bytes)((Ints)a * (Ints)b); }
  // Products of a byte and a signed byte, which fit 16 bits.
  static MCOMP_INLINE Bytes pairs(Bytes a, Bytes b) {
    const Ints products = (Ints)((Shorts)a * (Shorts)b);
    return (Bytes)(((products << 16) >> 16) + (products >> 16));
  }
  static MCOMP_INLINE Floats loadf(const float* p) {
    Floats v;
    std::memcpy(&v, p, 16);
    return v;
  }
  static MCOMP_INLINE void storef(float* p, Floats v) { std::memcpy(p, &v, 16); }
  static MCOMP_INLINE Floats to_float(Bytes a) { return __builtin_convertvector((Ints)a, Floats); }
  static MCOMP_INLINE Bytes to_int(Floats a) {
    Ints v;
    for (int i = 0; i < 4; ++i) v[i] = a[i] > -32768.0f ? static_cast<int32_t>(__builtin_rintf(a[i])) : -32768;
    return (Bytes)v;
  }
  static MCOMP_INLINE Floats fma(Floats a, Floats b, Floats c) { return a * b + c; }
  static MCOMP_INLINE Floats least(Floats a, Floats b) { return a < b ? a : b; }
  static MCOMP_INLINE Bytes narrow16(Bytes a, Bytes b) {
    Shorts v;
    for (int i = 0; i < 8; ++i) {
      const int32_t x = i < 4 ? ((Ints)a)[i] : ((Ints)b)[i - 4];
      v[i] = static_cast<int16_t>(x < -32768 ? -32768 : x > 32767 ? 32767 : x);
    }
    return (Bytes)v;
  }
  static MCOMP_INLINE Bytes add16(Bytes a, Bytes b) {
    Shorts v;
    for (int i = 0; i < 8; ++i) {
      const int32_t x = ((Shorts)a)[i] + ((Shorts)b)[i];
      v[i] = static_cast<int16_t>(x < -32768 ? -32768 : x > 32767 ? 32767 : x);
    }
    return (Bytes)v;
  }
  template <bool Signed>
  static MCOMP_INLINE Bytes narrow8(Bytes a, Bytes b) {
    constexpr int low = Signed ? -128 : 0;
    Bytes v;
    for (int i = 0; i < 16; ++i) {
      const int x = i < 8 ? ((Shorts)a)[i] : ((Shorts)b)[i - 8];
      v[i] = static_cast<uint8_t>(x < low ? low : x > low + 255 ? low + 255 : x);
    }
    return v;
  }
  template <bool Signed>
  static MCOMP_INLINE Bytes clamp8(Bytes a, Bytes low, Bytes high) {
    for (int i = 0; i < 16; ++i) {
      const int x = Signed ? static_cast<int8_t>(a[i]) : a[i];
      const int lo = Signed ? static_cast<int8_t>(low[i]) : low[i], hi = Signed ? static_cast<int8_t>(high[i]) : high[i];
      a[i] = static_cast<uint8_t>(x < lo ? lo : x > hi ? hi : x);
    }
    return a;
  }
  static MCOMP_INLINE void scatter(float* p, Floats v) { storef(p, v); }
};

#else

template <>
struct ByteVector<16> {
  using Bytes = __m128i;
  using Floats = __m128;
  static constexpr int kBytes = 16;
  static constexpr bool kMasks = kMasked;
  static MCOMP_INLINE Bytes load(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  static MCOMP_INLINE Bytes load_n(const void* p, int64_t n) {
#if defined(MCOMP_ISA_AVX512)
    return _mm_maskz_loadu_epi8(static_cast<__mmask16>((1u << n) - 1u), p);
#else
    alignas(16) uint8_t all[16] = {};
    std::memcpy(all, p, static_cast<size_t>(n));
    return load(all);
#endif
  }
  static MCOMP_INLINE void store(void* p, Bytes v) { _mm_storeu_si128(static_cast<__m128i*>(p), v); }
  static MCOMP_INLINE Bytes set8(int x) { return _mm_set1_epi8(static_cast<char>(x)); }
  static MCOMP_INLINE Bytes set16(int x) { return _mm_set1_epi16(static_cast<int16_t>(x)); }
  static MCOMP_INLINE Bytes set32(int32_t x) { return _mm_set1_epi32(x); }
  static MCOMP_INLINE Floats setf(float x) { return _mm_set1_ps(x); }
  static MCOMP_INLINE Bytes exclusive_or(Bytes a, Bytes b) { return _mm_xor_si128(a, b); }
  template <bool High>
  static MCOMP_INLINE Bytes zip8(Bytes a, Bytes b) {
    return High ? _mm_unpackhi_epi8(a, b) : _mm_unpacklo_epi8(a, b);
  }
  template <bool High>
  static MCOMP_INLINE Bytes zip16(Bytes a, Bytes b) {
    return High ? _mm_unpackhi_epi16(a, b) : _mm_unpacklo_epi16(a, b);
  }
  static MCOMP_INLINE Bytes low_bytes(Bytes a) { return _mm_and_si128(a, _mm_set1_epi16(255)); }
  static MCOMP_INLINE Bytes high_bytes(Bytes a) { return _mm_srli_epi16(a, 8); }
  static MCOMP_INLINE Bytes add(Bytes a, Bytes b) { return _mm_add_epi32(a, b); }
  static MCOMP_INLINE Bytes mul(Bytes a, Bytes b) { return _mm_mullo_epi32(a, b); }
  static MCOMP_INLINE Bytes pairs(Bytes a, Bytes b) { return _mm_madd_epi16(a, b); }
#if defined(MCOMP_VNNI)
  static MCOMP_INLINE Bytes dot4(Bytes s, Bytes a, Bytes b) { return _mm_dpbusd_epi32(s, a, b); }
#endif
  static MCOMP_INLINE Floats loadf(const float* p) { return _mm_loadu_ps(p); }
  static MCOMP_INLINE void storef(float* p, Floats v) { _mm_storeu_ps(p, v); }
  static MCOMP_INLINE Floats to_float(Bytes a) { return _mm_cvtepi32_ps(a); }
  static MCOMP_INLINE Bytes to_int(Floats a) { return _mm_cvtps_epi32(a); }
  static MCOMP_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm_fmadd_ps(a, b, c); }
  static MCOMP_INLINE Floats least(Floats a, Floats b) { return _mm_min_ps(a, b); }
  static MCOMP_INLINE Bytes narrow16(Bytes a, Bytes b) { return _mm_packs_epi32(a, b); }
  static MCOMP_INLINE Bytes add16(Bytes a, Bytes b) { return _mm_adds_epi16(a, b); }
  template <bool Signed>
  static MCOMP_INLINE Bytes narrow8(Bytes a, Bytes b) {
    return Signed ? _mm_packs_epi16(a, b) : _mm_packus_epi16(a, b);
  }
  template <bool Signed>
  static MCOMP_INLINE Bytes clamp8(Bytes a, Bytes low, Bytes high) {
    return Signed ? _mm_min_epi8(_mm_max_epi8(a, low), high) : _mm_min_epu8(_mm_max_epu8(a, low), high);
  }
  // Stores the four elements of each lane 16 elements apart.
  static MCOMP_INLINE void scatter(float* p, Floats v) { storef(p, v); }
};

template <>
struct ByteVector<32> {
  using Bytes = __m256i;
  using Floats = __m256;
  static constexpr int kBytes = 32;
  static constexpr bool kMasks = false;
  static MCOMP_INLINE Bytes load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static MCOMP_INLINE Bytes load_n(const void* p, int64_t) { return load(p); }
  static MCOMP_INLINE void store(void* p, Bytes v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  static MCOMP_INLINE Bytes set8(int x) { return _mm256_set1_epi8(static_cast<char>(x)); }
  static MCOMP_INLINE Bytes set16(int x) { return _mm256_set1_epi16(static_cast<int16_t>(x)); }
  static MCOMP_INLINE Bytes set32(int32_t x) { return _mm256_set1_epi32(x); }
  static MCOMP_INLINE Floats setf(float x) { return _mm256_set1_ps(x); }
  static MCOMP_INLINE Bytes exclusive_or(Bytes a, Bytes b) { return _mm256_xor_si256(a, b); }
  template <bool High>
  static MCOMP_INLINE Bytes zip8(Bytes a, Bytes b) {
    return High ? _mm256_unpackhi_epi8(a, b) : _mm256_unpacklo_epi8(a, b);
  }
  template <bool High>
  static MCOMP_INLINE Bytes zip16(Bytes a, Bytes b) {
    return High ? _mm256_unpackhi_epi16(a, b) : _mm256_unpacklo_epi16(a, b);
  }
  static MCOMP_INLINE Bytes low_bytes(Bytes a) { return _mm256_and_si256(a, _mm256_set1_epi16(255)); }
  static MCOMP_INLINE Bytes high_bytes(Bytes a) { return _mm256_srli_epi16(a, 8); }
  static MCOMP_INLINE Bytes add(Bytes a, Bytes b) { return _mm256_add_epi32(a, b); }
  static MCOMP_INLINE Bytes mul(Bytes a, Bytes b) { return _mm256_mullo_epi32(a, b); }
  static MCOMP_INLINE Bytes pairs(Bytes a, Bytes b) { return _mm256_madd_epi16(a, b); }
#if defined(MCOMP_VNNI)
  static MCOMP_INLINE Bytes dot4(Bytes s, Bytes a, Bytes b) { return _mm256_dpbusd_epi32(s, a, b); }
#endif
  static MCOMP_INLINE Floats loadf(const float* p) { return _mm256_loadu_ps(p); }
  static MCOMP_INLINE void storef(float* p, Floats v) { _mm256_storeu_ps(p, v); }
  static MCOMP_INLINE Floats to_float(Bytes a) { return _mm256_cvtepi32_ps(a); }
  static MCOMP_INLINE Bytes to_int(Floats a) { return _mm256_cvtps_epi32(a); }
  static MCOMP_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  static MCOMP_INLINE Floats least(Floats a, Floats b) { return _mm256_min_ps(a, b); }
  static MCOMP_INLINE Bytes narrow16(Bytes a, Bytes b) { return _mm256_packs_epi32(a, b); }
  static MCOMP_INLINE Bytes add16(Bytes a, Bytes b) { return _mm256_adds_epi16(a, b); }
  template <bool Signed>
  static MCOMP_INLINE Bytes narrow8(Bytes a, Bytes b) {
    return Signed ? _mm256_packs_epi16(a, b) : _mm256_packus_epi16(a, b);
  }
  template <bool Signed>
  static MCOMP_INLINE Bytes clamp8(Bytes a, Bytes low, Bytes high) {
    return Signed ? _mm256_min_epi8(_mm256_max_epi8(a, low), high) : _mm256_min_epu8(_mm256_max_epu8(a, low), high);
  }
  static MCOMP_INLINE void scatter(float* p, Floats v) {
    _mm_storeu_ps(p, _mm256_castps256_ps128(v));
    _mm_storeu_ps(p + 16, _mm256_extractf128_ps(v, 1));
  }
};

#if defined(MCOMP_ISA_AVX512)
template <>
struct ByteVector<64> {
  using Bytes = __m512i;
  using Floats = __m512;
  static constexpr int kBytes = 64;
  static constexpr bool kMasks = false;
  static MCOMP_INLINE Bytes load(const void* p) { return _mm512_loadu_si512(p); }
  static MCOMP_INLINE Bytes load_n(const void* p, int64_t) { return load(p); }
  static MCOMP_INLINE void store(void* p, Bytes v) { _mm512_storeu_si512(p, v); }
  static MCOMP_INLINE Bytes set8(int x) { return _mm512_set1_epi8(static_cast<char>(x)); }
  static MCOMP_INLINE Bytes set16(int x) { return _mm512_set1_epi16(static_cast<int16_t>(x)); }
  static MCOMP_INLINE Bytes set32(int32_t x) { return _mm512_set1_epi32(x); }
  static MCOMP_INLINE Floats setf(float x) { return _mm512_set1_ps(x); }
  static MCOMP_INLINE Bytes exclusive_or(Bytes a, Bytes b) { return _mm512_xor_si512(a, b); }
  template <bool High>
  static MCOMP_INLINE Bytes zip8(Bytes a, Bytes b) {
    return High ? _mm512_unpackhi_epi8(a, b) : _mm512_unpacklo_epi8(a, b);
  }
  template <bool High>
  static MCOMP_INLINE Bytes zip16(Bytes a, Bytes b) {
    return High ? _mm512_unpackhi_epi16(a, b) : _mm512_unpacklo_epi16(a, b);
  }
  static MCOMP_INLINE Bytes low_bytes(Bytes a) { return _mm512_and_si512(a, _mm512_set1_epi16(255)); }
  static MCOMP_INLINE Bytes high_bytes(Bytes a) { return _mm512_srli_epi16(a, 8); }
  static MCOMP_INLINE Bytes add(Bytes a, Bytes b) { return _mm512_add_epi32(a, b); }
  static MCOMP_INLINE Bytes mul(Bytes a, Bytes b) { return _mm512_mullo_epi32(a, b); }
  static MCOMP_INLINE Bytes pairs(Bytes a, Bytes b) { return _mm512_madd_epi16(a, b); }
#if defined(MCOMP_VNNI)
  static MCOMP_INLINE Bytes dot4(Bytes s, Bytes a, Bytes b) { return _mm512_dpbusd_epi32(s, a, b); }
#endif
  static MCOMP_INLINE Floats loadf(const float* p) { return _mm512_loadu_ps(p); }
  static MCOMP_INLINE void storef(float* p, Floats v) { _mm512_storeu_ps(p, v); }
  static MCOMP_INLINE Floats to_float(Bytes a) { return _mm512_cvtepi32_ps(a); }
  static MCOMP_INLINE Bytes to_int(Floats a) { return _mm512_cvtps_epi32(a); }
  static MCOMP_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static MCOMP_INLINE Floats least(Floats a, Floats b) { return _mm512_min_ps(a, b); }
  static MCOMP_INLINE Bytes narrow16(Bytes a, Bytes b) { return _mm512_packs_epi32(a, b); }
  static MCOMP_INLINE Bytes add16(Bytes a, Bytes b) { return _mm512_adds_epi16(a, b); }
  template <bool Signed>
  static MCOMP_INLINE Bytes narrow8(Bytes a, Bytes b) {
    return Signed ? _mm512_packs_epi16(a, b) : _mm512_packus_epi16(a, b);
  }
  template <bool Signed>
  static MCOMP_INLINE Bytes clamp8(Bytes a, Bytes low, Bytes high) {
    return Signed ? _mm512_min_epi8(_mm512_max_epi8(a, low), high) : _mm512_min_epu8(_mm512_max_epu8(a, low), high);
  }
  static MCOMP_INLINE void scatter(float* p, Floats v) {
    _mm_storeu_ps(p, _mm512_castps512_ps128(v));
    _mm_storeu_ps(p + 16, _mm512_extractf32x4_ps(v, 1));
    _mm_storeu_ps(p + 32, _mm512_extractf32x4_ps(v, 2));
    _mm_storeu_ps(p + 48, _mm512_extractf32x4_ps(v, 3));
  }
};
#endif

#endif

// Sums of four neighbouring products, unsigned (rows) times signed (columns), in one instruction or by pairs of int16.
template <class V>
struct ByteSums {
#if defined(MCOMP_VNNI)
  using Row = typename V::Bytes;
  using Columns = typename V::Bytes;
  static constexpr int kColumnBytes = V::kBytes;
  static MCOMP_INLINE Row row(Row x) { return x; }
  static MCOMP_INLINE Columns columns(const int8_t* w) { return V::load(w); }
  static MCOMP_INLINE typename V::Bytes dot(typename V::Bytes sums, Row x, Columns w) { return V::dot4(sums, x, w); }
  static void put(int8_t* w, int64_t element, int tap, int8_t value) { w[element * 4 + tap] = value; }
#else
  struct Row {
    typename V::Bytes even, odd;
  };
  using Columns = Row;
  static constexpr int kColumnBytes = 2 * V::kBytes;
  static MCOMP_INLINE Row row(typename V::Bytes x) { return {V::low_bytes(x), V::high_bytes(x)}; }
  static MCOMP_INLINE Columns columns(const int8_t* w) { return {V::load(w), V::load(w + V::kBytes)}; }
  static MCOMP_INLINE typename V::Bytes dot(typename V::Bytes sums, const Row& x, const Columns& w) {
    return V::add(sums, V::add(V::pairs(x.even, w.even), V::pairs(x.odd, w.odd)));
  }
  static void put(int8_t* w, int64_t element, int tap, int8_t value) {
    const int16_t wide = value;
    std::memcpy(w + tap % 2 * V::kBytes + element * 4 + tap / 2 * 2, &wide, 2);
  }
#endif
};

}  // namespace detail
}  // namespace mcomp
