// C[M, N] = dequantize(A8[M, K] x W8) : bytes times int8 weights, exact int32 sums, float32 results to the epilogue.
//
//   using T0 = DefaultTileI8;
//   pack_linear_i8<T0>(w, packed, column_sums, weight8, N, K, K, 1);                            // once
//   Scales8 s{&scale, &zero, column_scale, column_sums};                                        // one scale for A
//   gemm_i8<T0>(w, a8, lda, packed, M, N, K, s, Ep0{bias, out, N}, nullptr);
//   RowScales8 s{row_scale, row_zero, column_scale, column_sums};                               // one per row of A
//   // scratch: gemm_i8_scratch_bytes(M, K, workers) bytes, 64-byte aligned
//
// acc[n] = row_scale * column_scale[n] * (sum_k a8[m, k] * w8[n, k] - row_zero * column_sums[n]). A: uint8_t
// (fastest) or int8_t. Sums wrap modulo 2^32: exact for K < 2^31 / (255 * 127). 2 M N K operations.
//
// The epilogue gets the int32 sums of a row with their scales as one object, Int8Row or Int8ScaledRow, whose operator[]
// gives the float: the conversion becomes a part of the epilogue's loop.
#pragma once

#include <cstdint>

#include "epilogue.hpp"
#include "micro_i8.hpp"
#include "micro_matrix.hpp"
#include "pack.hpp"
#include "product.hpp"

namespace mcomp {

// How bytes stand for numbers: one scale and zero point (null: zero) for all activations. Column arrays have one entry
// per output column.
struct Scales8 {
  const float* scale;
  const int32_t* zero;
  const float* column_scale;
  const int32_t* column_sums;
};

// A scale and zero point (null: zeros) per row of activations: per token.
struct RowScales8 {
  const float* row_scale;
  const int32_t* row_zero;
  const float* column_scale;
  const int32_t* column_sums;
};

// Finished sums of a row, zero points taken away; scale: one per element.
struct Int8Row {
  const int32_t* sums;
  const float* scale;
  MCOMP_INLINE float operator[](int64_t i) const { return static_cast<float>(sums[i]) * scale[i]; }
};

// Sums of a row whose own zero point and scale are still to be applied.
struct Int8ScaledRow {
  const int32_t* sums;
  const int32_t* totals;  // the columns' sums
  const float* scale;     // the columns' scales
  int32_t zero;
  float row_scale;
  MCOMP_INLINE float operator[](int64_t i) const {
    const uint32_t shift = static_cast<uint32_t>(totals[i]) * static_cast<uint32_t>(zero);
    return static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(sums[i]) - shift)) * (scale[i] * row_scale);
  }
};

