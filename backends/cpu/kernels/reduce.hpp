// Reductions over the middle of [outer, n, inner], or over any dimensions of a strided tensor.
//
//     reduce(w, Sum<float>{}, x, y, outer, n, inner);           // y [outer, inner]
//     reduce_strided(w, Max<float>{}, x, y, {2, {B, D}, {L * D, 1}}, {1, {L}, {D}});   // kept, reduced dimensions
//     total = reduce_terms(Sum<float>{}, n, [&](int64_t i) MCOMP_LAMBDA { return math::exp(x[i]); });  // on the way
//     arg_reduce<true>(w, x, values_or_null, indices, outer, n, inner);                // argmax; false: argmin
// An operation is a class with Acc (a lane's partial result), Wide (a block's), start, step, merge, widen, join,
// finish. Floats: blocks of 2048 terms in 64 float lanes, blocks added in double. Integers and bool accumulate in
// int64, wrapping. One read of x. Max and Min propagate NaN.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "copy.hpp"
#include "lanes.hpp"
#include "math.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

template <class T>
struct is_real_float : std::integral_constant<bool, std::is_floating_point<T>::value || is_small_float<T>::value> {};
// What terms of T are summed in: float, double or int64.
template <class T>
using sum_t = std::conditional_t<is_real_float<T>::value, compute_t<T>, int64_t>;
template <class T>
using wide_sum_t = std::conditional_t<is_real_float<T>::value, double, int64_t>;
// What values of T are compared in.
template <class T>
using order_t = std::conditional_t<is_small_float<T>::value, float, T>;

// Lanes of rows shorter than kSumLanes.
constexpr int kShortLanes = 16;

template <class In>
struct Sum {
  using Acc = sum_t<In>;
  using Wide = wide_sum_t<In>;
  Acc start() const { return Acc(0); }
  Acc step(Acc a, In x) const { return math::add(a, convert<Acc>(x)); }
  Acc merge(Acc a, Acc b) const { return math::add(a, b); }
  Wide widen(Acc a) const { return Wide(a); }
  Wide join(Wide a, Wide b) const { return math::add(a, b); }
  template <class Out>
  Out finish(Wide a, int64_t) const {
    return convert<Out>(a);
  }
};

template <class In>
struct Mean : Sum<In> {
  template <class Out>
  Out finish(typename Sum<In>::Wide a, int64_t n) const {
    return convert<Out>(double(a) / double(n));
  }
};

template <class In>
struct Prod {
  using Acc = sum_t<In>;
  using Wide = wide_sum_t<In>;
  Acc start() const { return Acc(1); }
  Acc step(Acc a, In x) const { return math::mul(a, convert<Acc>(x)); }
  Acc merge(Acc a, Acc b) const { return math::mul(a, b); }
  Wide widen(Acc a) const { return Wide(a); }
  Wide join(Wide a, Wide b) const { return math::mul(a, b); }
  template <class Out>
  Out finish(Wide a, int64_t) const {
    return convert<Out>(a);
  }
};

template <class In>
struct Max {
  using Acc = order_t<In>;
  using Wide = Acc;
  Acc start() const {
    return is_real_float<In>::value ? Acc(-std::numeric_limits<compute_t<In>>::infinity())
                                    : std::numeric_limits<Acc>::lowest();
  }
  Acc step(Acc a, In x) const { return math::maximum(convert<Acc>(x), a); }
  Acc merge(Acc a, Acc b) const { return math::maximum(a, b); }
  Wide widen(Acc a) const { return a; }
  Wide join(Wide a, Wide b) const { return math::maximum(a, b); }
  template <class Out>
  Out finish(Wide a, int64_t) const {
    return convert<Out>(a);
  }
};

template <class In>
struct Min {
  using Acc = order_t<In>;
  using Wide = Acc;
  Acc start() const {
    return is_real_float<In>::value ? Acc(std::numeric_limits<compute_t<In>>::infinity())
                                    : std::numeric_limits<Acc>::max();
  }
  Acc step(Acc a, In x) const { return math::minimum(convert<Acc>(x), a); }
  Acc merge(Acc a, Acc b) const { return math::minimum(a, b); }
  Wide widen(Acc a) const { return a; }
  Wide join(Wide a, Wide b) const { return math::minimum(a, b); }
  template <class Out>
  Out finish(Wide a, int64_t) const {
    return convert<Out>(a);
  }
};

