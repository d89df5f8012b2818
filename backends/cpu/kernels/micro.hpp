// Register-tiled inner kernels of all matrix products and convolutions.
//
// A tile is MR rows by NV vectors of result columns. Its A rows lie at a + r * row_stride; the reduction runs over
// `tap_count` segments of `length` contiguous elements, segment t starting at offset taps[t] in every row. A plain
// matrix product has one segment at offset 0; a convolution has one per kernel position. B has the elements of one
// reduction step together, `b_step` elements after those of the step before: the panel's width in a packed panel, the
// row stride of a matrix read in place. The tile is written (not added) row-major, one row after the other.
//
// A Dot type says what is multiplied: FloatDot here, ByteDot in micro_i8.hpp. Generated code uses gemm_f32.hpp,
// gemm_i8.hpp, conv.hpp, conv_i8.hpp and matmul.hpp, and names a Tile.
#pragma once

#include <cstdint>

#include "isa.hpp"
#include "types.hpp"

namespace mcomp {

// Reduction steps of a column that panels of bytes hold together: as many as one instruction multiplies.
#if defined(MCOMP_VNNI)
constexpr int64_t kBytesTogether = 4;
#else
constexpr int64_t kBytesTogether = 2;
#endif

// Tile of at most MR rows by NV vectors of columns (NR 32-bit columns). Accumulators stay in registers while
// MR * NV + NV < kVectorRegisters.
template <int MR_, int NV_>
struct Tile {
  static constexpr int MR = MR_;
  static constexpr int NV = NV_;
  static constexpr int NR = NV_ * kLanes;
  static constexpr bool kMatrix = false;                 // see MatrixTile in micro_matrix.hpp
  static constexpr int64_t kByteStep = kBytesTogether;
  static constexpr int64_t kPairStep = 2;                // elements of a reduction that panels of bfloat16 hold together
};

#if defined(MCOMP_ISA_AVX512)
using DefaultTile = Tile<14, 2>;
#else
using DefaultTile = Tile<6, 2>;
#endif

namespace detail {

template <class T>
struct vector_of;
template <>
struct vector_of<float> {
  using type = vf32;
};
template <>
struct vector_of<double> {
  using type = vf64;
};

// A loaded vector that every row of a tile uses: keeps the compiler from loading it anew for each of them.
template <class V>
MCOMP_INLINE V in_register(V v) {
#if defined(MCOMP_X86_SIMD)
  asm("" : "+v"(v));
#endif
  return v;
}

// Products of T (float or double) with a panel stored as W (also bf16 for float).
template <class T, class W>
struct FloatDot {
  using Element = T;
  using Panel = W;
  using Acc = typename vector_of<T>::type;
  using Row = Acc;
  using Columns = Acc;
  using Out = T;
  static constexpr int kLength = 1;                                          // reduction elements of a step
  static constexpr int kPanel = kVectorBytes / static_cast<int>(sizeof(T));  // panel elements of a step and vector
  static constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));
  static constexpr bool kStarts = false;  // sums start at zero

  static MCOMP_INLINE Row row(const char* p) { return vset(*reinterpret_cast<const T*>(p)); }
  static MCOMP_INLINE Columns columns(const W* b) { return in_register(vload(b)); }
  static MCOMP_INLINE Acc add(Acc acc, const Row& a, const Columns& b) { return vfma(a, b, acc); }
};

// Addresses of a tile's rows: base + {0, 1, 2, 3, 4} * stride from a base every five rows, which x86 encodes in one
// operand.
struct RowPointers {
  uintptr_t base[4];  // integers, because those past a tile's last row point nowhere
  int64_t stride, stride3;

  MCOMP_INLINE explicit RowPointers(int64_t bytes) : stride(bytes), stride3(3 * bytes) {}
  MCOMP_INLINE void start(const void* p) {
    unroll<4>([&](auto g) MCOMP_LAMBDA {
      base[g] = reinterpret_cast<uintptr_t>(p) + static_cast<uintptr_t>(5 * g * stride);
      asm("" : "+r"(base[g]));  // keeps the compiler from folding all rows onto one base and many multiples
    });
  }
  MCOMP_INLINE const char* row(int r) const {
    return reinterpret_cast<const char*>(base[r / 5] + static_cast<uintptr_t>(r % 5 == 3 ? stride3 : r % 5 * stride));
  }
  MCOMP_INLINE void advance(int64_t bytes) {
    unroll<4>([&](auto g) MCOMP_LAMBDA { base[g] += static_cast<uintptr_t>(bytes); });
  }
};

