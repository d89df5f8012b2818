// softmax, log_softmax and logsumexp over one dimension of [outer, n, inner], contiguous.
//
//     softmax(w, x, y, outer, n, /*inner=*/1);                  // last dimension
//     for (int64_t row = r.begin; row < r.end; ++row) {         // fused: compute the row, then normalize it in place
//       for (int64_t i = 0; i < n; ++i) t[i] = x[row * n + i] * scale + mask[i];
//       softmax_row(t, y + row * n, n);
//     }
// A row of -inf, or one with NaN or +inf, gives NaN. About 20 FLOPs and one read and write an element. T is float, bf16,
// f16 (computed in float) or double (computed in double).
//
// Error of float results, to first order in u = 2^-24, with t = |x - max|:
//   softmax: u (t + ln n + d + 11) |y|, and below 2^-126 perhaps 0;   log_softmax: u (t + 5 ln n + d + 5 + |y|)
//   logsumexp: u (5 ln n + d + 5 + |y|)
// d is the number of additions that a term of a sum passes through: kSumDepth along rows, kColumnBlock along columns. An
// exponential is within 4 u and u t of rounding its argument; weighted by the results p = e^-t / sum these t are at most
// -sum(p ln p) <= ln n. The logarithm of the sum, at most ln n, is within 4 u.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "lanes.hpp"
#include "math.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

// y = exp(x - max) / sum. `y` may be `x`.
template <class In, class Out>
inline void softmax_row(const In* x, Out* y, int64_t n) {
  using C = compute_t<In>;
  const C top = lane_max(n, [&](int64_t i) { return convert<C>(x[i]); });
  if (std::is_same<Out, C>::value) {
    MCOMP_INDEPENDENT
    for (int64_t i = 0; i < n; ++i) y[i] = convert<Out>(math::exp_nonpositive(convert<C>(x[i]) - top));
    const C scale = C(1) / C(lane_sum(n, [&](int64_t i) { return convert<C>(y[i]); }));
    MCOMP_INDEPENDENT
    for (int64_t i = 0; i < n; ++i) y[i] = convert<Out>(convert<C>(y[i]) * scale);
    return;
  }
  const C scale = C(1) / C(lane_sum(n, [&](int64_t i) { return math::exp_nonpositive(convert<C>(x[i]) - top); }));
  MCOMP_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) y[i] = convert<Out>(math::exp_nonpositive(convert<C>(x[i]) - top) * scale);
}

// log(sum(exp(x))): -inf for an empty row or one of -inf, +inf where the largest is +inf.
template <class In>
inline compute_t<In> logsumexp_row(const In* x, int64_t n) {
  using C = compute_t<In>;
  const C top = lane_max(n, [&](int64_t i) { return convert<C>(x[i]); });
  const C base = math::is_inf(top) ? C(0) : top;
  return math::log(C(lane_sum(n, [&](int64_t i) { return math::exp(convert<C>(x[i]) - base); }))) + base;
}

// y = x - logsumexp(x), with torch's limits: a row of -inf gives NaN. `y` may be `x`.
template <class In, class Out>
inline void log_softmax_row(const In* x, Out* y, int64_t n) {
  using C = compute_t<In>;
  const C top = lane_max(n, [&](int64_t i) { return convert<C>(x[i]); });
  const C shift = math::log(C(lane_sum(n, [&](int64_t i) { return math::exp_nonpositive(convert<C>(x[i]) - top); })));
  MCOMP_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) y[i] = convert<Out>((convert<C>(x[i]) - top) - shift);
}

