// Normalizations: layer_norm, rms_norm, group_norm (and instance_norm), batch_norm for inference.
//
//     layer_norm(w, x, y, weight, bias, rows, n, 1e-5f);       // weight and bias may be nullptr
//     for (int64_t row = r.begin; row < r.end; ++row) {        // fused residual and what follows
//       for (int64_t i = 0; i < n; ++i) t[i] = x[row * n + i] + residual[row * n + i];
//       const auto m = layer_moments(t, n, 1e-5f);
//       for (int64_t i = 0; i < n; ++i) y[row * n + i] = math::relu((t[i] - m.mean) * m.scale * weight[i] + bias[i]);
//     }
// Two passes with float lanes and double block sums; the variance is the biased one. In, Out: float, bf16, f16 or
// double; weights: any of these. About 8 FLOPs an element, one read and one write of memory (rows stay in cache).
//
// Error of float results, to first order in u = 2^-24, with exact mean, variance and r = 1 / sqrt(variance + eps):
//   layer_norm, group_norm: |w| r (e + |x - mean| (c u + (e r)^2 / 2)) + u |y|, e = (d + 1) u mean(|x|), c = (d + 15) / 2
//   rms_norm: (d + 13) / 2 u |y|, without a mean;   batch_norm: 7 u (|x| + |mean|) |w| r + 2 u |bias|
// d is the number of additions that a term of a sum passes through: kSumDepth, or kFourDepth where four rows are summed
// at once. Terms: a mean is off by e, which adds up to e^2 to the variance; a sum of squares by (d + 3) u, relatively, its
// quotient, the sum with eps, the root and the division by one u each, and so are the difference, the two products and
// the sum that follow. (e r)^2 is not small where the mean is 1e5 deviations; the bound holds there, too.
#pragma once

#include <cstdint>

#include "lanes.hpp"
#include "math.hpp"
#include "quantize_rows.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

// y[i] = x[i] * scale[i] + shift[i] with absent weight as 1 and absent bias as 0.
template <class In, class Out, class W>
inline void affine_row(const In* x, Out* y, const W* weight, const W* bias, int64_t n, compute_t<In> mean,
                       compute_t<In> rstd) {
  using C = compute_t<In>;
  if (weight && bias) {
    MCOMP_INDEPENDENT
    for (int64_t i = 0; i < n; ++i)
      y[i] = convert<Out>((convert<C>(x[i]) - mean) * rstd * convert<C>(weight[i]) + convert<C>(bias[i]));
  } else if (weight) {
    MCOMP_INDEPENDENT
    for (int64_t i = 0; i < n; ++i) y[i] = convert<Out>((convert<C>(x[i]) - mean) * rstd * convert<C>(weight[i]));
  } else if (bias) {
    MCOMP_INDEPENDENT
    for (int64_t i = 0; i < n; ++i) y[i] = convert<Out>((convert<C>(x[i]) - mean) * rstd + convert<C>(bias[i]));
  } else {
    MCOMP_INDEPENDENT
    for (int64_t i = 0; i < n; ++i) y[i] = convert<Out>((convert<C>(x[i]) - mean) * rstd);
  }
}

// Sum of the values of a row, and of the squares of their distances from `mean`.
template <class T>
inline double row_sum(const T* x, int64_t n) {
  return lane_sum(n, [&](int64_t i) { return convert<compute_t<T>>(x[i]); });
}
template <class T>
inline double row_squares(const T* x, int64_t n, compute_t<T> mean) {
  return lane_sum(n, [&](int64_t i) {
    const compute_t<T> d = convert<compute_t<T>>(x[i]) - mean;
    return d * d;
  });
}

// What a row is normalized with: y = (x - mean) * scale.
template <class C>
struct Moments {
  C mean, scale;
};
template <class T>
inline Moments<compute_t<T>> layer_moments(const T* x, int64_t n, float eps) {
  using C = compute_t<T>;
  const double part = 1.0 / double(n);
  const C mean = C(row_sum(x, n) * part);
  return {mean, C(1) / math::sqrt(C(row_squares(x, n, mean) * part) + C(eps))};
}
// The mean is 0: the root mean square alone counts.
template <class T>
inline Moments<compute_t<T>> rms_moments(const T* x, int64_t n, float eps) {
  using C = compute_t<T>;
  return {C(0), C(1) / math::sqrt(C(row_squares(x, n, C(0)) / double(n)) + C(eps))};
}

