// Packs weights once, at load time, into the panels that the product kernels stream.
//
//   int64_t elements = packed_elements<DefaultTile, float>(n, k);               // allocate, 64-byte aligned
//   pack_linear<DefaultTile, float>(w, dst, weight, n, k, /*stride_n=*/k, /*stride_k=*/1);      // nn.Linear's [N, K]
//   pack_linear<DefaultTile, float>(w, dst, weight, n, k, /*stride_n=*/1, /*stride_k=*/n);      // a [K, N] matrix
//   pack_linear<DefaultTile, bf16>(w, dst, weight, n, k, k, 1);                                 // stored as bf16
//   pack_linear_i8<DefaultTileI8>(w, dst8, column_sums, weight8, n, k, k, 1);              // int8, see gemm_i8.hpp
//
// The tile must be the one the product is called with. Convolution weights: pack_conv in conv.hpp and conv_i8.hpp.
#pragma once

#include <cstdint>

#include "isa.hpp"
#include "micro_i8.hpp"
#include "product.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

// Output columns of a panel whose products are computed in the type that W is read as.
template <class Tile, class W>
constexpr int64_t panel_width() {
  return Tile::NV * kVectorBytes / (std::is_same<W, double>::value ? 8 : 4);
}

template <class Tile, class W>
constexpr int64_t packed_elements(int64_t n, int64_t k) {
  return round_up(n, panel_width<Tile, W>()) * k;
}

// Panel p holds, for each k, the elements (n, k) of its panel_width columns; columns past n are zero. Element (n, k) of
// the source is src[n * stride_n + k * stride_k]. W: float, bf16 or double storage.
template <class Tile, class W, class S>
void pack_linear(const Worker& w, W* dst, const S* src, int64_t n, int64_t k, int64_t stride_n, int64_t stride_k) {
  constexpr int64_t NR = panel_width<Tile, W>();
  const Range mine = w.range(ceil_div(n, NR));
  for (int64_t p = mine.begin; p < mine.end; ++p) {
    W* panel = dst + p * k * NR;
    const int64_t width = min_i64(NR, n - p * NR);
    const S* columns = src + p * NR * stride_n;
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t c = 0; c < width; ++c) panel[i * NR + c] = convert<W>(columns[c * stride_n + i * stride_k]);
      for (int64_t c = width; c < NR; ++c) panel[i * NR + c] = convert<W>(0.0f);
    }
  }
}

// Bytes of the packed form of an int8 matrix: steps of a column lie together (see byte_place), k is padded with zeros to
// whole steps of the tile.
template <class Tile>
constexpr int64_t packed_bytes_i8(int64_t n, int64_t k) {
  return round_up(n, Tile::NR) * round_up(k, Tile::kByteStep);
}

// column_sums[n] (padded to packed columns, may be
// null) is the sum of a column, which zero points are corrected with.
template <class Tile>
void pack_linear_i8(const Worker& w, int8_t* dst, int32_t* column_sums, const int8_t* src, int64_t n, int64_t k,
                    int64_t stride_n, int64_t stride_k) {
  constexpr int64_t NR = Tile::NR;
  const int64_t length = round_up(k, Tile::kByteStep);
  const Range mine = w.range(ceil_div(n, NR));
  for (int64_t p = mine.begin; p < mine.end; ++p) {
    int8_t* panel = dst + p * length * NR;
    for (int64_t c = 0; c < NR; ++c) {
      const int64_t column = p * NR + c;
      int32_t sum = 0;
      for (int64_t i = 0; i < length; ++i) {
        const int8_t x = column < n && i < k ? src[column * stride_n + i * stride_k] : int8_t{0};
        panel[detail::byte_place(i, c, NR)] = x;
        sum += x;
      }
      if (column_sums != nullptr) column_sums[column] = sum;
    }
  }
}

}  // namespace mcomp
