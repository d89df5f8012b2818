// Where the pixels are that an output row of a depthwise convolution with a square kernel reads: a table of pointers,
// in which positions outside of the image point to a row of padding. Kernels over it need no case for borders.
//
//   const PixelTable<3, 2, 7, float> pixels(s, memory, 0.0f);      // memory: pixels.bytes(s), 64-byte aligned
//   pixels.walk(x, begin, end, [&](int64_t row, int64_t rows) { ... pixels.tile(r, t) ... });
//
// One or two dimensions of space (depth 1), no dilation, kernel K by K, S pixels along a row per output, tiles of P.
#pragma once

#include <cstdint>

#include "conv_plan.hpp"
#include "product.hpp"
#include "threads.hpp"

namespace mcomp {
namespace detail {

template <int K, int S, int P, class X>
class PixelTable {
 public:
  PixelTable(const ConvShape& s, void* memory, X padding)
      : s_(s), fill_(static_cast<X*>(memory)), table_(reinterpret_cast<const X**>(fill_ + round_up(s.in_channels, 64))) {
    for (int64_t i = 0; i < s.in_channels; ++i) fill_[i] = padding;
  }

  static int64_t bytes(const ConvShape& s) {
    return round_up(s.in_channels, 64) * static_cast<int64_t>(sizeof(X)) + round_up(rows(s) * columns(s) * K * 8, 64);
  }

  // Calls block(first output row, rows) for output rows [begin, end) in turn, as many at once as the table holds;
  // meanwhile tile(r, t) is where tile t of the r-th of them starts.
  template <class F>
  MCOMP_INLINE void walk(const X* x, int64_t begin, int64_t end, F&& block) const {
    for (int64_t row = begin; row < end; row += rows(s_)) {
      const int64_t count = min_i64(rows(s_), end - row);
      for (int64_t r = 0; r < count; ++r) point(x, row + r, table_ + r * columns(s_) * K);
      block(row, count);
    }
  }

  // Pointers of a tile: that of kernel row k and column j of the tile's first pixel is [j * K + k].
  const X* const* tile(int64_t r, int64_t t) const { return table_ + (r * columns(s_) + t * P * S) * K; }
  int64_t tiles() const { return ceil_div(s_.out[2], P); }
  int64_t pixels(int64_t t) const { return min_i64(P, s_.out[2] - t * P); }

 private:
  // Enough rows to read weights from the nearest cache.
  static int64_t rows(const ConvShape& s) { return max_i64(1, min_i64(s.out[1], 28 / max_i64(1, s.out[2]))); }
  static int64_t columns(const ConvShape& s) { return ceil_div(s.out[2], P) * P * S + max_i64(0, K - S); }

  void point(const X* x, int64_t row, const X** table) const {
    const int64_t h = row % s_.out[1], n = row / s_.out[1], width = columns(s_), channels = s_.in_channels;
    for (int64_t k = 0; k < K; ++k) {
      const int64_t y = h * s_.stride[1] - s_.pad[1] + k;
      const bool inside = y >= 0 && y < s_.in[1];
      const X* line = x + (n * s_.in[1] + y) * s_.in[2] * channels;
      for (int64_t j = 0; j < width; ++j) {
        const int64_t at = j - s_.pad[2];
        table[j * K + k] = inside && at >= 0 && at < s_.in[2] ? line + at * channels : fill_;
      }
    }
  }

  const ConvShape& s_;
  X* fill_;
  const X** table_;
};

}  // namespace detail
}  // namespace mcomp
