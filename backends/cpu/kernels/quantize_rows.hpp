// Float rows to bytes, for the int8 products.
//
//   quantize_rows_dynamic(w, x, ldx, M, K, q8, ldq, row_scale, row_zero, /*symmetric=*/false);   // one scale per row
//   quantize_rows_static(w, x, ldx, M, K, q8, ldq, scale, zero);                                   // one for all
//
// X: float, bf16 or f16; Q: uint8_t or int8_t. x is close to scale * (q - zero). Symmetric: zero is 128 (uint8_t) or 0
// and q - zero in [-127, 127]; otherwise the range [min(x, 0), max(x, 0)] takes all 256 values. Rounds to nearest, ties
// to even. A row of zeros gets scale 1. NaN or infinity in a row makes its dynamic scale NaN or infinite, so results
// are not finite. Reads each element twice (dynamic) or once; writes one byte each.
#pragma once

#include <cstdint>

#include "isa.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {
namespace detail {

template <class Q>
constexpr int32_t byte_low() {
  return std::is_same<Q, int8_t>::value ? -128 : 0;
}

// Bytes clamp(round(x * inverse) + zero, low, high) of kLanes elements.
MCOMP_INLINE void store_bytes(void* q, vi32 v) {
#if defined(MCOMP_ISA_AVX512)
  _mm_storeu_si128(static_cast<__m128i*>(q), _mm512_cvtepi32_epi8((__m512i)v));
#elif defined(MCOMP_ISA_AVX2)
  const __m256i low = _mm256_setr_epi32(0x0c080400, -1, -1, -1, 0x0c080400, -1, -1, -1);
  const __m256i bytes = _mm256_shuffle_epi8((__m256i)v, low);
  const __m128i all = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
  _mm_storel_epi64(static_cast<__m128i*>(q), all);
#else
  uint8_t* bytes = static_cast<uint8_t*>(q);
  for (int i = 0; i < kLanes; ++i) bytes[i] = static_cast<uint8_t>(v[i]);
#endif
}

MCOMP_INLINE vi32 quantized(vf32 x, vf32 inverse, vf32 low, vf32 high, int32_t zero) {
  // Clamping before rounding keeps the conversion in range; the bounds are integers, so the order does not matter.
  return vround_i32(vmin(vmax(x * inverse, low), high)) + zero;
}

#if defined(MCOMP_X86_SIMD)
// Bytes of 4 kLanes rounded elements, `zero` added; all are in the range of Q then.
template <class Q>
MCOMP_INLINE void store_four(Q* q, const vi32 (&v)[4], int32_t zero) {
  constexpr bool kSigned = std::is_same<Q, int8_t>::value;
#if defined(MCOMP_ISA_AVX512)
  const __m512i shift = _mm512_set1_epi16(static_cast<int16_t>(zero));
  const __m512i a = _mm512_add_epi16(_mm512_packs_epi32((__m512i)v[0], (__m512i)v[1]), shift);
  const __m512i b = _mm512_add_epi16(_mm512_packs_epi32((__m512i)v[2], (__m512i)v[3]), shift);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i bytes = kSigned ? _mm512_packs_epi16(a, b) : _mm512_packus_epi16(a, b);
  _mm512_storeu_si512(q, _mm512_permutexvar_epi32(order, bytes));
#else
  const __m256i shift = _mm256_set1_epi16(static_cast<int16_t>(zero));
  const __m256i a = _mm256_add_epi16(_mm256_packs_epi32((__m256i)v[0], (__m256i)v[1]), shift);
  const __m256i b = _mm256_add_epi16(_mm256_packs_epi32((__m256i)v[2], (__m256i)v[3]), shift);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i bytes = kSigned ? _mm256_packs_epi16(a, b) : _mm256_packus_epi16(a, b);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm256_permutevar8x32_epi32(bytes, order));
#endif
}
#endif

// n elements at once; for inlining into epilogues, where n is often a constant.
template <class X, class Q>
MCOMP_INLINE void quantize_row(const X* x, int64_t n, Q* q, float inverse, int32_t zero, int32_t low, int32_t high) {
  const vf32 inv = vset(inverse), lo = vset(static_cast<float>(low - zero)), hi = vset(static_cast<float>(high - zero));
  int64_t i = 0;
#if defined(MCOMP_X86_SIMD)
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    const X* p = x + i;
    const vi32 four[4] = {
        quantized(vload(p), inv, lo, hi, 0), quantized(vload(p + kLanes), inv, lo, hi, 0),
        quantized(vload(p + 2 * kLanes), inv, lo, hi, 0), quantized(vload(p + 3 * kLanes), inv, lo, hi, 0)};
    store_four(q + i, four, zero);
  }
#endif
  for (; i + kLanes <= n; i += kLanes) store_bytes(q + i, quantized(vload(x + i), inv, lo, hi, zero));
  if (i < n) {
    alignas(64) uint8_t bytes[kLanes];
    store_bytes(bytes, quantized(vload_n(x + i, n - i), inv, lo, hi, zero));
    std::memcpy(q + i, bytes, static_cast<size_t>(n - i));
  }
}

}  // namespace detail

template <class X, class Q>
void quantize_rows_static(const Worker& w, const X* x, int64_t ldx, int64_t m, int64_t k, Q* q, int64_t ldq,
                          float scale, int32_t zero) {
  constexpr int32_t low = detail::byte_low<Q>();
  const float inverse = 1.0f / scale;
  const Range mine = w.range(m);
  for (int64_t r = mine.begin; r < mine.end; ++r)
    detail::quantize_row(x + r * ldx, k, q + r * ldq, inverse, zero, low, low + 255);
}

// One row, with a scale from its values; `row_zero` may be null.
template <class X, class Q>
inline void quantize_row_dynamic(const X* row, int64_t k, Q* q, float* row_scale, int32_t* row_zero, bool symmetric) {
  constexpr int32_t low = detail::byte_low<Q>();
  vf32 least = vset(0.0f), most = vset(0.0f), poison = vset(0.0f);
  int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes) {
    const vf32 v = vload(row + i);
    least = vmin(least, v), most = vmax(most, v), poison = poison + v * 0.0f;
  }
  if (i < k) {
    const vf32 v = vload_n(row + i, k - i);
    least = vmin(least, v), most = vmax(most, v), poison = poison + v * 0.0f;
  }
  const float lo = vreduce_min(least), hi = vreduce_max(most), bad = vsum(poison);
  const float span = symmetric ? (hi > -lo ? hi : -lo) : hi - lo;
  float scale = span / (symmetric ? 127.0f : 255.0f);
  if (!(scale > 0.0f)) scale = 1.0f;
  const float inverse = 1.0f / scale;
  int32_t zero = symmetric ? low + 128 : low + static_cast<int32_t>(vround_i32(vset(-lo * inverse))[0]);
  if (bad != 0.0f || bad != bad) zero = low + 128;
  *row_scale = scale + bad;
  if (row_zero != nullptr) *row_zero = zero;
  detail::quantize_row(row, k, q, inverse, zero, symmetric ? low + 1 : low, low + 255);
}

template <class X, class Q>
void quantize_rows_dynamic(const Worker& w, const X* x, int64_t ldx, int64_t m, int64_t k, Q* q, int64_t ldq,
                           float* row_scale, int32_t* row_zero, bool symmetric) {
  const Range mine = w.range(m);
  for (int64_t r = mine.begin; r < mine.end; ++r)
    quantize_row_dynamic(x + r * ldx, k, q + r * ldq, row_scale + r, row_zero == nullptr ? nullptr : row_zero + r,
                         symmetric);
}

}  // namespace mcomp
