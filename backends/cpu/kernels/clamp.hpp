// The epilogue of a product whose results stay floats: bias, a second summand, a clamp (ReLU, ReLU6 and the like).
//
//   const Clamped ep{out, ld, bias, added, added_ld, low, high};
//   conv_f32<T0>(w, x, packed, s, ep, scratch);
//
// out[row * ld + col + i] = clamp(acc[i] + bias[col + i] + added[row * added_ld + col + i], low, high); NaN stays. bias and
// added may be null. Whole tiles of float products and of square depthwise kernels are finished in registers.
#pragma once

#include <cstdint>

#include "gemm_i8.hpp"
#include "isa.hpp"
#include "product.hpp"

namespace mcomp {

struct Clamped {
  float* out;
  int64_t ld;
  const float* bias;
  const float* added;
  int64_t added_ld;
  float low, high;

  // Stores `lanes` columns from `col` on, given results with their bias.
  template <bool Whole>
  MCOMP_INLINE void finish(vf32 x, int64_t row, int64_t col, int64_t lanes) const {
    if (added != nullptr) {
      const float* from = added + row * added_ld + col;
      x = x + (Whole ? vload(from) : vload_n(from, lanes));
    }
    x = vmin(vset(high), vmax(vset(low), x));
    float* to = out + row * ld + col;
    if (Whole) {
      vstore(to, x);
    } else {
      vstore_n(to, x, lanes);
    }
  }

  MCOMP_INLINE vf32 biases(int64_t col, int64_t lanes) const {
    if (bias == nullptr) return vset(0.0f);
    return lanes == kLanes ? vload(bias + col) : vload_n(bias + col, lanes);
  }

  // A vector of results, of which `lanes` exist.
  static MCOMP_INLINE vf32 results(const float* acc, int64_t start, int64_t lanes) {
    return lanes == kLanes ? vload(acc + start) : vload_n(acc + start, lanes);
  }
  static MCOMP_INLINE vf32 results(const Int8Row& acc, int64_t start, int64_t) {  // its arrays have whole vectors
    return vto_f32(vload(acc.sums + start)) * vload(acc.scale + start);
  }
  template <class Acc>
  static MCOMP_INLINE vf32 results(const Acc& acc, int64_t start, int64_t lanes) {
    alignas(64) float held[kLanes] = {};
    for (int64_t i = 0; i < lanes; ++i) held[i] = acc[start + i];
    return vload(held);
  }

  template <class Acc>
  MCOMP_INLINE void operator()(Acc acc, int64_t row, int64_t col, int64_t count) const {
    for (int64_t c = 0; c < count; c += kLanes) {
      const int64_t lanes = min_i64(kLanes, count - c);
      const vf32 x = results(acc, c, lanes) + biases(col + c, lanes);
      if (lanes == kLanes) {
        finish<true>(x, row, col + c, lanes);
      } else {
        finish<false>(x, row, col + c, lanes);
      }
    }
  }
};

namespace detail {

template <>
struct FloatTiles<Clamped> {
  static constexpr bool kDirect = true;

  template <class W, int MR, int NV>
  static MCOMP_NOINLINE void run(const FloatTile& t) {
    constexpr int64_t NR = NV * kLanes;
    run_tile<FloatDot<float, W>, MR, NV>(
        static_cast<const float*>(t.a), t.row_stride, t.taps, t.tap_count, t.length, static_cast<const W*>(t.b), NR,
        static_cast<const float*>(t.part.add), t.part.ahead, [&](const auto& sums) MCOMP_LAMBDA {
          if (t.part.sums != nullptr) return sums.store(static_cast<float*>(t.part.sums));
          const Clamped ep = *static_cast<const Clamped*>(t.epilogue);
          if (t.count < NR) {
            alignas(64) float tile[MR * NR];
            sums.store(tile);
            emit_tile<NR, float, Clamped>(t.epilogue, tile, NR, MR, t.row0, t.row_step, t.col, t.count);
            return;
          }
          vf32 bias[NV];
          unroll<NV>([&](auto v) MCOMP_LAMBDA { bias[v] = ep.biases(t.col + v * kLanes, kLanes); });
          int64_t row = t.row0;
          unroll<MR>([&](auto r) MCOMP_LAMBDA {
            unroll<NV>([&](auto v) MCOMP_LAMBDA {
              ep.template finish<true>(sums.template row<r>().v[v] + bias[v], row, t.col + v * kLanes, kLanes);
            });
            row += t.row_step;
          });
        });
  }
};

}  // namespace detail
}  // namespace mcomp
