// C[M, N] = A[M, K] x W with A and W in bfloat16, float32 sums.
//
//   pack_linear_bf16<T0>(w, packed, weight, N, K, /*stride_n=*/K, /*stride_k=*/1);     // once
//   gemm_bf16<T0>(w, a, lda, packed, M, N, K, Ep0{bias, out, N}, scratch);
//   // packed: packed_bf16_elements<T0>(N, K) elements, 64-byte aligned
//   // scratch: gemm_bf16_scratch_bytes(M, K, workers)
//
// 2 M N K operations. Where the instruction set multiplies bfloat16 (MCOMP_BF16) rows of A are read in place, otherwise
// both sides are widened: gemm_f32.
#pragma once

#include <cstdint>

#include "gemm_f32.hpp"
#include "micro_bf16.hpp"

namespace mcomp {

#if defined(MCOMP_BF16)

template <class Tile>
constexpr int64_t packed_bf16_elements(int64_t n, int64_t k) {
  return round_up(n, Tile::NR) * round_up(k, Tile::kPairStep);
}

// Panel p holds, for each pair of k, two elements per column; what is past n and k is zero. Element (n, k) of the
// source is src[n * stride_n + k * stride_k].
template <class Tile>
void pack_linear_bf16(const Worker& w, bf16* dst, const bf16* src, int64_t n, int64_t k, int64_t stride_n,
                      int64_t stride_k) {
  constexpr int64_t NR = Tile::NR;
  const int64_t padded = round_up(k, Tile::kPairStep);
  const Range mine = w.range(ceil_div(n, NR));
  for (int64_t p = mine.begin; p < mine.end; ++p) {
    bf16* panel = dst + p * padded * NR;
    for (int64_t i = 0; i < padded; ++i)
      for (int64_t c = 0; c < NR; ++c) {
        const int64_t column = p * NR + c;
        panel[(i / 2 * NR + c) * 2 + i % 2] = column < n && i < k ? src[column * stride_n + i * stride_k] : bf16{0};
      }
  }
}

inline int64_t gemm_bf16_scratch_bytes(int64_t m, int64_t k, int64_t workers) {
  return detail::gemm_rows_scratch_bytes(m, k, 2, workers);
}

template <class Tile, class Ep>
void gemm_bf16(const Worker& w, const bf16* a, int64_t lda, const bf16* packed, int64_t m, int64_t n, int64_t k,
               const Ep& ep, void* scratch) {
  const detail::Bf16Product<Tile> product{
      packed, round_up(k, Tile::kPairStep) * Tile::NR, {n, 1, Tile::NR}, detail::emitter<Tile::NR, float>(ep)};
  detail::gemm_rows(w, product, a, lda, m, k, scratch);
}

#else

template <class Tile>
constexpr int64_t packed_bf16_elements(int64_t n, int64_t k) {
  return packed_elements<Tile, bf16>(n, k);
}
template <class Tile>
void pack_linear_bf16(const Worker& w, bf16* dst, const bf16* src, int64_t n, int64_t k, int64_t stride_n,
                      int64_t stride_k) {
  pack_linear<Tile, bf16>(w, dst, src, n, k, stride_n, stride_k);
}
inline int64_t gemm_bf16_scratch_bytes(int64_t m, int64_t k, int64_t workers) {
  return gemm_f32_scratch_bytes(m, k, workers);
}
template <class Tile, class Ep>
void gemm_bf16(const Worker& w, const bf16* a, int64_t lda, const bf16* packed, int64_t m, int64_t n, int64_t k,
               const Ep& ep, void* scratch) {
  gemm_f32<Tile>(w, a, lda, packed, m, n, k, ep, scratch);
}

#endif

}  // namespace mcomp
