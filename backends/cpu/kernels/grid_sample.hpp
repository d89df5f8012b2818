// torch.nn.functional.grid_sample over two axes.
//
//     GridShape s{N, C, H, W, OH, OW, /*align_corners=*/false};
//     grid_sample(w, s, x, grid, y, GridMode::bilinear, GridPadding::zeros);
// x [N, C, H, W], grid [N, OH, OW, 2] with (x, y) in [-1, 1], y [N, C, OH, OW], contiguous. A grid position that is not
// finite samples outside. About 20 FLOPs a position and 8 an element (bilinear).
#pragma once

#include <cstdint>

#include "math.hpp"
#include "resize.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

enum class GridMode { bilinear, nearest, cubic };
enum class GridPadding { zeros, border, reflection };

struct GridShape {
  int64_t batch, channels, height, width, out_height, out_width;
  bool align_corners;
};

namespace detail {

// Reflects x at low and high, given doubled so that half positions are integers.
inline float reflect_coordinate(float x, int64_t low2, int64_t high2) {
  if (low2 == high2) return 0.0f;
  const float low = float(low2) / 2.0f, span = float(high2 - low2) / 2.0f;
  const float offset = math::abs(x - low), rest = math::fmod(offset, span);
  const float flips = math::floor(offset / span);
  return math::fmod(flips, 2.0f) == 0.0f ? rest + low : span - rest + low;
}

// A coordinate brought inside by the padding mode; finite and within int32 always.
inline float pad_coordinate(float x, int64_t size, GridPadding padding, bool align) {
  if (padding == GridPadding::reflection)
    x = align ? reflect_coordinate(x, 0, 2 * (size - 1)) : reflect_coordinate(x, -1, 2 * size - 1);
  if (padding != GridPadding::zeros) {
    x = x > 0.0f ? x : 0.0f;
    x = x < float(size - 1) ? x : float(size - 1);
  }
  return math::abs(x) < 1.0e9f ? x : -100.0f;
}

inline Taps<float> grid_taps(float g, int64_t size, GridMode mode, GridPadding padding, bool align) {
  const float x = align ? (g + 1.0f) / 2.0f * float(size - 1) : ((g + 1.0f) * float(size) - 1.0f) / 2.0f;
  Taps<float> taps{};
  if (mode == GridMode::cubic) {
    const float safe = math::abs(x) < 1.0e9f ? x : -100.0f, whole = math::floor(safe);
    taps.count = 4;
    cubic_weights(safe - whole, taps.weight);
    for (int k = 0; k < 4; ++k) taps.at[k] = int64_t(pad_coordinate(whole - 1.0f + float(k), size, padding, align));
  } else {
    const float p = pad_coordinate(x, size, padding, align);
    const float whole = mode == GridMode::nearest ? math::round(p) : math::floor(p);
    taps.count = mode == GridMode::nearest ? 1 : 2;
    taps.at[0] = int64_t(whole), taps.at[1] = taps.at[0] + 1;
    taps.weight[1] = p - whole;
    taps.weight[0] = mode == GridMode::nearest ? 1.0f : whole + 1.0f - p;
  }
  for (int k = 0; k < taps.count; ++k)
    if (taps.at[k] < 0 || taps.at[k] >= size) taps.at[k] = -1;
  return taps;
}

}  // namespace detail

template <class T>
void grid_sample(const Worker& w, const GridShape& s, const T* x, const T* grid, T* y, GridMode mode,
                 GridPadding padding) {
  const int64_t plane = s.height * s.width, positions = s.out_height * s.out_width;
  const Range r = w.range(s.batch * positions);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t n = item / positions;
    const detail::Taps<float> a = detail::grid_taps(to_f32(grid[2 * item]), s.width, mode, padding, s.align_corners);
    const detail::Taps<float> b =
        detail::grid_taps(to_f32(grid[2 * item + 1]), s.height, mode, padding, s.align_corners);
    for (int64_t c = 0; c < s.channels; ++c) {
      const T* from = x + (n * s.channels + c) * plane;
      float sum = 0.0f;
      for (int i = 0; i < b.count; ++i)
        for (int j = 0; j < a.count; ++j)
          if (a.at[j] >= 0 && b.at[i] >= 0)
            sum += b.weight[i] * a.weight[j] * to_f32(from[b.at[i] * s.width + a.at[j]]);
      y[(n * s.channels + c) * positions + item % positions] = convert<T>(sum);
    }
  }
}

}  // namespace mcomp