constexpr int64_t kAhead = 32;  // reduction steps by which a panel is prefetched: hides the latency of the outer caches

// Cache lines that a step takes of a panel.
template <class Dot, int NV>
constexpr int kLines = (NV * Dot::kPanel * static_cast<int>(sizeof(typename Dot::Panel)) + 63) / 64;

// What a tile prefetches while it runs: each step as many lines from `at` on as it takes of a panel, then `step` bytes on.
// Without an address, its own panel.
struct Ahead {
  const char* at = nullptr;
  int64_t step = 0;
};

template <class Dot, int NV>
struct ColumnVectors {
  typename Dot::Columns v[NV];
  MCOMP_INLINE void load(const typename Dot::Panel* b) {
    unroll<NV>([&](auto i) MCOMP_LAMBDA { v[i] = Dot::columns(b + i * Dot::kPanel); });
  }
};

template <class Dot, int NV>
struct RowSums {
  typename Dot::Acc v[NV];
  MCOMP_INLINE void clear() {
    unroll<NV>([&](auto i) MCOMP_LAMBDA { v[i] = typename Dot::Acc{}; });
  }
  MCOMP_INLINE void start(const typename Dot::Acc* from) {
    unroll<NV>([&](auto i) MCOMP_LAMBDA { v[i] = from[i]; });
  }
  MCOMP_INLINE void add(const typename Dot::Row& a, const ColumnVectors<Dot, NV>& b) {
    unroll<NV>([&](auto i) MCOMP_LAMBDA { v[i] = Dot::add(v[i], a, b.v[i]); });
  }
  MCOMP_INLINE void merge(const RowSums& other) {
    unroll<NV>([&](auto i) MCOMP_LAMBDA { v[i] = v[i] + other.v[i]; });
  }
  MCOMP_INLINE void add(const typename Dot::Out* other) {
    unroll<NV>([&](auto i) MCOMP_LAMBDA { v[i] = v[i] + vload(other + i * Dot::kWidth); });
  }
  MCOMP_INLINE void store(typename Dot::Out* out) const {
    unroll<NV>([&](auto i) MCOMP_LAMBDA { vstore(out + i * Dot::kWidth, v[i]); });
  }
};

// The accumulators of MR rows, one named member per row so that each vector gets a register of its own.
template <class Dot, int NV, int MR>
struct TileSums {
  TileSums<Dot, NV, MR - 1> above;
  RowSums<Dot, NV> last;
  MCOMP_INLINE void clear() { above.clear(), last.clear(); }
  MCOMP_INLINE void start(const typename Dot::Acc* from) { above.start(from), last.start(from); }
  MCOMP_INLINE void step(const RowPointers& a, int64_t offset, const ColumnVectors<Dot, NV>& b) {
    above.step(a, offset, b);
    last.add(Dot::row(a.row(MR - 1) + offset), b);
  }
  MCOMP_INLINE void merge(const TileSums& other) { above.merge(other.above), last.merge(other.last); }
  MCOMP_INLINE void add(const typename Dot::Out* other) { above.add(other), last.add(other + (MR - 1) * NV * Dot::kWidth); }
  MCOMP_INLINE void store(typename Dot::Out* out) const {
    above.store(out), last.store(out + (MR - 1) * NV * Dot::kWidth);
  }
  template <int R>
  MCOMP_INLINE const RowSums<Dot, NV>& row() const {
    if constexpr (R == MR - 1) {
      return last;
    } else {
      return above.template row<R>();
    }
  }
};
template <class Dot, int NV>
struct TileSums<Dot, NV, 0> {
  MCOMP_INLINE void clear() {}
  MCOMP_INLINE void start(const typename Dot::Acc*) {}
  MCOMP_INLINE void step(const RowPointers&, int64_t, const ColumnVectors<Dot, NV>&) {}
  MCOMP_INLINE void merge(const TileSums&) {}
  MCOMP_INLINE void add(const typename Dot::Out*) {}
  MCOMP_INLINE void store(typename Dot::Out*) const {}
};

