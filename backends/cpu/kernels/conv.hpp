// Convolutions and transposed convolutions of float activations, one to three dimensions, any stride, padding, dilation
// and groups, channels-last (see conv_plan.hpp). For depthwise ones (one channel per group) see depthwise.hpp.
//
//   ConvShape s{N, C, O, groups, {1, H, W}, {1, OH, OW}, {1, KH, KW}, {1, SH, SW}, {0, PH, PW}, {1, DH, DW}};
//   using T0 = Tile<14, 2>;
//   pack_conv<T0, float>(w, packed, weight_oihw, s);              // once; packed_conv_elements<T0, float>(s) elements
//   conv_f32<T0>(w, x, packed, s, Ep0{bias, out, O}, scratch);            // out[n, oh, ow, o]: row * O + col
//   // scratch: conv_f32_scratch_bytes(s, workers) bytes for all workers together, 64-byte aligned
//   // transposed: pack_conv_transposed, packed_conv_transposed_elements, conv_transposed_f32,
//   // conv_transposed_f32_scratch_bytes
//
// x: float, bf16 or f16; packed: float or bf16. 2 * N * OD * OH * OW * O * (C / groups) * KD * KH * KW operations.
#pragma once

#include <cstdint>

#include "conv_plan.hpp"
#include "epilogue.hpp"
#include "pack.hpp"
#include "product.hpp"

namespace mcomp {
namespace detail {

template <class Tile, class W>
int64_t packed_walk_elements(const ConvShape& s, const TapWalk& t) {
  return s.groups * packed_elements<Tile, W>(s.out_channels / s.groups, t.taps() * t.group_channels);
}

template <class Tile, class W, class S>
void pack_walk(const Worker& w, W* dst, const S* src, const ConvShape& s, const TapWalk& t, const WeightStrides& ws) {
  constexpr int64_t NR = Tile::NR;
  const Panels panels{s.out_channels / s.groups, s.groups, NR};
  const int64_t k = t.taps() * t.group_channels;
  const Range mine = w.range(panels.count());
  for (int64_t p = mine.begin; p < mine.end; ++p) {
    W* panel = dst + p * k * NR;
    for (int64_t i = 0; i < k * NR; ++i) panel[i] = convert<W>(0.0f);
    const int64_t o = panels.first(p) - panels.group(p) * panels.columns;
    for (int64_t c = 0; c < panels.size(p); ++c)
      each_weight(t, ws, panels.group(p), o + c, [&](int64_t at, int64_t segment, int64_t index) {
        panel[(segment * t.segment_length() + index) * NR + c] = convert<W>(src[at]);
      });
  }
}

template <class Tile, class A, class W>
void conv_walk_f32(const Worker& w, const A* x, const W* packed, const ConvShape& s, const TapWalk& t,
                   const Emitter<float>& emit, char* scratch) {
  const FloatProduct<Tile, float, W> product{
      packed, t.taps() * t.group_channels * Tile::NR, {s.out_channels / s.groups, s.groups, Tile::NR}, emit};
  tap_convolution(w, product, t, x, scratch);
}

}  // namespace detail

template <class Tile, class W>
int64_t packed_conv_elements(const ConvShape& s) {
  return detail::packed_walk_elements<Tile, W>(s, detail::conv_walk(s));
}

// src: [O, C / groups, KD, KH, KW] contiguous.
template <class Tile, class W, class S>
void pack_conv(const Worker& w, W* dst, const S* src, const ConvShape& s) {
  detail::pack_walk<Tile, W>(w, dst, src, s, detail::conv_walk(s), detail::conv_weight_strides(s));
}

inline int64_t conv_f32_scratch_bytes(const ConvShape& s, int64_t workers) {
  const detail::TapWalk t = detail::conv_walk(s);
  const int64_t pixels = s.batch * s.out[0] * s.out[1] * s.out[2];
  const int64_t rows = detail::is_pointwise(t) ? detail::gemm_rows_scratch_bytes(pixels, s.in_channels, 4, workers) : 0;
  return max_i64(rows, workers * t.scratch_bytes(4));
}

namespace detail {

template <class Tile, class A, class W>
void conv_f32_emitting(const Worker& w, const A* x, const W* packed, const ConvShape& s, const Emitter<float>& emit,
                       void* scratch) {
  const TapWalk t = conv_walk(s);
  if (is_pointwise(t)) {
    const FloatProduct<Tile, float, W> product{packed, s.in_channels * Tile::NR, {s.out_channels, 1, Tile::NR}, emit};
    gemm_rows(w, product, x, s.in_channels, s.batch * s.out[0] * s.out[1] * s.out[2], s.in_channels, scratch);
    return;
  }
  conv_walk_f32<Tile>(w, x, packed, s, t, emit, static_cast<char*>(scratch) + w.id * t.scratch_bytes(4));
}

}  // namespace detail

template <class Tile, class A, class W, class Ep>
void conv_f32(const Worker& w, const A* x, const W* packed, const ConvShape& s, const Ep& ep, void* scratch) {
  detail::conv_f32_emitting<Tile>(w, x, packed, s, detail::float_emitter<Tile, float, W>(ep), scratch);
}

template <class Tile, class W>
int64_t packed_conv_transposed_elements(const ConvShape& s) {
  int64_t total = 0;
  detail::each_phase(s, [&](const detail::TapWalk& t) { total += detail::packed_walk_elements<Tile, W>(s, t); });
  return total;
}

// src: [C, O / groups, KD, KH, KW] contiguous, as ConvTranspose keeps it.
template <class Tile, class W, class S>
void pack_conv_transposed(const Worker& w, W* dst, const S* src, const ConvShape& s) {
  detail::each_phase(s, [&](const detail::TapWalk& t) {
    detail::pack_walk<Tile, W>(w, dst, src, s, t, detail::transposed_weight_strides(s));
    dst += detail::packed_walk_elements<Tile, W>(s, t);
  });
}

inline int64_t conv_transposed_f32_scratch_bytes(const ConvShape& s, int64_t workers) {
  int64_t most = 0;
  detail::each_phase(s, [&](const detail::TapWalk& t) { most = max_i64(most, t.scratch_bytes(4)); });
  return workers * most;
}

namespace detail {

template <class Tile, class A, class W>
void conv_transposed_f32_emitting(const Worker& w, const A* x, const W* packed, const ConvShape& s,
                                  const Emitter<float>& emit, void* scratch) {
  char* own = static_cast<char*>(scratch) + w.id * conv_transposed_f32_scratch_bytes(s, 1);
  each_phase(s, [&](const TapWalk& t) {
    conv_walk_f32<Tile>(w, x, packed, s, t, emit, own);
    packed += packed_walk_elements<Tile, W>(s, t);
  });
}

}  // namespace detail

// out[o] = sum over inputs i and kernel positions k with o = i * stride - pad + k * dilation of x[i] * weight[k]. Each
// of the prod(stride) phases of the output is a stride-1 convolution over part of the kernel: no multiplication by
// inserted zeros.
template <class Tile, class A, class W, class Ep>
void conv_transposed_f32(const Worker& w, const A* x, const W* packed, const ConvShape& s, const Ep& ep,
                         void* scratch) {
  detail::conv_transposed_f32_emitting<Tile>(w, x, packed, s, detail::float_emitter<Tile, float, W>(ep), scratch);
}

}  // namespace mcomp
