// C[M, N] = A[M, K] x W where only some blocks of W are stored: float32 sums, or int8 with exact int32 sums.
//
//   using T0 = SparseTile<32>;                     // blocks of 32 output columns; SparseTileI8<32> for int8
//   const auto blocks = make_blocks(values, at, starts, block_rows, block_columns, scale, scale_step);
//   pack_sparse<T0, float>(w, packed, blocks, N, K);                                           // once
//   gemm_sparse<T0, float>(w, a, lda, packed, M, N, K, block_columns, Ep0{bias, out, N}, scratch);
//   pack_sparse_i8<T1>(w, packed8, blocks8, N, K);
//   gemm_sparse_i8<T1>(w, a8, lda, packed8, M, N, K, block_columns, row_scales, Ep0{bias, out, N}, scratch);
//   // packed: packed_sparse_bytes<T0, float>(N, K, block_rows, block_columns, count), 64-byte aligned, for all workers
//   // scratch: gemm_f32_scratch_bytes(M, K, workers), or gemm_i8_scratch_bytes
//
// Blocks may have any shape. Packed panels of NR columns keep the pieces of the reduction in which any of their columns
// has a block, and the micro-kernels walk these pieces as they walk the positions of a convolution: fast are blocks of
// whole panels, of any length for floats and of multiples of four for bytes (of 64 in matrix registers). 2 M NR operations per element of a piece;
// panels are divided over the workers by the pieces they keep. Results of a panel without blocks are zeros: infinities
// and NaN of A meet the elements of pieces only.
#pragma once

#include <cstdint>
#include <type_traits>

#include "gemm_f32.hpp"
#include "gemm_i8.hpp"

namespace mcomp {

// The blocks of a matrix [N, K], each [rows][columns] elements. Block row r has blocks starts[r] to starts[r + 1] - 1,
// of which block b starts at column at[b] * columns, in rising order. An element of row n of the matrix counts
// scale[n * scale_step] (null: one).
template <class S>
struct Blocks {
  const S* values;
  const int32_t* at;
  const int32_t* starts;
  int64_t rows, columns;
  const float* scale;
  int64_t scale_step;
};
template <class S>
Blocks<S> make_blocks(const S* values, const int32_t* at, const int32_t* starts, int64_t rows, int64_t columns,
                      const float* scale = nullptr, int64_t scale_step = 0) {
  return {values, at, starts, rows, columns, scale, scale_step};
}

// The widest tile whose panels are not wider than blocks of this many output columns; one vector at least.
template <int Columns>
using SparseTile = std::conditional_t<(Columns >= DefaultTile::NR), DefaultTile, Tile<DefaultTile::MR, 1>>;
template <int Columns>
using SparseTileI8 = std::conditional_t<(Columns >= DefaultTileI8::NR), DefaultTileI8, Tile<DefaultTileI8::MR, 1>>;

namespace detail {

// Reduction elements of a piece: those of a block, in whole steps of `step`.
constexpr int64_t piece_length(int64_t block_columns, int64_t k, int64_t step) {
  return block_columns % step == 0 ? block_columns : min_i64(step, k);
}
// Where piece c starts: the last one is moved back to end with the row.
constexpr int64_t piece_start(int64_t piece, int64_t length, int64_t k) { return min_i64(piece * length, k - length); }

// Most pieces that `count` blocks can touch in panels of `width` columns.
constexpr int64_t most_pieces(int64_t width, int64_t block_rows, int64_t block_columns, int64_t count, int64_t length) {
  const int64_t panels = block_rows % width == 0 ? block_rows / width : block_rows / width + 2;
  return count * panels * (block_columns % length == 0 ? block_columns / length : block_columns / length + 2);
}

// Walks over the pieces in which a panel of output columns [first, first + size) has blocks, in rising order.
template <int Width, class S>
class PieceWalk {
 public:
  PieceWalk(const Blocks<S>& blocks, int64_t first, int64_t size, int64_t length)
      : blocks_(blocks), first_(first), size_(size), length_(length), row_(first / blocks.rows) {
    rows_ = size == 0 ? 0 : (first + size - 1) / blocks.rows - row_ + 1;
    for (int64_t r = 0; r < rows_; ++r) cursor_[r] = blocks.starts[row_ + r];
  }

