// Reading and writing by index: embedding, gather, scatter, index_select, advanced indexing, masked_scatter.
//
//     embedding(w, table, rows, width, ids, count, out, fault);               // out [count, width]
//     embedding_coded(w, table, scale, rows, width, group, ids, count, out, fault);   // a table of integers
//     index_select(w, x, index, y, outer, n, inner, m, fault);                // x [outer, n, inner], y [outer, m,
//     inner] gather(w, x, x_stride, n, index, out, rank, index_size, dim, fault);    // torch.gather
//     scatter<Scatter::add>(w, out, out_stride, n, index, src, src_stride, rank, index_size, dim, fault);
//     index_get(w, args, x, out, fault);                                      // x[a, :, b], see IndexArgs
// I is int32_t or int64_t. An index out of range raises the fault and nothing is read or written out of bounds.
// Negative indices count from the end in advanced indexing only, as in torch. Bytes: what is read and written, once.
#pragma once

#include <cstdint>

#include "copy.hpp"
#include "fault.hpp"
#include "math.hpp"
#include "reduce.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

// out[i] = table[ids[i]], rows of `width`. A row at a fault is 0.
template <class T, class Out, class I>
void embedding(const Worker& w, const T* table, int64_t rows, int64_t width, const I* ids, int64_t count, Out* out,
               const Fault& fault) {
  const Range r = w.range(count);
  for (int64_t i = r.begin; i < r.end; ++i) {
    const int64_t id = int64_t(ids[i]);
    Out* to = out + i * width;
    if (id < 0 || id >= rows) {
      fault.raise();
      for (int64_t j = 0; j < width; ++j) to[j] = convert<Out>(0.0f);
      continue;
    }
    convert_row(to, table + id * width, width);
  }
}

// As embedding, of integers: out[i, j] = table[ids[i], j] * scale[ids[i], j / group], with width / group scales a row.
template <class Q, class Out, class I>
void embedding_coded(const Worker& w, const Q* table, const float* scale, int64_t rows, int64_t width, int64_t group,
                     const I* ids, int64_t count, Out* out, const Fault& fault) {
  const Range r = w.range(count);
  for (int64_t i = r.begin; i < r.end; ++i) {
    const int64_t id = int64_t(ids[i]);
    const bool inside = id >= 0 && id < rows;
    if (!inside) fault.raise();
    Out* to = out + i * width;
    for (int64_t begin = 0, s = 0; begin < width; begin += group, ++s) {
      const float step = inside ? scale[id * (width / group) + s] : 0.0f;
      const Q* from = table + (inside ? id * width : 0);
      for (int64_t j = begin; j < begin + group; ++j) to[j] = convert<Out>(inside ? float(from[j]) * step : 0.0f);
    }
  }
}

enum class BagMode { sum, mean, max };

// out[b] = sum, mean or max of the rows ids[offsets[b]] .. ids[offsets[b + 1] - 1], skipping `padding`; an empty bag is
// 0. offsets: `bags` ascending starts; the last bag ends at `count`. weights (sum only) may be nullptr.
template <class T, class Out, class I>
void embedding_bag(const Worker& w, const T* table, int64_t rows, int64_t width, const I* ids, int64_t count,
                   const I* offsets, int64_t bags, const T* weights, int64_t padding, BagMode mode, Out* out,
                   const Fault& fault) {
  const Range r = w.range(bags);
  for (int64_t b = r.begin; b < r.end; ++b) {
    int64_t first = int64_t(offsets[b]), last = b + 1 < bags ? int64_t(offsets[b + 1]) : count;
    if (first < 0 || last > count || first > last) fault.raise(), first = last = 0;
    for (int64_t j = 0; j < width; ++j) {
      float acc = 0.0f;
      int64_t used = 0;
      for (int64_t i = first; i < last; ++i) {
        if (int64_t(ids[i]) == padding) continue;
        const int64_t id = checked_index(int64_t(ids[i]), rows, false, fault);
        if (rows == 0) continue;
        const float v = to_f32(table[id * width + j]) * (weights ? to_f32(weights[i]) : 1.0f);
        acc = mode == BagMode::max ? (used ? math::maximum(v, acc) : v) : acc + v;
        ++used;
      }
      out[b * width + j] = convert<Out>(mode == BagMode::mean && used ? acc / float(used) : acc);
    }
  }
}

