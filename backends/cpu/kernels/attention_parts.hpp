// What attention.hpp is made of: 2^x, reductions over rows, packed keys and values, and products of rows with panels.
//
// Rows lie kBlock elements apart in scratch. A panel holds kPanel (the last one of keys or dims perhaps kLanes) columns,
// reduction steps one after another; of bytes, four steps of a column lie together. Bytes are multiplied as unsigned
// rows with signed panels (micro_i8.hpp): signed queries are offset by 128, unsigned keys and values by -128.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "isa.hpp"
#include "micro_i8.hpp"
#include "types.hpp"

namespace mcomp {
namespace detail {

constexpr int kTileRows = kVectorRegisters == 32 ? 12 : 4;
constexpr int64_t kBlock = 128;
constexpr int64_t kPanel = 2 * kLanes;

template <class T>
constexpr bool is_byte = std::is_same<T, int8_t>::value || std::is_same<T, uint8_t>::value;
template <class T>
using RowElement = std::conditional_t<is_byte<T>, uint8_t, float>;
template <class T>
using PanelElement = std::conditional_t<is_byte<T>, int8_t, float>;
// Reduction steps that lie together.
template <class T>
constexpr int64_t kGroup = is_byte<T> ? 4 : 1;

// 2^x for x <= 8, within 2.5e-7 of the value, relatively; below 2^-126 perhaps 0; 0 for -inf, NaN for NaN. The polynomial:
// least maximum relative error on [0, 1].
MCOMP_INLINE vf32 exp2_small(vf32 x) {
#if defined(MCOMP_ISA_AVX512)
  const vf32 r = (vf32)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // x - floor(x)
#else
  const vf32 clamped = vmax(vset(-126.0f), x);
  const vf32 shifted = (clamped - 0.5f) + 12582912.0f;
  const vf32 r = clamped - (shifted - 12582912.0f);
#endif
  vf32 p = vfma(vset(1.87757669e-3f), r, vset(8.98934063e-3f));
  p = vfma(p, r, vset(5.58263175e-2f));
  p = vfma(p, r, vset(0.240153611f));
  p = vfma(p, r, vset(0.693153083f));
  p = vfma(p, r, vset(0.99999994f));
#if defined(MCOMP_ISA_AVX512)
  return (vf32)_mm512_scalef_ps((__m512)p, (__m512)x);
#else
  const vf32 power = (vf32)(((vi32)shifted + (127 - 0x4b400000)) << 23);
  return x < -126.0f ? vset(0.0f) : p * power;
#endif
}

// The integer nearest to 2^x for x <= 8, of powers within 8e-5, relatively; 0 for NaN.
MCOMP_INLINE vi32 exp2_rounded(vf32 x) {
  const vf32 clipped = vmax(x, vset(-20.0f));
  const vf32 shifted = clipped + 12582912.0f;  // its last bits are the nearest integer
  const vf32 r = clipped - (shifted - 12582912.0f);
  vf32 p = vfma(vset(5.5170788e-2f), r, vset(0.242611209f));
  p = vfma(p, r, vset(0.693261111f));
  p = vfma(p, r, vset(0.999928077f));
  return vround_i32((vf32)((vi32)p + ((vi32)shifted << 23)));
}

// out[i] = the largest (or the sum of the) lanes of v[i], for i < kTileRows. out holds 16 floats.
template <bool Sum>
MCOMP_INLINE void reduce_rows(const vf32* v, float* out) {
#if defined(MCOMP_ISA_AVX512)
  const auto join = [](__m512 a, __m512 b) MCOMP_LAMBDA { return Sum ? _mm512_add_ps(a, b) : _mm512_max_ps(a, b); };
  const auto pairs = [&](__m512 a, __m512 b) MCOMP_LAMBDA {
    return join(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  };
  const auto fours = [&](__m512 a, __m512 b) MCOMP_LAMBDA {
    const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    return join(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  };
  const auto halves = [&](__m512 a, __m512 b) MCOMP_LAMBDA {
    return join(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  };
  const auto row = [&](int i) MCOMP_LAMBDA { return (__m512)v[i]; };
  const __m512 a = fours(pairs(row(0), row(1)), pairs(row(2), row(3)));
  const __m512 b = fours(pairs(row(4), row(5)), pairs(row(6), row(7)));
  const __m512 c = fours(pairs(row(8), row(9)), pairs(row(10), row(11)));
  _mm512_storeu_ps(out, halves(halves(a, b), halves(c, c)));
#else
  for (int i = 0; i < kTileRows; ++i) out[i] = Sum ? vsum(v[i]) : vreduce_max(v[i]);
#endif
}

// ---- packing

// What stored bytes are offset by, as a mask for exclusive or: queries become unsigned, keys and values signed.
template <class T>
constexpr uint32_t query_flip = std::is_same<T, int8_t>::value ? 0x80808080u : 0u;
template <class T>
constexpr uint32_t key_flip = std::is_same<T, uint8_t>::value ? 0x80808080u : 0u;

// kLanes elements (bytes: words of four), of which `left` elements exist; the others are 0.
template <class T>
MCOMP_INLINE vf32 words_of(const T* p, int64_t left, uint32_t flip = 0) {
  if constexpr (is_byte<T>) {
    const int32_t mask = static_cast<int32_t>(flip);
#if defined(MCOMP_ISA_AVX512)
    const __mmask64 live = left >= 64 ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
    return (vf32)_mm512_xor_si512(_mm512_maskz_loadu_epi8(live, p), _mm512_maskz_mov_epi8(live, (__m512i)vset(mask)));
#else
    const int32_t* words = reinterpret_cast<const int32_t*>(p);
    if (left >= 4 * kLanes) return (vf32)(vload(words) ^ mask);
    const int64_t whole = left / 4;
    vi32 found = vload_n(words, whole) ^ mask;
    uint32_t last = 0;
    std::memcpy(&last, p + 4 * whole, static_cast<size_t>(left % 4));
    last ^= flip & ((1u << (left % 4 * 8)) - 1u);
    alignas(64) int32_t lane[kLanes];
    for (int i = 0; i < kLanes; ++i) lane[i] = i;
    const vi32 lanes = vload(lane);
    found = lanes < static_cast<int32_t>(whole) ? found : vset(0);
    return (vf32)(lanes == static_cast<int32_t>(whole) ? vset(static_cast<int32_t>(last)) : found);
#endif
  } else {
    (void)flip;
    return left >= kLanes ? vload(p) : vload_n(p, left);
  }
}

// Rows to columns.
MCOMP_INLINE void transpose_square(vf32 (&r)[kLanes]) {
#if defined(MCOMP_X86_SIMD)
#if defined(MCOMP_ISA_AVX512)
#define MCOMP_PS(f) _mm512_##f
  using Single = __m512;
  using Double = __m512d;
#else
#define MCOMP_PS(f) _mm256_##f
  using Single = __m256;
  using Double = __m256d;
#endif
  Single u[kLanes];
  unroll<kLanes / 4>([&](auto i) MCOMP_LAMBDA {
    const Single a = (Single)r[4 * i], b = (Single)r[4 * i + 1], c = (Single)r[4 * i + 2], d = (Single)r[4 * i + 3];
    const Double ab = (Double)MCOMP_PS(unpacklo_ps)(a, b), AB = (Double)MCOMP_PS(unpackhi_ps)(a, b);
    const Double cd = (Double)MCOMP_PS(unpacklo_ps)(c, d), CD = (Double)MCOMP_PS(unpackhi_ps)(c, d);
    u[4 * i] = (Single)MCOMP_PS(unpacklo_pd)(ab, cd);
    u[4 * i + 1] = (Single)MCOMP_PS(unpackhi_pd)(ab, cd);
    u[4 * i + 2] = (Single)MCOMP_PS(unpacklo_pd)(AB, CD);
    u[4 * i + 3] = (Single)MCOMP_PS(unpackhi_pd)(AB, CD);
  });
  unroll<4>([&](auto c) MCOMP_LAMBDA {
#if defined(MCOMP_ISA_AVX512)
    const Single x = _mm512_shuffle_f32x4(u[c], u[4 + c], 0x88), y = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0x88);
    const Single z = _mm512_shuffle_f32x4(u[c], u[4 + c], 0xdd), w = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0xdd);
    r[c] = (vf32)_mm512_shuffle_f32x4(x, y, 0x88);
    r[8 + c] = (vf32)_mm512_shuffle_f32x4(x, y, 0xdd);
    r[4 + c] = (vf32)_mm512_shuffle_f32x4(z, w, 0x88);
    r[12 + c] = (vf32)_mm512_shuffle_f32x4(z, w, 0xdd);
#else
    r[c] = (vf32)_mm256_permute2f128_ps(u[c], u[4 + c], 0x20);
    r[4 + c] = (vf32)_mm256_permute2f128_ps(u[c], u[4 + c], 0x31);
#endif
  });
#undef MCOMP_PS
#else
  for (int i = 0; i < kLanes; ++i)
    for (int j = 0; j < i; ++j) {
      const float x = r[i][j];
      r[i][j] = r[j][i];
      r[j][i] = x;
    }
#endif
}

// Keys [begin, end), multiples of kPanel or the end, of a head with `keys` of them: panels [words of dim][keys].
// rows(key, n): where n <= kLanes keys from this one on are, `step` elements apart. sums: of bytes, the sum of each packed
// key.
template <class T, class Rows>
MCOMP_NOINLINE void pack_keys(const Rows& rows, int64_t step, int64_t begin, int64_t end, int64_t keys, int64_t dim,
                              PanelElement<T>* to, int32_t* sums) {
  constexpr int64_t group = kGroup<T>;
  const int64_t words = ceil_div(dim, group);
  const int64_t stop = min_i64(end, round_up(keys, kLanes));
  for (int64_t key = begin; key < stop; key += kLanes) {
    const int64_t panel = key / kPanel * kPanel, width = keys - panel <= kLanes ? kLanes : kPanel;
    const int64_t live = min_i64(kLanes, keys - key);
    const T* const from = rows(key, live);
    float* columns = reinterpret_cast<float*>(to) + panel * words + (key - panel);
    vi32 total = vset(0);
    for (int64_t word = 0; word < words; word += kLanes) {
      vf32 square[kLanes];
      for (int64_t i = 0; i < kLanes; ++i)
        square[i] =
            i < live ? words_of(from + i * step + word * group, dim - word * group, key_flip<T>) : vset(0.0f);
      transpose_square(square);
      const int64_t count = min_i64(kLanes, words - word);
      for (int64_t i = 0; i < count; ++i) {
        vstore(columns + (word + i) * width, square[i]);
        if constexpr (is_byte<T>) {
          const int8_t* stored = reinterpret_cast<const int8_t*>(columns + (word + i) * width);
          total = ByteProducts::add(total, ByteProducts::row(0x01010101u), ByteProducts::columns(stored));
        }
      }
    }
    if constexpr (is_byte<T>) vstore(sums + key, total);
  }
}

// Four rows of kLanes bytes, column by column.
MCOMP_INLINE void interleave_bytes(const int8_t* const (&rows)[4], int8_t flip, int8_t* to) {
#if defined(MCOMP_X86_SIMD)
  const __m128i sign = _mm_set1_epi8(flip);
  for (int64_t i = 0; i < kLanes; i += 8) {
    __m128i r[4];
    for (int j = 0; j < 4; ++j)
      r[j] = _mm_xor_si128(sign, _mm_loadl_epi64(reinterpret_cast<const __m128i*>(rows[j] + i)));
    const __m128i ab = _mm_unpacklo_epi8(r[0], r[1]), cd = _mm_unpacklo_epi8(r[2], r[3]);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 4 * i), _mm_unpacklo_epi16(ab, cd));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 4 * i + 16), _mm_unpackhi_epi16(ab, cd));
  }
