// Depthwise convolutions of floats with square kernels, one or two dimensions of space, no dilation; channels-last.
//
//   pack_depthwise(w, packed, weight_oihw, s);                                   // as in depthwise.hpp
//   depthwise_square<3, 2, 7>(w, x, packed, s, Ep0{bias, out, C}, scratch);      // kernel 3, stride 2, tiles of 7 pixels
//   // scratch: depthwise_square_scratch<3, 2, 7>(s, workers) bytes for all workers together, 64-byte aligned
//
// x: float, bf16 or f16. Sums of a tile stay in registers, through the epilogue too where that is Clamped; an input is loaded once for all pixels of a kernel row that
// take it. 2 * pixels * C * K * K operations.
#pragma once

#include <cstdint>

#include "clamp.hpp"
#include "depthwise.hpp"
#include "depthwise_pixels.hpp"

namespace mcomp {
namespace detail {

// What becomes of the sums of a tile: they start at start(), store() gets each vector of them, done() follows.
struct SquareToTile {
  const Emitter<float>& emit;
  float* tile;  // P * kDepthwiseChannels floats
  int64_t row0, pixels, first;

  MCOMP_INLINE vf32 start(int64_t, int64_t) const { return vset(0.0f); }
  template <bool Masked>
  MCOMP_INLINE void store(int p, int64_t c, vf32 sums, int64_t) const {
    vstore(tile + p * kDepthwiseChannels + c - first, sums);
  }
  MCOMP_INLINE void done(int64_t count) const { emit(tile, kDepthwiseChannels, pixels, row0, 1, first, count); }
};

// Epilogues that take the sums in registers.
struct SquareClamped {
  const Clamped& ep;
  int64_t row0, pixels;

  MCOMP_INLINE vf32 start(int64_t c, int64_t lanes) const { return ep.biases(c, lanes); }
  template <bool Masked>
  MCOMP_INLINE void store(int p, int64_t c, vf32 sums, int64_t lanes) const {
    if (p < pixels) ep.template finish<!Masked>(sums, row0 + p, c, lanes);
  }
  MCOMP_INLINE void done(int64_t) const {}
};

// P pixels and NV vectors of channels from c on; Masked: one vector of `count`.
template <class X, int K, int S, int P, int NV, bool Masked, class Finish>
MCOMP_NOINLINE void square_tile(const X* const* table, int64_t c, int64_t count, const float* weight,
                                int64_t channels, const Finish& finish) {
  vf32 acc[P][NV];
  unroll<NV>([&](auto v) MCOMP_LAMBDA {
    const vf32 first = finish.start(c + v * kLanes, Masked ? count : kLanes);
    unroll<P>([&](auto p) MCOMP_LAMBDA { acc[p][v] = first; });
  });
  for (int k = 0; k < K; ++k) {
    vf32 taps[K][NV];
    unroll<K>([&](auto t) MCOMP_LAMBDA {
      const float* at = weight + (k * K + t) * channels + c;
      unroll<NV>([&](auto v) MCOMP_LAMBDA { taps[t][v] = Masked ? vload_n(at, count) : vload(at + v * kLanes); });
    });
    unroll<(P - 1) * S + K>([&](auto j) MCOMP_LAMBDA {
      constexpr bool used = j % S < K;
      if constexpr (used) {
        const X* at = table[j * K + k] + c;
        unroll<NV>([&](auto v) MCOMP_LAMBDA {
          const vf32 x = Masked ? load_as_f32_n(at, count) : load_as_f32(at + v * kLanes);
          unroll<P>([&](auto p) MCOMP_LAMBDA {
            constexpr int tap = j - p * S;
            if constexpr (tap >= 0 && tap < K) acc[p][v] = vfma(x, taps[tap][v], acc[p][v]);
          });
        });
      }
    });
  }
  unroll<P>([&](auto p) MCOMP_LAMBDA {
    unroll<NV>([&](auto v) MCOMP_LAMBDA {
      finish.template store<Masked>(p, c + v * kLanes, acc[p][v], Masked ? count : kLanes);
    });
  });
}

// All channels [c, c + count) of a tile, count <= kDepthwiseChannels.
template <class X, int K, int S, int P, class Finish>
void square_block(const X* const* table, int64_t c, int64_t count, const float* weight, int64_t channels,
                  const Finish& finish) {
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes)
    square_tile<X, K, S, P, 2, false>(table, c + i, 0, weight, channels, finish);
  for (; i + kLanes <= count; i += kLanes)
    square_tile<X, K, S, P, 1, false>(table, c + i, 0, weight, channels, finish);
  if (i < count) square_tile<X, K, S, P, 1, true>(table, c + i, count - i, weight, channels, finish);
  finish.done(count);
}

// finish(row0, pixels, c): what becomes of a tile.
template <int K, int S, int P, class X, class Make>
MCOMP_INLINE void walk_square(const Worker& w, const X* x, const float* packed, const ConvShape& s, char* scratch,
                              Make&& finish) {
  const Split split =
      split_product(w, s.batch * s.out[1], s.out[2], ceil_div(s.in_channels, kDepthwiseChannels), false, 0.0);
  if (split.rows.empty() || split.panels.empty()) return;
  const PixelTable<K, S, P, X> pixels(s, scratch, X{});
  pixels.walk(x, split.rows.begin, split.rows.end, [&](int64_t row, int64_t rows) {
    for (int64_t block = split.panels.begin; block < split.panels.end; ++block) {
      const int64_t c = block * kDepthwiseChannels, count = min_i64(kDepthwiseChannels, s.in_channels - c);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t t = 0; t < pixels.tiles(); ++t)
          square_block<X, K, S, P>(pixels.tile(r, t), c, count, packed, s.in_channels,
                                   finish((row + r) * s.out[2] + t * P, pixels.pixels(t), c));
    }
  });
}

