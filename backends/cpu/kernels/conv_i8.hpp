// Convolutions and transposed convolutions of byte activations (uint8_t fastest, int8_t) with int8 weights, exact int32
// sums. As conv.hpp; padding uses the byte that stands for zero.
//
//   pack_conv_i8<T0>(w, packed, column_sums, weight_oihw, s);    // packed_conv_i8_bytes<T0>(s) bytes; column_sums[O]
//   Scales8 q{&x_scale, &x_zero, column_scale, column_sums};
//   conv_i8<T0>(w, x8, packed, s, q, Ep0{bias, out, O}, scratch);    // scratch: conv_i8_scratch_bytes(s, workers)
//   // transposed: the same names with conv_transposed; column_sums: prod(stride) * O entries, a set per phase
//
// One scale and zero point for the activations; weights are scaled per output channel.
#pragma once

#include <cstdint>

#include "conv.hpp"
#include "conv_gather.hpp"
#include "conv_plan.hpp"
#include "gemm_i8.hpp"
#include "winograd_i8.hpp"

namespace mcomp {
namespace detail {

// Bytes from a column's first element of a segment to that of the next.
template <class Tile>
int64_t segment_step(const TapWalk& t) {
  return Tile::kMatrix ? matrix_segment_step(t) : round_up(t.segment_length(), Tile::kByteStep);
}
// Bytes of a packed column.
template <class Tile>
int64_t walk_depth(const TapWalk& t) {
  return round_up(t.segments() * segment_step<Tile>(t), Tile::kByteStep);
}

template <class Tile>
int64_t packed_walk_bytes(const ConvShape& s, const TapWalk& t) {
  return s.groups * round_up(s.out_channels / s.groups, Tile::NR) * walk_depth<Tile>(t);
}

template <class Tile>
void pack_walk_i8(const Worker& w, int8_t* dst, int32_t* column_sums, const int8_t* src, const ConvShape& s,
                  const TapWalk& t, const WeightStrides& ws) {
  constexpr int64_t NR = Tile::NR;
  const Panels panels{s.out_channels / s.groups, s.groups, NR};
  const int64_t step = segment_step<Tile>(t), bytes = walk_depth<Tile>(t) * NR;
  const Range mine = w.range(panels.count());
  for (int64_t p = mine.begin; p < mine.end; ++p) {
    int8_t* panel = dst + p * bytes;
    for (int64_t i = 0; i < bytes; ++i) panel[i] = 0;
    const int64_t first = panels.first(p), o = first - panels.group(p) * panels.columns;
    for (int64_t c = 0; c < panels.size(p); ++c) {
      int32_t sum = 0;
      each_weight(t, ws, panels.group(p), o + c, [&](int64_t at, int64_t segment, int64_t index) {
        const int64_t k = segment * step + index;
        panel[byte_place(k, c, NR)] = src[at];
        sum += src[at];
      });
      column_sums[first + c] = sum;
    }
  }
}

template <class Tile, class A>
void conv_walk_i8(const Worker& w, const A* x, const int8_t* packed, const ConvShape& s, const TapWalk& t,
                  const Scales8& q, const Int8Emitter<Scales8>& emit, char* scratch) {
  const int64_t stride = walk_depth<Tile>(t) * Tile::NR;
  const Int8Product<Tile, A, Scales8> product{packed, stride, {s.out_channels / s.groups, s.groups, Tile::NR}, q, emit};
  if constexpr (Tile::kMatrix) {
    matrix_convolution(w, product, t, x, scratch);
  } else {
    tap_convolution(w, product, t, x, scratch);
  }
  product.finish();
}

// Scratch of a worker, whichever tile it uses.
inline int64_t walk_i8_scratch_bytes(const TapWalk& t) {
#if defined(MCOMP_AMX)
  return max_i64(t.scratch_bytes(1), gathered_bytes(t));
#else
  return t.scratch_bytes(kProductBytes);
#endif
}

}  // namespace detail

template <class Tile>
int64_t packed_conv_i8_bytes(const ConvShape& s) {
#if defined(MCOMP_WINOGRAD_I8)
  if (detail::suits_winograd_i8(s)) return detail::packed_winograd_i8_bytes<Tile>(s);
#endif
  return detail::packed_walk_bytes<Tile>(s, detail::conv_walk(s));
}

// src: [O, C / groups, KD, KH, KW] contiguous.
template <class Tile>
void pack_conv_i8(const Worker& w, int8_t* dst, int32_t* column_sums, const int8_t* src, const ConvShape& s) {
#if defined(MCOMP_WINOGRAD_I8)
  if (detail::suits_winograd_i8(s)) return detail::pack_winograd_i8<Tile>(w, dst, column_sums, src, s);
#endif
  detail::pack_walk_i8<Tile>(w, dst, column_sums, src, s, detail::conv_walk(s), detail::conv_weight_strides(s));
}

inline int64_t conv_i8_scratch_bytes(const ConvShape& s, int64_t workers) {
#if defined(MCOMP_WINOGRAD_I8)
  if (detail::suits_winograd_i8(s)) return workers * detail::WinogradBytes(s).worker_bytes(s);
#endif
  const detail::TapWalk t = detail::conv_walk(s);
  const int64_t pixels = s.batch * s.out[0] * s.out[1] * s.out[2];
  const int64_t rows = detail::is_pointwise(t) ? gemm_i8_scratch_bytes(pixels, s.in_channels, workers) : 0;
  return max_i64(rows, workers * detail::walk_i8_scratch_bytes(t));
}

namespace detail {

template <class Tile, class A>
void conv_i8_emitting(const Worker& w, const A* x, const int8_t* packed, const ConvShape& s, const Scales8& q,
                      const Int8Emitter<Scales8>& emit, void* scratch) {
#if defined(MCOMP_WINOGRAD_I8)
  if (suits_winograd_i8(s)) return conv_winograd_i8<Tile, A>(w, x, packed, s, q, emit, static_cast<char*>(scratch));
#endif
  const TapWalk t = conv_walk(s);
  if (is_pointwise(t)) {
    const int64_t c = s.in_channels;
    const Int8Product<Tile, A, Scales8> product{packed, round_up(c, Tile::kByteStep) * Tile::NR, {s.out_channels, 1, Tile::NR}, q, emit};
    gemm_rows(w, product, x, c, s.batch * s.out[0] * s.out[1] * s.out[2], c, scratch);
    product.finish();
    return;
  }
  conv_walk_i8<Tile>(w, x, packed, s, t, q, emit, static_cast<char*>(scratch) + w.id * walk_i8_scratch_bytes(t));
}

}  // namespace detail

template <class Tile, class A, class Ep>
void conv_i8(const Worker& w, const A* x, const int8_t* packed, const ConvShape& s, const Scales8& q, const Ep& ep,
             void* scratch) {
  detail::conv_i8_emitting<Tile>(w, x, packed, s, q, detail::int8_emitter<Tile, A, Scales8>(ep), scratch);
}

template <class Tile>
int64_t packed_conv_transposed_i8_bytes(const ConvShape& s) {
  int64_t total = 0;
  detail::each_phase(s, [&](const detail::TapWalk& t) { total += detail::packed_walk_bytes<Tile>(s, t); });
  return total;
}

// src: [C, O / groups, KD, KH, KW] contiguous.
template <class Tile>
void pack_conv_transposed_i8(const Worker& w, int8_t* dst, int32_t* column_sums, const int8_t* src,
                             const ConvShape& s) {
  detail::each_phase(s, [&](const detail::TapWalk& t) {
    detail::pack_walk_i8<Tile>(w, dst, column_sums, src, s, t, detail::transposed_weight_strides(s));
    dst += detail::packed_walk_bytes<Tile>(s, t);
    column_sums += s.out_channels;
  });
}

inline int64_t conv_transposed_i8_scratch_bytes(const ConvShape& s, int64_t workers) {
  int64_t most = 0;
  detail::each_phase(s, [&](const detail::TapWalk& t) { most = max_i64(most, t.scratch_bytes(detail::kProductBytes)); });
  return workers * most;
}

namespace detail {

template <class Tile, class A>
void conv_transposed_i8_emitting(const Worker& w, const A* x, const int8_t* packed, const ConvShape& s,
                                 const Scales8& q, const Int8Emitter<Scales8>& emit, void* scratch) {
  static_assert(!Tile::kMatrix, "the pixels of a phase are not rows in a row");
  char* own = static_cast<char*>(scratch) + w.id * conv_transposed_i8_scratch_bytes(s, 1);
  Scales8 phase = q;
  each_phase(s, [&](const TapWalk& t) {
    conv_walk_i8<Tile>(w, x, packed, s, t, phase, emit, own);
    packed += packed_walk_bytes<Tile>(s, t);
    phase.column_sums += s.out_channels;
  });
}

}  // namespace detail

template <class Tile, class A, class Ep>
void conv_transposed_i8(const Worker& w, const A* x, const int8_t* packed, const ConvShape& s, const Scales8& q,
                        const Ep& ep, void* scratch) {
  detail::conv_transposed_i8_emitting<Tile>(w, x, packed, s, q, detail::int8_emitter<Tile, A, Scales8>(ep), scratch);
}

}  // namespace mcomp