#else
  for (int i = 0; i < kLanes; ++i)
    for (int j = 0; j < 4; ++j) to[4 * i + j] = static_cast<int8_t>(rows[j][i] ^ flip);
#endif
}

// Values of the same keys: panels of dims, [keys][dims], `capacity` keys long. Keys and dims that do not exist are 0, up
// to a multiple of the group.
template <class T>
MCOMP_NOINLINE void pack_values(const T* v, int64_t step, int64_t begin, int64_t end, int64_t keys, int64_t dim,
                                PanelElement<T>* to, int64_t capacity) {
  const int64_t stop = min_i64(end, round_up(keys, kGroup<T>));
  for (int64_t d = 0; d < dim; d += kLanes) {
    const int64_t panel = d / kPanel * kPanel, width = dim - panel <= kLanes ? kLanes : kPanel;
    PanelElement<T>* columns = to + panel * capacity + (d - panel) * kGroup<T>;
    const int64_t left = min_i64(kLanes, dim - d);
    if constexpr (is_byte<T>) {
      constexpr int8_t flip = static_cast<int8_t>(key_flip<T>);
      for (int64_t n = begin; n < stop; n += 4) {
        int8_t padded[4][kLanes];
        const int8_t* rows[4];
        for (int64_t j = 0; j < 4; ++j) {
          const bool exists = n + j < keys;
          rows[j] = reinterpret_cast<const int8_t*>(v) + (exists ? (n + j) * step + d : 0);
          if (exists && left == kLanes) continue;
          std::memset(padded[j], 0, sizeof padded[j]);
          if (exists) std::memcpy(padded[j], rows[j], static_cast<size_t>(left));
          rows[j] = padded[j];
        }
        interleave_bytes(rows, flip, columns + n * width);
      }
    } else {
      for (int64_t n = begin; n < stop; ++n) vstore(columns + n * width, words_of(v + n * step + d, left));
    }
  }
}

