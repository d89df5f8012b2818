// Rotary position embedding.
//
//     RopeShape s{{B, H, L}, D, {xb, xh, xl}, {0, 0, D}, {0, 0, D}, {yb, yh, yl}, /*interleaved=*/false};
//     rope(w, s, x, cos, sin, y);
// y = x * cos + rotate(x) * sin over the last dimension, contiguous in all operands; rotate(x) = (-x2, x1) for the
// halves of x, or for each pair of neighbours. D is even. Other strides are the caller's, 0 broadcasts. y must not
// overlap x. Float arithmetic. 4 FLOPs an element; x is read twice from cache.
#pragma once

#include <cstdint>

#include "lanes.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

struct RopeShape {
  int64_t size[3], dim;
  int64_t x_stride[3], cos_stride[3], sin_stride[3], y_stride[3];
  bool interleaved;
};

// One row of `dim` values.
template <class T, class C, class Out>
inline void rope_row(const T* x, const C* cos, const C* sin, Out* y, int64_t dim, bool interleaved) {
  const int64_t half = dim / 2;
  if (interleaved) {
    MCOMP_INDEPENDENT
    for (int64_t i = 0; i < half; ++i) {
      const float a = to_f32(x[2 * i]), b = to_f32(x[2 * i + 1]);
      y[2 * i] = convert<Out>(a * to_f32(cos[2 * i]) - b * to_f32(sin[2 * i]));
      y[2 * i + 1] = convert<Out>(b * to_f32(cos[2 * i + 1]) + a * to_f32(sin[2 * i + 1]));
    }
    return;
  }
  MCOMP_INDEPENDENT
  for (int64_t i = 0; i < half; ++i) {
    const float a = to_f32(x[i]), b = to_f32(x[half + i]);
    y[i] = convert<Out>(a * to_f32(cos[i]) - b * to_f32(sin[i]));
    y[half + i] = convert<Out>(b * to_f32(cos[half + i]) + a * to_f32(sin[half + i]));
  }
}

template <class T, class C, class Out>
void rope(const Worker& w, const RopeShape& s, const T* x, const C* cos, const C* sin, Out* y) {
  const Range r = w.range(s.size[0] * s.size[1] * s.size[2]);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t at[3] = {item / s.size[2] / s.size[1], item / s.size[2] % s.size[1], item % s.size[2]};
    int64_t a = 0, b = 0, c = 0, d = 0;
    for (int k = 0; k < 3; ++k) {
      a += at[k] * s.x_stride[k], b += at[k] * s.cos_stride[k];
      c += at[k] * s.sin_stride[k], d += at[k] * s.y_stride[k];
    }
    rope_row(x + a, cos + b, sin + c, y + d, s.dim, s.interleaved);
  }
}

}  // namespace mcomp
