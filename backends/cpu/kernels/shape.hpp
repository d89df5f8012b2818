// Moving data around by position: pad, roll, triangles, one_hot, repeat_interleave, im2col and col2im.
//
//     pad(w, x, y, rank, size, from, before, after, PadMode::reflect, 0.0f); // negative amounts crop; from: strides
//     roll(w, x, y, outer, n, inner, shift);                                 // one dimension of [outer, n, inner]
//     triangle(w, x, y, batch, rows, columns, diagonal, /*upper=*/false);    // tril; true: triu
//     one_hot(w, index, y, count, classes, fault);
// flip is copy_strided with negative source strides; pixel_shuffle and unshuffle are copy_strided over six dimensions.
// Each output element is written once.
#pragma once

#include <cstdint>

#include "copy.hpp"
#include "fault.hpp"
#include "lanes.hpp"
#include "math.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

enum class PadMode { constant, reflect, replicate, circular };

namespace detail {

// Source coordinate of coordinate i (before padding taken away), or -1 for the constant.
inline int64_t padded_source(int64_t i, int64_t n, PadMode mode) {
  if (i >= 0 && i < n) return i;
  if (mode == PadMode::constant || n == 0) return -1;
  if (mode == PadMode::replicate) return i < 0 ? 0 : n - 1;
  if (mode == PadMode::circular) return math::remainder(i, n);
  if (n == 1) return 0;
  const int64_t period = 2 * (n - 1), j = math::remainder(i, period);
  return j < n ? j : period - j;
}

}  // namespace detail

// x of sizes `size`, its elements `from` apart, to contiguous y of sizes before + size + after (each at least 0). rank is
// at most kMaxDims.
template <class T>
void pad(const Worker& w, const T* x, T* y, int rank, const int64_t* size, const int64_t* from, const int64_t* before,
         const int64_t* after, PadMode mode, T value) {
  if (rank == 0) {
    if (w.id == 0) *y = *x;
    return;
  }
  const int inner = rank - 1;
  int64_t rows = 1;
  for (int d = 0; d < inner; ++d) rows *= size[d] + before[d] + after[d];
  const int64_t n = size[inner], low = before[inner], width = n + low + after[inner], step = from[inner];
  // Elements [first, last) of a row come straight from a row of x.
  const int64_t first = max_i64(0, min_i64(low, width)), last = max_i64(first, min_i64(width, low + n));
  const Range r = w.range(rows);
  int64_t place[kMaxDims];
  for (int64_t d = inner - 1, rest = r.begin; d >= 0; --d) {
    const int64_t extent = max_i64(1, size[d] + before[d] + after[d]);
    place[d] = rest % extent;
    rest /= extent;
  }
  for (int64_t row = r.begin; row < r.end; ++row) {
    const T* source = x;
    bool constant = false;
    for (int d = 0; d < inner; ++d) {
      const int64_t i = detail::padded_source(place[d] - before[d], size[d], mode);
      constant = constant || i < 0;
      source += max_i64(0, i) * from[d];
    }
    T* to = y + row * width;
    const auto edge = [&](int64_t begin, int64_t end) {
      if (constant || mode == PadMode::constant) {
        for (int64_t i = begin; i < end; ++i) to[i] = value;
        return;
      }
      for (int64_t i = begin; i < end; ++i) {
        const int64_t j = detail::padded_source(i - low, n, mode);
        to[i] = j < 0 ? value : source[j * step];
      }
    };
    if (constant) {
      edge(0, width);
    } else {
      edge(0, first);
      if (last > first) detail::copy_row(to + first, source + (first - low) * step, last - first, 1, step);
      edge(last, width);
    }
    for (int d = inner - 1; d >= 0 && ++place[d] == size[d] + before[d] + after[d]; --d) place[d] = 0;
  }
}

// y[o, (i + shift) mod n, :] = x[o, i, :].
template <class T>
void roll(const Worker& w, const T* x, T* y, int64_t outer, int64_t n, int64_t inner, int64_t shift) {
  if (n == 0) return;
  const int64_t s = math::remainder(shift, n);
  const Range r = w.range(outer);
  for (int64_t o = r.begin; o < r.end; ++o) {
    const int64_t at = o * n * inner;
    convert_row(y + at + s * inner, x + at, (n - s) * inner);
    convert_row(y + at, x + at + (n - s) * inner, s * inner);
  }
}

