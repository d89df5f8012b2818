// The epilogue of a product in a residual network: bias, a residual, a clamp; the result as bytes, or as floats and bytes.
//
//   const RequantizeSum<uint8_t, float> ep{out, ld, whole, whole_ld, other, other_ld, bias, other_scale, other_zero,
//                                          low, high, inverse, zero, least, most};
//   gemm_i8<T0>(w, a8, lda, packed, M, N, K, scales, ep, scratch);
//
// sum = acc[i] + bias[col + i] + other_scale * (other[row * other_ld + col + i] - other_zero), clamped to [low, high]; NaN
// stays. whole[row * whole_ld + col + i] = sum. out[row * ld + col + i] = round(clamp(sum * inverse, least, most)) + zero,
// ties to even; NaN gives least. whole and bias may be null. R is float (other_scale 1, other_zero 0) or a byte. least and
// most are in steps of the result's scale, zero not added, and inside the range of Q. Terms are added in any order.
#pragma once

#include <cstdint>

#include "isa.hpp"
#include "requantize.hpp"
#include "types.hpp"

namespace mcomp {

template <class Q, class R>
struct RequantizeSum {
  Q* out;
  int64_t ld;
  float* whole;
  int64_t whole_ld;
  const R* other;
  int64_t other_ld;
  const float* bias;
  float other_scale;
  int32_t other_zero;
  float low, high, inverse;
  int32_t zero;
  float least, most;

  MCOMP_INLINE vf32 clamp(vf32 sum) const {
    // The second operand of vmin and vmax where one is NaN.
    return vmin(vset(high), vmax(vset(low), sum));
  }
  MCOMP_INLINE vi32 bytes(vf32 steps) const {
    return vround_i32(vmin(vmax(steps, vset(least)), vset(most))) + zero;
  }

  template <class Acc>
  MCOMP_INLINE void operator()(Acc acc, int64_t row, int64_t col, int64_t count) const {
    Q* o = out + row * ld + col;
    const R* residual = other + row * other_ld + col;
    for (int64_t start = 0; start < count; start += kLanes) {
      const int64_t lanes = min_i64(kLanes, count - start);
      alignas(64) float held[kLanes] = {};
      for (int64_t i = 0; i < lanes; ++i) {
        const float added = (static_cast<float>(residual[start + i]) - static_cast<float>(other_zero)) * other_scale;
        held[i] = acc[start + i] + (bias == nullptr ? 0.0f : bias[col + start + i]) + added;
      }
      const vf32 sum = clamp(vload(held));
      if (whole != nullptr) vstore_n(whole + row * whole_ld + col + start, sum, lanes);
      Requantize<Q>::store(o + start, bytes(sum * inverse), lanes);
    }
  }
};

namespace detail {

// As requantize_tile. Without Whole everything is counted in steps of the result from the start. The epilogue is a copy:
// bytes that it stores could change the original.
template <int NR, bool Whole, bool Tame, class Q, class R>
void requantize_sum_tile(const RequantizeSum<Q, R> ep, const int32_t* tile, const float* scale, int64_t mr,
                         int64_t row0, int64_t row_step, int64_t col, int64_t count) {
  const float unit = Whole ? 1.0f : ep.inverse;
  const vf32 worth = vset(ep.other_scale * unit);
  const FourRows<Q, Tame> store(ep.zero, ep.least, ep.most);
  const int64_t step = row_step * ep.ld, other_step = row_step * ep.other_ld, whole_step = row_step * ep.whole_ld;
  for (int64_t c = 0; c < count; c += kLanes) {
    const int64_t lanes = min_i64(kLanes, count - c);
    const bool full = lanes == kLanes;
    const vf32 factor = vload(scale + c) * unit;
    vf32 shift = vset(-static_cast<float>(ep.other_zero)) * worth;
    if (ep.bias != nullptr)
      shift = shift + (full ? vload(ep.bias + col + c) : vload_n(ep.bias + col + c, lanes)) * unit;
    Q* o = ep.out + row0 * ep.ld + col + c;
    const R* other = ep.other + row0 * ep.other_ld + col + c;
    float* whole = Whole ? ep.whole + row0 * ep.whole_ld + col + c : nullptr;
    const int32_t* sums = tile + c;
    if (Tame) shift = tame_shift(shift + static_cast<float>(ep.zero));
    const auto steps = [&](int64_t r) MCOMP_LAMBDA {
      const vf32 sum = vfma(vto_f32(vload(sums + r * NR)), factor, vfma(load_as_f32(other + r * other_step), worth, shift));
      if constexpr (!Whole) return sum;
      const vf32 clamped = ep.clamp(sum);
      vstore(whole + r * whole_step, clamped);
      return clamped * ep.inverse;
    };
    if (!full) {
      for (int64_t r = 0; r < mr; ++r) {
        const vf32 added = vfma(load_as_f32_n(other + r * other_step, lanes), worth, shift);
        vf32 sum = vfma(vto_f32(vload(sums + r * NR)), factor, added);
        if constexpr (Whole) {
          sum = ep.clamp(sum);
          vstore_n(whole + r * whole_step, sum, lanes);
          sum = sum * ep.inverse;
        } else if constexpr (Tame) {
          sum = sum - static_cast<float>(ep.zero);
        }
        Requantize<Q>::store(o + r * step, ep.bytes(sum), lanes);
      }
      continue;
    }
    rows_by_four(mr, [&](int64_t r) MCOMP_LAMBDA {
      const vf32 four[4] = {steps(r), steps(r + 1), steps(r + 2), steps(r + 3)};
      store(o + r * step, step, four);
    }, [&](int64_t r) MCOMP_LAMBDA {
      const vf32 value = Tame ? steps(r) - static_cast<float>(ep.zero) : steps(r);
      store_bytes(o + r * step, ep.bytes(value));
    });
  }
}

template <class Q, class R>
struct Int8Tiles<RequantizeSum<Q, R>> {
#if defined(MCOMP_ISA_AVX512)
  static constexpr bool kDirect = sizeof(R) == 1;

