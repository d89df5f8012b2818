// torch's interpolate with antialias = True: linear and cubic over two axes, the kernel widened when shrinking.
//
//     const ResizeAxis axis[] = {resize_axis(H, OH, align, 0), resize_axis(W, OW, align, 0)};
//     resize_antialias(w, x, y, N * C, 1, axis, ResizeMode::cubic);          // channels first: [outer, H, W, inner =
//     1]
// Weights of an output position are the filter (triangle, or cubic with a = -0.5) stretched by max(1, scale),
// normalized. An output row combines input rows into one, then that one along W. T: float, double, bf16, f16.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "lanes.hpp"
#include "resize.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

namespace detail {

template <class C>
inline C antialias_filter(C x, bool cubic) {
  x = x < C(0) ? -x : x;
  if (!cubic) return x < C(1) ? C(1) - x : C(0);
  const C a = C(-0.5);
  if (x < C(1)) return ((a + C(2)) * x - (a + C(3))) * x * x + C(1);
  return x < C(2) ? (((x - C(5)) * x + C(8)) * x - C(4)) * a : C(0);
}

// The input positions [first, first + count) of one output position.
struct WideTaps {
  int64_t first, count;
};

inline int64_t antialias_width(const ResizeAxis& axis, bool cubic) {
  const double support = (cubic ? 2.0 : 1.0) * (axis.scale > 1.0 ? axis.scale : 1.0);
  return int64_t(2.0 * support) + 3;
}

template <class C>
inline WideTaps antialias_taps(const ResizeAxis& axis, bool cubic, int64_t o, C* weight) {
  const C scale = C(axis.scale), stretch = scale > C(1) ? scale : C(1);
  const C support = (cubic ? C(2) : C(1)) * stretch, center = scale * (C(o) + C(0.5));
  const int64_t first = max_i64(int64_t(center - support + C(0.5)), 0);
  const int64_t count = max_i64(min_i64(int64_t(center + support + C(0.5)), axis.in) - first, 0);
  C total = C(0);
  for (int64_t j = 0; j < count; ++j) {
    weight[j] = antialias_filter((C(j + first) - center + C(0.5)) / stretch, cubic);
    total += weight[j];
  }
  for (int64_t j = 0; j < count && total != C(0); ++j) weight[j] /= total;
  return {first, count};
}

}  // namespace detail

// x [outer, axis[0].in, axis[1].in, inner] to y [outer, axis[0].out, axis[1].out, inner], contiguous.
template <class T>
void resize_antialias(const Worker& w, const T* x, T* y, int64_t outer, int64_t inner, const ResizeAxis* axis,
                      ResizeMode mode) {
  using C = compute_t<T>;
  const bool cubic = mode == ResizeMode::cubic;
  const Range r = w.range(outer * axis[0].out);
  if (r.empty()) return;
  const int64_t length = axis[1].in * inner, high = detail::antialias_width(axis[0], cubic);
  const int64_t wide = detail::antialias_width(axis[1], cubic);
  C* memory = static_cast<C*>(std::malloc(size_t(length + high + wide) * sizeof(C)));
  if (memory == nullptr) std::abort();
  C *mixed = memory, *h_weight = memory + length, *w_weight = h_weight + high;
  for (int64_t item = r.begin; item < r.end; ++item) {
    const detail::WideTaps h = detail::antialias_taps(axis[0], cubic, item % axis[0].out, h_weight);
    const T* plane = x + item / axis[0].out * axis[0].in * length;
    for (int64_t c = 0; c < length; ++c) mixed[c] = C(0);
    for (int64_t i = 0; i < h.count; ++i) {
      const T* row = plane + (h.first + i) * length;
      const C s = h_weight[i];
      for (int64_t c = 0; c < length; ++c) mixed[c] += s * convert<C>(row[c]);
    }
    for (int64_t ow = 0; ow < axis[1].out; ++ow) {
      const detail::WideTaps v = detail::antialias_taps(axis[1], cubic, ow, w_weight);
      T* cell = y + (item * axis[1].out + ow) * inner;
      for (int64_t c = 0; c < inner; ++c) {
        C sum = C(0);
        for (int64_t j = 0; j < v.count; ++j) sum += w_weight[j] * mixed[(v.first + j) * inner + c];
        cell[c] = convert<T>(sum);
      }
    }
  }
  std::free(memory);
}

}  // namespace mcomp