// ---- products: c[i][lane] (+)= the sum over `count` steps of a[i] times b, Rows by NV vectors

struct FloatFinish {};
// How int32 sums become floats: (sum + first) * factor; first: one number a lane, or nullptr.
struct ByteFinish {
  const int32_t* first;
  float factor;
};

template <int Rows, int NV>
MCOMP_NOINLINE void panel_product(const float* a, const float* b, int64_t count, float* c, bool accumulate,
                                  FloatFinish) {
  vf32 acc[Rows][NV];
  unroll<Rows>([&](auto i) MCOMP_LAMBDA {
    unroll<NV>([&](auto j) MCOMP_LAMBDA { acc[i][j] = accumulate ? vload(c + i * kBlock + j * kLanes) : vset(0.0f); });
  });
  for (int64_t t = 0; t < count; ++t, ++a, b += NV * kLanes) {
    vf32 row[NV];
    unroll<NV>([&](auto j) MCOMP_LAMBDA { row[j] = vload(b + j * kLanes); });
    unroll<Rows>([&](auto i) MCOMP_LAMBDA {
      const vf32 s = vset(a[i * kBlock]);
      unroll<NV>([&](auto j) MCOMP_LAMBDA { acc[i][j] = vfma(s, row[j], acc[i][j]); });
    });
  }
  unroll<Rows>([&](auto i) MCOMP_LAMBDA {
    unroll<NV>([&](auto j) MCOMP_LAMBDA { vstore(c + i * kBlock + j * kLanes, acc[i][j]); });
  });
}

