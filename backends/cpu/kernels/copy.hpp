// Strided copies, transposes and conversions of tensors with up to kMaxDims dimensions.
//
//     const int64_t size[] = {B, H, L, D}, to[] = {H * L * D, L * D, D, 1}, from[] = {L * H * D, D, H * D, 1};
//     copy_strided(w, dst, src, 4, size, to, from);             // dst[i] = convert(src[i]) for every index i
//     fill(w, dst, n, 0.0f);
// Strides are in elements, of any sign on the source (0 broadcasts, negative flips); destination elements must be
// distinct and must not overlap the source. Reads and writes each element once.
#pragma once

#include <cstdint>
#include <cstring>

#include "interleave.hpp"
#include "isa.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

constexpr int kMaxDims = 12;

namespace detail {

// Dimensions of a copy after sorting by destination stride (largest first) and merging what is contiguous in both.
struct CopyPlan {
  int rank = 0;
  int64_t size[kMaxDims], to[kMaxDims], from[kMaxDims];
};

inline int64_t magnitude(int64_t x) { return x < 0 ? -x : x; }

inline CopyPlan plan_copy(int rank, const int64_t* size, const int64_t* to, const int64_t* from) {
  CopyPlan sorted, p;
  for (int d = 0; d < rank; ++d) {
    if (size[d] == 1) continue;
    int at = sorted.rank++;
    for (; at > 0 && magnitude(sorted.to[at - 1]) < magnitude(to[d]); --at) {
      sorted.size[at] = sorted.size[at - 1];
      sorted.to[at] = sorted.to[at - 1];
      sorted.from[at] = sorted.from[at - 1];
    }
    sorted.size[at] = size[d], sorted.to[at] = to[d], sorted.from[at] = from[d];
  }
  for (int d = 0; d < sorted.rank; ++d) {
    const int last = p.rank - 1;
    const bool merges =
        last >= 0 && p.to[last] == sorted.size[d] * sorted.to[d] && p.from[last] == sorted.size[d] * sorted.from[d];
    const int at = merges ? last : p.rank++;
    p.size[at] = merges ? p.size[at] * sorted.size[d] : sorted.size[d];
    p.to[at] = sorted.to[d];
    p.from[at] = sorted.from[d];
  }
  return p;
}

template <class To, class From>
inline void copy_row(To* __restrict dst, const From* __restrict src, int64_t n, int64_t to, int64_t from) {
  if (to == 1 && from == 1) {
    if (n >= 256) return convert_row(dst, src, n);
    for (int64_t i = 0; i < n; ++i) dst[i] = convert<To>(src[i]);
    return;
  }
  if (from == 0) {
    const To value = convert<To>(*src);
    for (int64_t i = 0; i < n; ++i) dst[i * to] = value;
    return;
  }
  if (to == 1) {
    for (int64_t i = 0; i < n; ++i) dst[i] = convert<To>(src[i * from]);
    return;
  }
  for (int64_t i = 0; i < n; ++i) dst[i * to] = convert<To>(src[i * from]);
}

constexpr int64_t kTransposeTile = 16;

// dst[i * to_row + j] = src[i + j * from_column] for i < rows, j < columns.
template <class To, class From>
inline void transpose_block(To* __restrict dst, const From* __restrict src, int64_t rows, int64_t columns,
                            int64_t to_row, int64_t from_column) {
  constexpr int64_t t = kTransposeTile;
  for (int64_t i = 0; i < rows; i += t)
    for (int64_t j = 0; j < columns; j += t) {
      const int64_t height = rows - i < t ? rows - i : t, width = columns - j < t ? columns - j : t;
      if (height == t && width == t) {
        From block[t][t];
        for (int64_t b = 0; b < t; ++b) std::memcpy(block[b], src + i + (j + b) * from_column, sizeof block[b]);
        for (int64_t a = 0; a < t; ++a)
          for (int64_t b = 0; b < t; ++b) dst[(i + a) * to_row + j + b] = convert<To>(block[b][a]);
        continue;
      }
      for (int64_t a = i; a < i + height; ++a)
        for (int64_t b = j; b < j + width; ++b) dst[a * to_row + b] = convert<To>(src[a + b * from_column]);
    }
}

// dst[i * channels + c] = src[i + c * plane], channels from 2 to 4.
template <class To, class From>
inline void interleave_block(To* dst, const From* src, int64_t n, int64_t channels, int64_t plane) {
  if (channels == 2) return interleave<2>(dst, src, n, plane);
  if (channels == 3) return interleave<3>(dst, src, n, plane);
  interleave<4>(dst, src, n, plane);
}

}  // namespace detail