namespace detail {

// One tile of int8 products whose epilogue takes the sums while they are in registers: the operands of run_tile, what
// DirectTiles::prepare made for the panel, and where the tile's results belong.
struct DirectTile {
  const void* a;
  int64_t row_stride;
  const int64_t* taps;
  int64_t tap_count, length;
  const int8_t* b;
  const int32_t* start;
  const float *scale, *factor, *shift;  // one per column of the panel; scale: that of a sum
  bool fits;                            // what prepare() said
  const void* epilogue;
  int64_t row0, row_step, col, count;
  Ahead ahead;
};

// The epilogue's own tiles, by their height.
struct DirectTiles {
  // Makes the factors and shifts of `width` columns from the columns' scales, `count` of them real. False when results
  // could leave the range of 32-bit integers.
  bool (*prepare)(const void* epilogue, const float* scale, int64_t col, int64_t count, int64_t width, float* factor,
                  float* shift);
  void (*const* run)(const DirectTile&);
};

// An epilogue of int8 products without its type, see Emitter. scale: of the tile's columns, behind them the largest.
template <class Scales>
struct Int8Emitter {
  const void* epilogue;
  void (*emit)(const void* epilogue, const int32_t* tile, const float* scale, const Scales& scales, int64_t mr,
               int64_t row0, int64_t row_step, int64_t col, int64_t count);
  const DirectTiles* direct = nullptr;
  const void* micro = nullptr;
};

// Hands the rows of a tile over one by one. The epilogue is copied: bytes that it stores could change the original.
template <int NR, class Ep>
void emit_int8_rows(const void* epilogue, const int32_t* tile, const float* scale, const Scales8&, int64_t mr,
                    int64_t row0, int64_t row_step, int64_t col, int64_t count) {
  const Ep ep = *static_cast<const Ep*>(epilogue);
  if (count == NR) {
    for (int64_t r = 0; r < mr; ++r) ep(Int8Row{tile + r * NR, scale}, row0 + r * row_step, col, int64_t{NR});
  } else {
    for (int64_t r = 0; r < mr; ++r) ep(Int8Row{tile + r * NR, scale}, row0 + r * row_step, col, count);
  }
}

template <int NR, class Ep>
void emit_int8_rows(const void* epilogue, const int32_t* tile, const float*, const RowScales8& s, int64_t mr,
                    int64_t row0, int64_t row_step, int64_t col, int64_t count) {
  const Ep ep = *static_cast<const Ep*>(epilogue);
  for (int64_t r = 0; r < mr; ++r) {
    const int64_t row = row0 + r * row_step;
    const Int8ScaledRow acc{tile + r * NR, s.column_sums + col, s.column_scale + col,
                            s.row_zero == nullptr ? 0 : s.row_zero[row], s.row_scale[row]};
    if (count == NR) {
      ep(acc, row, col, int64_t{NR});
    } else {
      ep(acc, row, col, count);
    }
  }
}

// How an epilogue takes whole tiles: row by row.
template <class Ep>
struct Int8Rows {
  template <int NR, class Scales>
  static void emit(const void* epilogue, const int32_t* tile, const float* scale, const Scales& s, int64_t mr,
                   int64_t row0, int64_t row_step, int64_t col, int64_t count) {
    emit_int8_rows<NR, Ep>(epilogue, tile, scale, s, mr, row0, row_step, col, count);
  }
  static constexpr bool kDirect = false;
};
// Specialized by those that have a better way.
template <class Ep>
struct Int8Tiles : Int8Rows<Ep> {};

// An epilogue's own tiles by height.
template <class Ep, class A, int MAX, int NV>
struct DirectTable {
  void (*run[MAX + 1])(const DirectTile&);
  template <int... R>
  static constexpr DirectTable make(std::integer_sequence<int, R...>) {
    return {{nullptr, Int8Tiles<Ep>::template run<A, R + 1, NV>...}};
  }
};
template <class Ep, class A, int MAX, int NV>
constexpr DirectTable<Ep, A, MAX, NV> direct_table =
    DirectTable<Ep, A, MAX, NV>::make(std::make_integer_sequence<int, MAX>{});

// Emitter of ep, which must outlive it, for Int8Product<Tile, A, Scales>.
template <class Tile, class A, class Scales, class Ep>
Int8Emitter<Scales> int8_emitter(const Ep& ep) {
  Int8Emitter<Scales> made{
      &ep, [](const void* epilogue, const int32_t* tile, const float* scale, const Scales& s, int64_t mr, int64_t row0,
              int64_t row_step, int64_t col, int64_t count) {
        Int8Tiles<Ep>::template emit<Tile::NR>(epilogue, tile, scale, s, mr, row0, row_step, col, count);
      }};
  if constexpr (Tile::kMatrix) {
    // One kernel for all epilogues.
  } else if constexpr (Int8Tiles<Ep>::kDirect && std::is_same<Scales, Scales8>::value) {
    static constexpr DirectTiles tiles{Int8Tiles<Ep>::prepare, direct_table<Ep, A, Tile::MR, Tile::NV>.run};
    made.direct = &tiles;
  } else {
    made.micro = micro_tiles<ProductDot<A>, Tile::MR, Tile::NV>.table;
  }
  return made;
}

template <class Tile, class A, class Scales>
struct Int8Product {
  using Element = std::conditional_t<Tile::kMatrix, A, ProductElement<A>>;
  static constexpr int MR = Tile::MR;
  static constexpr int NR = Tile::NR;
  static constexpr int64_t kStep = Tile::kByteStep;  // elements of a reduction step, to which panels pad with zeros
  static constexpr bool kMatrix = Tile::kMatrix;
  static constexpr bool kFinite = false;  // whatever lies behind a row, zeros make it nothing
  static constexpr bool kParts = false;
  static constexpr bool kPerRow = std::is_same<Scales, RowScales8>::value;

