// The epilogue of a product whose result goes back to bytes: bias, a clamp (ReLU, ReLU6 and the like), requantization.
//
//   const Requantize<uint8_t> ep{out, ld, bias, inverse, zero, low, high};
//   gemm_i8<T0>(w, a8, lda, packed, M, N, K, scales, ep, scratch);
//
// out[row * ld + col + i] = round(clamp((acc[i] + bias[col + i]) * inverse, low, high)) + zero, ties to even; NaN gives
// low. low and high are in steps of the result's scale, zero not added, and inside the range of Q. bias may be null.
// Tiles of int8 products take the scales of weights, activations and result as one factor: the result may differ by one
// step where a value lies within 2^-22 of a tie.
#pragma once

#include <cstdint>

#include "byte_vector.hpp"
#include "gemm_i8.hpp"
#include "isa.hpp"
#include "quantize_rows.hpp"

namespace mcomp {

template <class Q>
struct Requantize {
  Q* out;
  int64_t ld;
  const float* bias;
  float inverse;
  int32_t zero;
  float low, high;

  MCOMP_INLINE vi32 bytes(vf32 steps) const {
    return vround_i32(vmin(vmax(steps, vset(low)), vset(high))) + zero;
  }

  template <class Acc>
  MCOMP_INLINE void operator()(Acc acc, int64_t row, int64_t col, int64_t count) const {
    Q* o = out + row * ld + col;
    for (int64_t start = 0; start < count; start += kLanes) {
      const int64_t lanes = min_i64(kLanes, count - start);
      alignas(64) float held[kLanes] = {};
      for (int64_t i = 0; i < lanes; ++i) held[i] = acc[start + i] + (bias == nullptr ? 0.0f : bias[col + start + i]);
      store(o + start, bytes(vload(held) * inverse), lanes);
    }
  }

  static MCOMP_INLINE void store(Q* o, vi32 value, int64_t lanes) {
    if (lanes == kLanes) {
      detail::store_bytes(o, value);
    } else {
#if defined(MCOMP_ISA_AVX512)
      _mm_mask_storeu_epi8(o, lane_mask(lanes), _mm512_cvtepi32_epi8((__m512i)value));
#else
      alignas(64) uint8_t all[kLanes];
      detail::store_bytes(all, value);
      detail::copy_few(reinterpret_cast<char*>(o), reinterpret_cast<const char*>(all), lanes);
#endif
    }
  }
};

namespace detail {

// Largest magnitudes of factors, and of what is added to a product, for which results fit 32 bits whatever the sums are.
constexpr float kTameFactor = 0.0625f, kTameShift = 536870912.0f;

// Stores four vectors of steps as bytes, each in a row of its own: rounded, in [low, high] steps, zero added. Tame: steps
// fit 32 bits, contain the zero already, and all values of Q are allowed.
template <class Q, bool Tame>
class FourRows {
 public:
  static constexpr bool kSigned = std::is_same<Q, int8_t>::value;
  using V = ByteVector<kVectorBytes>;

  FourRows(int32_t zero, float low, float high)
      : most_(V::setf(32767.0f)), zero_(V::set16(zero)), low_(V::set8(bound(zero, low))),
        high_(V::set8(bound(zero, high))) {}

  static int32_t bound(int32_t zero, float steps) { return zero + static_cast<int32_t>(__builtin_rintf(steps)); }
  // Whether bounds leave all values of Q.
  static bool is_whole(int32_t zero, float low, float high) {
    constexpr int32_t least = kSigned ? -128 : 0;
    return bound(zero, low) == least && bound(zero, high) == least + 255;
  }

  // NaN gives low.
  MCOMP_INLINE void operator()(Q* o, int64_t step, const vf32 (&steps)[4]) const {
    V::Bytes first = V::narrow16(whole(steps[0]), whole(steps[1]));
    V::Bytes second = V::narrow16(whole(steps[2]), whole(steps[3]));
    if constexpr (Tame) {
      put(o, step, V::template narrow8<kSigned>(first, second));
    } else {
      first = V::add16(first, zero_), second = V::add16(second, zero_);
      put(o, step, V::template clamp8<kSigned>(V::template narrow8<kSigned>(first, second), low_, high_));
    }
  }

 private:
  MCOMP_INLINE V::Bytes whole(vf32 steps) const {
    if constexpr (Tame) {
      return V::to_int((V::Floats)steps);
    } else {
      return V::to_int(V::least(most_, (V::Floats)steps));
    }
  }

