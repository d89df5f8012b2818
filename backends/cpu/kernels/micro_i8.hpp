// Register-tiled inner kernels of all int8 products: unsigned or signed bytes times signed bytes, summed in int32.
//
// As micro.hpp, with rows of bytes and panels that hold four reduction steps of a column together (see pack_linear_i8);
// every segment of a row is padded to four in the panel only. AVX-512 VNNI multiplies unsigned by signed bytes: signed rows
// are offset by 128 and the caller subtracts 128 * column sum. Without VNNI products are exact in int16 pairs.
#pragma once

#include <cstdint>
#include <cstring>

#include "isa.hpp"
#include "micro.hpp"

namespace mcomp {

#if defined(MCOMP_VNNI)
using DefaultTileI8 = Tile<14, 2>;
#elif defined(MCOMP_ISA_AVX512)
using DefaultTileI8 = Tile<8, 2>;
#else
using DefaultTileI8 = Tile<4, 2>;
#endif

namespace detail {

// Up to four bytes of a row as one word; absent bytes are zero.
MCOMP_INLINE int32_t load_word(const void* p) {
  int32_t word;
  std::memcpy(&word, p, 4);
  return word;
}
MCOMP_INLINE int32_t load_word_n(const void* p, int64_t n) {
  const uint8_t* bytes = static_cast<const uint8_t*>(p);
  uint32_t word = 0;
  for (int64_t i = 0; i < n; ++i) word |= static_cast<uint32_t>(bytes[i]) << (8 * i);
  return static_cast<int32_t>(word);
}

// What a signed row's bytes are offset by before they are multiplied.
template <class A>
constexpr int32_t row_offset() {
  return std::is_same<A, int8_t>::value ? 128 : 0;
}

#if defined(MCOMP_X86_SIMD)

#if defined(MCOMP_VNNI)
// One accumulator register per column vector; four products per lane and step.
struct ByteDot {
  struct Row {
    vi32 bytes;
  };
  struct Columns {
    vi32 bytes;
  };
  static MCOMP_INLINE Row row(int32_t word) { return {vset(word)}; }
  static MCOMP_INLINE Columns columns(const int8_t* b) { return {vload(reinterpret_cast<const int32_t*>(b))}; }
  static MCOMP_INLINE vi32 add(vi32 acc, const Row& a, const Columns& b) {
    return (vi32)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)a.bytes, (__m512i)b.bytes);
  }
};
#else
// Bytes 0, 2 and 1, 3 of every word as pairs of int16, whose products and pairwise sums are exact in int32.
struct ByteDot {
  struct Row {
    vi32 even, odd;
  };
  struct Columns {
    vi32 even, odd;
  };
#if defined(MCOMP_ISA_AVX512)
  static MCOMP_INLINE vi32 shift_left(vi32 v) { return (vi32)_mm512_slli_epi16((__m512i)v, 8); }
  static MCOMP_INLINE vi32 shift_right(vi32 v) { return (vi32)_mm512_srai_epi16((__m512i)v, 8); }
  static MCOMP_INLINE vi32 pairs(vi32 a, vi32 b) { return (vi32)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
#else
  static MCOMP_INLINE vi32 shift_left(vi32 v) { return (vi32)_mm256_slli_epi16((__m256i)v, 8); }
  static MCOMP_INLINE vi32 shift_right(vi32 v) { return (vi32)_mm256_srai_epi16((__m256i)v, 8); }
  static MCOMP_INLINE vi32 pairs(vi32 a, vi32 b) { return (vi32)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
#endif
  static MCOMP_INLINE Row row(int32_t word) {
    const uint32_t u = static_cast<uint32_t>(word);
    return {vset(static_cast<int32_t>(u & 0x00ff00ffu)), vset(static_cast<int32_t>((u >> 8) & 0x00ff00ffu))};
  }
  static MCOMP_INLINE Columns columns(const int8_t* b) {
    const vi32 bytes = vload(reinterpret_cast<const int32_t*>(b));
    return {shift_right(shift_left(bytes)), shift_right(bytes)};
  }
  static MCOMP_INLINE vi32 add(vi32 acc, const Row& a, const Columns& b) {
    return acc + (pairs(a.even, b.even) + pairs(a.odd, b.odd));
  }
};
#endif

// tile[r * NR + c] = sum over taps t and i < length of (a[r * row_stride + taps[t] + i] + row_offset<A>()) * b[.][c].
template <class A, int MR, int NV>
MCOMP_NOINLINE void micro_bytes(const A* a, int64_t row_stride, const int64_t* taps, int64_t tap_count, int64_t length, const int8_t* b,
                                int32_t* tile) {
  constexpr int NR = NV * kLanes;
  constexpr int KU = MR * NV >= 8 ? 1 : MR * NV >= 4 ? 2 : 4;
  constexpr int32_t flip = row_offset<A>() != 0 ? static_cast<int32_t>(0x80808080u) : 0;
  vi32 acc[KU][MR][NV];
  unroll<KU>([&](auto u) MCOMP_LAMBDA {
    unroll<MR>([&](auto r) MCOMP_LAMBDA { unroll<NV>([&](auto v) MCOMP_LAMBDA { acc[u][r][v] = vi32{}; }); });
  });
  constexpr int kBases = (MR + 4) / 5;
  const int64_t stride3 = 3 * row_stride;
  for (int64_t t = 0; t < tap_count; ++t) {
    const A* base[kBases];
    unroll<kBases>([&](auto g) MCOMP_LAMBDA {
      base[g] = a + taps[t] + 5 * g * row_stride;
      asm("" : "+r"(base[g]));
    });
    auto step = [&](auto u, auto load) MCOMP_LAMBDA {
      ByteDot::Columns bv[NV];
      unroll<NV>([&](auto v) MCOMP_LAMBDA { bv[v] = ByteDot::columns(b + (u * NR + v * kLanes) * 4); });
      unroll<MR>([&](auto r) MCOMP_LAMBDA {
        constexpr int g = r / 5, i = r % 5;
        const ByteDot::Row av = ByteDot::row(load(base[g] + (i == 3 ? stride3 : i * row_stride) + u * 4) ^ flip);
        unroll<NV>([&](auto v) MCOMP_LAMBDA { acc[u][r][v] = ByteDot::add(acc[u][r][v], av, bv[v]); });
      });
    };
    int64_t k = 0;
    for (; k + 4 * KU <= length; k += 4 * KU) {
      unroll<KU>([&](auto u) MCOMP_LAMBDA { step(u, [](const A* p) MCOMP_LAMBDA { return load_word(p); }); });
      unroll<kBases>([&](auto g) MCOMP_LAMBDA { base[g] += 4 * KU; });
      b += KU * 4 * NR;
    }
    for (; k < length; k += 4) {
      const int64_t left = min_i64(4, length - k);
      step(std::integral_constant<int, 0>{}, [&](const A* p) MCOMP_LAMBDA { return load_word_n(p, left); });
      unroll<kBases>([&](auto g) MCOMP_LAMBDA { base[g] += 4; });
      b += 4 * NR;
    }
  }
  unroll<MR>([&](auto r) MCOMP_LAMBDA {
    unroll<NV>([&](auto v) MCOMP_LAMBDA {
      vi32 sum = acc[0][r][v];
      if constexpr (KU == 2) sum = sum + acc[1][r][v];
      if constexpr (KU == 4) sum = (sum + acc[1][r][v]) + (acc[2][r][v] + acc[3][r][v]);
      vstore(tile + r * NR + v * kLanes, sum);
    });
  });
}

#else

template <class A, int MR, int NV>
MCOMP_NOINLINE void micro_bytes(const A* a, int64_t row_stride, const int64_t* taps, int64_t tap_count, int64_t length, const int8_t* b,
                                int32_t* tile) {
  constexpr int NR = NV * kLanes;
  int32_t acc[MR][NR] = {};
  for (int64_t t = 0; t < tap_count; ++t) {
    const A* base = a + taps[t];
    for (int64_t k = 0; k < length; k += 4) {
      const int64_t left = min_i64(4, length - k);
      for (int r = 0; r < MR; ++r) {
        const A* p = base + r * row_stride + k;
        int32_t x[4] = {};
        for (int64_t i = 0; i < left; ++i) x[i] = p[i] + row_offset<A>();
        for (int c = 0; c < NR; ++c) acc[r][c] += x[0] * b[4 * c] + x[1] * b[4 * c + 1] + x[2] * b[4 * c + 2] + x[3] * b[4 * c + 3];
      }
      b += 4 * NR;
    }
  }
  for (int r = 0; r < MR; ++r)
    for (int c = 0; c < NR; ++c) tile[r * NR + c] = acc[r][c];
}

#endif

template <class A, int MAX, int NV>
struct MicroBytes {
  using Function = void (*)(const A*, int64_t, const int64_t*, int64_t, int64_t, const int8_t*, int32_t*);
  Function table[MAX + 1];
  template <int... R>
  static constexpr MicroBytes make(std::integer_sequence<int, R...>) {
    return {{nullptr, micro_bytes<A, R + 1, NV>...}};
  }
};
template <class A, int MAX, int NV>
constexpr MicroBytes<A, MAX, NV> micro_byte_table = MicroBytes<A, MAX, NV>::make(std::make_integer_sequence<int, MAX>{});

}  // namespace detail
}  // namespace mcomp