template <class In>
struct Any {
  using Acc = int32_t;
  using Wide = int32_t;
  Acc start() const { return 0; }
  Acc step(Acc a, In x) const { return a | int32_t(convert<bool>(x)); }
  Acc merge(Acc a, Acc b) const { return a | b; }
  Wide widen(Acc a) const { return a; }
  Wide join(Wide a, Wide b) const { return a | b; }
  template <class Out>
  Out finish(Wide a, int64_t) const {
    return convert<Out>(a != 0);
  }
};

template <class In>
struct All {
  using Acc = int32_t;
  using Wide = int32_t;
  Acc start() const { return 1; }
  Acc step(Acc a, In x) const { return a & int32_t(convert<bool>(x)); }
  Acc merge(Acc a, Acc b) const { return a & b; }
  Wide widen(Acc a) const { return a; }
  Wide join(Wide a, Wide b) const { return a & b; }
  template <class Out>
  Out finish(Wide a, int64_t) const {
    return convert<Out>(a != 0);
  }
};

// Vector norms of real floats. Norm1 and Norm2; NormP for any other finite `order`, where 0 counts the nonzeros.
// Infinite orders are Max and Min over absolute values: MaxAbs, MinAbs.
template <class In>
struct Norm1 : Sum<In> {
  using Acc = sum_t<In>;
  Acc step(Acc a, In x) const { return a + math::abs(convert<Acc>(x)); }
};
template <class In>
struct Norm2 : Sum<In> {
  using Acc = sum_t<In>;
  Acc step(Acc a, In x) const { return a + convert<Acc>(x) * convert<Acc>(x); }
  template <class Out>
  Out finish(double a, int64_t) const {
    return convert<Out>(math::sqrt(a));
  }
};
template <class In>
struct NormP : Sum<In> {
  using Acc = sum_t<In>;
  double order = 0.0;
  Acc step(Acc a, In x) const {
    const Acc v = math::abs(convert<Acc>(x));
    return a + (order == 0.0 ? (v != Acc(0) ? Acc(1) : Acc(0)) : math::pow(v, Acc(order)));
  }
  template <class Out>
  Out finish(double a, int64_t) const {
    return convert<Out>(order == 0.0 ? a : math::pow(a, 1.0 / order));
  }
};
template <class In>
struct MaxAbs : Max<In> {
  using Acc = typename Max<In>::Acc;
  Acc start() const { return Acc(0); }
  Acc step(Acc a, In x) const { return math::maximum(math::abs(convert<Acc>(x)), a); }
};
template <class In>
struct MinAbs : Min<In> {
  using Acc = typename Min<In>::Acc;
  Acc step(Acc a, In x) const { return math::minimum(math::abs(convert<Acc>(x)), a); }
};

// A group of dimensions of a strided tensor.
struct DimGroup {
  int rank;
  int64_t size[kMaxDims], stride[kMaxDims];
  int64_t count() const {
    int64_t n = 1;
    for (int d = 0; d < rank; ++d) n *= size[d];
    return n;
  }
  // Element offset of the flat index i.
  int64_t offset(int64_t i) const {
    int64_t at = 0;
    for (int d = rank - 1; d >= 0; --d) {
      at += i % size[d] * stride[d];
      i /= size[d];
    }
    return at;
  }
};

namespace detail {

// Of the terms f(first) ... f(last - 1), in so many lanes.
template <int Lanes, class Op, class F>
MCOMP_INLINE typename Op::Acc reduce_block(const Op& op, int64_t first, int64_t last, const F& f) {
  typename Op::Acc lanes[Lanes];
  for (int j = 0; j < Lanes; ++j) lanes[j] = op.start();
  int64_t i = first;
  for (; i + Lanes <= last; i += Lanes)
    for (int j = 0; j < Lanes; ++j) lanes[j] = op.step(lanes[j], f(i + j));
  for (int j = 0; i < last; ++i, ++j) lanes[j] = op.step(lanes[j], f(i));
  for (int width = Lanes / 2; width > 0; width /= 2)
    for (int j = 0; j < width; ++j) lanes[j] = op.merge(lanes[j], lanes[j + width]);
  return lanes[0];
}

}  // namespace detail