template <class To, class From>
void copy_strided(const Worker& w, To* dst, const From* src, int rank, const int64_t* size, const int64_t* to,
                  const int64_t* from) {
  for (int d = 0; d < rank; ++d)
    if (size[d] == 0) return;
  detail::CopyPlan p = detail::plan_copy(rank, size, to, from);
  if (p.rank == 0) {
    if (w.id == 0) *dst = convert<To>(*src);
    return;
  }
  const int inner = p.rank - 1;
  int column = -1;  // a dimension along which the source is contiguous while the destination is along `inner`
  if (p.to[inner] == 1 && p.from[inner] != 1)
    for (int d = 0; d < inner; ++d)
      if (p.from[d] == 1 && p.size[d] >= 4 && (p.size[inner] >= 4 || p.to[d] == p.size[inner])) column = d;
  const bool few = column >= 0 && p.size[inner] <= 4 && p.to[column] == p.size[inner];
  int64_t outer = 1;
  for (int d = 0; d < inner; ++d)
    if (d != column) outer *= p.size[d];
  // Blocks: of rows to transpose, of one long row, or of short rows along the dimension before the innermost.
  const bool rows = column < 0 && inner > 0 && p.size[inner] < 512;
  const int along = column >= 0 ? column : rows ? inner - 1 : inner;
  if (rows) outer /= p.size[along];
  const int64_t length = p.size[along], grain = few ? 1024 : column >= 0 ? 64 : rows ? ceil_div(2048, p.size[inner]) : 2048;
  const int64_t blocks = ceil_div(length, grain);
  const Range r = w.range(outer * blocks);
  for (int64_t item = r.begin; item < r.end; ++item) {
    int64_t rest = item / blocks, a = 0, b = 0;
    for (int d = inner; d >= 0; --d) {
      if (d == along || d == inner) continue;
      const int64_t i = rest % p.size[d];
      rest /= p.size[d];
      a += i * p.to[d];
      b += i * p.from[d];
    }
    const int64_t first = item % blocks * grain, count = min_i64(grain, length - first);
    To* to_block = dst + a + first * p.to[along];
    const From* from_block = src + b + first * p.from[along];
    if (few) {
      detail::interleave_block(to_block, from_block, count, p.size[inner], p.from[inner]);
    } else if (column >= 0) {
      detail::transpose_block(to_block, from_block, count, p.size[inner], p.to[column], p.from[inner]);
    } else if (rows) {
      for (int64_t i = 0; i < count; ++i)
        detail::copy_row(to_block + i * p.to[along], from_block + i * p.from[along], p.size[inner], p.to[inner],
                         p.from[inner]);
    } else {
      detail::copy_row(to_block, from_block, count, p.to[inner], p.from[inner]);
    }
  }
}

// dst[i] = convert(src[i]) for i in [0, n), both contiguous.
template <class To, class From>
void copy(const Worker& w, To* dst, const From* src, int64_t n) {
  const Range r = w.range(n, 64);
  if (!r.empty()) convert_row(dst + r.begin, src + r.begin, r.size());
}

template <class T>
void fill(const Worker& w, T* dst, int64_t n, T value) {
  const Range r = w.range(n, 64);
  for (int64_t i = r.begin; i < r.end; ++i) dst[i] = value;
}

}  // namespace mcomp
