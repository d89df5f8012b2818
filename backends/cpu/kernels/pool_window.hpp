// One window of a pooling with channels last: vectors of channels stay in registers while the window passes by.
//
//   const PoolWindow<uint8_t> window{x, planes, plane_step, lines, line_step, count, step};
//   pool_channels(PoolMax<uint8_t>{}, window, channels, y);
//
// An operation gives its vector type, start(), add(so far, next) and finish(). Those here: the maximum of floats (NaN
// propagates) and of bytes, the sum of floats divided by a number.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "isa.hpp"

namespace mcomp {
namespace detail {

template <class T, int Bytes>
struct PoolVector {
  typedef T type __attribute__((vector_size(Bytes)));
};

template <class T>
struct PoolMax {
  template <int Bytes>
  using Vector = typename PoolVector<T, Bytes>::type;
  template <int Bytes>
  static MCOMP_INLINE Vector<Bytes> start() {
    constexpr T lowest = std::numeric_limits<T>::has_infinity ? -std::numeric_limits<T>::infinity()
                                                              : std::numeric_limits<T>::lowest();
    return lowest - Vector<Bytes>{};
  }
  template <class V>
  static MCOMP_INLINE V add(V a, V b) {
    if constexpr (std::is_same<T, float>::value) {
#if defined(MCOMP_ISA_AVX512)
      if constexpr (sizeof(V) == 64) {
        // The instruction gives b where one of them is NaN: lanes where a is NaN are left alone.
        const __mmask16 ordered = _mm512_cmp_ps_mask((__m512)a, (__m512)a, _CMP_ORD_Q);
        return (V)_mm512_mask_max_ps((__m512)a, ordered, (__m512)a, (__m512)b);
      }
#endif
      const V most = a > b ? a : b;
      return a != a ? a : most;
    }
    return a > b ? a : b;
  }
  template <class V>
  MCOMP_INLINE V finish(V a) const {
    return a;
  }
};

struct PoolMean {
  template <int Bytes>
  using Vector = typename PoolVector<float, Bytes>::type;
  float over;
  template <int Bytes>
  static MCOMP_INLINE Vector<Bytes> start() {
    return Vector<Bytes>{};
  }
  template <class V>
  static MCOMP_INLINE V add(V a, V b) {
    return a + b;
  }
  template <class V>
  MCOMP_INLINE V finish(V a) const {
    return a / over;
  }
};

// A window of planes, lines of a plane and positions of a line, in elements from x on.
template <class T>
struct PoolWindow {
  const T* x;
  int64_t planes, plane_step, lines, line_step, count, step;
};

// NV vectors of channels from c on, or only `count` elements of one of them.
template <int Bytes, int NV, bool Part, class Op, class T>
MCOMP_INLINE void pool_vectors(const Op& op, const PoolWindow<T>& win, int64_t c, int64_t count, T* y) {
  using Vector = typename Op::template Vector<Bytes>;
  constexpr int64_t width = Bytes / sizeof(T);
  Vector acc[NV];
  unroll<NV>([&](auto v) MCOMP_LAMBDA { acc[v] = Op::template start<Bytes>(); });
  for (int64_t d = 0; d < win.planes; ++d)
    for (int64_t h = 0; h < win.lines; ++h) {
      const T* at = win.x + d * win.plane_step + h * win.line_step + c;
      for (int64_t i = 0; i < win.count; ++i, at += win.step)
        unroll<NV>([&](auto v) MCOMP_LAMBDA {
          Vector next{};
          std::memcpy(&next, at + v * width, Part ? static_cast<size_t>(count) * sizeof(T) : sizeof next);
          acc[v] = Op::add(acc[v], next);
        });
    }
  unroll<NV>([&](auto v) MCOMP_LAMBDA {
    const Vector result = op.finish(acc[v]);
    std::memcpy(y + c + v * width, &result, Part ? static_cast<size_t>(count) * sizeof(T) : sizeof result);
  });
}

// y[c] for c < channels. What is left after whole vectors is covered by one more that ends with the last channel.
template <class Op, class T>
MCOMP_INLINE void pool_channels(const Op& op, const PoolWindow<T>& win, int64_t channels, T* y) {
  constexpr int64_t width = kVectorBytes / sizeof(T), narrow = 16 / sizeof(T);
  int64_t c = 0;
  for (; c + 4 * width <= channels; c += 4 * width) pool_vectors<kVectorBytes, 4, false>(op, win, c, 0, y);
  for (; c + width <= channels; c += width) pool_vectors<kVectorBytes, 1, false>(op, win, c, 0, y);
  if (c == channels) return;
  if (channels >= width) return pool_vectors<kVectorBytes, 1, false>(op, win, channels - width, 0, y);
  for (; c + narrow <= channels; c += narrow) pool_vectors<16, 1, false>(op, win, c, 0, y);
  if (c == channels) return;
  if (channels >= narrow) return pool_vectors<16, 1, false>(op, win, channels - narrow, 0, y);
  pool_vectors<16, 1, true>(op, win, 0, channels, y);
}

}  // namespace detail
}  // namespace mcomp
