// Convolution of stride 1 over padded lines that lie behind each other: output pixel number f of such lines reads, at a
// kernel position, what lies a fixed number of bytes from the f-th pixel. Any pixels in a row are therefore rows of a
// product in the matrix registers (micro_matrix.hpp), without being gathered. Those at the ends of lines, which read
// parts of two lines, are computed in vain.
#pragma once

#include <cstdint>

#include "conv_plan.hpp"
#include "isa.hpp"
#include "product.hpp"

namespace mcomp {
namespace detail {

// Whether weights are packed for lines, in segments of whole steps: where that pads them little more than gathered rows,
// whose segments follow each other.
inline bool packs_lines(const TapWalk& t, int64_t step) {
  for (const Axis& a : t.axis)
    if (a.step != 1) return false;
  const int64_t segments = t.segments(), length = t.segment_length();
  return t.channels == t.group_channels && 4 * segments * round_up(length, step) <= 5 * round_up(segments * length, step);
}

// Bytes from a segment to the next in packed columns and gathered rows.
inline int64_t matrix_segment_step(const TapWalk& t) {
  return packs_lines(t, 64) ? round_up(t.segment_length(), 64) : t.segment_length();
}

constexpr int64_t kGatherColumns = 40;  // output columns of a pixel whose products take as long as to gather it

// Whether it is faster to compute the pixels at the ends of lines in vain, for `columns` output columns, than to gather.
inline bool suits_lines(const TapWalk& t, int64_t columns) {
  const int64_t lines = min_i64(t.axis[1].count, t.band_rows(1)), pixels = lines * t.axis[2].count;
  const int64_t all = (lines - 1) * t.padded_width() + t.axis[2].count;
  return (ceil_div(all, 16) - ceil_div(pixels, 16)) * columns <= kGatherColumns * ceil_div(pixels, 16);
}

// All tiles of a part of a convolution of bytes; scratch is the worker's own, t.scratch_bytes(1) of it:
// steps are at most the 64 bytes long that lie behind a band.
template <class Product>
void flat_convolution(const Split& split, const Product& product, const TapWalk& t, const typename Product::Element* x,
                      void* scratch) {
  using Element = typename Product::Element;
  static_assert(sizeof(Element) == 1, "bytes");
  constexpr int64_t MR = Product::MR;
  const Axis &ad = t.axis[0], &ah = t.axis[1], &aw = t.axis[2];
  const int64_t c = t.channels, width = t.padded_width(), lines = t.band_rows(1);
  int64_t* const taps = static_cast<int64_t*>(scratch);
  Element* const band = reinterpret_cast<Element*>(static_cast<char*>(scratch) + round_up(max_i64(1, t.segments()) * 8, 64));
  for (int64_t row = split.rows.begin; row < split.rows.end;) {
    const int64_t h0 = row % ah.count, h1 = min_i64(min_i64(h0 + lines, ah.count), h0 + split.rows.end - row);
    const int64_t d = row / ah.count % ad.count, n = row / (ah.count * ad.count);
    copy_band(t, x, n, d, h0, h1, product.fill(), band);
    segment_offsets(t, ah.span(h1 - h0) * width * c, width, taps);
    const int64_t pixels = (h1 - h0 - 1) * width + aw.count, out = ((n * ad.out + d) * ah.out + h0) * aw.out;
    for (int64_t p = split.panels.begin; p < split.panels.end; ++p) {
      for (int64_t r0 = 0; r0 < pixels; r0 += MR) {
        Part part;
        part.lines = {aw.count, width, r0};
        product.tile(band + r0 * c, c, taps, t.segments(), t.segment_length(), min_i64(MR, pixels - r0), p, out, 1, part);
      }
    }
    row += h1 - h0;
  }
}

}  // namespace detail
}  // namespace mcomp
