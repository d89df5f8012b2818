// Reductions over a row that vectorize without reassociation flags: independent partial results per lane.
//
//     const double s = lane_sum(n, [&](int64_t i) { return float(x[i]); });
//     const float top = lane_max(n, [&](int64_t i) { return float(x[i]); });   // ignores NaN, -inf for n = 0
// Sums add blocks of 2048 terms in float lanes and the blocks in double: a sum of floats is within kSumDepth * 2^-24 of
// the sum of magnitudes.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "isa.hpp"

// Before a loop: its iterations are independent, also where an output is exactly an input (in place). Without it the
// compiler takes the scalar version of a loop whose output overlaps an input.
#if defined(__clang__)
#define MCOMP_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define MCOMP_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace mcomp {

// What values of type T are accumulated in: double for double, float for every narrower float.
template <class T>
using compute_t = std::conditional_t<std::is_same<T, double>::value, double, float>;

constexpr int kSumLanes = 64;
constexpr int64_t kSumBlock = 2048;
// Additions from the lanes of a vector to its sum, and those that a term of a block passes through.
constexpr int kVectorLevels = kLanes == 16 ? 4 : kLanes == 8 ? 3 : 2;
constexpr int kSumDepth = int(kSumBlock) / kSumLanes - 1 + kSumLanes / kLanes - 1 + kVectorLevels;

namespace detail {

template <class F>
inline auto block_sum(int64_t begin, int64_t end, const F& f) -> decltype(f(begin)) {
  decltype(f(begin)) lanes[kSumLanes];
  for (int j = 0; j < kSumLanes; ++j) lanes[j] = 0;
  int64_t i = begin;
  for (; i + kSumLanes <= end; i += kSumLanes)
    for (int j = 0; j < kSumLanes; ++j) lanes[j] += f(i + j);
  for (int j = 0; i < end; ++i, ++j) lanes[j] += f(i);
  if constexpr (std::is_same<decltype(f(begin)), float>::value) {
    vf32 total = vload(lanes);
    for (int j = kLanes; j < kSumLanes; j += kLanes) total += vload(lanes + j);
    return vsum(total);
  } else {
    for (int width = kSumLanes / 2; width > 0; width /= 2)
      for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
    return lanes[0];
  }
}

}  // namespace detail

// Sum of f(0) .. f(n - 1), f returning float or double.
template <class F>
inline double lane_sum(int64_t n, const F& f) {
  if (n <= kSumBlock) return double(detail::block_sum(0, n, f));
  double total = 0.0;
  for (int64_t i = 0; i < n; i += kSumBlock)
    total += double(detail::block_sum(i, i + kSumBlock < n ? i + kSumBlock : n, f));
  return total;
}

// Largest of f(0) .. f(n - 1), f returning float or double; NaN terms are passed over.
template <class F>
inline auto lane_max(int64_t n, const F& f) -> decltype(f(n)) {
  using T = decltype(f(n));
  T lanes[kSumLanes];
  const T lowest = -std::numeric_limits<T>::infinity();
  for (int j = 0; j < kSumLanes; ++j) lanes[j] = lowest;
  int64_t i = 0;
  for (; i + kSumLanes <= n; i += kSumLanes)
    for (int j = 0; j < kSumLanes; ++j) {
      const T v = f(i + j);
      lanes[j] = v > lanes[j] ? v : lanes[j];
    }
  for (int j = 0; i < n; ++i, ++j) {
    const T v = f(i);
    lanes[j] = v > lanes[j] ? v : lanes[j];
  }
  if constexpr (std::is_same<T, float>::value) {
    vf32 top = vload(lanes);
    for (int j = kLanes; j < kSumLanes; j += kLanes) top = vmax(top, vload(lanes + j));
    return vreduce_max(top);
  } else {
    for (int width = kSumLanes / 2; width > 0; width /= 2)
      for (int j = 0; j < width; ++j) lanes[j] = lanes[j + width] > lanes[j] ? lanes[j + width] : lanes[j];
    return lanes[0];
  }
}

}  // namespace mcomp
