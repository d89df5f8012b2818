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
#include <cstdlib>
#include <limits>

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

namespace detail {

// Taps of all output positions of one axis.
template <class C>
class AxisTaps {
 public:
  AxisTaps(const ResizeAxis& axis, ResizeMode mode)
      : taps_(static_cast<Taps<C>*>(std::malloc(size_t(axis.out > 0 ? axis.out : 1) * sizeof(Taps<C>)))) {
    if (taps_ == nullptr) std::abort();
    for (int64_t o = 0; o < axis.out; ++o) taps_[o] = resize_taps<C>(axis, mode, o);
  }
  ~AxisTaps() { std::free(taps_); }
  AxisTaps(const AxisTaps&) = delete;
  AxisTaps& operator=(const AxisTaps&) = delete;
  const Taps<C>& operator[](int64_t o) const { return taps_[o]; }

 private:
  Taps<C>* taps_;
};

inline ResizeMode axis_mode(const ResizeAxis& axis, ResizeMode mode) {
  return axis.in == 1 && axis.out == 1 ? ResizeMode::nearest : mode;
}

}  // namespace detail

// x [outer, in of 3 axes, inner] to y [outer, out of 3 axes, inner], contiguous. Input sizes must be positive.
// A row of the output combines input rows over the first two axes into one, then that one along the last axis.
template <class T>
void resize(const Worker& w, const T* x, T* y, int64_t outer, int64_t inner, const ResizeAxis* axis, ResizeMode mode) {
  using C = compute_t<T>;
  const bool copies = mode == ResizeMode::nearest || mode == ResizeMode::nearest_exact;
  const Range r = w.range(outer * axis[0].out * axis[1].out);
  if (r.empty()) return;
  const detail::AxisTaps<C> taps(axis[2], mode);
  const int64_t length = axis[2].in * inner;
  C* mixed = copies ? nullptr : static_cast<C*>(std::malloc(size_t(length > 0 ? length : 1) * sizeof(C)));
  if (!copies && mixed == nullptr) std::abort();
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t oh = item % axis[1].out, od = item / axis[1].out % axis[0].out, o = item / axis[1].out / axis[0].out;
    const detail::Taps<C> d = detail::resize_taps<C>(axis[0], detail::axis_mode(axis[0], mode), od);
    const detail::Taps<C> h = detail::resize_taps<C>(axis[1], detail::axis_mode(axis[1], mode), oh);
    T* to = y + item * axis[2].out * inner;
    for (int i = 0; i < d.count; ++i)
      for (int j = 0; j < h.count && !copies; ++j) {
        const T* row = x + ((o * axis[0].in + d.at[i]) * axis[1].in + h.at[j]) * length;
        const C s = d.weight[i] * h.weight[j];
        if (i + j == 0) {
          for (int64_t c = 0; c < length; ++c) mixed[c] = s * convert<C>(row[c]);
        } else {
          for (int64_t c = 0; c < length; ++c) mixed[c] += s * convert<C>(row[c]);
        }
      }
    const T* nearest = x + ((o * axis[0].in + d.at[0]) * axis[1].in + h.at[0]) * length;
    for (int64_t ow = 0; ow < axis[2].out; ++ow) {
      const detail::Taps<C>& v = taps[ow];
      T* cell = to + ow * inner;
      if (copies) {
        for (int64_t c = 0; c < inner; ++c) cell[c] = nearest[v.at[0] * inner + c];
      } else if (v.count == 2) {
        const C *a = mixed + v.at[0] * inner, *b = mixed + v.at[1] * inner;
        for (int64_t c = 0; c < inner; ++c) cell[c] = detail::round_to<T>(v.weight[0] * a[c] + v.weight[1] * b[c]);
      } else {
        const C *a = mixed + v.at[0] * inner, *b = mixed + v.at[1] * inner, *e = mixed + v.at[2] * inner,
                *f = mixed + v.at[3] * inner;
        for (int64_t c = 0; c < inner; ++c)
          cell[c] =
              detail::round_to<T>(v.weight[0] * a[c] + v.weight[1] * b[c] + v.weight[2] * e[c] + v.weight[3] * f[c]);
      }
    }
  }
  std::free(mixed);
}

}  // namespace mcomp