// Keeps columns j <= i + diagonal (lower) or j >= i + diagonal (upper) of each matrix, 0 elsewhere. y may be x.
template <class T>
void triangle(const Worker& w, const T* x, T* y, int64_t batch, int64_t rows, int64_t columns, int64_t diagonal,
              bool upper) {
  const Range r = w.range(batch * rows);
  for (int64_t row = r.begin; row < r.end; ++row) {
    const int64_t edge = row % rows + diagonal;
    for (int64_t j = 0; j < columns; ++j) {
      const bool keep = upper ? j >= edge : j <= edge;
      y[row * columns + j] = keep ? x[row * columns + j] : T{};
    }
  }
}

// y [count, classes] with 1 at index[i].
template <class I, class Out>
void one_hot(const Worker& w, const I* index, Out* y, int64_t count, int64_t classes, const Fault& fault) {
  const Range r = w.range(count);
  for (int64_t i = r.begin; i < r.end; ++i) {
    const int64_t k = int64_t(index[i]);
    if (k < 0 || k >= classes) fault.raise();
    for (int64_t j = 0; j < classes; ++j) y[i * classes + j] = convert<Out>(j == k ? 1.0f : 0.0f);
  }
}

// y [outer, n * repeats, inner]: each slice `repeats` times in a row.
template <class T>
void repeat_interleave(const Worker& w, const T* x, T* y, int64_t outer, int64_t n, int64_t inner, int64_t repeats) {
  const Range r = w.range(outer * n * repeats);
  for (int64_t i = r.begin; i < r.end; ++i) convert_row(y + i * inner, x + i / repeats * inner, inner);
}

// y [outer, total, inner]: slice i counts[i] times; raises unless the counts are not negative and sum to `total`.
template <class T, class I>
void repeat_interleave(const Worker& w, const T* x, T* y, int64_t outer, int64_t n, int64_t inner, const I* counts,
                       int64_t total, const Fault& fault) {
  const Range r = w.range(outer);
  for (int64_t o = r.begin; o < r.end; ++o) {
    int64_t to = 0;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t wanted = int64_t(counts[i]), room = total - to;
      if (wanted < 0 || wanted > room) fault.raise();
      for (const int64_t last = to + min_i64(wanted, room); to < last; ++to)
        convert_row(y + (o * total + to) * inner, x + (o * n + i) * inner, inner);
    }
    if (to != total) fault.raise();
  }
}

// A two-dimensional sliding window; out is the number of positions along each axis.
struct Window2d {
  int64_t in[2], out[2], kernel[2], stride[2], pad[2], dilation[2];
};

// torch unfold: x [batch, channels, in] to y [batch, channels * kernel, out], 0 outside.
template <class T>
void im2col(const Worker& w, const T* x, T* y, int64_t batch, int64_t channels, const Window2d& s) {
  const int64_t taps = s.kernel[0] * s.kernel[1];
  const Range r = w.range(batch * channels * taps);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t tap = item % taps;
    const T* plane = x + item / taps * s.in[0] * s.in[1];
    T* to = y + item * s.out[0] * s.out[1];
    for (int64_t i = 0; i < s.out[0]; ++i)
      for (int64_t j = 0; j < s.out[1]; ++j) {
        const int64_t a = i * s.stride[0] - s.pad[0] + tap / s.kernel[1] * s.dilation[0];
        const int64_t b = j * s.stride[1] - s.pad[1] + tap % s.kernel[1] * s.dilation[1];
        const bool inside = a >= 0 && a < s.in[0] && b >= 0 && b < s.in[1];
        to[i * s.out[1] + j] = inside ? plane[a * s.in[1] + b] : T{};
      }
  }
}

// torch fold: the adjoint of im2col; overlapping windows add up.
template <class T>
void col2im(const Worker& w, const T* x, T* y, int64_t batch, int64_t channels, const Window2d& s) {
  const int64_t taps = s.kernel[0] * s.kernel[1], positions = s.out[0] * s.out[1];
  const Range r = w.range(batch * channels);
  for (int64_t plane = r.begin; plane < r.end; ++plane) {
    T* to = y + plane * s.in[0] * s.in[1];
    for (int64_t i = 0; i < s.in[0] * s.in[1]; ++i) to[i] = T{};
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t i = 0; i < s.out[0]; ++i)
        for (int64_t j = 0; j < s.out[1]; ++j) {
          const int64_t a = i * s.stride[0] - s.pad[0] + tap / s.kernel[1] * s.dilation[0];
          const int64_t b = j * s.stride[1] - s.pad[1] + tap % s.kernel[1] * s.dilation[1];
          if (a < 0 || a >= s.in[0] || b < 0 || b >= s.in[1]) continue;
          T& cell = to[a * s.in[1] + b];
          cell = convert<T>(convert<compute_t<T>>(cell) +
                            convert<compute_t<T>>(x[(plane * taps + tap) * positions + i * s.out[1] + j]));
        }
  }
}

}  // namespace mcomp