  // Word r of a lane belongs to row r.
  static MCOMP_INLINE void put(Q* o, int64_t step, V::Bytes bytes) {
#if defined(MCOMP_ISA_AVX512)
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i rows = _mm512_permutexvar_epi32(order, bytes);
    if (step == kLanes) return _mm512_storeu_si512(o, rows);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(o), _mm512_castsi512_si128(rows));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(o + step), _mm512_extracti32x4_epi32(rows, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(o + 2 * step), _mm512_extracti32x4_epi32(rows, 2));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(o + 3 * step), _mm512_extracti32x4_epi32(rows, 3));
#else
    alignas(32) uint8_t all[kVectorBytes];
    V::store(all, bytes);
    for (int r = 0; r < 4; ++r)
      for (int lane = 0; lane < kVectorBytes / 16; ++lane)
        std::memcpy(o + r * step + 4 * lane, all + 16 * lane + 4 * r, 4);
#endif
  }

  V::Floats most_;
  V::Bytes zero_, low_, high_;
};

MCOMP_INLINE vf32 tame_shift(vf32 shift) { return vmin(vmax(shift, vset(-kTameShift)), vset(kTameShift)); }

// Calls four(r) for rows r to r + 3 until all of mr are done, some twice where mr is no multiple of four; else one(r).
template <class Four, class One>
MCOMP_INLINE void rows_by_four(int64_t mr, Four&& four, One&& one) {
  if (mr < 4) {
    for (int64_t r = 0; r < mr; ++r) one(r);
    return;
  }
  for (int64_t r = 0; r + 4 <= mr; r += 4) four(r);
  if (mr % 4 != 0) four(mr - 4);
}

// A tile of int8 products: per vector of columns the factor and the shift stay in registers while rows pass by. The
// epilogue is a copy: bytes that it stores could change the original.
template <int NR, bool Tame, class Q>
void requantize_tile(const Requantize<Q> ep, const int32_t* tile, const float* scale, int64_t mr, int64_t row0,
                     int64_t row_step, int64_t col, int64_t count) {
  const vf32 low = vset(ep.low), high = vset(ep.high);
  const vi32 zero = vset(ep.zero);
  const FourRows<Q, Tame> store(ep.zero, ep.low, ep.high);
  const int64_t step = row_step * ep.ld;
  for (int64_t c = 0; c < count; c += kLanes) {
    const int64_t lanes = min_i64(kLanes, count - c);
    const vf32 factor = vload(scale + c) * ep.inverse;
    vf32 shift = vset(0.0f);
    if (ep.bias != nullptr)
      shift = (lanes == kLanes ? vload(ep.bias + col + c) : vload_n(ep.bias + col + c, lanes)) * ep.inverse;
    Q* o = ep.out + row0 * ep.ld + col + c;
    const int32_t* sums = tile + c;
    const vf32 start = Tame ? tame_shift(shift + static_cast<float>(ep.zero)) : shift;
    const auto steps = [&](int64_t r) MCOMP_LAMBDA { return vfma(vto_f32(vload(sums + r * NR)), factor, start); };
    const auto one = [&](int64_t r) MCOMP_LAMBDA {
      const vf32 value = vfma(vto_f32(vload(sums + r * NR)), factor, shift);
      Requantize<Q>::store(o + r * step, vround_i32(vmin(vmax(value, low), high)) + zero, lanes);
    };
    if (lanes == kLanes) {
      rows_by_four(mr, [&](int64_t r) MCOMP_LAMBDA {
        const vf32 four[4] = {steps(r), steps(r + 1), steps(r + 2), steps(r + 3)};
        store(o + r * step, step, four);
      }, one);
    } else {
      for (int64_t r = 0; r < mr; ++r) one(r);
    }
  }
}

#if defined(MCOMP_ISA_AVX512)

