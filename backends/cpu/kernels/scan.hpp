// Running reductions along the middle of [outer, n, inner]: cumsum, cumprod, cummax, cummin, logcumsumexp.
//
//     cumsum(w, x, y, outer, n, inner);                         // y may have another type: bool to int64
//     cumulative_extreme<true>(w, x, values, indices, outer, n, inner);      // cummax; false: cummin
// Floats accumulate in double, integers in int64 (wrapping). One read and one write an element.
#pragma once

#include <cstdint>
#include <limits>

#include "math.hpp"
#include "reduce.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

namespace detail {

template <class Wide, class In, class Out, class Step>
inline void scan(const Worker& w, const In* x, Out* y, int64_t outer, int64_t n, int64_t inner, Wide start, Step step) {
  const Range r = w.range(outer * inner);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t at = item / inner * n * inner + item % inner;
    Wide acc = start;
    for (int64_t i = 0; i < n; ++i) {
      acc = step(acc, convert<Wide>(x[at + i * inner]));
      y[at + i * inner] = convert<Out>(acc);
    }
  }
}

}  // namespace detail

template <class In, class Out>
void cumsum(const Worker& w, const In* x, Out* y, int64_t outer, int64_t n, int64_t inner) {
  using Wide = wide_sum_t<In>;
  detail::scan(w, x, y, outer, n, inner, Wide(0), [](Wide a, Wide b) { return math::add(a, b); });
}

template <class In, class Out>
void cumprod(const Worker& w, const In* x, Out* y, int64_t outer, int64_t n, int64_t inner) {
  using Wide = wide_sum_t<In>;
  detail::scan(w, x, y, outer, n, inner, Wide(1), [](Wide a, Wide b) { return math::mul(a, b); });
}

template <class In, class Out>
void logcumsumexp(const Worker& w, const In* x, Out* y, int64_t outer, int64_t n, int64_t inner) {
  const double start = -std::numeric_limits<double>::infinity();
  detail::scan(w, x, y, outer, n, inner, start, [](double a, double b) { return math::logaddexp(a, b); });
}

// Running largest (smallest) value and its index, the latest among equals; NaN, once met, stays.
template <bool Largest, class T>
void cumulative_extreme(const Worker& w, const T* x, T* values, int64_t* indices, int64_t outer, int64_t n,
                        int64_t inner) {
  using C = order_t<T>;
  const Range r = w.range(outer * inner);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t at = item / inner * n * inner + item % inner;
    if (n == 0) continue;
    C best = convert<C>(x[at]);
    int64_t index = 0;
    for (int64_t i = 0; i < n; ++i) {
      const C v = convert<C>(x[at + i * inner]);
      const bool better = math::is_nan(v) || (!math::is_nan(best) && (Largest ? v >= best : v <= best));
      if (better) best = v, index = i;
      values[at + i * inner] = convert<T>(best);
      if (indices) indices[at + i * inner] = index;
    }
  }
}

}  // namespace mcomp
