// Depthwise convolutions (in_channels == out_channels == groups), one to three dimensions, channels-last, vectorized
// over channels; borders take only the kernel positions that lie inside, so nothing is padded or copied.
//
//   pack_depthwise(w, packed, weight_oihw, s);                       // float[KD * KH * KW * C]; s as in conv.hpp
//   depthwise_f32(w, x, packed, s, Ep0{bias, out, C}, scratch);      // x: float, bf16 or f16
//   pack_depthwise(w, packed8, weight8_oihw, s);                     // int8_t to float as well: values are exact
//   depthwise_i8(w, x8, packed8, s, q, Ep0{bias, out, C}, scratch);  // x8: uint8_t or int8_t; no q.column_sums
//   // scratch: depthwise_scratch_bytes(s, workers) bytes for all workers together
//
// The int8 form sums integers in float, exact for up to 510 kernel positions. 2 * pixels * C * KD * KH * KW operations.
#pragma once

#include <cstdint>

#include "conv_plan.hpp"
#include "epilogue.hpp"
#include "gemm_i8.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {
namespace detail {

// A kernel position that lies inside for a run of pixels: where its input and its weights start.
struct DepthwiseTap {
  int64_t input, weight;
};

// out[p * NV * lanes + c] = sum over taps of (x[p * pixel_stride + tap.input + c] - zero) * weight[tap.weight + c] for
// PX pixels and NV vectors of channels; Masked: only the first `count` channels of one vector exist. Bytes are
// multiplied as they are and zero * (sum of the taps' weights) is taken away at the end: all of it integers below 2^24.
template <class X, int PX, int NV, bool Masked>
MCOMP_NOINLINE void depthwise_tile(const X* x, int64_t pixel_stride, const DepthwiseTap* taps, int64_t tap_count,
                                   const float* weight, float zero, int64_t count, float* out) {
  constexpr bool bytes = sizeof(X) == 1;
  vf32 acc[PX][NV];
  vf32 total[NV];
  unroll<PX>([&](auto p) MCOMP_LAMBDA { unroll<NV>([&](auto v) MCOMP_LAMBDA { acc[p][v] = vf32{}; }); });
  unroll<NV>([&](auto v) MCOMP_LAMBDA { total[v] = vf32{}; });
  for (int64_t t = 0; t < tap_count; ++t) {
    const X* px = x + taps[t].input;
    const float* pw = weight + taps[t].weight;
    unroll<NV>([&](auto v) MCOMP_LAMBDA {
      const vf32 wv = Masked ? vload_n(pw, count) : vload(pw + v * kLanes);
      unroll<PX>([&](auto p) MCOMP_LAMBDA {
        const X* at = px + p * pixel_stride + v * kLanes;
        const vf32 xv = Masked ? load_as_f32_n(at, count) : load_as_f32(at);
        acc[p][v] = vfma(xv, wv, acc[p][v]);
      });
      if constexpr (bytes) total[v] = total[v] + wv;
    });
  }
  unroll<PX>([&](auto p) MCOMP_LAMBDA {
    unroll<NV>([&](auto v) MCOMP_LAMBDA {
      if constexpr (bytes) acc[p][v] = acc[p][v] - total[v] * zero;
      vstore(out + (p * NV + v) * kLanes, acc[p][v]);
    });
  });
}

constexpr int kDepthwiseVectors = kVectorRegisters == 32 ? 4 : 2;
constexpr int kDepthwiseChannels = kDepthwiseVectors * kLanes;

// What integer sums are multiplied with; float sums have no column_scale.
struct DepthwiseScales {
  const float* column_scale;
  float scale;
  float zero;
};

// All channels of `pixels` neighbouring pixels of one row that share their taps.
template <class X, int PX>
void depthwise_pixels(const X* x, int64_t pixel_stride, const DepthwiseTap* taps, int64_t tap_count,
                      const float* weight, const DepthwiseScales& scales, int64_t channels, int64_t row0,
                      const Emitter<float>& emit) {
  constexpr int NV = kDepthwiseVectors;
  alignas(64) float out[PX * NV * kLanes];
  const float zero = scales.zero;
  auto finish = [&](int64_t c, int64_t width, int64_t count) {
    if (sizeof(X) == 1)
      for (int64_t p = 0; p < PX; ++p)
        for (int64_t i = 0; i < count; ++i) out[p * width + i] *= scales.column_scale[c + i] * scales.scale;
    emit(out, width, PX, row0, 1, c, count);
  };
  int64_t c = 0;
  for (; c + NV * kLanes <= channels; c += NV * kLanes) {
    depthwise_tile<X, PX, NV, false>(x + c, pixel_stride, taps, tap_count, weight + c, zero, 0, out);
    finish(c, NV * kLanes, NV * kLanes);
  }
  if constexpr (NV > 2) {
    for (; c + 2 * kLanes <= channels; c += 2 * kLanes) {
      depthwise_tile<X, PX, 2, false>(x + c, pixel_stride, taps, tap_count, weight + c, zero, 0, out);
      finish(c, 2 * kLanes, 2 * kLanes);
    }
  }
  for (; c + kLanes <= channels; c += kLanes) {
    depthwise_tile<X, PX, 1, false>(x + c, pixel_stride, taps, tap_count, weight + c, zero, 0, out);
    finish(c, kLanes, kLanes);
  }
  if (c < channels) {
    depthwise_tile<X, PX, 1, true>(x + c, pixel_stride, taps, tap_count, weight + c, zero, channels - c, out);
    finish(c, kLanes, channels - c);
  }
}

// First and one past the last kernel position that lies inside [0, in) when position 0 is at `start`.
inline Range inside_taps(int64_t start, int64_t in, int64_t kernel, int64_t dilation) {
  const int64_t first = start >= 0 ? 0 : ceil_div(-start, dilation);
  const int64_t last = start >= in ? 0 : min_i64(kernel, (in - 1 - start) / dilation + 1);
  return {min_i64(first, kernel), max_i64(min_i64(first, kernel), last)};
}

template <class X>
void depthwise(const Worker& w, const X* x, const float* weight, const ConvShape& s, const DepthwiseScales& scales,
               const Emitter<float>& emit, DepthwiseTap* taps) {
  constexpr int PX = kVectorRegisters == 32 ? 4 : 2;
  const int64_t c = s.in_channels, width = s.in[2];
  const int64_t step = s.stride[2], span = (s.kernel[2] - 1) * s.dilation[2];
  // Pixels [inner0, inner1) have their whole kernel row inside.
  const int64_t inner0 = min_i64(s.out[2], ceil_div(max_i64(0, s.pad[2]), step));
  const int64_t room = width - 1 - span + s.pad[2];
  const int64_t inner1 = room < 0 ? inner0 : max_i64(inner0, min_i64(s.out[2], room / step + 1));
  const Range mine = w.range(s.batch * s.out[0] * s.out[1]);
  for (int64_t row = mine.begin; row < mine.end; ++row) {
    const int64_t h = row % s.out[1], d = row / s.out[1] % s.out[0], n = row / (s.out[1] * s.out[0]);
    const int64_t z = d * s.stride[0] - s.pad[0], y = h * s.stride[1] - s.pad[1];
    const Range kd = inside_taps(z, s.in[0], s.kernel[0], s.dilation[0]);
    const Range kh = inside_taps(y, s.in[1], s.kernel[1], s.dilation[1]);
    auto collect = [&](const Range& kw) {
      int64_t count = 0;
      for (int64_t i = kd.begin; i < kd.end; ++i)
        for (int64_t j = kh.begin; j < kh.end; ++j)
          for (int64_t k = kw.begin; k < kw.end; ++k)
            taps[count++] = {
                (((z + i * s.dilation[0]) * s.in[1] + y + j * s.dilation[1]) * width + k * s.dilation[2]) * c,
                ((i * s.kernel[1] + j) * s.kernel[2] + k) * c};
      return count;
    };
    const X* image = x + n * s.in[0] * s.in[1] * width * c;
    auto border = [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        const int64_t start = p * step - s.pad[2];
        const int64_t count = collect(inside_taps(start, width, s.kernel[2], s.dilation[2]));
        depthwise_pixels<X, 1>(image + start * c, step * c, taps, count, weight, scales, c, row * s.out[2] + p, emit);
      }
    };
    border(0, inner0);
    const int64_t count = collect({0, s.kernel[2]});
    int64_t p = inner0;
    for (; p + PX <= inner1; p += PX)
      depthwise_pixels<X, PX>(image + (p * step - s.pad[2]) * c, step * c, taps, count, weight, scales, c,
                              row * s.out[2] + p, emit);
    for (; p < inner1; ++p)
      depthwise_pixels<X, 1>(image + (p * step - s.pad[2]) * c, step * c, taps, count, weight, scales, c,
                             row * s.out[2] + p, emit);
    border(inner1, s.out[2]);
  }
}

}  // namespace detail