// As requantize_tile of tame results, for whole tiles of 32 columns and at least two rows: two rows at once.
template <class Q>
void requantize_wide_tile(const Requantize<Q> ep, const int32_t* tile, const float* scale, int64_t mr, int64_t row0,
                          int64_t row_step, int64_t col) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  vf32 factor[2], start[2];
  unroll<2>([&](auto v) MCOMP_LAMBDA {
    factor[v] = vload(scale + v * kLanes) * ep.inverse;
    vf32 shift = vset(0.0f);
    if (ep.bias != nullptr) shift = vload(ep.bias + col + v * kLanes) * ep.inverse;
    start[v] = tame_shift(shift + static_cast<float>(ep.zero));
  });
  const int64_t step = row_step * ep.ld;
  Q* const out = ep.out + row0 * ep.ld + col;
  const auto two = [&](int64_t r) MCOMP_LAMBDA {
    __m512i words[2];
    unroll<2>([&](auto i) MCOMP_LAMBDA {
      vi32 v[2];
      unroll<2>([&](auto c) MCOMP_LAMBDA {
        v[c] = vround_i32(vfma(vto_f32(vload(tile + (r + i) * 32 + c * kLanes)), factor[c], start[c]));
      });
      words[i] = _mm512_packs_epi32((__m512i)v[0], (__m512i)v[1]);
    });
    const __m512i mixed = std::is_same<Q, int8_t>::value ? _mm512_packs_epi16(words[0], words[1])
                                                         : _mm512_packus_epi16(words[0], words[1]);
    const __m512i bytes = _mm512_permutexvar_epi32(order, mixed);
    Q* const o = out + r * step;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(o), _mm512_castsi512_si256(bytes));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(o + step), _mm512_extracti64x4_epi64(bytes, 1));
  };
  for (int64_t r = 0; r + 2 <= mr; r += 2) two(r);
  if (mr % 2 != 0) two(mr - 2);
}

// Clamped bytes of four vectors of rounded elements, zero points added: those of v[0], v[1] ... one after the other.
template <class Q>
MCOMP_INLINE __m512i four_to_bytes(const vi32 (&v)[4], __m512i zero, __m512i low, __m512i high) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i a = _mm512_adds_epi16(_mm512_packs_epi32((__m512i)v[0], (__m512i)v[1]), zero);
  const __m512i b = _mm512_adds_epi16(_mm512_packs_epi32((__m512i)v[2], (__m512i)v[3]), zero);
  const __m512i bytes =
      std::is_same<Q, int8_t>::value
          ? _mm512_min_epi8(_mm512_max_epi8(_mm512_packs_epi16(a, b), low), high)
          : _mm512_min_epu8(_mm512_max_epu8(_mm512_packus_epi16(a, b), low), high);
  return _mm512_permutexvar_epi32(order, bytes);
}

// Writes the first `count` bytes of MR rows of NR bytes.
template <int MR, int NR>
MCOMP_INLINE void copy_byte_rows(const uint8_t* rows, int64_t count, uint8_t* out, int64_t step) {
  if (count == NR) {
    unroll<MR>([&](auto r) MCOMP_LAMBDA {
      unroll<NR / 32>([&](auto i) MCOMP_LAMBDA {
        const auto* from = reinterpret_cast<const __m256i*>(rows + r * NR + i * 32);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i * 32), _mm256_loadu_si256(from));
      });
      if constexpr (NR % 32 != 0) {
        const auto* from = reinterpret_cast<const __m128i*>(rows + r * NR + NR - 16);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + NR - 16), _mm_loadu_si128(from));
      }
      out += step;
    });
    return;
  }
  with_pieces(count, [&](auto width) MCOMP_LAMBDA {
    for (int r = 0; r < MR; ++r)
      copy_pieces<width>(reinterpret_cast<char*>(out + r * step), reinterpret_cast<const char*>(rows + r * NR), count);
  });
}

// Rounds a tile that is in registers to bytes and writes `count` of each row's: step(row, v) gives vector v of a row in steps
// of the result, which fit 32 bits. least and most: bounds in steps, zero not added.
template <int MR, int NV, class Q, class Step>
MCOMP_INLINE void store_tile(Q* out, int64_t step, int64_t count, int32_t zero_step, float least, float most,
                             const Step& steps) {
  constexpr int groups = (MR * NV + 3) / 4;
  alignas(64) uint8_t bytes[groups * 64];
  const __m512i zero = _mm512_set1_epi16(static_cast<int16_t>(zero_step));
  const __m512i low = _mm512_set1_epi8(static_cast<char>(vround_i32(vset(least))[0] + zero_step));
  const __m512i high = _mm512_set1_epi8(static_cast<char>(vround_i32(vset(most))[0] + zero_step));
  unroll<groups>([&](auto g) MCOMP_LAMBDA {
    vi32 four[4];
    unroll<4>([&](auto j) MCOMP_LAMBDA {
      constexpr int i = 4 * g + j < MR * NV ? 4 * g + j : MR * NV - 1;
      four[j] = vround_i32(steps(std::integral_constant<int, i / NV>{}, std::integral_constant<int, i % NV>{}));
    });
    _mm512_store_si512(bytes + g * 64, four_to_bytes<Q>(four, zero, low, high));
  });
  copy_byte_rows<MR, NV * kLanes>(bytes, count, reinterpret_cast<uint8_t*>(out), step);
}