  bool next() {
    int64_t best = INT64_MAX;
    for (int64_t r = 0; r < rows_; ++r) {
      int32_t& c = cursor_[r];
      while (c < end(r) && last_piece(c) <= piece) ++c;
      if (c < end(r)) best = min_i64(best, max_i64(piece + 1, blocks_.at[c] * blocks_.columns / length_));
    }
    if (best == INT64_MAX) return false;
    piece = best;
    return true;
  }

  // Calls f(column of the panel, k, index into values) for the stored elements of this piece.
  template <class F>
  void each(F&& f) const {
    for (int64_t c = 0; c < size_; ++c) {
      const int64_t n = first_ + c, r = n / blocks_.rows - row_;
      for (int32_t b = cursor_[r]; b < end(r); ++b) {
        const int64_t k0 = blocks_.at[b] * blocks_.columns, from = max_i64(k0, piece * length_);
        const int64_t to = min_i64(k0 + blocks_.columns, (piece + 1) * length_);
        if (from >= to && k0 >= (piece + 1) * length_) break;
        for (int64_t k = from; k < to; ++k) f(c, k, (b * blocks_.rows + n % blocks_.rows) * blocks_.columns + k - k0);
      }
    }
  }

  int64_t piece = -1;

 private:
  int32_t end(int64_t r) const { return blocks_.starts[row_ + r + 1]; }
  int64_t last_piece(int32_t b) const { return ((blocks_.at[b] + int64_t{1}) * blocks_.columns - 1) / length_; }

  const Blocks<S>& blocks_;
  int64_t first_, size_, length_, row_, rows_;
  int32_t cursor_[Width + 1];
};

// The packed form: where each panel's pieces start, the sums of columns (bytes only), the offset of each piece in a row
// of A, then the pieces.
template <class P>
struct SparsePanels {
  int64_t* first;  // [panels + 1]
  int32_t* sums;   // [panels * width]
  int64_t* taps;   // [first[panels]]
  P* pieces;       // [first[panels]][piece elements]
};

constexpr int64_t sparse_head_bytes(int64_t panels, int64_t width) {
  return round_up((panels + 1) * 8, 64) + round_up(panels * width * 4, 64);
}
template <class P>
SparsePanels<P> sparse_panels(void* packed, int64_t panels, int64_t width) {
  char* at = static_cast<char*>(packed);
  int64_t* first = reinterpret_cast<int64_t*>(at);
  char* taps = at + sparse_head_bytes(panels, width);
  return {first, reinterpret_cast<int32_t*>(at + round_up((panels + 1) * 8, 64)), reinterpret_cast<int64_t*>(taps),
          reinterpret_cast<P*>(taps + round_up(first[panels] * 8, 64))};
}

// Writes `first` and `taps`; then all workers may fill panels.
template <int Width, class P, class S>
SparsePanels<P> start_sparse(const Worker& w, void* packed, const Blocks<S>& blocks, int64_t n, int64_t k,
                             int64_t length) {
  const int64_t panels = ceil_div(n, Width);
  if (w.id == 0) {
    int64_t* first = static_cast<int64_t*>(packed);
    int64_t* taps = reinterpret_cast<int64_t*>(static_cast<char*>(packed) + sparse_head_bytes(panels, Width));
    first[0] = 0;
    for (int64_t p = 0; p < panels; ++p) {
      first[p + 1] = first[p];
      PieceWalk<Width, S> walk(blocks, p * Width, min_i64(Width, n - p * Width), length);
      while (walk.next()) taps[first[p + 1]++] = piece_start(walk.piece, length, k);
    }
  }
  w.barrier();
  return sparse_panels<P>(packed, panels, Width);
}

template <class Product>
struct SparseProduct {
  using Element = typename Product::Element;
  static constexpr int MR = Product::MR;