constexpr int kRowsAtOnce = 4;
constexpr int kFourDepth = kSumBlock / 4 / kLanes - 1 + kVectorLevels;

namespace detail {

// Sums over four rows of n values at once, so that they wait for each other's additions: sums[r] += term(row r's
// vector, shift[r]). Lanes past n hold the shift. As exact as lane_sum.
template <class T, class F>
inline void four_sums(const T* const* rows, int64_t n, const float* shift, double* sums, const F& term) {
  for (int r = 0; r < kRowsAtOnce; ++r) sums[r] = 0.0;
  for (int64_t block = 0; block < n; block += kSumBlock / 4) {
    const int64_t end = min_i64(block + kSumBlock / 4, n);
    vf32 lanes[kRowsAtOnce] = {};
    int64_t i = block;
    for (; i + kLanes <= end; i += kLanes)
      unroll<kRowsAtOnce>([&](auto r) MCOMP_LAMBDA { lanes[r] = term(vload(rows[r] + i) - shift[r], lanes[r]); });
    if (i < end)
      unroll<kRowsAtOnce>([&](auto r) MCOMP_LAMBDA {
        alignas(64) float last[kLanes];
        for (int j = 0; j < kLanes; ++j) last[j] = i + j < end ? convert<float>(rows[r][i + j]) : shift[r];
        lanes[r] = term(vload(last) - shift[r], lanes[r]);
      });
    for (int r = 0; r < kRowsAtOnce; ++r) sums[r] += static_cast<double>(vsum(lanes[r]));
  }
}

}  // namespace detail

// The moments of four rows, sooner than one after the other. T: float, bf16, f16.
template <class T>
inline void layer_moments(const T* const (&rows)[kRowsAtOnce], int64_t n, float eps, Moments<float>* m) {
  const double part = 1.0 / static_cast<double>(n);
  float mean[kRowsAtOnce] = {};
  double sums[kRowsAtOnce];
  detail::four_sums(rows, n, mean, sums, [](vf32 v, vf32 sum) MCOMP_LAMBDA { return sum + v; });
  for (int r = 0; r < kRowsAtOnce; ++r) mean[r] = static_cast<float>(sums[r] * part);
  detail::four_sums(rows, n, mean, sums, [](vf32 v, vf32 sum) MCOMP_LAMBDA { return vfma(v, v, sum); });
  for (int r = 0; r < kRowsAtOnce; ++r)
    m[r] = {mean[r], 1.0f / math::sqrt(static_cast<float>(sums[r] * part) + eps)};
}
template <class T>
inline void rms_moments(const T* const (&rows)[kRowsAtOnce], int64_t n, float eps, Moments<float>* m) {
  const double part = 1.0 / static_cast<double>(n);
  const float zero[kRowsAtOnce] = {};
  double sums[kRowsAtOnce];
  detail::four_sums(rows, n, zero, sums, [](vf32 v, vf32 sum) MCOMP_LAMBDA { return vfma(v, v, sum); });
  for (int r = 0; r < kRowsAtOnce; ++r) m[r] = {0.0f, 1.0f / math::sqrt(static_cast<float>(sums[r] * part) + eps)};
}

