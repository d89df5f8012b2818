// Pooling over one, two or three spatial dimensions, channels first or last.
//
//     PoolShape s{N, C, {1, H, W}, {1, OH, OW}, {1, 3, 3}, {1, 2, 2}, {0, 1, 1}, {1, 1, 1}, /*channels_last=*/true,
//                 {0, 1, 1}};
//     max_pool(w, s, x, y, indices_or_null);                    // indices: flat position in the input's spatial plane
//     avg_pool(w, s, x, y, /*count_include_pad=*/true, /*divisor_override=*/0);
//     adaptive_avg_pool(w, s, x, y); adaptive_max_pool(w, s, x, y, indices_or_null);      // use in, out only
// Unused leading dimensions have size, kernel, stride and dilation 1 and padding 0. ceil_mode is in `out`. Max
// propagates NaN; averages sum in float (double for double). T is float, double, bf16, f16 or an integer (max only).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <type_traits>

#include "lanes.hpp"
#include "math.hpp"
#include "pool_window.hpp"
#include "reduce.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

struct PoolShape {
  int64_t batch, channels;
  int64_t in[3], out[3], kernel[3], stride[3], pad[3], dilation[3];
  bool channels_last;
  int64_t high[3] = {0, 0, 0};  // padding at the ends, where averages count it
};

namespace detail {

// The input positions begin, begin + step, ... (< end) that one output position reads along one axis.
struct Span {
  int64_t begin, end, step;
  int64_t padded;  // how many positions count_include_pad counts
};

inline Span pool_span(const PoolShape& s, int axis, int64_t o) {
  const int64_t first = o * s.stride[axis] - s.pad[axis], step = s.dilation[axis];
  const int64_t last = first + (s.kernel[axis] - 1) * step + 1;
  const int64_t skipped = first < 0 ? ceil_div(-first, step) * step : 0;
  const int64_t limit = s.in[axis] + s.high[axis];
  return {first + skipped, min_i64(last, s.in[axis]), step, min_i64(first + s.kernel[axis], limit) - first};
}
inline Span adaptive_span(const PoolShape& s, int axis, int64_t o) {
  const int64_t begin = o * s.in[axis] / s.out[axis], end = ceil_div((o + 1) * s.in[axis], s.out[axis]);
  return {begin, end, 1, end - begin};
}

struct Spans {
  Span d, h, w;
};

// Calls f(position of the output in its plane, the spans) for one flat output position.
template <bool Adaptive>
inline Spans pool_spans(const PoolShape& s, int64_t position) {
  const int64_t ow = position % s.out[2], oh = position / s.out[2] % s.out[1], od = position / s.out[2] / s.out[1];
  if (Adaptive) return {adaptive_span(s, 0, od), adaptive_span(s, 1, oh), adaptive_span(s, 2, ow)};
  return {pool_span(s, 0, od), pool_span(s, 1, oh), pool_span(s, 2, ow)};
}

// Calls f(flat input position) over the window.
template <class F>
inline void for_window(const PoolShape& s, const Spans& p, const F& f) {
  for (int64_t d = p.d.begin; d < p.d.end; d += p.d.step)
    for (int64_t h = p.h.begin; h < p.h.end; h += p.h.step)
      for (int64_t x = p.w.begin; x < p.w.end; x += p.w.step) f((d * s.in[1] + h) * s.in[2] + x);
}

// Blocks of channels (channels last) or single channels (first) of each output position, shared among the workers.
// f(pointer offset in x of plane position 0, offset in y, spans, channel count); consecutive channels are adjacent.
constexpr int64_t kPoolChannels = 64;

template <bool Adaptive, class F>
inline void for_outputs(const Worker& w, const PoolShape& s, const F& f) {
  const int64_t plane = s.in[0] * s.in[1] * s.in[2], positions = s.out[0] * s.out[1] * s.out[2];
  const int64_t groups = s.channels_last ? 1 : s.channels;
  const Range r = w.range(s.batch * groups * positions);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t position = item % positions, image = item / positions;
    const Spans p = pool_spans<Adaptive>(s, position);
    if (!s.channels_last) {
      f(image * plane, item, p, int64_t(1));
      continue;
    }
    for (int64_t c = 0; c < s.channels; c += kPoolChannels)
      f(image * plane * s.channels + c, item * s.channels + c, p, min_i64(kPoolChannels, s.channels - c));
  }
}

