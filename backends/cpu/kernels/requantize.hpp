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
      alignas(64) uint8_t all[kLanes];
      detail::store_bytes(all, value);
      std::memcpy(o, all, static_cast<size_t>(lanes));
    }
  }
};

namespace detail {

// A tile of int8 products: per vector of columns the factor and the shift stay in registers while rows pass by.
template <int NR, class Q>
void requantize_tile(const Requantize<Q>& ep, const int32_t* tile, const float* scale, int64_t mr, int64_t row0,
                     int64_t row_step, int64_t col, int64_t count) {
  const vf32 low = vset(ep.low), high = vset(ep.high);
  const vi32 zero = vset(ep.zero);
  const int64_t step = row_step * ep.ld;
  for (int64_t c = 0; c < count; c += kLanes) {
    const int64_t lanes = min_i64(kLanes, count - c);
    const vf32 factor = vload(scale + c) * ep.inverse;
    vf32 shift = vset(0.0f);
    if (ep.bias != nullptr)
      shift = (lanes == kLanes ? vload(ep.bias + col + c) : vload_n(ep.bias + col + c, lanes)) * ep.inverse;
    Q* o = ep.out + row0 * ep.ld + col + c;
    const int32_t* sums = tile + c;
    if (lanes == kLanes) {
      for (int64_t r = 0; r < mr; ++r, sums += NR, o += step)
        store_bytes(o, vround_i32(vmin(vmax(vfma(vto_f32(vload(sums)), factor, shift), low), high)) + zero);
    } else {
      for (int64_t r = 0; r < mr; ++r, sums += NR, o += step)
        Requantize<Q>::store(o, vround_i32(vmin(vmax(vfma(vto_f32(vload(sums)), factor, shift), low), high)) + zero,
                             lanes);
    }
  }
}

template <class Q>
struct Int8Tiles<Requantize<Q>> {
  template <int NR>
  static void emit(const void* epilogue, const int32_t* tile, const float* scale, const Scales8&, int64_t mr,
                   int64_t row0, int64_t row_step, int64_t col, int64_t count) {
    requantize_tile<NR>(*static_cast<const Requantize<Q>*>(epilogue), tile, scale, mr, row0, row_step, col, count);
  }
  template <int NR>
  static void emit(const void* epilogue, const int32_t* tile, const float* scale, const RowScales8& s, int64_t mr,
                   int64_t row0, int64_t row_step, int64_t col, int64_t count) {
    emit_int8_rows<NR, Requantize<Q>>(epilogue, tile, scale, s, mr, row0, row_step, col, count);
  }
};

}  // namespace detail
}  // namespace mcomp
