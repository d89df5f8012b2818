// Convolutions with activations and weights in bfloat16, float32 sums. As conv.hpp.
//
//   pack_conv_bf16<T0>(w, packed, weight_oihw, s);              // once; packed_conv_bf16_elements<T0>(s) elements
//   conv_bf16<T0>(w, x, packed, s, Ep0{bias, out, O}, scratch);       // scratch: conv_bf16_scratch_bytes(s, workers)
//
// Without MCOMP_BF16 both sides are widened: conv_f32.
#pragma once

#include <cstdint>

#include "conv.hpp"
#include "micro_bf16.hpp"

namespace mcomp {

#if defined(MCOMP_BF16)

namespace detail {
inline int64_t pair_panel(const TapWalk& t, int64_t width) {
  return t.segments() * round_up(t.segment_length(), 2) * width;
}
}  // namespace detail

template <class Tile>
int64_t packed_conv_bf16_elements(const ConvShape& s) {
  const int64_t panels = s.groups * ceil_div(s.out_channels / s.groups, Tile::NR);
  return panels * detail::pair_panel(detail::conv_walk(s), Tile::NR);
}

// src: [O, C / groups, KD, KH, KW] contiguous.
template <class Tile>
void pack_conv_bf16(const Worker& w, bf16* dst, const bf16* src, const ConvShape& s) {
  constexpr int64_t NR = Tile::NR;
  const detail::TapWalk t = detail::conv_walk(s);
  const detail::WeightStrides ws = detail::conv_weight_strides(s);
  const detail::Panels panels{s.out_channels / s.groups, s.groups, NR};
  const int64_t padded = round_up(t.segment_length(), 2), elements = detail::pair_panel(t, NR);
  const Range mine = w.range(panels.count());
  for (int64_t p = mine.begin; p < mine.end; ++p) {
    bf16* panel = dst + p * elements;
    for (int64_t i = 0; i < elements; ++i) panel[i] = bf16{0};
    const int64_t o = panels.first(p) - panels.group(p) * panels.columns;
    for (int64_t c = 0; c < panels.size(p); ++c)
      detail::each_weight(t, ws, panels.group(p), o + c, [&](int64_t at, int64_t segment, int64_t index) {
        const int64_t k = segment * padded + index;
        panel[(k / 2 * NR + c) * 2 + k % 2] = src[at];
      });
  }
}

inline int64_t conv_bf16_scratch_bytes(const ConvShape& s, int64_t workers) {
  const detail::TapWalk t = detail::conv_walk(s);
  const int64_t pixels = s.batch * s.out[0] * s.out[1] * s.out[2];
  const int64_t rows = detail::is_pointwise(t) ? detail::gemm_rows_scratch_bytes(pixels, s.in_channels, 2, workers) : 0;
  return max_i64(rows, workers * t.scratch_bytes(2));
}

template <class Tile, class Ep>
void conv_bf16(const Worker& w, const bf16* x, const bf16* packed, const ConvShape& s, const Ep& ep, void* scratch) {
  const detail::TapWalk t = detail::conv_walk(s);
  const detail::Emitter<float> emit = detail::emitter<Tile::NR, float>(ep);
  const detail::Bf16Product<Tile> product{
      packed, detail::pair_panel(t, Tile::NR), {s.out_channels / s.groups, s.groups, Tile::NR}, emit};
  if (detail::is_pointwise(t)) {
    const int64_t c = s.in_channels;
    return detail::gemm_rows(w, product, x, c, s.batch * s.out[0] * s.out[1] * s.out[2], c, scratch);
  }
  detail::tap_convolution(w, product, t, x, static_cast<char*>(scratch) + w.id * t.scratch_bytes(2));
}

#else

template <class Tile>
int64_t packed_conv_bf16_elements(const ConvShape& s) {
  return packed_conv_elements<Tile, bf16>(s);
}
template <class Tile>
void pack_conv_bf16(const Worker& w, bf16* dst, const bf16* src, const ConvShape& s) {
  pack_conv<Tile, bf16>(w, dst, src, s);
}
inline int64_t conv_bf16_scratch_bytes(const ConvShape& s, int64_t workers) {
  return conv_f32_scratch_bytes(s, workers);
}
template <class Tile, class Ep>
void conv_bf16(const Worker& w, const bf16* x, const bf16* packed, const ConvShape& s, const Ep& ep, void* scratch) {
  conv_f32<Tile>(w, x, packed, s, ep, scratch);
}

#endif

}  // namespace mcomp