// Channels first: pieces of output rows. start(length); then, for each tap of the window, f(first, last, offset in x of
// first) over the positions of the piece where the tap lies inside; then finish(offset in y, first position, length, d,
// h).
template <class Start, class F, class Finish>
inline void for_output_rows(const Worker& w, const PoolShape& s, const Start& start, const F& f, const Finish& finish) {
  const int64_t rows = s.out[0] * s.out[1], plane = s.in[0] * s.in[1] * s.in[2];
  const Range r = w.range(s.batch * s.channels * rows);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const Span d = pool_span(s, 0, item % rows / s.out[1]), h = pool_span(s, 1, item % rows % s.out[1]);
    for (int64_t o0 = 0; o0 < s.out[2]; o0 += kPoolChannels) {
      const int64_t o1 = min_i64(o0 + kPoolChannels, s.out[2]);
      start(o1 - o0);
      for (int64_t a = d.begin; a < d.end; a += d.step)
        for (int64_t b = h.begin; b < h.end; b += h.step)
          for (int64_t k = 0; k < s.kernel[2]; ++k) {
            const int64_t shift = k * s.dilation[2] - s.pad[2];  // input position of output o: o * stride + shift
            const int64_t first = max_i64(o0, shift < 0 ? ceil_div(-shift, s.stride[2]) : 0);
            const int64_t room = s.in[2] - 1 - shift;
            const int64_t last = room < 0 ? first : min_i64(o1, room / s.stride[2] + 1);
            if (first >= last) continue;
            const int64_t at = item / rows * plane + (a * s.in[1] + b) * s.in[2] + first * s.stride[2] + shift;
            f(first - o0, last - o0, at);
          }
      finish(item * s.out[2] + o0, o0, o1 - o0, d, h);
    }
  }
}

template <class T>
inline void max_rows(const Worker& w, const PoolShape& s, const T* x, T* y) {
  using C = order_t<T>;
  C best[kPoolChannels];
  const C lowest = Max<T>{}.start();
  for_output_rows(
      w, s,
      [&](int64_t n) {
        for (int64_t i = 0; i < n; ++i) best[i] = lowest;
      },
      [&](int64_t first, int64_t last, int64_t at) {
        const T* from = x + at;
        for (int64_t i = first; i < last; ++i)
          best[i] = math::maximum(convert<C>(from[(i - first) * s.stride[2]]), best[i]);
      },
      [&](int64_t to, int64_t, int64_t n, const Span&, const Span&) {
        for (int64_t i = 0; i < n; ++i) y[to + i] = convert<T>(best[i]);
      });
}

template <class T>
inline void avg_rows(const Worker& w, const PoolShape& s, const T* x, T* y, bool count_include_pad, int64_t divisor) {
  using C = compute_t<T>;
  C sum[kPoolChannels];
  for_output_rows(
      w, s,
      [&](int64_t n) {
        for (int64_t i = 0; i < n; ++i) sum[i] = C(0);
      },
      [&](int64_t first, int64_t last, int64_t at) {
        const T* from = x + at;
        for (int64_t i = first; i < last; ++i) sum[i] += convert<C>(from[(i - first) * s.stride[2]]);
      },
      [&](int64_t to, int64_t o0, int64_t n, const Span& d, const Span& h) {
        for (int64_t i = 0; i < n; ++i) {
          const Span v = pool_span(s, 2, o0 + i);
          const int64_t inside =
              max_i64(0, d.end - d.begin) * max_i64(0, h.end - h.begin) * max_i64(0, v.end - v.begin);
          const int64_t over = divisor ? divisor : count_include_pad ? d.padded * h.padded * v.padded : inside;
          y[to + i] = convert<T>(sum[i] / C(over));
        }
      });
}

template <class T>
constexpr bool has_pool_max() {
  return std::is_same<T, float>::value || std::is_same<T, uint8_t>::value || std::is_same<T, int8_t>::value;
}

// Channels last: every output position by pool_channels. op(the spans) is its operation.
template <bool Adaptive, class T, class Op>
inline void last_windows(const Worker& w, const PoolShape& s, const T* x, T* y, const Op& op) {
  const int64_t positions = s.out[0] * s.out[1] * s.out[2], c = s.channels;
  const Range mine = w.range(s.batch * positions);
  for (int64_t item = mine.begin; item < mine.end; ++item) {
    const Spans p = pool_spans<Adaptive>(s, item % positions);
    const auto count = [](const Span& a) { return max_i64(0, ceil_div(a.end - a.begin, a.step)); };
    const T* first = x + item / positions * s.in[0] * s.in[1] * s.in[2] * c +
                     ((p.d.begin * s.in[1] + p.h.begin) * s.in[2] + p.w.begin) * c;
    const PoolWindow<T> window{first,      count(p.d), p.d.step * s.in[1] * s.in[2] * c, count(p.h), p.h.step * s.in[2] * c,
                               count(p.w), p.w.step * c};
    pool_channels(op(p), window, c, y + item * c);
  }
}

