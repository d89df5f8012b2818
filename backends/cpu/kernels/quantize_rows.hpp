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
#else
  uint8_t* bytes = static_cast<uint8_t*>(q);
  for (int i = 0; i < kLanes; ++i) bytes[i] = static_cast<uint8_t>(v[i]);
#endif
}

MCOMP_INLINE vi32 quantized(vf32 x, vf32 inverse, vf32 low, vf32 high, int32_t zero) {
  // Clamping before rounding keeps the conversion in range; the bounds are integers, so the order does not matter.
  return vround_i32(vmin(vmax(x * inverse, low), high)) + zero;
}

// n elements at once; for inlining into epilogues, where n is often a constant.
template <class X, class Q>
MCOMP_INLINE void quantize_row(const X* x, int64_t n, Q* q, float inverse, int32_t zero, int32_t low, int32_t high) {
  const vf32 inv = vset(inverse), lo = vset(static_cast<float>(low - zero)), hi = vset(static_cast<float>(high - zero));
  int64_t i = 0;
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