inline int64_t depthwise_scratch_bytes(const ConvShape& s, int64_t workers) {
  return workers *
         round_up(s.kernel[0] * s.kernel[1] * s.kernel[2] * static_cast<int64_t>(sizeof(detail::DepthwiseTap)), 64);
}

// dst[k * C + c] = src[c * kernel positions + k], converted to float.
template <class S>
void pack_depthwise(const Worker& w, float* dst, const S* src, const ConvShape& s) {
  const int64_t taps = s.kernel[0] * s.kernel[1] * s.kernel[2];
  const Range mine = w.range(s.in_channels);
  for (int64_t c = mine.begin; c < mine.end; ++c)
    for (int64_t k = 0; k < taps; ++k) dst[k * s.in_channels + c] = convert<float>(src[c * taps + k]);
}

template <class X, class Ep>
void depthwise_f32(const Worker& w, const X* x, const float* packed, const ConvShape& s, const Ep& ep, void* scratch) {
  char* own = static_cast<char*>(scratch) + w.id * depthwise_scratch_bytes(s, 1);
  detail::depthwise(w, x, packed, s, {nullptr, 1.0f, 0.0f}, detail::emitter<detail::kDepthwiseChannels, float>(ep),
                    reinterpret_cast<detail::DepthwiseTap*>(own));
}

template <class X, class Ep>
void depthwise_i8(const Worker& w, const X* x, const float* packed, const ConvShape& s, const Scales8& q, const Ep& ep,
                  void* scratch) {
  char* own = static_cast<char*>(scratch) + w.id * depthwise_scratch_bytes(s, 1);
  const float zero = q.zero == nullptr ? 0.0f : static_cast<float>(q.zero[0]);
  detail::depthwise(w, x, packed, s, {q.column_scale, q.scale[0], zero},
                    detail::emitter<detail::kDepthwiseChannels, float>(ep),
                    reinterpret_cast<detail::DepthwiseTap*>(own));
}

}  // namespace mcomp
