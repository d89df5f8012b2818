// What gemm, convolution and matmul share: panels of packed weights, the share of a worker, and the loop over tiles.
//
// A product object (FloatProduct here, Int8Product in gemm_i8.hpp) computes one tile and hands its rows to the
// epilogue; gemm_rows and tap_convolution (conv.hpp) walk over tiles. Weights are packed in panels of NR output
// columns; panels of group g come before those of group g + 1.
#pragma once

#include <cstdint>

#include "isa.hpp"
#include "micro.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {
namespace detail {

// Which output columns a panel holds.
struct Panels {
  int64_t columns;  // output columns of one group
  int64_t groups;   // 1 for plain products
  int64_t width;    // NR
  int64_t per_group() const { return ceil_div(columns, width); }
  int64_t count() const { return per_group() * groups; }
  int64_t group(int64_t panel) const { return panel / per_group(); }
  int64_t first(int64_t panel) const { return group(panel) * columns + panel % per_group() * width; }
  int64_t size(int64_t panel) const { return min_i64(width, columns - panel % per_group() * width); }
};

// A worker's part of a product: a range of units of rows, and a range of panels.
struct Split {
  Range rows, panels;
};

// Divides `units` row units of `unit_rows` rows each, and `panels` panels, over the workers so that the slowest has
// least to do; among equals splits panels when `prefer_panels`, else rows. A panel costs as much as `panel_rows` rows beside
// its rows.
inline Split split_product(const Worker& w, int64_t units, int64_t unit_rows, int64_t panels, bool prefer_panels,
                           double panel_rows = 2.0) {
  int64_t best_parts = 1;
  double best_cost = 0;
  for (int64_t parts = 1; parts <= w.count; ++parts) {  // parts of the panels; count / parts of the rows
    if (w.count % parts != 0) continue;
    const int64_t rows = ceil_div(units, w.count / parts) * unit_rows;
    const double cost = static_cast<double>(ceil_div(panels, parts)) * (static_cast<double>(rows) + panel_rows);
    const bool better = parts == 1 || cost < best_cost || (prefer_panels && cost == best_cost);
    if (better) best_cost = cost, best_parts = parts;
  }
  const int64_t row_parts = w.count / best_parts;
  return {share(units, 1, w.id % row_parts, row_parts), share(panels, 1, w.id / row_parts, best_parts)};
}

// Lines of `width` results, `pitch` rows of tiles apart; a tile begins at row `first` of them, and what lies between the
// lines is nothing. Without a pitch, all rows are results.
struct Lines {
  int64_t width = 0, pitch = 0, first = 0;
};

// A part of a tile's reduction: the elements of its panel before it, sums that are added to its own (or null), where the
// sums then go (null: to the epilogue), what is prefetched meanwhile, and which rows are results.
struct Part {
  int64_t skip = 0;
  const void* add = nullptr;
  void* sums = nullptr;
  Ahead ahead{};
  Lines lines{};
};

// One tile of float products whose epilogue takes the sums while they are in registers: the operands of run_tile, and
// where the tile's results belong.
struct FloatTile {
  const void* a;
  int64_t row_stride;
  const int64_t* taps;
  int64_t tap_count, length;
  const void* b;
  const void* epilogue;
  int64_t row0, row_step, col, count;
  Part part;
};

// An epilogue without its type: walks over tiles are compiled once, only this once per epilogue. direct: the epilogue's
// own tiles by their height, or null: then `micro` is the table of micro_tiles, which write tiles that emit() takes.
template <class T>
struct Emitter {
  const void* epilogue;
  void (*emit)(const void* epilogue, const T* tile, int64_t stride, int64_t mr, int64_t row0, int64_t row_step,
               int64_t col, int64_t count);
  void (*const* direct)(const FloatTile&) = nullptr;
  const void* micro = nullptr;