template <int K, int S, int P, class X>
void square_emitting(const Worker& w, const X* x, const float* packed, const ConvShape& s, const Emitter<float>& emit,
                     char* scratch) {
  alignas(64) float tile[P * kDepthwiseChannels];
  walk_square<K, S, P>(w, x, packed, s, scratch, [&](int64_t row0, int64_t pixels, int64_t c) MCOMP_LAMBDA {
    return SquareToTile{emit, tile, row0, pixels, c};
  });
}

// Pixels of a tile, at most `wanted`, whose sums leave room in the registers.
constexpr int square_pixels(int kernel, int wanted) {
  const int most = kVectorRegisters == 32 ? (kernel == 3 ? 8 : 7) : (kernel == 3 ? 4 : 3);
  return wanted < most ? wanted : most;
}

}  // namespace detail

template <int K, int S, int P>
int64_t depthwise_square_scratch(const ConvShape& s, int64_t workers) {
  return workers * detail::PixelTable<K, S, detail::square_pixels(K, P), float>::bytes(s);
}

template <int K, int S, int P, class X, class Ep>
void depthwise_square(const Worker& w, const X* x, const float* packed, const ConvShape& s, const Ep& ep,
                      void* scratch) {
  constexpr int N = detail::square_pixels(K, P);
  char* own = static_cast<char*>(scratch) + w.id * depthwise_square_scratch<K, S, P>(s, 1);
  if constexpr (std::is_same<Ep, Clamped>::value) {
    detail::walk_square<K, S, N>(w, x, packed, s, own, [&](int64_t row0, int64_t pixels, int64_t) MCOMP_LAMBDA {
      return detail::SquareClamped{ep, row0, pixels};
    });
  } else {
    detail::square_emitting<K, S, N>(w, x, packed, s, detail::emitter<detail::kDepthwiseChannels, float>(ep), own);
  }
}

}  // namespace mcomp