  const int8_t* packed;
  int64_t panel_stride;
  Panels panels;
  const Scales& scales;
  Int8Emitter<Scales> emit;

  // What a row's bytes are above the numbers that they stand for, as far as all rows share it.
  int32_t zero() const {
    if constexpr (kPerRow) {
      return 0;
    } else {
      return scales.zero == nullptr ? 0 : scales.zero[0];
    }
  }
  // Byte that stands for zero where a convolution pads.
  Element fill() const { return static_cast<Element>(zero()); }

  // What all tiles of a panel share: its columns, where their sums start, and what a step of a sum is worth.
  struct PanelTerms {
    alignas(64) int32_t start[NR];
    alignas(64) float scale[NR + 1];  // the last: the largest
    alignas(64) float factor[NR];
    alignas(64) float shift[NR];
    int64_t panel = -1, first, count;
    bool fits = false;
  };
  // A tile that waits for its epilogue, which runs after the next tile's products are under way: they keep the multipliers
  // busy meanwhile.
  struct Waiting {
    alignas(64) int32_t sums[2][MR * NR];
    PanelTerms terms[2];
    int at = 0, terms_at = 0;  // of the next tile
    int old_terms = 0;         // of the tile that waits
    int64_t done = 0, mr = 0;  // rows handed over, and rows that wait behind them
    int64_t row0, row_step;
    Lines lines;
  };
  static constexpr int64_t kRowsAtOnce = 8;
  // Reductions from this length on in matrix registers have the rows of the tile that waits handed over step by step.
  static constexpr int64_t kPiecewise = 512;
  mutable Waiting waiting{};
  mutable std::conditional_t<kMatrix, MatrixRegisters, NoRegisters> registers{};

  void tile(const Element* a, int64_t row_stride, const int64_t* taps, int64_t tap_count, int64_t length, int64_t mr,
            int64_t panel, int64_t row0, int64_t row_step, const Part& part = {}) const {
    Waiting& h = waiting;
    if (h.terms[h.terms_at].panel != panel) compute_terms(panel, h.terms[h.terms_at ^= 1]);
    const PanelTerms& terms = h.terms[h.terms_at];
    const int8_t* b = packed + panel * panel_stride;
    if constexpr (kMatrix) {
      const bool piecewise = tap_count * length >= kPiecewise && h.lines.pitch == 0;
      matrix_tile<A, Tile::NV>(registers, a, row_stride, taps, tap_count, length, mr, b, terms.start, h.sums[h.at],
                               [&]() MCOMP_LAMBDA { if (piecewise && h.mr > 0) finish_some(); });
    } else {
      if (emit.direct != nullptr) {
        emit.direct->run[mr]({a, row_stride, taps, tap_count, length, b, terms.start, terms.scale, terms.factor,
                              terms.shift, terms.fits, emit.epilogue, row0, row_step, terms.first, terms.count,
                              part.ahead});
        return;
      }
      using Micro = typename MicroTable<ProductDot<A>, MR, Tile::NV>::Function;
      static_cast<const Micro*>(emit.micro)[mr](a, row_stride, taps, tap_count, length, b, kBytesTogether * NR, h.sums[h.at],
                                                terms.start, part.ahead);
    }
    finish();
    h.at ^= 1, h.old_terms = h.terms_at, h.done = 0, h.mr = mr, h.row0 = row0, h.row_step = row_step, h.lines = part.lines;
  }

