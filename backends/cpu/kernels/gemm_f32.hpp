// C[M, N] = A[M, K] x W in float32 (or float64), W packed once.
//
//   using T0 = Tile<14, 2>;                                              // or DefaultTile
//   pack_linear<T0, float>(w, packed, weight, N, K, K, 1);               // once
//   gemm_f32<T0>(w, a, lda, packed, M, N, K, Ep0{bias, out, N}, scratch);
//   // scratch: gemm_f32_scratch_bytes(M, K, workers) bytes for all workers together, 64-byte aligned
//
// A: float, bf16 or f16, row r at a + r * lda, K contiguous. W: float or bf16 storage. Rows of the epilogue are rows of
// A. 2 M N K operations; reads A once per worker and W once per 640 KiB block of rows. Reduction order: over k, in 1, 2
// or 4 interleaved sums when a tile has few rows. Any of M, N, K may be zero (K == 0 gives zeros to the epilogue).
#pragma once

#include <cstdint>

#include "epilogue.hpp"
#include "pack.hpp"
#include "product.hpp"

namespace mcomp {

inline int64_t gemm_f32_scratch_bytes(int64_t m, int64_t k, int64_t workers) {
  return detail::gemm_rows_scratch_bytes(m, k, 4, workers);
}

template <class Tile, class A, class W, class Ep>
void gemm_f32(const Worker& w, const A* a, int64_t lda, const W* packed, int64_t m, int64_t n, int64_t k, const Ep& ep,
              void* scratch) {
  const detail::FloatProduct<Tile, float, W> product{
      packed, k * Tile::NR, {n, 1, Tile::NR}, detail::float_emitter<Tile, float, W>(ep)};
  detail::gemm_rows(w, product, a, lda, m, k, scratch);
}

inline int64_t gemm_f64_scratch_bytes(int64_t m, int64_t k, int64_t workers) {
  return detail::gemm_rows_scratch_bytes(m, k, 8, workers);
}

// As gemm_f32 with double A, W (packed by pack_linear<Tile, double>) and accumulators; ep takes const double*.
template <class Tile, class Ep>
void gemm_f64(const Worker& w, const double* a, int64_t lda, const double* packed, int64_t m, int64_t n, int64_t k,
              const Ep& ep, void* scratch) {
  constexpr int64_t NR = panel_width<Tile, double>();
  const detail::FloatProduct<Tile, double, double> product{packed, k * NR, {n, 1, NR},
                                                          detail::float_emitter<Tile, double, double>(ep)};
  detail::gemm_rows(w, product, a, lda, m, k, scratch);
}

}  // namespace mcomp