  // As of Requantize. A sum that is read as floats, too, is not for tiles in registers.
  static bool prepare(const void* epilogue, const float* scale, int64_t col, int64_t count, int64_t width,
                      float* factor, float* shift) {
    const RequantizeSum<Q, R>& ep = *static_cast<const RequantizeSum<Q, R>*>(epilogue);
    const float worth = ep.other_scale * ep.inverse;
    bool fits = ep.whole == nullptr;
    for (int64_t c = 0; c < width; ++c) {
      factor[c] = c < count ? scale[c] * ep.inverse : 0.0f;
      shift[c] = (c < count && ep.bias != nullptr ? ep.bias[col + c] * ep.inverse : 0.0f) -
                 static_cast<float>(ep.other_zero) * worth;
      const float most = __builtin_fabsf(factor[c]) * 2147483648.0f + __builtin_fabsf(shift[c]);
      fits = fits && most + 255.0f * __builtin_fabsf(worth) < 2147483000.0f;
    }
    return fits;
  }

  template <class A, int MR, int NV>
  static MCOMP_NOINLINE void run(const DirectTile& t) {
    constexpr int NR = NV * kLanes;
    run_tile<ProductDot<A>, MR, NV>(
        static_cast<const ProductElement<A>*>(t.a), t.row_stride, t.taps, t.tap_count, t.length, t.b, kBytesTogether * NR, t.start, t.ahead,
        [&](const auto& sums) MCOMP_LAMBDA {
          const RequantizeSum<Q, R>& ep = *static_cast<const RequantizeSum<Q, R>*>(t.epilogue);
          if (!t.fits) {
            alignas(64) int32_t tile[MR * NR];
            sums.store(tile);
            if (ep.whole != nullptr)
              return requantize_sum_tile<NR, true, false>(ep, tile, t.scale, MR, t.row0, t.row_step, t.col, t.count);
            return requantize_sum_tile<NR, false, false>(ep, tile, t.scale, MR, t.row0, t.row_step, t.col, t.count);
          }
          const vf32 worth = vset(ep.other_scale * ep.inverse);
          const R* const other = ep.other + t.row0 * ep.other_ld + t.col;
          const int64_t other_step = t.row_step * ep.other_ld;
          vf32 factor[NV], shift[NV];
          unroll<NV>([&](auto v) MCOMP_LAMBDA {
            factor[v] = vload(t.factor + v * kLanes), shift[v] = vload(t.shift + v * kLanes);
          });
          const bool whole = t.count == NR;
          store_tile<MR, NV>(
              ep.out + t.row0 * ep.ld + t.col, t.row_step * ep.ld, t.count, ep.zero, ep.least, ep.most,
              [&](auto row, auto v) MCOMP_LAMBDA {
                const R* const added = other + row * other_step + v * kLanes;
                const vf32 values = whole ? load_as_f32(added)
                                          : load_as_f32_n(added, max_i64(0, min_i64(kLanes, t.count - v * kLanes)));
                return vfma(vto_f32(sums.template row<row>().v[v]), factor[v], vfma(values, worth, shift[v]));
              });
        });
  }
#else
  static constexpr bool kDirect = false;
#endif

  template <int NR>
  static void emit(const void* epilogue, const int32_t* tile, const float* scale, const Scales8&, int64_t mr,
                   int64_t row0, int64_t row_step, int64_t col, int64_t count) {
    const RequantizeSum<Q, R>& ep = *static_cast<const RequantizeSum<Q, R>*>(epilogue);
    if (ep.whole != nullptr)
      return requantize_sum_tile<NR, true, false>(ep, tile, scale, mr, row0, row_step, col, count);
    if constexpr (sizeof(R) == 1) {
      const bool tame = scale[NR] * ep.inverse <= kTameFactor && ep.other_scale * ep.inverse <= 65536.0f;
      if (tame && FourRows<Q, true>::is_whole(ep.zero, ep.least, ep.most))
        return requantize_sum_tile<NR, false, true>(ep, tile, scale, mr, row0, row_step, col, count);
    }
    requantize_sum_tile<NR, false, false>(ep, tile, scale, mr, row0, row_step, col, count);
  }
  template <int NR>
  static void emit(const void* epilogue, const int32_t* tile, const float* scale, const RowScales8& s, int64_t mr,
                   int64_t row0, int64_t row_step, int64_t col, int64_t count) {
    emit_int8_rows<NR, RequantizeSum<Q, R>>(epilogue, tile, scale, s, mr, row0, row_step, col, count);
  }
};

}  // namespace detail
}  // namespace mcomp
