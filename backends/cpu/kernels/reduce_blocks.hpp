// Variance and logsumexp of values that come in blocks, read once each.
//
//     RunningVariance moments;                                   // or RunningLogSumExp<float>
//     reduce_blocks<float>(moments, n, [&](int64_t i) MCOMP_LAMBDA { return x[i] + y[i]; });
//     y[row] = moments.variance(correction);
// Blocks hold up to kSumBlock values; a block's sums are those of lanes.hpp. Blocks of variances are joined as in Chan,
// Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979), in double.
#pragma once

#include <cstdint>
#include <limits>

#include "lanes.hpp"
#include "math.hpp"
#include "threads.hpp"

namespace mcomp {

// Hands f(0) ... f(n - 1) to a state, block by block.
template <class C, class State, class F>
inline void reduce_blocks(State& state, int64_t n, const F& f) {
  alignas(64) C held[kSumBlock];
  for (int64_t first = 0; first < n; first += kSumBlock) {
    const int64_t count = min_i64(kSumBlock, n - first);
    MCOMP_INDEPENDENT
    for (int64_t i = 0; i < count; ++i) held[i] = f(first + i);
    state.add(static_cast<const C*>(held), count);
  }
}

struct RunningVariance {
  double count = 0.0, mean = 0.0, squares = 0.0;

  template <class C>
  void add(const C* x, int64_t n) {
    const double more = double(n), center = lane_sum(n, [&](int64_t i) { return x[i]; }) / more;
    const double around = lane_sum(n, [&](int64_t i) {
      const C d = x[i] - C(center);
      return d * d;
    });
    const double apart = center - mean, total = count + more;
    squares += around + apart * apart * (count * more / total);
    mean += apart * (more / total);
    count = total;
  }
  // With divisor max(0, count - correction).
  double variance(double correction) const { return squares / (count - correction > 0.0 ? count - correction : 0.0); }
  double deviation(double correction) const { return math::sqrt(variance(correction)); }
};

// log(sum(exp(x))): -inf of nothing or of -inf, +inf where the largest is +inf.
template <class C>
struct RunningLogSumExp {
  C top = -std::numeric_limits<C>::infinity();
  double sum = 0.0;

  void add(const C* x, int64_t n) {
    const C most = lane_max(n, [&](int64_t i) { return x[i]; });
    const C before = base();
    top = most > top ? most : top;
    const C now = base();
    const double added = lane_sum(n, [&](int64_t i) { return math::exp(x[i] - now); });
    sum = sum == 0.0 ? added : sum * math::exp(double(before) - double(now)) + added;
  }
  double result() const { return math::log(sum) + double(base()); }

 private:
  C base() const { return math::is_inf(top) ? C(0) : top; }
};

}  // namespace mcomp