// What follows the moments when results are bytes with a known scale: v = (t[r] - mean) * scale * weight + bias, stored
// (Store) to y + r * n, and round(v * factor * inverse) + zero (no factor: null) to q + r * n, clamped to [low, high].
template <int Rows, bool Store, class T, class Q>
MCOMP_INLINE void normalized_bytes(const T* const* t, const Moments<float>* m, int64_t n, const float* weight,
                                   const float* bias, const float* factor, float* y, Q* q, float inverse, int32_t zero,
                                   int32_t low, int32_t high) {
  const vf32 least = vset(static_cast<float>(low - zero)), most = vset(static_cast<float>(high - zero));
  const auto columns = [&](int64_t i, auto load, auto store, auto store_byte) MCOMP_LAMBDA {
    const vf32 w = load(weight + i), b = load(bias + i);
    const vf32 unit = factor == nullptr ? vset(inverse) : load(factor + i) * inverse;
    unroll<Rows>([&](auto r) MCOMP_LAMBDA {
      const vf32 v = vfma((load(t[r] + i) - m[r].mean) * m[r].scale, w, b);
      if (Store) store(y + r * n + i, v);
      store_byte(q + r * n + i, detail::quantized(v, unit, least, most, zero));
    });
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    columns(
        i, [](const auto* p) MCOMP_LAMBDA { return vload(p); }, [](float* p, vf32 v) MCOMP_LAMBDA { vstore(p, v); },
        [](Q* p, vi32 v) MCOMP_LAMBDA { detail::store_bytes(p, v); });
  if (i == n) return;
  const int64_t left = n - i;
  columns(
      i, [&](const auto* p) MCOMP_LAMBDA { return vload_n(p, left); },
      [&](float* p, vf32 v) MCOMP_LAMBDA { vstore_n(p, v, left); },
      [&](Q* p, vi32 v) MCOMP_LAMBDA {
        alignas(64) Q bytes[kLanes];
        detail::store_bytes(bytes, v);
        for (int64_t j = 0; j < left; ++j) p[j] = bytes[j];
      });
}
// The same for the `count` rows of a group, of which there may be fewer.
template <bool Store, class T, class Q>
inline void normalized_bytes(const T* const* t, const Moments<float>* m, int64_t count, int64_t n, const float* weight,
                             const float* bias, const float* factor, float* y, Q* q, float inverse, int32_t zero,
                             int32_t low, int32_t high) {
  if (count == kRowsAtOnce)
    return normalized_bytes<kRowsAtOnce, Store>(t, m, n, weight, bias, factor, y, q, inverse, zero, low, high);
  for (int64_t r = 0; r < count; ++r)
    normalized_bytes<1, Store>(t + r, m + r, n, weight, bias, factor, Store ? y + r * n : y, q + r * n, inverse, zero,
                               low, high);
}

// One row of n values; `y` may be `x`.
template <class In, class Out, class W>
inline void layer_norm_row(const In* x, Out* y, const W* weight, const W* bias, int64_t n, float eps) {
  const auto m = layer_moments(x, n, eps);
  affine_row(x, y, weight, bias, n, m.mean, m.scale);
}

// y = x / sqrt(mean(x^2) + eps) * weight. `offset` is added to the weight (1 in models that store weight - 1).
template <class In, class Out, class W>
inline void rms_norm_row(const In* x, Out* y, const W* weight, int64_t n, float eps, float offset = 0.0f) {
  using C = compute_t<In>;
  const C scale = rms_moments(x, n, eps).scale;
  if (weight) {
    MCOMP_INDEPENDENT
    for (int64_t i = 0; i < n; ++i) y[i] = convert<Out>(convert<C>(x[i]) * scale * (convert<C>(weight[i]) + C(offset)));
    return;
  }
  MCOMP_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) y[i] = convert<Out>(convert<C>(x[i]) * scale);
}

// x, y: [rows, n] contiguous.
template <class In, class Out, class W>
void layer_norm(const Worker& w, const In* x, Out* y, const W* weight, const W* bias, int64_t rows, int64_t n,
                float eps) {
  const Range r = w.range(rows);
  int64_t row = r.begin;
  if constexpr (!std::is_same<In, double>::value) {
    for (; row + kRowsAtOnce <= r.end; row += kRowsAtOnce) {
      const In* from = x + row * n;
      const In* const four[kRowsAtOnce] = {from, from + n, from + 2 * n, from + 3 * n};
      Moments<float> m[kRowsAtOnce];
      layer_moments(four, n, eps, m);
      for (int64_t k = 0; k < kRowsAtOnce; ++k)
        affine_row(four[k], y + (row + k) * n, weight, bias, n, m[k].mean, m[k].scale);
    }
  }
  for (; row < r.end; ++row) layer_norm_row(x + row * n, y + row * n, weight, bias, n, eps);
}