namespace detail {

constexpr int64_t kSoftmaxTile = 64;
// Terms of a column that are added in float; blocks of them are added in double.
constexpr int64_t kColumnBlock = 256;

// [n, width] columns at stride `inner`, width <= kSoftmaxTile: maximum and sum per column. put(i, j, value) takes the
// results row by row, done(i) follows each row.
template <bool Log, class In, class Put, class Done>
MCOMP_INLINE void softmax_columns(const In* x, int64_t n, int64_t inner, int64_t width, const Put& put,
                                  const Done& done) {
  using C = compute_t<In>;
  C top[kSoftmaxTile], sum[kSoftmaxTile];
  double total[kSoftmaxTile];
  for (int64_t j = 0; j < width; ++j) top[j] = -std::numeric_limits<C>::infinity(), total[j] = 0.0;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < width; ++j) {
      const C v = convert<C>(x[i * inner + j]);
      top[j] = v > top[j] ? v : top[j];
    }
  for (int64_t first = 0; first < n; first += kColumnBlock) {
    for (int64_t j = 0; j < width; ++j) sum[j] = C(0);
    for (int64_t i = first; i < min_i64(first + kColumnBlock, n); ++i)
      for (int64_t j = 0; j < width; ++j) sum[j] += math::exp_nonpositive(convert<C>(x[i * inner + j]) - top[j]);
    for (int64_t j = 0; j < width; ++j) total[j] += double(sum[j]);
  }
  for (int64_t j = 0; j < width; ++j) sum[j] = Log ? math::log(C(total[j])) : C(1) / C(total[j]);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < width; ++j) {
      const C v = convert<C>(x[i * inner + j]) - top[j];
      put(i, j, Log ? v - sum[j] : math::exp_nonpositive(v) * sum[j]);
    }
    done(i);
  }
}

template <bool Log, class In, class Out>
inline void softmax_strided(const Worker& w, const In* x, Out* y, int64_t outer, int64_t n, int64_t inner) {
  const int64_t tiles = (inner + kSoftmaxTile - 1) / kSoftmaxTile;
  const Range r = w.range(outer * tiles);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t j = item % tiles * kSoftmaxTile, at = item / tiles * n * inner + j;
    const int64_t width = inner - j < kSoftmaxTile ? inner - j : kSoftmaxTile;
    const auto put = [&](int64_t i, int64_t j, compute_t<In> v) MCOMP_LAMBDA { y[at + i * inner + j] = convert<Out>(v); };
    softmax_columns<Log>(x + at, n, inner, width, put, [](int64_t) {});
  }
}

}  // namespace detail

template <class In, class Out>
void softmax(const Worker& w, const In* x, Out* y, int64_t outer, int64_t n, int64_t inner) {
  if (inner != 1) return detail::softmax_strided<false>(w, x, y, outer, n, inner);
  const Range r = w.range(outer);
  for (int64_t row = r.begin; row < r.end; ++row) softmax_row(x + row * n, y + row * n, n);
}

template <class In, class Out>
void log_softmax(const Worker& w, const In* x, Out* y, int64_t outer, int64_t n, int64_t inner) {
  if (inner != 1) return detail::softmax_strided<true>(w, x, y, outer, n, inner);
  const Range r = w.range(outer);
  for (int64_t row = r.begin; row < r.end; ++row) log_softmax_row(x + row * n, y + row * n, n);
}

// y[outer, inner] = log(sum over n of exp(x[outer, n, inner])).
template <class In, class Out>
void logsumexp(const Worker& w, const In* x, Out* y, int64_t outer, int64_t n, int64_t inner) {
  using C = compute_t<In>;
  const Range r = w.range(outer * inner);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const In* column = x + item / inner * n * inner + item % inner;
    if (inner == 1) {
      y[item] = convert<Out>(logsumexp_row(column, n));
      continue;
    }
    C top = -std::numeric_limits<C>::infinity();
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) top = convert<C>(column[i * inner]) > top ? convert<C>(column[i * inner]) : top;
    const C base = math::is_inf(top) ? C(0) : top;
    for (int64_t first = 0; first < n; first += detail::kColumnBlock) {
      C part = C(0);
      for (int64_t i = first; i < min_i64(first + detail::kColumnBlock, n); ++i)
        part += math::exp(convert<C>(column[i * inner]) - base);
      sum += double(part);
    }
    y[item] = convert<Out>(math::log(C(sum)) + base);
  }
}

}  // namespace mcomp