// Of the terms f(0) ... f(n - 1), not finished.
template <class Op, class F>
inline typename Op::Wide reduce_terms(const Op& op, int64_t n, const F& f) {
  if (n < kSumLanes) return op.widen(detail::reduce_block<kShortLanes>(op, 0, n, f));
  typename Op::Wide total = op.widen(op.start());
  for (int64_t first = 0; first < n; first += kSumBlock)
    total = op.join(total, op.widen(detail::reduce_block<kSumLanes>(op, first, min_i64(first + kSumBlock, n), f)));
  return total;
}

// Columns [0, width), width <= kSumLanes, of n rows: row(i) gives the terms of row i as a function of the column. Column j
// goes to y[j * step].
template <class Op, class F, class Out>
inline void reduce_columns(const Op& op, const F& row, Out* y, int64_t step, int64_t n, int64_t width) {
  typename Op::Wide total[kSumLanes];
  for (int j = 0; j < kSumLanes; ++j) total[j] = op.widen(op.start());
  for (int64_t first = 0; first < n; first += 256) {
    const int64_t last = first + 256 < n ? first + 256 : n;
    typename Op::Acc lanes[kSumLanes];
    for (int j = 0; j < kSumLanes; ++j) lanes[j] = op.start();
    for (int64_t i = first; i < last; ++i) {
      const auto term = row(i);
      if (width == kSumLanes) {
        for (int j = 0; j < kSumLanes; ++j) lanes[j] = op.step(lanes[j], term(j));
      } else {
        for (int64_t j = 0; j < width; ++j) lanes[j] = op.step(lanes[j], term(j));
      }
    }
    for (int64_t j = 0; j < width; ++j) total[j] = op.join(total[j], op.widen(lanes[j]));
  }
  for (int64_t j = 0; j < width; ++j) y[j * step] = op.template finish<Out>(total[j], n);
}

namespace detail {

template <class Op, class In>
inline typename Op::Wide reduce_row(const Op& op, const In* x, int64_t n, int64_t stride) {
  if (stride == 1) return reduce_terms(op, n, [=](int64_t i) MCOMP_LAMBDA { return x[i]; });
  return reduce_terms(op, n, [=](int64_t i) MCOMP_LAMBDA { return x[i * stride]; });
}

}  // namespace detail

// x [outer, n, inner] to y [outer, inner], contiguous.
template <class Op, class In, class Out>
void reduce(const Worker& w, const Op& op, const In* x, Out* y, int64_t outer, int64_t n, int64_t inner) {
  if (inner == 1) {
    const Range r = w.range(outer);
    for (int64_t row = r.begin; row < r.end; ++row)
      y[row] = op.template finish<Out>(detail::reduce_row(op, x + row * n, n, 1), n);
    return;
  }
  const int64_t tiles = ceil_div(inner, kSumLanes);
  const Range r = w.range(outer * tiles);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t o = item / tiles, j = item % tiles * kSumLanes;
    const int64_t width = inner - j < kSumLanes ? inner - j : kSumLanes;
    const In* const from = x + o * n * inner + j;
    const auto row = [=](int64_t i) MCOMP_LAMBDA {
      const In* const at = from + i * inner;
      return [=](int64_t c) MCOMP_LAMBDA { return at[c]; };
    };
    reduce_columns(op, row, y + o * inner + j, 1, n, width);
  }
}

// Any dimensions: y is contiguous over the kept ones in their order.
template <class Op, class In, class Out>
void reduce_strided(const Worker& w, const Op& op, const In* x, Out* y, const DimGroup& kept, const DimGroup& reduced) {
  const int64_t total = reduced.count();
  const int inner = reduced.rank - 1;
  const int64_t length = inner >= 0 ? reduced.size[inner] : 1, stride = inner >= 0 ? reduced.stride[inner] : 1;
  const DimGroup rows = inner >= 0 ? DimGroup{reduced} : DimGroup{};
  const Range r = w.range(kept.count());
  for (int64_t item = r.begin; item < r.end; ++item) {
    const In* from = x + kept.offset(item);
    typename Op::Wide value = op.widen(op.start());
    for (int64_t i = 0; i < total; i += length)
      value = op.join(value, detail::reduce_row(op, from + (inner >= 0 ? rows.offset(i) : 0), length, stride));
    y[item] = op.template finish<Out>(value, total);
  }
}