template <class In, class Out, class W>
void rms_norm(const Worker& w, const In* x, Out* y, const W* weight, int64_t rows, int64_t n, float eps,
              float offset = 0.0f) {
  const Range r = w.range(rows);
  for (int64_t row = r.begin; row < r.end; ++row) rms_norm_row(x + row * n, y + row * n, weight, n, eps, offset);
}

// x, y: [batch, channels, inner] contiguous (NCHW); statistics over (channels / groups) * inner values.
// Instance norm: groups = channels. Channels last: group_norm_channels (norm_epilogue.hpp).
template <class In, class Out, class W>
void group_norm(const Worker& w, const In* x, Out* y, const W* weight, const W* bias, int64_t batch, int64_t channels,
                int64_t inner, int64_t groups, float eps) {
  using C = compute_t<In>;
  const int64_t width = groups ? channels / groups : 0, n = width * inner;
  const Range r = w.range(batch * groups);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const In* from = x + item * n;
    const int64_t channel = item % groups * width;
    const auto [mean, rstd] = layer_moments(from, n, eps);
    for (int64_t c = 0; c < width; ++c) {
      const C scale = weight ? rstd * convert<C>(weight[channel + c]) : rstd;
      const C shift = bias ? convert<C>(bias[channel + c]) : C(0);
      const In* a = from + c * inner;
      Out* b = y + item * n + c * inner;
      MCOMP_INDEPENDENT
      for (int64_t i = 0; i < inner; ++i) b[i] = convert<Out>((convert<C>(a[i]) - mean) * scale + shift);
    }
  }
}

// y = (x - mean) / sqrt(variance + eps) * weight + bias per channel of [outer, channels, inner]; inner = 1 for NHWC.
template <class In, class Out, class W>
void batch_norm(const Worker& w, const In* x, Out* y, const W* mean, const W* variance, const W* weight, const W* bias,
                int64_t outer, int64_t channels, int64_t inner, float eps) {
  using C = compute_t<In>;
  constexpr int64_t kTile = 128;
  const int64_t tiles = (channels + kTile - 1) / kTile;
  const int64_t blocks = inner == 1 ? (outer + 63) / 64 : outer;
  const int64_t rows = inner == 1 ? 64 : 1;
  const Range r = w.range(blocks * tiles);
  for (int64_t item = r.begin; item < r.end; ++item) {
    C scale[kTile], shift[kTile];
    const int64_t c0 = item % tiles * kTile, count = channels - c0 < kTile ? channels - c0 : kTile;
    for (int64_t c = 0; c < count; ++c) {
      const C rstd = C(1) / math::sqrt(convert<C>(variance[c0 + c]) + C(eps));
      scale[c] = weight ? rstd * convert<C>(weight[c0 + c]) : rstd;
      shift[c] = (bias ? convert<C>(bias[c0 + c]) : C(0)) - convert<C>(mean[c0 + c]) * scale[c];
    }
    const int64_t first = item / tiles * rows, last = first + rows < outer ? first + rows : outer;
    for (int64_t o = first; o < last; ++o) {
      const int64_t at = (o * channels + c0) * inner;
      if (inner == 1) {
        MCOMP_INDEPENDENT
        for (int64_t c = 0; c < count; ++c) y[at + c] = convert<Out>(convert<C>(x[at + c]) * scale[c] + shift[c]);
        continue;
      }
      for (int64_t c = 0; c < count; ++c) {
        const C a = scale[c], b = shift[c];
        MCOMP_INDEPENDENT
        for (int64_t i = c * inner; i < (c + 1) * inner; ++i) y[at + i] = convert<Out>(convert<C>(x[at + i]) * a + b);
      }
    }
  }
}

}  // namespace mcomp