// finish(sums), a TileSums, with sums[r][c] = sum over taps t and i < length of a[r * row_stride + taps[t] + i] *
// b[step(t, i)][c]; steps count through all segments, each of which takes a whole number of steps. To it is added `first`:
// one per column where the Dot says so, else sums in the tile's order, or nothing where it is null.
template <class Dot, int MR, int NV, class Finish>
MCOMP_INLINE void run_tile(const typename Dot::Element* a, int64_t row_stride, const int64_t* taps, int64_t tap_count,
                           int64_t length, const typename Dot::Panel* b, int64_t b_step,
                           const typename Dot::Out* first, Ahead ahead, Finish&& finish) {
  static_assert(MR <= 20, "RowPointers reach twenty rows");
  // Few accumulators would wait for each other: split the reduction over KU independent sets.
  constexpr int KU = MR * NV >= 8 ? 1 : MR * NV >= 4 ? 2 : 4;
  constexpr int64_t bytes = Dot::kLength * static_cast<int64_t>(sizeof(typename Dot::Element));
  TileSums<Dot, NV, MR> sums[KU];
  unroll<KU>([&](auto u) MCOMP_LAMBDA { sums[u].clear(); });
  if constexpr (Dot::kStarts) {
    typename Dot::Acc columns[NV];
    unroll<NV>([&](auto i) MCOMP_LAMBDA { columns[i] = vload(first + i * Dot::kWidth); });
    sums[0].start(columns);
  }
  if (ahead.at == nullptr) {
    ahead.step = b_step * static_cast<int64_t>(sizeof(typename Dot::Panel));
    ahead.at = reinterpret_cast<const char*>(b) + kAhead * ahead.step;
  }
  RowPointers rows(row_stride * static_cast<int64_t>(sizeof(typename Dot::Element)));
  for (int64_t t = 0; t < tap_count; ++t) {
    rows.start(a + taps[t]);
    int64_t left = length;
    for (; left >= Dot::kLength * KU; left -= Dot::kLength * KU) {
      unroll<KU>([&](auto u) MCOMP_LAMBDA {
        ColumnVectors<Dot, NV> columns;
        columns.load(b + u * b_step);
        if constexpr (KU == 1) {
          unroll<kLines<Dot, NV>>([&](auto i) MCOMP_LAMBDA { __builtin_prefetch(ahead.at + i * 64, 0, 2); });
          ahead.at += ahead.step;
        }
        sums[u].step(rows, u * bytes, columns);
      });
      rows.advance(KU * bytes);
      b += KU * b_step;
    }
    if constexpr (KU > 1) {
      for (; left >= Dot::kLength; left -= Dot::kLength) {
        ColumnVectors<Dot, NV> columns;
        columns.load(b);
        sums[0].step(rows, 0, columns);
        rows.advance(bytes);
        b += b_step;
      }
    }
    if constexpr (Dot::kLength > 1) {
      if (left > 0) {
        typename Dot::Element ends[MR][Dot::kLength] = {};
        for (int r = 0; r < MR; ++r)
          for (int64_t i = 0; i < left; ++i) ends[r][i] = a[taps[t] + r * row_stride + length - left + i];
        RowPointers tail(bytes);
        tail.start(ends);
        ColumnVectors<Dot, NV> columns;
        columns.load(b);
        sums[0].step(tail, 0, columns);
        b += b_step;
      }
    }
  }
  if constexpr (KU == 4) sums[1].merge(sums[3]), sums[0].merge(sums[2]);
  if constexpr (KU >= 2) sums[0].merge(sums[1]);
  if constexpr (!Dot::kStarts)
    if (first != nullptr) sums[0].add(first);
  finish(sums[0]);
}

// The sums of run_tile, row by row.
template <class Dot, int MR, int NV>
MCOMP_NOINLINE void micro_tile(const typename Dot::Element* a, int64_t row_stride, const int64_t* taps,
                               int64_t tap_count, int64_t length, const typename Dot::Panel* b, int64_t b_step,
                               typename Dot::Out* tile, const typename Dot::Out* first, Ahead ahead) {
  run_tile<Dot, MR, NV>(a, row_stride, taps, tap_count, length, b, b_step, first, ahead,
                        [&](const auto& sums) MCOMP_LAMBDA { sums.store(tile); });
}

// micro_tile for every height up to MAX: table[mr].
template <class Dot, int MAX, int NV>
struct MicroTable {
  using Function = void (*)(const typename Dot::Element*, int64_t, const int64_t*, int64_t, int64_t,
                            const typename Dot::Panel*, int64_t, typename Dot::Out*, const typename Dot::Out*, Ahead);
  Function table[MAX + 1];
  template <int... R>
  static constexpr MicroTable make(std::integer_sequence<int, R...>) {
    return {{nullptr, micro_tile<Dot, R + 1, NV>...}};
  }
};
template <class Dot, int MAX, int NV>
constexpr MicroTable<Dot, MAX, NV> micro_tiles = MicroTable<Dot, MAX, NV>::make(std::make_integer_sequence<int, MAX>{});

}  // namespace detail
}  // namespace mcomp
