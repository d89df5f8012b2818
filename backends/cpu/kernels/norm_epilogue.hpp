// Norms that hand what they give to an epilogue (epilogue.hpp): batch_norm, group_norm, softmax along axes before the last.
//
//     batch_norm_lines(w, x, mean, variance, weight, bias, outer, channels, lines, line, 1e-5f, ep);
//     batch_norm_channels(w, x, mean, variance, weight, bias, outer, channels, 1e-5f, ep);
//     group_norm_lines(w, x, weight, bias, batch, channels, lines, line, groups, 1e-5f, ep);
//     group_norm_channels(w, x, weight, bias, batch, channels, inner, groups, 1e-5f, ep);
//     softmax_lines<Log>(w, x, outer, n, lines, line, ep);
// "lines": x is [outer, channels, lines, line] (softmax: [outer, n, lines, line]), rows of the epilogue are lines.
// "channels": x is [outer or batch * inner, channels], rows of the epilogue are pixels. weight and bias may be nullptr.
// Errors: as in norm.hpp and softmax.hpp; group_norm_channels adds 256 terms in float (d = 256) and these in double.
#pragma once

#include <cstdint>

#include "lanes.hpp"
#include "math.hpp"
#include "norm.hpp"
#include "reduce.hpp"
#include "softmax.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {
namespace detail {

// Elements that are held before the epilogue gets them.
constexpr int64_t kNormTile = 128;

// f(0) ... f(n - 1) to columns `col` and on.
template <class C, class F, class Ep>
MCOMP_INLINE void emit_line(int64_t row, int64_t col, int64_t n, const F& f, const Ep& ep) {
  for (int64_t start = 0; start < n; start += kNormTile) {
    alignas(64) C held[kNormTile];
    const int64_t count = min_i64(kNormTile, n - start);
    for (int64_t i = 0; i < count; ++i) held[i] = f(start + i);
    ep(static_cast<const C*>(held), row, col + start, count);
  }
}

// What a channel is multiplied by, and what is added then.
template <class C>
struct ChannelFactors {
  C scale, shift;
};
template <class C, class W>
inline ChannelFactors<C> batch_factors(const W* mean, const W* variance, const W* weight, const W* bias, int64_t c,
                                       float eps) {
  const C rstd = C(1) / math::sqrt(convert<C>(variance[c]) + C(eps));
  const C scale = weight ? rstd * convert<C>(weight[c]) : rstd;
  return {scale, (bias ? convert<C>(bias[c]) : C(0)) - convert<C>(mean[c]) * scale};
}

}  // namespace detail

template <class In, class W, class Ep>
void batch_norm_lines(const Worker& w, const In* x, const W* mean, const W* variance, const W* weight, const W* bias,
                      int64_t outer, int64_t channels, int64_t lines, int64_t line, float eps, const Ep& ep) {
  using C = compute_t<In>;
  const Range r = w.range(outer * channels);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const auto f = detail::batch_factors<C>(mean, variance, weight, bias, item % channels, eps);
    for (int64_t row = item * lines; row < (item + 1) * lines; ++row) {
      const In* const from = x + row * line;
      detail::emit_line<C>(
          row, 0, line, [=](int64_t i) MCOMP_LAMBDA { return convert<C>(from[i]) * f.scale + f.shift; }, ep);
    }
  }
}

template <class In, class W, class Ep>
void batch_norm_channels(const Worker& w, const In* x, const W* mean, const W* variance, const W* weight, const W* bias,
                         int64_t outer, int64_t channels, float eps, const Ep& ep) {
  using C = compute_t<In>;
  constexpr int64_t rows = 64;
  const int64_t tiles = ceil_div(channels, detail::kNormTile);
  const Range r = w.range(ceil_div(outer, rows) * tiles);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t c0 = item % tiles * detail::kNormTile, count = min_i64(detail::kNormTile, channels - c0);
    C scale[detail::kNormTile], shift[detail::kNormTile];
    for (int64_t c = 0; c < count; ++c) {
      const auto f = detail::batch_factors<C>(mean, variance, weight, bias, c0 + c, eps);
      scale[c] = f.scale, shift[c] = f.shift;
    }
    const int64_t first = item / tiles * rows, last = min_i64(first + rows, outer);
    for (int64_t row = first; row < last; ++row) {
      const In* const from = x + row * channels + c0;
      detail::emit_line<C>(
          row, c0, count, [&](int64_t c) MCOMP_LAMBDA { return convert<C>(from[c]) * scale[c] + shift[c]; }, ep);
    }
  }
}

