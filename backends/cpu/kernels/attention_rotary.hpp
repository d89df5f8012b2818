// Rotary positions of queries and keys, computed as attention.hpp reads them.
//
//     a.q_rotary = {cos, sin, {B strides}, {B strides}, /*interleaved=*/false};    // a.k_rotary likewise
// cos and sin broadcast to the queries (keys) with strides over batch, head and position; the last dim, which is even, is
// contiguous. See rope.hpp for what is computed.
#pragma once

#include <cstdint>

#include "rope.hpp"

namespace mcomp {

// Element strides over batch, head and position.
struct HeadStride {
  int64_t batch, head, position;
};

template <class T>
struct Rotary {
  const T* cos;  // nullptr: rows stay as they are
  const T* sin;
  HeadStride cos_stride, sin_stride;
  bool interleaved;

  // y = the row x of `dim` elements, at this position of a head.
  template <class X>
  void turn(const X* x, int64_t b, int64_t h, int64_t position, int64_t dim, float* y) const {
    const int64_t c = b * cos_stride.batch + h * cos_stride.head + position * cos_stride.position;
    const int64_t s = b * sin_stride.batch + h * sin_stride.head + position * sin_stride.position;
    rope_row(x, cos + c, sin + s, y, dim, interleaved);
  }
};

}  // namespace mcomp
