// Register-tiled inner kernels of all floating-point matrix products and convolutions.
//
// A tile is MR rows by NR = NV * lanes columns of the result. Its A rows lie at a + r * row_stride; the reduction runs over
// `tap_count` segments of `length` contiguous elements, segment t starting at offset taps[t] in every row. A plain matrix
// product has one segment at offset 0; a convolution has one per kernel position. B has NR contiguous elements per reduction
// step, `b_step` elements after those of the step before: NR in a packed panel, the row stride of a matrix read in place.
// The tile is written (not added) row-major with stride NR.
//
// Not instantiated by generated code directly: see gemm_f32.hpp, conv.hpp, matmul.hpp.
#pragma once

#include <cstdint>

#include "isa.hpp"
#include "types.hpp"

namespace mcomp {

// Tile of MR rows by NV vectors. On AVX-512 MR * NV + NV <= 31 keeps every accumulator in a register, on AVX2 and portable
// MR * NV + NV <= 15. F32 column count: Tile::NR.
template <int MR_, int NV_>
struct Tile {
  static constexpr int MR = MR_;
  static constexpr int NV = NV_;
  static constexpr int NR = NV_ * kLanes;
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

// Result of one tile: tile[r * NR + c] = sum over taps t and i < length of a[r * row_stride + taps[t] + i] * b[step * b_step + c].
// T float or double; W the storage type of the panel (float or bf16 for float, double for double).
template <class T, class W, int MR, int NV>
MCOMP_NOINLINE void micro_float(const T* a, int64_t row_stride, const int64_t* taps, int64_t tap_count, int64_t length, const W* b,
                                int64_t b_step, T* tile) {
  using V = typename vector_of<T>::type;
  constexpr int lanes = kVectorBytes / static_cast<int>(sizeof(T));
  constexpr int NR = NV * lanes;
  // Few accumulators would wait for each other: split the reduction over KU independent sets.
  constexpr int KU = MR * NV >= 8 ? 1 : MR * NV >= 4 ? 2 : 4;
  V acc[KU][MR][NV];
  unroll<KU>([&](auto u) MCOMP_LAMBDA {
    unroll<MR>([&](auto r) MCOMP_LAMBDA { unroll<NV>([&](auto v) MCOMP_LAMBDA { acc[u][r][v] = V{}; }); });
  });
  // Rows are addressed as base + {0, 1, 2, 3, 4} * stride from a base every five rows, which x86 encodes in the operand.
  constexpr int kBases = (MR + 4) / 5;
  const int64_t stride = row_stride * static_cast<int64_t>(sizeof(T)), stride3 = 3 * stride;
  for (int64_t t = 0; t < tap_count; ++t) {
    const char* base[kBases];
    unroll<kBases>([&](auto g) MCOMP_LAMBDA {
      base[g] = reinterpret_cast<const char*>(a + taps[t]) + 5 * g * stride;
      asm("" : "+r"(base[g]));
    });
    auto step = [&](auto u) MCOMP_LAMBDA {
      V bv[NV];
      unroll<NV>([&](auto v) MCOMP_LAMBDA { bv[v] = vload(b + u * b_step + v * lanes); });
      unroll<MR>([&](auto r) MCOMP_LAMBDA {
        constexpr int g = r / 5, i = r % 5;
        const char* p = base[g] + (i == 3 ? stride3 : i * stride) + u * sizeof(T);
        const V av = vset(*reinterpret_cast<const T*>(p));
        unroll<NV>([&](auto v) MCOMP_LAMBDA { acc[u][r][v] = vfma(av, bv[v], acc[u][r][v]); });
      });
    };
    int64_t k = 0;
    for (; k + KU <= length; k += KU) {
      unroll<KU>(step);
      unroll<kBases>([&](auto g) MCOMP_LAMBDA { base[g] += KU * sizeof(T); });
      b += KU * b_step;
    }
    if constexpr (KU > 1) {
      for (; k < length; ++k) {
        step(std::integral_constant<int, 0>{});
        unroll<kBases>([&](auto g) MCOMP_LAMBDA { base[g] += sizeof(T); });
        b += b_step;
      }
    }
  }
  unroll<MR>([&](auto r) MCOMP_LAMBDA {
    unroll<NV>([&](auto v) MCOMP_LAMBDA {
      V sum = acc[0][r][v];
      if constexpr (KU == 2) sum = sum + acc[1][r][v];
      if constexpr (KU == 4) sum = (sum + acc[1][r][v]) + (acc[2][r][v] + acc[3][r][v]);
      vstore(tile + r * NR + v * lanes, sum);
    });
  });
}

// micro_float for every height up to MAX: table[mr].
template <class T, class W, int MAX, int NV>
struct MicroFloat {
  using Function = void (*)(const T*, int64_t, const int64_t*, int64_t, int64_t, const W*, int64_t, T*);
  Function table[MAX + 1];
  template <int... R>
  static constexpr MicroFloat make(std::integer_sequence<int, R...>) {
    return {{nullptr, micro_float<T, W, R + 1, NV>...}};
  }
};
template <class T, class W, int MAX, int NV>
constexpr MicroFloat<T, W, MAX, NV> micro_floats = MicroFloat<T, W, MAX, NV>::make(std::make_integer_sequence<int, MAX>{});

}  // namespace detail
}  // namespace mcomp