  // Hands the next rows of the tile that waits over; few are not left alone.
  MCOMP_INLINE void finish_some() const { finish_rows(waiting.mr < 2 * kRowsAtOnce ? waiting.mr : kRowsAtOnce); }

  MCOMP_INLINE void finish_rows(int64_t rows) const {
    Waiting& h = waiting;
    const PanelTerms& terms = h.terms[h.old_terms];
    emit.emit(emit.epilogue, h.sums[h.at ^ 1] + h.done * NR, terms.scale, scales, rows, h.row0 + h.done * h.row_step,
              h.row_step, terms.first, terms.count);
    h.done += rows, h.mr -= rows;
  }

  // Hands the tile that waits over.
  void finish() const {
    const Waiting& h = waiting;
    if (h.mr == 0) return;
    if (h.lines.pitch == 0) return finish_rows(h.mr);
    const PanelTerms& terms = h.terms[h.old_terms];
    const int32_t* sums = h.sums[h.at ^ 1];
    int64_t line = h.lines.first / h.lines.pitch, column = h.lines.first % h.lines.pitch;
    for (int64_t r = 0; r < h.mr; r += h.lines.pitch - column, column = 0, ++line) {
      const int64_t count = min_i64(h.lines.width - column, h.mr - r);
      if (count <= 0) continue;
      emit.emit(emit.epilogue, sums + r * NR, terms.scale, scales, count, h.row0 + line * h.lines.width + column, 1,
                terms.first, terms.count);
    }
  }

  MCOMP_NOINLINE void compute_terms(int64_t panel, PanelTerms& terms) const {
    const int64_t first = panels.first(panel), count = panels.size(panel);
    const int32_t shift = zero() + (kMatrix ? 0 : product_offset<A>());
    vf32 most = vset(0.0f);
    for (int v = 0; v < Tile::NV; ++v) {
      const int64_t lanes = max_i64(0, min_i64(kLanes, count - v * kLanes)), at = first + v * kLanes;
      const bool whole = lanes == kLanes;
      const vi32 total = whole ? vload(scales.column_sums + at) : vload_n(scales.column_sums + at, lanes);
      vstore(terms.start + v * kLanes, -(total * shift));
      if constexpr (!kPerRow) {
        const vf32 column = whole ? vload(scales.column_scale + at) : vload_n(scales.column_scale + at, lanes);
        vstore(terms.scale + v * kLanes, column * scales.scale[0]);
        most = vmax(most, column * scales.scale[0]);
      }
    }
    terms.scale[NR] = vreduce_max(most);
    terms.panel = panel, terms.first = first, terms.count = count;
    if (emit.direct != nullptr)
      terms.fits = emit.direct->prepare(emit.epilogue, terms.scale, first, count, NR, terms.factor, terms.shift);
  }
};

}  // namespace detail

inline int64_t gemm_i8_scratch_bytes(int64_t m, int64_t k, int64_t workers) {
  return detail::gemm_rows_scratch_bytes(m, k, detail::kProductBytes, workers);
}

// Scales: Scales8 or RowScales8.
template <class Tile, class A, class Scales, class Ep>
void gemm_i8(const Worker& w, const A* a, int64_t lda, const int8_t* packed, int64_t m, int64_t n, int64_t k,
             const Scales& scales, const Ep& ep, void* scratch) {
  const detail::Int8Product<Tile, A, Scales> product{
      packed, round_up(k, Tile::kByteStep) * Tile::NR, {n, 1, Tile::NR}, scales, detail::int8_emitter<Tile, A, Scales>(ep)};
  detail::gemm_rows(w, product, a, lda, m, k, scratch);
  product.finish();
}

}  // namespace mcomp