  // Hands the mr rows of a finished tile over; row r is output row row0 + r * row_step.
  void operator()(const T* tile, int64_t stride, int64_t mr, int64_t row0, int64_t row_step, int64_t col,
                  int64_t count) const {
    emit(epilogue, tile, stride, mr, row0, row_step, col, count);
  }
};

template <int NR, class T, class Ep>
void emit_tile(const void* epilogue, const T* tile, int64_t stride, int64_t mr, int64_t row0, int64_t row_step,
               int64_t col, int64_t count) {
  const Ep& ep = *static_cast<const Ep*>(epilogue);
  if (count == NR) {
    for (int64_t r = 0; r < mr; ++r) ep(tile + r * stride, row0 + r * row_step, col, int64_t{NR});
  } else {
    for (int64_t r = 0; r < mr; ++r) ep(tile + r * stride, row0 + r * row_step, col, count);
  }
}

// Emitter of ep, which must outlive it; rows of NR columns get straight code.
template <int NR, class T, class Ep>
Emitter<T> emitter(const Ep& ep) {
  return {&ep, emit_tile<NR, T, Ep>};
}

// The tiles that an epilogue computes itself, specialized by those that do: `run<A, W, mr, NV>` and kDirect.
template <class Ep>
struct FloatTiles {
  static constexpr bool kDirect = false;
};

template <class Ep, class W, int MAX, int NV>
struct FloatTable {
  void (*run[MAX + 1])(const FloatTile&);
  template <int... R>
  static constexpr FloatTable make(std::integer_sequence<int, R...>) {
    return {{nullptr, FloatTiles<Ep>::template run<W, R + 1, NV>...}};
  }
};
template <class Ep, class W, int MAX, int NV>
constexpr FloatTable<Ep, W, MAX, NV> float_table =
    FloatTable<Ep, W, MAX, NV>::make(std::make_integer_sequence<int, MAX>{});

// As emitter(), for FloatProduct<Tile, T, W>.
template <class Tile, class T, class W, class Ep>
Emitter<T> float_emitter(const Ep& ep) {
  Emitter<T> made = emitter<Tile::NV * kVectorBytes / static_cast<int>(sizeof(T)), T>(ep);
  if constexpr (FloatTiles<Ep>::kDirect) {
    made.direct = float_table<Ep, W, Tile::MR, Tile::NV>.run;
  } else {
    made.micro = micro_tiles<FloatDot<T, W>, Tile::MR, Tile::NV>.table;
  }
  return made;
}

// Tiles of float or double products. Element: the type of the A rows that tile() reads.
template <class Tile, class T, class W>
struct FloatProduct {
  using Element = T;
  static constexpr int MR = Tile::MR;
  static constexpr int NR = Tile::NV * kVectorBytes / static_cast<int>(sizeof(T));
  static constexpr int64_t kStep = 1;
  static constexpr bool kMatrix = false;
  static constexpr bool kFinite = false;
  static constexpr bool kParts = true;  // whether a long reduction may be divided

  const W* packed;
  int64_t panel_stride;  // elements from a panel to the next: reduction length * NR
  Panels panels;
  Emitter<T> emit;

  T fill() const { return T(0); }

  void tile(const T* a, int64_t row_stride, const int64_t* taps, int64_t tap_count, int64_t length, int64_t mr,
            int64_t panel, int64_t row0, int64_t row_step, const Part& part = {}) const {
    const W* b = packed + panel * panel_stride + part.skip;
    if (emit.direct != nullptr) {
      emit.direct[mr]({a, row_stride, taps, tap_count, length, b, emit.epilogue, row0, row_step, panels.first(panel),
                       panels.size(panel), part});
      return;
    }
    using Micro = typename MicroTable<FloatDot<T, W>, MR, Tile::NV>::Function;
    alignas(64) T out[MR * NR];
    T* sums = part.sums == nullptr ? out : static_cast<T*>(part.sums);
    static_cast<const Micro*>(emit.micro)[mr](a, row_stride, taps, tap_count, length, b, NR, sums,
                                              static_cast<const T*>(part.add), part.ahead);
    if (part.sums == nullptr) emit(out, NR, mr, row0, row_step, panels.first(panel), panels.size(panel));
  }

