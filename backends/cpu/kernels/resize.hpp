// torch.nn.functional.interpolate: nearest, nearest-exact, linear and cubic over one to three axes.
//
//     const ResizeAxis axis[] = {resize_axis(1, 1, false, 0), resize_axis(H, OH, align, scale_h), resize_axis(W, OW,
//     align, 0)}; resize(w, x, y, N * C, 1, axis, ResizeMode::linear);      // channels first: [outer, D, H, W, inner =
//     1] resize(w, x, y, N, C, axis, ResizeMode::cubic);           // channels last
// scale is the user's scale factor when torch is told to keep it, else 0. Weights in float (double for double); a
// linear axis has 2 taps, a cubic one 4 (a = -0.75), products of taps over the axes. T: float, double, bf16, f16,
// uint8.
#pragma once

#include <cstdint>

#include "lanes.hpp"
#include "math.hpp"
#include "reduce.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

enum class ResizeMode { nearest, nearest_exact, linear, cubic };

struct ResizeAxis {
  int64_t in, out;
  double scale;  // input positions per output position
  bool align_corners;
};

inline ResizeAxis resize_axis(int64_t in, int64_t out, bool align_corners, double scale_factor) {
  if (align_corners) return {in, out, out > 1 ? double(in - 1) / double(out - 1) : 0.0, true};
  return {in, out, scale_factor > 0.0 ? 1.0 / scale_factor : double(in) / double(out), false};
}

namespace detail {

template <class C>
struct Taps {
  int count;
  int64_t at[4];
  C weight[4];
};

// Cubic convolution weights for the fraction t, a = -0.75 (Keys 1981).
template <class C>
inline void cubic_weights(C t, C* weight) {
  const C a = C(-0.75), s = C(1) - t;
  const C t1 = t + C(1), s1 = s + C(1);
  weight[0] = ((a * t1 - C(5) * a) * t1 + C(8) * a) * t1 - C(4) * a;
  weight[1] = ((a + C(2)) * t - (a + C(3))) * t * t + C(1);
  weight[2] = ((a + C(2)) * s - (a + C(3))) * s * s + C(1);
  weight[3] = ((a * s1 - C(5) * a) * s1 + C(8) * a) * s1 - C(4) * a;
}

template <class C>
inline Taps<C> resize_taps(const ResizeAxis& axis, ResizeMode mode, int64_t o) {
  const C scale = C(axis.scale);
  const int64_t last = axis.in - 1;
  if (mode == ResizeMode::nearest || mode == ResizeMode::nearest_exact) {
    const C position = (mode == ResizeMode::nearest ? C(o) : C(o) + C(0.5)) * scale;
    return {1, {min_i64(int64_t(position), last)}, {C(1)}};
  }
  C position = axis.align_corners ? scale * C(o) : scale * (C(o) + C(0.5)) - C(0.5);
  if (mode == ResizeMode::linear) {
    position = position < C(0) ? C(0) : position;
    const int64_t i = min_i64(int64_t(position), last);
    const C t = min_i64(1, last - i) == 0 ? C(0) : position - C(i);
    return {2, {i, min_i64(i + 1, last)}, {C(1) - t, t}};
  }
  const C whole = math::floor(position);
  const int64_t i = int64_t(whole);
  Taps<C> taps{4, {}, {}};
  for (int64_t k = 0; k < 4; ++k) taps.at[k] = max_i64(0, min_i64(i - 1 + k, last));
  cubic_weights(position - whole, taps.weight);
  return taps;
}

template <class T, class C>
inline T round_to(C v) {
  if (is_real_float<T>::value) return convert<T>(v);
  const C r = math::round(v);
  const C low = C(std::numeric_limits<T>::lowest()), high = C(std::numeric_limits<T>::max());
  return T(r < low ? low : (r > high ? high : r));
}

}  // namespace detail

// x [outer, in of 3 axes, inner] to y [outer, out of 3 axes, inner], contiguous. Input sizes must be positive.
template <class T>
void resize(const Worker& w, const T* x, T* y, int64_t outer, int64_t inner, const ResizeAxis* axis, ResizeMode mode) {
  using C = compute_t<T>;
  const bool copies = mode == ResizeMode::nearest || mode == ResizeMode::nearest_exact;
  const Range r = w.range(outer * axis[0].out * axis[1].out);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t oh = item % axis[1].out, od = item / axis[1].out % axis[0].out, o = item / axis[1].out / axis[0].out;
    const detail::Taps<C> d =
        detail::resize_taps<C>(axis[0], axis[0].in == 1 && axis[0].out == 1 ? ResizeMode::nearest : mode, od);
    const detail::Taps<C> h =
        detail::resize_taps<C>(axis[1], axis[1].in == 1 && axis[1].out == 1 ? ResizeMode::nearest : mode, oh);
    for (int64_t ow = 0; ow < axis[2].out; ++ow) {
      const detail::Taps<C> v = detail::resize_taps<C>(axis[2], mode, ow);
      T* to = y + (item * axis[2].out + ow) * inner;
      if (copies) {
        const int64_t at = ((o * axis[0].in + d.at[0]) * axis[1].in + h.at[0]) * axis[2].in + v.at[0];
        convert_row(to, x + at * inner, inner);
        continue;
      }
      for (int64_t c0 = 0; c0 < inner; c0 += 64) {
        const int64_t count = min_i64(64, inner - c0);
        C sum[64];
        for (int64_t c = 0; c < count; ++c) sum[c] = C(0);
        for (int i = 0; i < d.count; ++i)
          for (int j = 0; j < h.count; ++j) {
            const int64_t row = ((o * axis[0].in + d.at[i]) * axis[1].in + h.at[j]) * axis[2].in;
            const C weight = d.weight[i] * h.weight[j];
            for (int k = 0; k < v.count; ++k) {
              const T* from = x + (row + v.at[k]) * inner + c0;
              const C s = weight * v.weight[k];
              for (int64_t c = 0; c < count; ++c) sum[c] += s * convert<C>(from[c]);
            }
          }
        for (int64_t c = 0; c < count; ++c) to[c0 + c] = detail::round_to<T>(sum[c]);
      }
    }
  }
}

}  // namespace mcomp