// y[o, i, :] = x[o, index[i], :] for i < m.
template <class T, class I>
void index_select(const Worker& w, const T* x, const I* index, T* y, int64_t outer, int64_t n, int64_t inner, int64_t m,
                  const Fault& fault) {
  if (n == 0) {
    if (m > 0 && outer > 0 && inner > 0) fault.raise();
    return;
  }
  const Range r = w.range(outer * m);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t i = checked_index(int64_t(index[item % m]), n, false, fault);
    convert_row(y + item * inner, x + (item / m * n + i) * inner, inner);
  }
}

namespace detail {

// Calls f(offset in index, offsets by the two stride sets without `dim`, coordinate along dim) for this worker's share
// of all positions: shares never split a line along `dim`, so writers along it do not race.
template <class F>
inline void for_lines(const Worker& w, int rank, const int64_t* size, int dim, const int64_t* a, const int64_t* b,
                      F f) {
  int64_t lines = 1, step = 1;
  for (int d = 0; d < rank; ++d) lines *= d == dim ? 1 : size[d];
  for (int d = dim + 1; d < rank; ++d) step *= size[d];
  const int64_t length = rank == 0 ? 1 : size[dim];
  if (length == 0) return;
  const Range r = w.range(lines);
  for (int64_t line = r.begin; line < r.end; ++line) {
    int64_t rest = line, at_a = 0, at_b = 0;
    const int64_t start = (line / step) * step * length + line % step;
    for (int d = rank - 1; d >= 0; --d) {
      if (d == dim) continue;
      at_a += rest % size[d] * a[d];
      at_b += rest % size[d] * b[d];
      rest /= size[d];
    }
    for (int64_t i = 0; i < length; ++i) f(start + i * step, at_a, at_b, i);
  }
}

}  // namespace detail

// out[p] = x[p with index[p] along dim]; index and out contiguous with sizes `size`; n = size of x along dim. rank
// >= 1.
template <class T, class I>
void gather(const Worker& w, const T* x, const int64_t* x_stride, int64_t n, const I* index, T* out, int rank,
            const int64_t* size, int dim, const Fault& fault) {
  if (n == 0) {
    int64_t count = 1;
    for (int d = 0; d < rank; ++d) count *= size[d];
    if (count > 0) fault.raise();
    return;
  }
  detail::for_lines(w, rank, size, dim, x_stride, x_stride, [&](int64_t at, int64_t from, int64_t, int64_t) {
    out[at] = x[from + checked_index(int64_t(index[at]), n, false, fault) * x_stride[dim]];
  });
}

enum class Scatter { replace, add, multiply, maximum, minimum };

namespace detail {

template <Scatter Op, class T>
inline T scatter_join(T old, T value) {
  using C = std::conditional_t<is_small_float<T>::value, float, T>;
  if (Op == Scatter::replace) return value;
  const C a = convert<C>(old), b = convert<C>(value);
  if (Op == Scatter::add) return convert<T>(math::add(a, b));
  if (Op == Scatter::multiply) return convert<T>(math::mul(a, b));
  return convert<T>(Op == Scatter::maximum ? math::maximum(a, b) : math::minimum(a, b));
}

}  // namespace detail

// out[p with index[p] along dim] = join(out[..], src[p]) in the order of p. out holds the input already; src_stride of
// zeros gives one scalar. scatter_reduce without include_self: first scatter the operation's neutral value with
// replace; its mean: add, then divide by counts made by adding ones.
template <Scatter Op, class T, class I>
void scatter(const Worker& w, T* out, const int64_t* out_stride, int64_t n, const I* index, const T* src,
             const int64_t* src_stride, int rank, const int64_t* size, int dim, const Fault& fault) {
  detail::for_lines(w, rank, size, dim, out_stride, src_stride, [&](int64_t at, int64_t to, int64_t from, int64_t i) {
    const int64_t k = int64_t(index[at]);
    if (k < 0 || k >= n) return fault.raise();
    T& cell = out[to + k * out_stride[dim]];
    cell = detail::scatter_join<Op>(cell, src[from + i * src_stride[dim]]);
  });
}

// x indexed by `tensors` index tensors, broadcast together, each along one dimension of x. Dimensions of the result are
// the index dimensions and the slice dimensions (those of x not indexed), at any place: strides say where.
template <class I>
struct IndexArgs {
  int tensors;
  const I* index[kMaxDims];
  int64_t bound[kMaxDims], x_stride[kMaxDims];  // size and stride of x along the indexed dimension, per tensor
  int index_rank;                               // broadcast shape of the index tensors
  int64_t index_size[kMaxDims], index_out_stride[kMaxDims];
  int64_t index_stride[kMaxDims][kMaxDims];  // [tensor][index dimension], 0 broadcasts
  int slice_rank;
  int64_t slice_size[kMaxDims], slice_x_stride[kMaxDims], slice_out_stride[kMaxDims];
};