namespace detail {

// Sum over n rows of f(value, column) for `width` <= kSumLanes columns at distance `row`, in double per 256 rows.
template <class C, class In, class F>
inline void column_sums(const In* x, int64_t n, int64_t row, int64_t width, double* total, const F& f) {
  for (int64_t j = 0; j < width; ++j) total[j] = 0.0;
  for (int64_t first = 0; first < n; first += 256) {
    C lanes[kSumLanes];
    for (int j = 0; j < kSumLanes; ++j) lanes[j] = C(0);
    for (int64_t i = first; i < min_i64(first + 256, n); ++i)
      for (int64_t j = 0; j < width; ++j) lanes[j] += f(convert<C>(x[i * row + j]), j);
    for (int64_t j = 0; j < width; ++j) total[j] += double(lanes[j]);
  }
}

}  // namespace detail

// Variance (or its root) with divisor max(0, n - correction), in two passes; mean_out may be nullptr.
template <class In, class Out>
void variance(const Worker& w, const In* x, Out* y, Out* mean_out, int64_t outer, int64_t n, int64_t inner,
              double correction, bool root) {
  using C = compute_t<In>;
  const double degrees = double(n) - correction > 0.0 ? double(n) - correction : 0.0;
  const int64_t tiles = ceil_div(inner, kSumLanes);
  const Range r = w.range(outer * tiles);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t o = item / tiles, j0 = item % tiles * kSumLanes, width = min_i64(kSumLanes, inner - j0);
    const In* from = x + o * n * inner + j0;
    double sums[kSumLanes], squares[kSumLanes];
    C center[kSumLanes];
    if (inner == 1) {
      sums[0] = double(lane_sum(n, [&](int64_t i) { return convert<C>(from[i]); }));
      const C mean = C(sums[0] / double(n));
      squares[0] = double(lane_sum(n, [&](int64_t i) {
        const C d = convert<C>(from[i]) - mean;
        return d * d;
      }));
    } else {
      detail::column_sums<C>(from, n, inner, width, sums, [](C v, int64_t) { return v; });
      for (int64_t j = 0; j < width; ++j) center[j] = C(sums[j] / double(n));
      detail::column_sums<C>(from, n, inner, width, squares, [&](C v, int64_t j) {
        const C d = v - center[j];
        return d * d;
      });
    }
    for (int64_t j = 0; j < width; ++j) {
      const double v = squares[j] / degrees;
      y[o * inner + j0 + j] = convert<Out>(root ? math::sqrt(v) : v);
      if (mean_out) mean_out[o * inner + j0 + j] = convert<Out>(sums[j] / double(n));
    }
  }
}

// Index of the first largest (or smallest) value along n, NaN before any other; `values` may be nullptr. n > 0.
template <bool Largest, class In>
void arg_reduce(const Worker& w, const In* x, In* values, int64_t* indices, int64_t outer, int64_t n, int64_t inner) {
  using C = order_t<In>;
  const Range r = w.range(outer * inner);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const In* from = x + item / inner * n * inner + item % inner;
    if (inner == 1 && n >= 2 * kSumLanes) {
      using Op = std::conditional_t<Largest, Max<In>, Min<In>>;
      const C extreme = detail::reduce_row(Op{}, from, n, 1);
      int64_t first = 0;
      while (math::is_nan(extreme) ? !math::is_nan(convert<C>(from[first])) : convert<C>(from[first]) != extreme)
        ++first;
      indices[item] = first;
      if (values) values[item] = from[first];
      continue;
    }
    C best = convert<C>(from[0]);
    int64_t at = 0;
    for (int64_t i = 1; i < n && !math::is_nan(best); ++i) {
      const C v = convert<C>(from[i * inner]);
      if ((Largest ? v > best : v < best) || math::is_nan(v)) best = v, at = i;
    }
    indices[item] = at;
    if (values) values[item] = from[at * inner];
  }
}

}  // namespace mcomp
