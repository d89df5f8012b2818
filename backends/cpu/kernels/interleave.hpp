// Planes of few channels to pixels: [C, n] to [n, C] for C from 2 to 4, as images come in.
//
//   interleave<3>(dst, src, n, plane);                    // dst[i * 3 + c] = convert(src[c * plane + i])
//   quantize_interleaved<3>(w, x, q, N, pixels, inverse, zero, low, high);       // x: [N, 3, pixels] floats, q: bytes
#pragma once

#include <cstdint>

#include "isa.hpp"
#include "lanes.hpp"
#include "quantize_rows.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

template <int C, class To, class From>
void interleave(To* __restrict dst, const From* __restrict src, int64_t n, int64_t plane) {
  static_assert(C >= 2 && C <= 4, "few channels");
  for (int64_t i = 0; i < n; ++i)
    for (int c = 0; c < C; ++c) dst[i * C + c] = convert<To>(src[c * plane + i]);
}

// q[(b * pixels + i) * C + c] = clamp(round(x[(b * C + c) * pixels + i] * inverse) + zero, low, high), ties to even;
// NaN gives low.
template <int C, class X, class Q>
void quantize_interleaved(const Worker& w, const X* x, Q* q, int64_t batch, int64_t pixels, float inverse, int32_t zero,
                          int32_t low, int32_t high) {
  constexpr int64_t kPiece = 256;
  const int64_t pieces = ceil_div(pixels, kPiece);
  const Range mine = w.range(batch * pieces);
  alignas(64) Q planes[C * kPiece];
  for (int64_t item = mine.begin; item < mine.end; ++item) {
    const int64_t b = item / pieces, first = item % pieces * kPiece, count = min_i64(kPiece, pixels - first);
    for (int64_t c = 0; c < C; ++c)
      detail::quantize_row(x + (b * C + c) * pixels + first, count, planes + c * kPiece, inverse, zero, low, high);
    interleave<C>(q + (b * pixels + first) * C, planes, count, kPiece);
  }
}

}  // namespace mcomp