  // Hands over what tile() may keep back: nothing.
  void finish() const {}
};

constexpr int64_t kRowBlockBytes = 640 * 1024;  // A rows that are kept hot while panels pass by
// Longer reductions of floats are divided into equal parts: the rows of several tiles and a part of a panel, which all of
// them use, then lie in L1, and what is prefetched meanwhile in L2. Rows may take more, since few of them are in use at once.
constexpr int64_t kPartSteps = 512;
constexpr int64_t kPartsRowBytes = 1280 * 1024;
constexpr int64_t kAlias = 2048;                // row strides that are multiples of this many bytes collide in L1

// With so many rows for each worker, workers take rows, which they and the row kernels before and after have in their own
// caches, rather than columns: the weights are read once more, but rarely enough.
constexpr int64_t kOwnRows = 48;

// Whether a product divides its reduction.
inline bool in_parts(int64_t k, int64_t element_bytes) { return element_bytes >= 4 && k > kPartSteps; }

// Rows of A, of `row_bytes` each, that fit the budget, or 56 where that is more.
inline int64_t rows_that_fit(int64_t row_bytes, bool parts = false) {
  return max_i64(56, (parts ? kPartsRowBytes : kRowBlockBytes) / max_i64(row_bytes, 1));
}
// Rows of A handled at once: equal parts of m that fit.
inline int64_t row_block(int64_t m, int64_t row_bytes, bool parts = false) {
  const int64_t fit = rows_that_fit(row_bytes, parts);
  return m <= fit ? m : ceil_div(m, ceil_div(m, fit));
}
// Stride, in elements, of rows copied to scratch: no two rows of a tile share a cache set.
inline int64_t copied_stride(int64_t k, int64_t element_bytes) {
  return (round_up(k * element_bytes, 64) + 64) / element_bytes;
}

// Scratch of gemm_rows for each row: a copy and, where there are parts, sums of a panel.
inline int64_t row_scratch_bytes(int64_t k, int64_t element_bytes) {
  return copied_stride(k, element_bytes) * element_bytes + (in_parts(k, element_bytes) ? 4 * kVectorBytes : 0);
}
// Scratch of gemm_rows for all workers together.
inline int64_t gemm_rows_scratch_bytes(int64_t m, int64_t k, int64_t element_bytes, int64_t workers) {
  const int64_t row = copied_stride(k, element_bytes) * element_bytes;
  return workers * row_block(m, row, in_parts(k, element_bytes)) * row_scratch_bytes(k, element_bytes);
}

// What the tiles of a block prefetch during a part: an equal share, each, of the next part, so that the memory behind the
// caches is asked for evenly. The tile is number t of `tiles`, and `bytes` of a panel belong to a part of `steps` steps.
inline Ahead next_part(const void* next, int64_t bytes, int64_t steps, int64_t t, int64_t tiles) {
  return {static_cast<const char*>(next) + bytes * t / tiles, ceil_div(bytes, max_i64(1, steps * tiles))};
}

// All tiles of the worker's share of an m-row product. Rows of another type than the product reads, and rows whose
// stride would make them evict each other, are copied to scratch block by block. The epilogue's rows begin at `first_row`.
// `behind`: bytes that may be read behind the last row.
template <class Product, class A>
void gemm_rows(const Worker& w, const Product& product, const A* a, int64_t lda, int64_t m, int64_t k, void* scratch,
               int64_t first_row = 0, int64_t behind = 0) {
  using Element = typename Product::Element;
  constexpr int64_t MR = Product::MR;
  constexpr bool same = std::is_same<A, Element>::value;
  const int64_t n = product.panels.count() * product.panels.width;
  const Split split = m >= kOwnRows * w.count
                          ? Split{w.range(m), {0, product.panels.count()}}
                          : split_product(w, m, 1, product.panels.count(), n >= m);
  if (split.rows.empty() || split.panels.empty()) return;
  const bool copy = !same || (m > 4 && lda * static_cast<int64_t>(sizeof(A)) % kAlias == 0 && split.panels.size() > 1);
  const int64_t stride = copied_stride(k, sizeof(Element));
  const bool divided = Product::kParts && in_parts(k, sizeof(Element));
  const int64_t block = row_block(m, stride * static_cast<int64_t>(sizeof(Element)), divided);
  const int64_t parts = divided ? ceil_div(k, kPartSteps) : 1, width = product.panels.width;
  Element* rows = static_cast<Element*>(scratch) + w.id * block * (stride + (divided ? width : 0));
  Element* sums = rows + block * stride;
  const bool ragged = Product::kMatrix && k % Product::kStep != 0;
  const int64_t no_tap = 0;
  for (int64_t b = split.rows.begin; b < split.rows.end; b += block) {
    const int64_t end = min_i64(b + block, split.rows.end), height = end - b;
    // Products in whole steps read behind rows: those at the end of A are copied, too, or all, where what lies there counts.
    const bool copied = copy || (ragged && (Product::kFinite ||
                                            (behind < Product::kStep && end > m - ceil_div(Product::kStep, lda))));
    for (int64_t r = 0; copied && r < height; ++r) {
      convert_row(rows + r * stride, a + (b + r) * lda, k);
      if constexpr (Product::kFinite)
        for (int64_t i = k; i < round_up(k, Product::kStep); ++i) rows[r * stride + i] = product.fill();
    }
    const Element* base = copied ? rows : reinterpret_cast<const Element*>(a + b * lda);
    const int64_t base_stride = copied ? stride : lda;
    const int64_t tiles = ceil_div(height, MR);
    for (int64_t p = split.panels.begin; p < split.panels.end; ++p) {
      const int64_t next = p + 1 < split.panels.end ? p + 1 : split.panels.begin;
      for (int64_t i = 0; i < parts; ++i) {
        const int64_t from = k * i / parts, to = k * (i + 1) / parts;
        const int64_t bytes = product.panel_stride * static_cast<int64_t>(sizeof(*product.packed)) / parts;
        const auto* ahead = product.packed + (i + 1 < parts ? p * product.panel_stride + to * width
                                                            : next * product.panel_stride);
        for (int64_t t = 0; t < tiles; ++t) {
          const int64_t r0 = height * t / tiles, r1 = height * (t + 1) / tiles;
          product.tile(base + r0 * base_stride + from, base_stride, &no_tap, 1, to - from, r1 - r0, p,
                       first_row + b + r0, 1,
                       {from * width, i == 0 ? nullptr : sums + r0 * width, i + 1 == parts ? nullptr : sums + r0 * width,
                        next_part(ahead, bytes, ceil_div(to - from, Product::kStep), t, tiles)});
        }
      }
    }
  }
}

}  // namespace detail
}  // namespace mcomp
