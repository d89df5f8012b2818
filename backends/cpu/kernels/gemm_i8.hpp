// C[M, N] = dequantize(A8[M, K] x W8) : bytes times int8 weights, exact int32 sums, float32 results to the epilogue.
//
//   using T0 = DefaultTileI8;
//   pack_linear_i8<T0>(w, packed, column_sums, weight8, N, K, K, 1);                            // once
//   Scales8 s{row_scale, row_zero, /*row_step=*/1, column_scale, column_sums};                   // dynamic, per row
//   gemm_i8<T0>(w, a8, lda, packed, M, N, K, s, Ep0{bias, out, N}, nullptr);
//   // scratch: gemm_i8_scratch_bytes(M, K, workers) bytes, 64-byte aligned
//
// acc[n] = row_scale[m] * column_scale[n] * (sum_k a8[m, k] * w8[n, k] - row_zero[m] * column_sums[n]). A: uint8_t
// (fastest) or int8_t. Sums wrap modulo 2^32: exact for K < 2^31 / (255 * 127). 2 M N K operations.
#pragma once

#include <cstdint>

#include "epilogue.hpp"
#include "micro_i8.hpp"
#include "pack.hpp"
#include "product.hpp"

namespace mcomp {

// How bytes stand for numbers. Row m has scale row_scale[m * row_step] and zero point row_zero[m * row_step] (null:
// zero); row_step is 1 for values per row (per token), 0 for one value. Column arrays have one entry per output column.
struct Scales8 {
  const float* row_scale;
  const int32_t* row_zero;
  int64_t row_step;
  const float* column_scale;
  const int32_t* column_sums;
};

namespace detail {

template <class Tile, class A>
struct Int8Product {
  using Element = A;
  static constexpr int MR = Tile::MR;
  static constexpr int NR = Tile::NR;

  const int8_t* packed;
  int64_t panel_stride;
  Panels panels;
  const Scales8& scales;
  Emitter<float> emit;

  // Byte that stands for zero where a convolution pads.
  A fill() const { return static_cast<A>(scales.row_zero == nullptr ? 0 : scales.row_zero[0]); }

  void tile(const A* a, int64_t row_stride, const int64_t* taps, int64_t tap_count, int64_t length, int64_t mr,
            int64_t panel, int64_t row0, int64_t row_step) const {
    alignas(64) int32_t sums[MR * NR];
    alignas(64) float out[MR * NR];
    micro_tiles<ByteDot<A>, MR, Tile::NV>.table[mr](a, row_stride, taps, tap_count, length,
                                                    packed + panel * panel_stride, 4 * NR, sums);
    const int64_t first = panels.first(panel), count = panels.size(panel);
    for (int v = 0; v < Tile::NV; ++v) {
      const int64_t lanes = max_i64(0, min_i64(kLanes, count - v * kLanes));
      const vf32 scale = lanes == kLanes ? vload(scales.column_scale + first + v * kLanes)
                                         : vload_n(scales.column_scale + first + v * kLanes, lanes);
      const vi32 total = lanes == kLanes ? vload(scales.column_sums + first + v * kLanes)
                                         : vload_n(scales.column_sums + first + v * kLanes, lanes);
      if (scales.row_step == 0) {
        const int32_t zero = (scales.row_zero == nullptr ? 0 : scales.row_zero[0]) + row_offset<A>();
        const vi32 shift = total * zero;
        const vf32 both = scale * scales.row_scale[0];
        for (int64_t r = 0; r < mr; ++r)
          vstore(out + r * NR + v * kLanes, vto_f32(vload(sums + r * NR + v * kLanes) - shift) * both);
      } else {
        for (int64_t r = 0; r < mr; ++r) {
          const int64_t row = row0 + r * row_step;
          const int32_t zero = (scales.row_zero == nullptr ? 0 : scales.row_zero[row]) + row_offset<A>();
          const vi32 exact = vload(sums + r * NR + v * kLanes) - total * zero;
          vstore(out + r * NR + v * kLanes, vto_f32(exact) * (scale * scales.row_scale[row]));
        }
      }
    }
    emit(out, NR, mr, row0, row_step, first, count);
  }
};

}  // namespace detail

inline int64_t gemm_i8_scratch_bytes(int64_t m, int64_t k, int64_t workers) {
  return detail::gemm_rows_scratch_bytes(m, k, 1, workers);
}

template <class Tile, class A, class Ep>
void gemm_i8(const Worker& w, const A* a, int64_t lda, const int8_t* packed, int64_t m, int64_t n, int64_t k,
             const Scales8& scales, const Ep& ep, void* scratch) {
  const detail::Int8Product<Tile, A> product{
      packed, round_up(k, 4) * Tile::NR, {n, 1, Tile::NR}, scales, detail::emitter<Tile::NR, float>(ep)};
  detail::gemm_rows(w, product, a, lda, m, k, scratch);
}

}  // namespace mcomp