#endif

template <class Q>
struct Int8Tiles<Requantize<Q>> {
  template <int NR>
  static void emit(const void* epilogue, const int32_t* tile, const float* scale, const Scales8&, int64_t mr,
                   int64_t row0, int64_t row_step, int64_t col, int64_t count) {
    const Requantize<Q>& ep = *static_cast<const Requantize<Q>*>(epilogue);
    const bool tame = scale[NR] * ep.inverse <= kTameFactor && FourRows<Q, true>::is_whole(ep.zero, ep.low, ep.high);
#if defined(MCOMP_ISA_AVX512)
    if constexpr (NR == 32) {
      if (tame && count == NR && mr > 1) return requantize_wide_tile(ep, tile, scale, mr, row0, row_step, col);
    }
#endif
    if (tame)
      return requantize_tile<NR, true>(ep, tile, scale, mr, row0, row_step, col, count);
    requantize_tile<NR, false>(ep, tile, scale, mr, row0, row_step, col, count);
  }
  template <int NR>
  static void emit(const void* epilogue, const int32_t* tile, const float* scale, const RowScales8& s, int64_t mr,
                   int64_t row0, int64_t row_step, int64_t col, int64_t count) {
    emit_int8_rows<NR, Requantize<Q>>(epilogue, tile, scale, s, mr, row0, row_step, col, count);
  }

#if defined(MCOMP_ISA_AVX512)
  static constexpr bool kDirect = true;

  // Steps below 2^31 in magnitude convert to integers, which saturate to bytes; others need the clamp in floats.
  static bool prepare(const void* epilogue, const float* scale, int64_t col, int64_t count, int64_t width,
                      float* factor, float* shift) {
    const Requantize<Q>& ep = *static_cast<const Requantize<Q>*>(epilogue);
    bool fits = true;
    for (int64_t c = 0; c < width; ++c) {
      factor[c] = c < count ? scale[c] * ep.inverse : 0.0f;
      shift[c] = c < count && ep.bias != nullptr ? ep.bias[col + c] * ep.inverse : 0.0f;
      fits = fits && __builtin_fabsf(factor[c]) * 2147483648.0f + __builtin_fabsf(shift[c]) < 2147483000.0f;
    }
    return fits;
  }

  template <class A, int MR, int NV>
  static MCOMP_NOINLINE void run(const DirectTile& t) {
    constexpr int NR = NV * kLanes;
    run_tile<ProductDot<A>, MR, NV>(
        static_cast<const ProductElement<A>*>(t.a), t.row_stride, t.taps, t.tap_count, t.length, t.b, kBytesTogether * NR, t.start, t.ahead,
        [&](const auto& sums) MCOMP_LAMBDA {
          const Requantize<Q>& ep = *static_cast<const Requantize<Q>*>(t.epilogue);
          if (!t.fits) {
            alignas(64) int32_t tile[MR * NR];
            sums.store(tile);
            requantize_tile<NR, false>(ep, tile, t.scale, MR, t.row0, t.row_step, t.col, t.count);
            return;
          }
          vf32 factor[NV], shift[NV];
          unroll<NV>([&](auto v) MCOMP_LAMBDA {
            factor[v] = vload(t.factor + v * kLanes), shift[v] = vload(t.shift + v * kLanes);
          });
          store_tile<MR, NV>(ep.out + t.row0 * ep.ld + t.col, t.row_step * ep.ld, t.count, ep.zero, ep.low, ep.high,
                             [&](auto row, auto v) MCOMP_LAMBDA {
                               return vfma(vto_f32(sums.template row<row>().v[v]), factor[v], shift[v]);
                             });
        });
  }
#else
  static constexpr bool kDirect = false;
#endif
};

}  // namespace detail
}  // namespace mcomp