namespace detail {

struct IndexPosition {
  int64_t x, out;
  bool valid;
};

template <class I>
inline IndexPosition locate(const IndexArgs<I>& a, int64_t position, const Fault& fault) {
  IndexPosition p{0, 0, true};
  int64_t at[kMaxDims] = {};
  for (int d = a.index_rank - 1; d >= 0; --d) {
    const int64_t i = position % a.index_size[d];
    position /= a.index_size[d];
    p.out += i * a.index_out_stride[d];
    for (int t = 0; t < a.tensors; ++t) at[t] += i * a.index_stride[t][d];
  }
  for (int t = 0; t < a.tensors; ++t) {
    const int64_t raw = int64_t(a.index[t][at[t]]), i = raw < 0 ? raw + a.bound[t] : raw;
    p.valid = p.valid && i >= 0 && i < a.bound[t];
    p.x += i * a.x_stride[t];
  }
  if (!p.valid) fault.raise();
  return p;
}

template <class I>
inline DimGroup slice_group(const IndexArgs<I>& a, const int64_t* stride) {
  DimGroup g{};
  g.rank = a.slice_rank;
  for (int d = 0; d < a.slice_rank; ++d) g.size[d] = a.slice_size[d], g.stride[d] = stride[d];
  return g;
}

// Splits the slice dimensions into rows along the innermost one.
template <class I>
struct SliceRows {
  DimGroup x, out;
  int64_t rows, length, x_step, out_step;
  explicit SliceRows(const IndexArgs<I>& a)
      : x(slice_group(a, a.slice_x_stride)),
        out(slice_group(a, a.slice_out_stride)),
        rows(1),
        length(1),
        x_step(1),
        out_step(1) {
    if (a.slice_rank == 0) return;
    const int last = a.slice_rank - 1;
    length = a.slice_size[last], x_step = a.slice_x_stride[last], out_step = a.slice_out_stride[last];
    x.rank = out.rank = last;
    rows = x.count();
  }
};

}  // namespace detail

// out = x[index...].
template <class T, class I>
void index_get(const Worker& w, const IndexArgs<I>& a, const T* x, T* out, const Fault& fault) {
  int64_t positions = 1;
  for (int d = 0; d < a.index_rank; ++d) positions *= a.index_size[d];
  const detail::SliceRows<I> s(a);
  if (s.length == 0 || s.rows == 0) return;
  const Range r = w.range(positions * s.rows);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const detail::IndexPosition p = detail::locate(a, item / s.rows, fault);
    T* to = out + p.out + s.out.offset(item % s.rows);
    if (!p.valid) continue;
    detail::copy_row(to, x + p.x + s.x.offset(item % s.rows), s.length, s.out_step, s.x_step);
  }
}

// x[index...] = values, or += with accumulate; `values` is addressed by the out strides (0 broadcasts). Of equal
// indices the last one wins. Workers share slice rows; within one, positions go in order.
template <class T, class I>
void index_put(const Worker& w, const IndexArgs<I>& a, T* x, const T* values, bool accumulate, const Fault& fault) {
  int64_t positions = 1;
  for (int d = 0; d < a.index_rank; ++d) positions *= a.index_size[d];
  const detail::SliceRows<I> s(a);
  if (s.length == 0 || s.rows == 0) return;
  const Range rows = s.rows > 1 ? w.range(s.rows) : Range{0, 1};
  const Range columns = s.rows > 1 ? Range{0, s.length} : w.range(s.length, 16);
  if (columns.empty()) return;
  for (int64_t position = 0; position < positions; ++position) {
    const detail::IndexPosition p = detail::locate(a, position, fault);
    if (!p.valid) continue;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      T* to = x + p.x + s.x.offset(row);
      const T* from = values + p.out + s.out.offset(row);
      for (int64_t i = columns.begin; i < columns.end; ++i) {
        T& cell = to[i * s.x_step];
        const T value = from[i * s.out_step];
        cell = accumulate ? detail::scatter_join<Scatter::add>(cell, value) : value;
      }
    }
  }
}

// y[i] = mask[i] ? the next element of source : x[i]; raises when the source is too short. Worker 0 alone works.
template <class T>
void masked_scatter(const Worker& w, const T* x, const bool* mask, const T* source, int64_t source_count, T* y,
                    int64_t n, const Fault& fault) {
  if (w.id != 0) return;
  int64_t next = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (mask[i] && next >= source_count) fault.raise();
    y[i] = mask[i] && next < source_count ? source[next++] : x[i];
  }
}

}  // namespace mcomp