  Product product;  // its panels lie `panel_stride` 0 apart: `packed` is set for each
  const int64_t* first;
  const int64_t* taps;
  int64_t length, piece_elements;
};

// The worker's part of a product whose panels differ in work: as split_product, where panel p costs costs(p).
inline Split split_sparse(const Worker& w, int64_t m, int64_t panels, const int64_t* first) {
  // Handing a panel's results over costs about as much as a few pieces.
  const auto before = [&](int64_t p) { return first[p] + 4 * p; };
  const auto bound = [&](int64_t part, int64_t parts) {
    int64_t low = 0, high = panels;  // smallest p with before(p) * parts >= before(panels) * part
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (before(middle) * parts >= before(panels) * part) high = middle;
      else low = middle + 1;
    }
    return low;
  };
  int64_t best_parts = 1;
  double best_cost = 0;
  for (int64_t parts = 1; parts <= w.count; ++parts) {
    if (w.count % parts != 0) continue;
    int64_t most = 0;
    for (int64_t i = 0; i < parts; ++i) most = max_i64(most, before(bound(i + 1, parts)) - before(bound(i, parts)));
    const double cost = static_cast<double>(most) * (static_cast<double>(ceil_div(m, w.count / parts)) + 2.0);
    if (parts == 1 || cost <= best_cost) best_cost = cost, best_parts = parts;
  }
  const int64_t row_parts = w.count / best_parts, part = w.id / row_parts;
  return {share(m, 1, w.id % row_parts, row_parts), {bound(part, best_parts), bound(part + 1, best_parts)}};
}

// As gemm_rows, over the pieces that each panel keeps.
template <class Sparse, class A>
void sparse_rows(const Worker& w, Sparse& sparse, const A* a, int64_t lda, int64_t m, int64_t k, void* scratch) {
  using Element = typename Sparse::Element;
  constexpr int64_t MR = Sparse::MR;
  constexpr bool same = std::is_same<A, Element>::value;
  auto& product = sparse.product;
  const auto* pieces = product.packed;
  const Split split = split_sparse(w, m, product.panels.count(), sparse.first);
  if (split.rows.empty() || split.panels.empty()) return;
  const bool copy = !same || (m > 4 && lda * static_cast<int64_t>(sizeof(A)) % kAlias == 0 && split.panels.size() > 1);
  const int64_t stride = copied_stride(k, sizeof(Element));
  const int64_t block = row_block(m, stride * static_cast<int64_t>(sizeof(Element)));
  Element* rows = static_cast<Element*>(scratch) + w.id * block * stride;
  for (int64_t b = split.rows.begin; b < split.rows.end; b += block) {
    const int64_t end = min_i64(b + block, split.rows.end), height = end - b;
    if (copy)
      for (int64_t r = 0; r < height; ++r) convert_row(rows + r * stride, a + (b + r) * lda, k);
    const Element* base = copy ? rows : reinterpret_cast<const Element*>(a + b * lda);
    const int64_t base_stride = copy ? stride : lda;
    const int64_t tiles = ceil_div(height, MR);
    for (int64_t p = split.panels.begin; p < split.panels.end; ++p) {
      const int64_t first = sparse.first[p], count = sparse.first[p + 1] - first;
      product.packed = pieces + first * sparse.piece_elements;
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t r0 = height * t / tiles, r1 = height * (t + 1) / tiles;
        product.tile(base + r0 * base_stride, base_stride, sparse.taps + first, count, sparse.length, r1 - r0, p,
                     b + r0, 1);
      }
    }
  }
  product.finish();
}

}  // namespace detail

// Room for the packed form of `count` blocks, whichever they are. W: float or bf16 storage.
template <class Tile, class W>
constexpr int64_t packed_sparse_bytes(int64_t n, int64_t k, int64_t block_rows, int64_t block_columns, int64_t count) {
  const int64_t length = detail::piece_length(block_columns, k, 1);
  const int64_t most = detail::most_pieces(Tile::NR, block_rows, block_columns, count, length);
  return detail::sparse_head_bytes(ceil_div(n, Tile::NR), Tile::NR) + round_up(most * 8, 64) +
         most * length * Tile::NR * static_cast<int64_t>(sizeof(W));
}

// S: float, bf16, f16 or int8_t values.
template <class Tile, class W, class S>
void pack_sparse(const Worker& w, void* packed, const Blocks<S>& blocks, int64_t n, int64_t k) {
  constexpr int NR = Tile::NR;
  const int64_t length = detail::piece_length(blocks.columns, k, 1), elements = length * NR;
  const detail::SparsePanels<W> to = detail::start_sparse<NR, W>(w, packed, blocks, n, k, length);
  const Range mine = w.range(ceil_div(n, NR));
  for (int64_t p = mine.begin; p < mine.end; ++p) {
    detail::PieceWalk<NR, S> walk(blocks, p * NR, min_i64(NR, n - p * NR), length);
    for (W* piece = to.pieces + to.first[p] * elements; walk.next(); piece += elements) {
      const int64_t start = detail::piece_start(walk.piece, length, k);
      for (int64_t i = 0; i < elements; ++i) piece[i] = convert<W>(0.0f);
      walk.each([&](int64_t c, int64_t i, int64_t index) {
        const float scale = blocks.scale == nullptr ? 1.0f : blocks.scale[(p * NR + c) * blocks.scale_step];
        piece[(i - start) * NR + c] = convert<W>(to_f32(blocks.values[index]) * scale);
      });
    }
  }
}