template <class In, class W, class Ep>
void group_norm_lines(const Worker& w, const In* x, const W* weight, const W* bias, int64_t batch, int64_t channels,
                      int64_t lines, int64_t line, int64_t groups, float eps, const Ep& ep) {
  using C = compute_t<In>;
  const int64_t width = groups ? channels / groups : 0;
  const Range r = w.range(batch * groups);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const Moments<C> m = layer_moments(x + item * width * lines * line, width * lines * line, eps);
    for (int64_t c = 0; c < width; ++c) {
      const int64_t channel = item % groups * width + c;
      const C scale = weight ? m.scale * convert<C>(weight[channel]) : m.scale;
      const C shift = bias ? convert<C>(bias[channel]) : C(0), mean = m.mean;
      for (int64_t row = (item * width + c) * lines; row < (item * width + c + 1) * lines; ++row) {
        const In* const from = x + row * line;
        detail::emit_line<C>(
            row, 0, line, [=](int64_t i) MCOMP_LAMBDA { return (convert<C>(from[i]) - mean) * scale + shift; }, ep);
      }
    }
  }
}

// A worker takes neighbouring groups, so that vectors run along channels of several where groups are narrow.
template <class In, class W, class Ep>
void group_norm_channels(const Worker& w, const In* x, const W* weight, const W* bias, int64_t batch, int64_t channels,
                         int64_t inner, int64_t groups, float eps, const Ep& ep) {
  using C = compute_t<In>;
  constexpr int64_t most = detail::kNormTile;
  if (batch == 0 || channels == 0 || inner == 0) return;
  const int64_t width = channels / groups, together = max_i64(1, most / width);
  const int64_t parts = max_i64(ceil_div(groups, together), min_i64(groups, ceil_div(w.count, batch)));
  const double n = double(width * inner);
  const Range r = w.range(batch * parts);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t image = item / parts, part = item % parts;
    const int64_t c0 = part * groups / parts * width, count = (part + 1) * groups / parts * width - c0;
    const In* const from = x + image * inner * channels + c0;
    double sums[most] = {}, squares[most] = {}, columns[kSumLanes];
    C mean[most], center[kSumLanes];
    for (int64_t j0 = 0; j0 < count; j0 += kSumLanes) {
      const int64_t some = min_i64(kSumLanes, count - j0);
      detail::column_sums<C>(from + j0, inner, channels, some, columns, [](C v, int64_t) { return v; });
      for (int64_t j = 0; j < some; ++j) sums[(j0 + j) / width] += columns[j];
    }
    for (int64_t g = 0; g < count / width; ++g) mean[g] = C(sums[g] / n);
    for (int64_t j0 = 0; j0 < count; j0 += kSumLanes) {
      const int64_t some = min_i64(kSumLanes, count - j0);
      for (int64_t j = 0; j < some; ++j) center[j] = mean[(j0 + j) / width];
      detail::column_sums<C>(from + j0, inner, channels, some, columns, [&](C v, int64_t j) {
        const C d = v - center[j];
        return d * d;
      });
      for (int64_t j = 0; j < some; ++j) squares[(j0 + j) / width] += columns[j];
    }
    for (int64_t j0 = 0; j0 < count; j0 += most) {
      const int64_t some = min_i64(most, count - j0);
      C middle[most], scale[most], shift[most];
      for (int64_t j = 0; j < some; ++j) {
        const int64_t g = (j0 + j) / width, c = c0 + j0 + j;
        const C rstd = C(1) / math::sqrt(C(squares[g] / n) + C(eps));
        middle[j] = mean[g];
        scale[j] = weight ? rstd * convert<C>(weight[c]) : rstd;
        shift[j] = bias ? convert<C>(bias[c]) : C(0);
      }
      for (int64_t i = 0; i < inner; ++i) {
        const In* const row = from + i * channels + j0;
        detail::emit_line<C>(
            image * inner + i, c0 + j0, some,
            [&](int64_t j) MCOMP_LAMBDA { return (convert<C>(row[j]) - middle[j]) * scale[j] + shift[j]; }, ep);
      }
    }
  }
}

template <bool Log, class In, class Ep>
void softmax_lines(const Worker& w, const In* x, int64_t outer, int64_t n, int64_t lines, int64_t line, const Ep& ep) {
  using C = compute_t<In>;
  const int64_t tiles = ceil_div(line, detail::kSoftmaxTile);
  const Range r = w.range(outer * lines * tiles);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t col = item % tiles * detail::kSoftmaxTile, width = min_i64(detail::kSoftmaxTile, line - col);
    const int64_t row = item / tiles / lines * n * lines + item / tiles % lines;
    alignas(64) C held[detail::kSoftmaxTile];
    detail::softmax_columns<Log>(
        x + row * line + col, n, lines * line, width, [&](int64_t, int64_t j, C v) MCOMP_LAMBDA { held[j] = v; },
        [&](int64_t i) { ep(static_cast<const C*>(held), row + i * lines, col, width); });
  }
}

}  // namespace mcomp