template <bool Adaptive, class T, class I>
inline void max_windows(const Worker& w, const PoolShape& s, const T* x, T* y, I* indices) {
  if constexpr (has_pool_max<T>()) {
    if (s.channels_last && indices == nullptr)
      return last_windows<Adaptive>(w, s, x, y, [](const Spans&) { return PoolMax<T>{}; });
  }
  using C = order_t<T>;
  const int64_t step = s.channels_last ? s.channels : 1;
  const C lowest = Max<T>{}.start();
  for_outputs<Adaptive>(w, s, [&](int64_t from, int64_t to, const Spans& p, int64_t count) {
    C best[kPoolChannels];
    for (int64_t c = 0; c < count; ++c) best[c] = lowest;
    if (indices == nullptr) {
      if (count == 1) {
        for_window(s, p, [&](int64_t at) { best[0] = math::maximum(convert<C>(x[from + at * step]), best[0]); });
      } else {
        for_window(s, p, [&](int64_t at) {
          const T* row = x + from + at * step;
          for (int64_t c = 0; c < count; ++c) best[c] = math::maximum(convert<C>(row[c]), best[c]);
        });
      }
    } else {
      const int64_t first = (p.d.begin * s.in[1] + p.h.begin) * s.in[2] + p.w.begin;
      for (int64_t c = 0; c < count; ++c) indices[to + c] = I(first);
      for_window(s, p, [&](int64_t at) {
        const T* row = x + from + at * step;
        for (int64_t c = 0; c < count; ++c) {
          const C v = convert<C>(row[c]);
          if (v > best[c] || math::is_nan(v)) best[c] = v, indices[to + c] = I(at);
        }
      });
    }
    for (int64_t c = 0; c < count; ++c) y[to + c] = convert<T>(best[c]);
  });
}

template <bool Adaptive, class T>
inline void avg_windows(const Worker& w, const PoolShape& s, const T* x, T* y, bool count_include_pad,
                        int64_t divisor) {
  using C = compute_t<T>;
  if constexpr (std::is_same<T, float>::value) {
    if (s.channels_last)
      return last_windows<Adaptive>(w, s, x, y, [&](const Spans& p) {
        int64_t terms = 1;
        for (const Span& a : {p.d, p.h, p.w})
          terms *= count_include_pad ? a.padded : max_i64(0, ceil_div(a.end - a.begin, a.step));
        return PoolMean{static_cast<float>(divisor ? divisor : terms)};
      });
  }
  const int64_t step = s.channels_last ? s.channels : 1;
  for_outputs<Adaptive>(w, s, [&](int64_t from, int64_t to, const Spans& p, int64_t count) {
    C sum[kPoolChannels];
    for (int64_t c = 0; c < count; ++c) sum[c] = C(0);
    int64_t terms = 0;
    if (count == 1) {
      for_window(s, p, [&](int64_t at) { sum[0] += convert<C>(x[from + at * step]), ++terms; });
    } else {
      for_window(s, p, [&](int64_t at) {
        const T* row = x + from + at * step;
        for (int64_t c = 0; c < count; ++c) sum[c] += convert<C>(row[c]);
        ++terms;
      });
    }
    const int64_t over = divisor ? divisor : count_include_pad ? p.d.padded * p.h.padded * p.w.padded : terms;
    for (int64_t c = 0; c < count; ++c) y[to + c] = convert<T>(sum[c] / C(over));
  });
}

}  // namespace detail

// `indices` (int64_t or int32_t pointer) has the layout of y, or is nullptr.
template <class T, class I = int64_t>
void max_pool(const Worker& w, const PoolShape& s, const T* x, T* y, I* indices = nullptr) {
  if (!s.channels_last && indices == nullptr) return detail::max_rows(w, s, x, y);
  detail::max_windows<false>(w, s, x, y, indices);
}

template <class T>
void avg_pool(const Worker& w, const PoolShape& s, const T* x, T* y, bool count_include_pad, int64_t divisor_override) {
  if (!s.channels_last) return detail::avg_rows(w, s, x, y, count_include_pad, divisor_override);
  detail::avg_windows<false>(w, s, x, y, count_include_pad, divisor_override);
}

template <class T>
void adaptive_avg_pool(const Worker& w, const PoolShape& s, const T* x, T* y) {
  if (!s.channels_last && s.out[0] * s.out[1] * s.out[2] == 1)
    return reduce(w, Mean<T>{}, x, y, s.batch * s.channels, s.in[0] * s.in[1] * s.in[2], 1);
  detail::avg_windows<true>(w, s, x, y, false, 0);
}

template <class T, class I = int64_t>
void adaptive_max_pool(const Worker& w, const PoolShape& s, const T* x, T* y, I* indices = nullptr) {
  detail::max_windows<true>(w, s, x, y, indices);
}

}  // namespace mcomp