// A: float, bf16 or f16; `packed` is what pack_sparse<Tile, W> wrote.
template <class Tile, class W, class A, class Ep>
void gemm_sparse(const Worker& w, const A* a, int64_t lda, const void* packed, int64_t m, int64_t n, int64_t k,
                 int64_t block_columns, const Ep& ep, void* scratch) {
  constexpr int NR = Tile::NR;
  const int64_t length = detail::piece_length(block_columns, k, 1);
  const detail::SparsePanels<W> from = detail::sparse_panels<W>(const_cast<void*>(packed), ceil_div(n, NR), NR);
  using Product = detail::FloatProduct<Tile, float, W>;
  detail::SparseProduct<Product> sparse{
      Product{from.pieces, 0, {n, 1, NR}, detail::float_emitter<Tile, float, W>(ep)}, from.first, from.taps, length, length * NR};
  detail::sparse_rows(w, sparse, a, lda, m, k, scratch);
}

// As packed_sparse_bytes for int8.
template <class Tile>
constexpr int64_t packed_sparse_bytes_i8(int64_t n, int64_t k, int64_t block_rows, int64_t block_columns,
                                         int64_t count) {
  const int64_t length = detail::piece_length(block_columns, k, 4);
  const int64_t most = detail::most_pieces(Tile::NR, block_rows, block_columns, count, length);
  return detail::sparse_head_bytes(ceil_div(n, Tile::NR), Tile::NR) + round_up(most * 8, 64) +
         most * round_up(length, 4) * Tile::NR;
}

// Scales of `blocks` are not looked at: they belong to the product.
template <class Tile>
void pack_sparse_i8(const Worker& w, void* packed, const Blocks<int8_t>& blocks, int64_t n, int64_t k) {
  constexpr int NR = Tile::NR;
  const int64_t length = detail::piece_length(blocks.columns, k, 4), elements = round_up(length, 4) * NR;
  const detail::SparsePanels<int8_t> to = detail::start_sparse<NR, int8_t>(w, packed, blocks, n, k, length);
  const Range mine = w.range(ceil_div(n, NR));
  for (int64_t p = mine.begin; p < mine.end; ++p) {
    int32_t* sums = to.sums + p * NR;
    for (int64_t c = 0; c < NR; ++c) sums[c] = 0;
    detail::PieceWalk<NR, int8_t> walk(blocks, p * NR, min_i64(NR, n - p * NR), length);
    for (int8_t* piece = to.pieces + to.first[p] * elements; walk.next(); piece += elements) {
      const int64_t start = detail::piece_start(walk.piece, length, k);
      for (int64_t i = 0; i < elements; ++i) piece[i] = 0;
      walk.each([&](int64_t c, int64_t i, int64_t index) {
        const int64_t at = i - start;
        piece[detail::byte_place(at, c, NR)] = blocks.values[index];
        sums[c] += blocks.values[index];
      });
    }
  }
}

// As gemm_i8; the sums of columns are those of the packed form, scales.column_sums is not looked at.
template <class Tile, class A, class Scales, class Ep>
void gemm_sparse_i8(const Worker& w, const A* a, int64_t lda, const void* packed, int64_t m, int64_t n, int64_t k,
                    int64_t block_columns, const Scales& scales, const Ep& ep, void* scratch) {
  constexpr int NR = Tile::NR;
  const int64_t length = detail::piece_length(block_columns, k, 4);
  const detail::SparsePanels<int8_t> from =
      detail::sparse_panels<int8_t>(const_cast<void*>(packed), ceil_div(n, NR), NR);
  Scales own = scales;
  own.column_sums = from.sums;
  using Product = detail::Int8Product<Tile, A, Scales>;
  detail::SparseProduct<Product> sparse{
      Product{from.pieces, 0, {n, 1, NR}, own, detail::int8_emitter<Tile, A, Scales>(ep)}, from.first, from.taps, length,
      round_up(length, 4) * NR};
  detail::sparse_rows(w, sparse, a, lda, m, k, scratch);
}

}  // namespace mcomp