template <int Rows, int NV>
MCOMP_NOINLINE void panel_product(const uint8_t* a, const int8_t* b, int64_t count, float* c, bool accumulate,
                                  ByteFinish finish) {
  vi32 acc[Rows][NV];
  unroll<NV>([&](auto j) MCOMP_LAMBDA {
    const vi32 first = finish.first ? vload(finish.first + j * kLanes) : vset(0);
    unroll<Rows>([&](auto i) MCOMP_LAMBDA { acc[i][j] = first; });
  });
  for (int64_t t = 0; t < count; ++t, a += 4, b += 4 * NV * kLanes) {
    ByteProducts::Columns row[NV];
    unroll<NV>([&](auto j) MCOMP_LAMBDA { row[j] = ByteProducts::columns(b + 4 * j * kLanes); });
    unroll<Rows>([&](auto i) MCOMP_LAMBDA {
      uint32_t word;
      std::memcpy(&word, a + i * kBlock, 4);
      const ByteProducts::Row s = ByteProducts::row(word);
      unroll<NV>([&](auto j) MCOMP_LAMBDA { acc[i][j] = ByteProducts::add(acc[i][j], s, row[j]); });
    });
  }
  const vf32 factor = vset(finish.factor);
  unroll<Rows>([&](auto i) MCOMP_LAMBDA {
    unroll<NV>([&](auto j) MCOMP_LAMBDA {
      float* to = c + i * kBlock + j * kLanes;
      vstore(to, accumulate ? vfma(vto_f32(acc[i][j]), factor, vload(to)) : vto_f32(acc[i][j]) * factor);
    });
  });
}

// The product of `rows` rows (rounded up to a size that there is) with a panel `width` columns wide.
template <class Row, class Panel, class Finish>
inline void tile_product(int64_t rows, int64_t width, const Row* a, const Panel* b, int64_t count, float* c,
                         bool accumulate, Finish finish) {
  const auto run = [&](auto size) {
    constexpr int n = decltype(size)::value;
    if (width == kPanel) {
      panel_product<n, 2>(a, b, count, c, accumulate, finish);
    } else {
      panel_product<n, 1>(a, b, count, c, accumulate, finish);
    }
  };
  if constexpr (kTileRows == 12) {
    if (rows > 8) return run(std::integral_constant<int, 12>{});
    if (rows > 4) return run(std::integral_constant<int, 8>{});
  }
  run(std::integral_constant<int, 4>{});
}

}  // namespace detail
}  // namespace mcomp
