// Winograd convolutions of float images: 3x3 kernels, stride 1, dilation 1, one group, channels-last.
//
// F(M x M, 3 x 3) with M = 2 or 4 (Lavin and Gray, arXiv:1509.09308): an M x M tile of outputs comes from the N x N inputs
// around it, N = M + 2, in N * N multiplications per pair of channels instead of 9 * M * M: 2.25 times fewer for M = 2, 4
// times fewer for M = 4. Weights U = G g G^T are made once, inputs become V = B^T d B, products A = V U of
// [tiles x C] with [C x O] are taken for each of the N * N points, and outputs are Y = T^T A T.
//
//   ConvShape s{N, C, O, 1, {1, H, W}, {1, OH, OW}, {1, 3, 3}, {1, 1, 1}, {0, PH, PW}, {1, 1, 1}};
//   using T0 = Tile<14, 2>;
//   pack_winograd<T0, 4>(w, packed, weight_oihw, s);             // once; packed_winograd_elements<T0, 4>(s) floats
//   conv_winograd<T0, 4>(w, x, packed, weight_oihw, s, Ep0{bias, out, O}, scratch);  // out[n, oh, ow, o]: row * O + col
//   // scratch: winograd_scratch_bytes<T0, 4>(s, workers) bytes for all workers together, 64-byte aligned
//
// Points: 0, 1, -1 and infinity for M = 2; 0, +-sqrt(2), +-sqrt(1/2) and infinity for M = 4, whose rounding errors are
// half those of 0, +-1, +-2 (compare Barabasz et al., arXiv:1803.10986). Weights are transformed in double and rounded
// once. Bounds: with u = 2^-24, X the largest |x| under the tile and W the sum of |w| over an output's weights, a result
// errs by at most K (C + 16) u X W, where K = 4^2 for M = 2 and 12.6^2 for M = 4 is the largest sum over points of the
// products of the transforms' coefficients, without signs. tests/cpu/test_kernels_winograd.py holds results to K = 1 / 4:
// roundings do not all have one sign. For random data the relative L2 error is about that of the direct convolution for
// M = 2 and 2.5 times that for M = 4.
//
// NaN and infinity: a tile with an infinite or NaN result, whether its inputs, its weights or an overflow in between made
// it, is computed again by plain dot products over the original weights. So they stand where the direct convolution has
// them; images full of them take several times as long. Zeros do not stay: an output whose own inputs are all zero is of
// the size of a rounding error where its tile has others, but for M = 2 and sums of whole numbers below 2^21.
#pragma once

#include <cstdint>

#include "conv_plan.hpp"
#include "epilogue.hpp"
#include "micro.hpp"
#include "product.hpp"

namespace mcomp {
namespace detail {

// The transforms along one axis. Points come in groups, {0}, {p, -p} ..., {infinity}; those of a pair share work.
//   input<g>(d, v): the one or two points of group g from d(0) ... d(N - 1), d called with integral constants
//   output(a, y): y[0 ... M - 1] from the values a[0 ... N - 1] at the points
//   weight(g, u): the values of a 3-tap kernel at the points
template <int M>
struct WinogradAxis;

template <>
struct WinogradAxis<2> {
  static constexpr int kGroups = 3;

  template <int G, class D>
  static MCOMP_INLINE void input(const D& d, vf32 (&v)[2]) {
    constexpr std::integral_constant<int, 1> i1{};
    constexpr std::integral_constant<int, 2> i2{};
    if constexpr (G == 0) {
      v[0] = d(i2) - d(std::integral_constant<int, 0>{});
    } else if constexpr (G == 1) {
      const vf32 even = d(i2), odd = d(i1);
      v[0] = even + odd;
      v[1] = even - odd;
    } else {
      v[0] = d(std::integral_constant<int, 3>{}) - d(i1);
    }
  }
  static MCOMP_INLINE void output(const vf32 (&a)[4], vf32 (&y)[2]) {
    y[0] = a[0] + (a[1] + a[2]);
    y[1] = (a[1] - a[2]) + a[3];
  }
  static void weight(const double* g, double* u) {
    u[0] = -g[0];
    u[1] = (g[0] + g[1] + g[2]) / 2;
    u[2] = (g[0] - g[1] + g[2]) / 2;
    u[3] = g[2];
  }
};

template <>
struct WinogradAxis<4> {
  static constexpr int kGroups = 4;
  static constexpr double kRoot = 1.41421356237309504880;  // sqrt(2)

  template <int G, class D>
  static MCOMP_INLINE void input(const D& d, vf32 (&v)[2]) {
    constexpr std::integral_constant<int, 1> i1{};
    constexpr std::integral_constant<int, 2> i2{};
    constexpr std::integral_constant<int, 3> i3{};
    constexpr std::integral_constant<int, 4> i4{};
    if constexpr (G == 0) {
      v[0] = vfma(vset(-2.5f), d(i2), d(std::integral_constant<int, 0>{}) + d(i4));
    } else if constexpr (G == 3) {
      v[0] = vfma(vset(-2.5f), d(i3), d(i1) + d(std::integral_constant<int, 5>{}));
    } else {
      const vf32 other = vset(G == 1 ? -0.5f : -2.0f);
      const vf32 point = vset(static_cast<float>(G == 1 ? kRoot : kRoot / 2));
      const vf32 even = vfma(other, d(i2), d(i4)), odd = vfma(other, d(i1), d(i3));
      v[0] = vfma(point, odd, even);
      v[1] = vfma(-point, odd, even);
    }
  }
  static MCOMP_INLINE void output(const vf32 (&a)[6], vf32 (&y)[4]) {
    const vf32 even1 = a[1] + a[2], odd1 = a[1] - a[2], even2 = a[3] + a[4], odd2 = a[3] - a[4];
    const vf32 root = vset(static_cast<float>(kRoot)), half = vset(static_cast<float>(kRoot / 2));
    y[0] = a[0] + (even1 + even2);
    y[1] = vfma(root, odd1, half * odd2);
    y[2] = vfma(vset(2.0f), even1, vset(0.5f) * even2);
    y[3] = vfma(vset(static_cast<float>(2 * kRoot)), odd1, vfma(vset(static_cast<float>(kRoot / 4)), odd2, a[5]));
  }
  static void weight(const double* g, double* u) {
    const double even1 = g[0] + 2 * g[2], odd1 = kRoot * g[1], even2 = g[0] + g[2] / 2, odd2 = kRoot / 2 * g[1];
    u[0] = g[0];
    u[1] = (even1 + odd1) / 6;
    u[2] = (even1 - odd1) / 6;
    u[3] = (even2 + odd2) / -1.5;
    u[4] = (even2 - odd2) / -1.5;
    u[5] = g[2];
  }
};

constexpr int winograd_first(int group) { return group == 0 ? 0 : 2 * group - 1; }
constexpr int winograd_size(int group, int groups) { return group == 0 || group == groups - 1 ? 1 : 2; }

// Six floats' addresses a constant step apart, as x86 encodes them in one operand each.
struct Steps {
  int64_t one, three, five;
  explicit MCOMP_INLINE Steps(int64_t floats) : one(4 * floats), three(12 * floats), five(20 * floats) {}
  // Offset in bytes of float i * step.
  template <int I>
  MCOMP_INLINE int64_t offset() const {
    static_assert(I <= 5, "there are six");
    return I == 3 ? three : I == 5 ? five : I * one;
  }
};
// p, in a register of its own: keeps the compiler from making many addresses of one base.
template <class T>
MCOMP_INLINE T* based(T* p) {
  asm("" : "+r"(p));
  return p;
}

// Pixels of a tile's inputs: one base and constant distances.
struct EvenPixels {
  const float* first;
  Steps rows;
  int64_t pixel;
  // Calls f(j, load) for column j < N of pixels, where load(i) gives kLanes channels from c on of row i.
  template <int N, class F>
  MCOMP_INLINE void columns(int64_t c, F&& f) const {
    const char* column = reinterpret_cast<const char*>(first + c);
    unroll<N>([&](auto j) MCOMP_LAMBDA {
      column = based(column);
      f(j, [&](auto i) MCOMP_LAMBDA {
        return vload(reinterpret_cast<const float*>(column + rows.template offset<i>()));
      });
      column += pixel * 4;
    });
  }
};
// Pixels of a tile's inputs that lie anywhere.
template <int M>
struct ScatteredPixels {
  const float* at[M + 2][M + 2];
  template <int N, class F>
  MCOMP_INLINE void columns(int64_t c, F&& f) const {
    unroll<N>([&](auto j) MCOMP_LAMBDA { f(j, [&](auto i) MCOMP_LAMBDA { return vload(at[i][j] + c); }); });
  }
};

// B^T d B for vectors of channels from c on, before `end`; point p of the result goes to v + p * point.
template <int M, class Pixels>
MCOMP_NOINLINE void winograd_input(const Pixels& pixels, int64_t c, int64_t end, float* v, int64_t point) {
  using Axis = WinogradAxis<M>;
  constexpr int N = M + 2, kGroups = Axis::kGroups;
  const Steps points(point);
  for (; c < end; c += kLanes) {
    char* to = reinterpret_cast<char*>(v + c);
    unroll<kGroups>([&](auto g) MCOMP_LAMBDA {
      vf32 lines[2][N];
      pixels.template columns<N>(c, [&](auto j, auto load) MCOMP_LAMBDA {
        vf32 pair[2]{};
        Axis::template input<g>(load, pair);
        lines[0][j] = pair[0], lines[1][j] = pair[1];
      });
      unroll<winograd_size(g, kGroups)>([&](auto k) MCOMP_LAMBDA {
        to = based(to);
        unroll<kGroups>([&](auto h) MCOMP_LAMBDA {
          vf32 pair[2]{};
          Axis::template input<h>([&](auto j) MCOMP_LAMBDA { return lines[k][j]; }, pair);
          unroll<winograd_size(h, kGroups)>([&](auto q) MCOMP_LAMBDA {
            vstore(reinterpret_cast<float*>(to + points.template offset<winograd_first(h) + q>()), pair[q]);
          });
        });
        to += point * (4 * N);
      });
    });
  }
}

// The N x N inputs whose first is (top, left) of an image, for all channels; pixels outside are zero. Point p of the
// result, channels rounded up to whole vectors, goes to v + p * point. zeros: as many as there are channels.
template <int M>
MCOMP_INLINE void winograd_input_tile(const float* image, const ConvShape& s, int64_t top, int64_t left, float* v,
                                      int64_t point, const float* zeros) {
  constexpr int N = M + 2;
  const int64_t height = s.in[1], width = s.in[2], channels = s.in_channels, whole = channels / kLanes * kLanes;
  const float* first = image + (top * width + left) * channels;
  const bool inside = top >= 0 && left >= 0 && top + N <= height && left + N <= width;
  if (inside && whole == channels) {
    winograd_input<M>(EvenPixels{first, Steps(width * channels), channels}, 0, whole, v, point);
    return;
  }
  ScatteredPixels<M> pixels;
  for (int i = 0; i < N; ++i)
    for (int j = 0; j < N; ++j) {
      const bool in = top + i >= 0 && top + i < height && left + j >= 0 && left + j < width;
      pixels.at[i][j] = in ? first + (i * width + j) * channels : zeros;
    }
  winograd_input<M>(pixels, 0, whole, v, point);
  if (whole == channels) return;
  alignas(64) float ends[N * N * kLanes];
  for (int i = 0; i < N * N; ++i)
    vstore(ends + i * kLanes, vload_n(pixels.at[i / N][i % N] + whole, channels - whole));
  winograd_input<M>(EvenPixels{ends - whole, Steps(N * kLanes), kLanes}, whole, whole + 1, v, point);
}

// The M x M outputs of NV vectors of channels: point p at a + p * point, results to y[M * M][NV * kLanes]. False when one
// is not finite.
template <int M, int NV>
MCOMP_NOINLINE bool winograd_output(const float* a, int64_t point, float* y) {
  constexpr int N = M + 2;
  const Steps rows(N * point);
  vf32 poison{};
  for (int64_t c = 0; c < NV * kLanes; c += kLanes) {
    vf32 lines[M][N];
    const char* from = reinterpret_cast<const char*>(a + c);
    unroll<N>([&](auto j) MCOMP_LAMBDA {
      from = based(from);
      vf32 column[N], sums[M];
      unroll<N>([&](auto i) MCOMP_LAMBDA {
        column[i] = vload(reinterpret_cast<const float*>(from + rows.template offset<i>()));
      });
      WinogradAxis<M>::output(column, sums);
      unroll<M>([&](auto k) MCOMP_LAMBDA { lines[k][j] = sums[k]; });
      from += point * 4;
    });
    unroll<M>([&](auto k) MCOMP_LAMBDA {
      vf32 sums[M];
      WinogradAxis<M>::output(lines[k], sums);
      // The corners together depend on every point, and so on every input and weight.
      if constexpr (k == 0 || k == M - 1)
        poison = vfma(sums[0], vf32{}, vfma(sums[M - 1], vf32{}, poison));
      unroll<M>([&](auto q) MCOMP_LAMBDA { vstore(y + c + (k * M + q) * NV * kLanes, sums[q]); });
    });
  }
  return vsum(poison) == 0.0f;
}

// Outputs (oh, ow) of `count` channels from `first` on by dot products; patch: room for 9 * C floats.
inline void winograd_direct(const float* image, const float* weight, const ConvShape& s, int64_t oh, int64_t ow,
                            int64_t first, int64_t count, float* patch, float* y) {
  const int64_t length = 9 * s.in_channels;
  for (int64_t i = 0; i < 3; ++i)
    for (int64_t j = 0; j < 3; ++j) {
      const int64_t py = oh - s.pad[1] + i, px = ow - s.pad[2] + j;
      const bool inside = py >= 0 && py < s.in[1] && px >= 0 && px < s.in[2];
      for (int64_t c = 0; c < s.in_channels; ++c)
        patch[c * 9 + i * 3 + j] = inside ? image[(py * s.in[2] + px) * s.in_channels + c] : 0.0f;
    }
  for (int64_t o = 0; o < count; ++o) {
    const float* g = weight + (first + o) * length;
    vf32 sum{};
    int64_t i = 0;
    for (; i + kLanes <= length; i += kLanes) sum = vfma(vload(patch + i), vload(g + i), sum);
    if (i < length) sum = vfma(vload_n(patch + i, length - i), vload_n(g + i, length - i), sum);
    y[o] = vsum(sum);
  }
}

constexpr int64_t kWinogradBytes = 640 * 1024;    // transformed inputs and products that a worker keeps hot
constexpr int64_t kWinogradLeast = 28;            // tiles of a block, so that transformed weights serve several
constexpr int64_t kWinogradShared = 4096 * 1024;  // transformed weights from which on workers divide them, not the tiles

// Sizes of a convolution's tiles and of the scratch that they need.
template <class Tile, int M>
struct WinogradPlan {
  static constexpr int64_t N = M + 2, NR = Tile::NR;
  int64_t across, per_image, tiles, panels;
  int64_t row;           // floats from a tile's transformed channels to the next tile's
  int64_t block;         // tiles handled at once
  int64_t point, apart;  // floats from a point to the next: transformed inputs, products

  explicit WinogradPlan(const ConvShape& s)
      : across(ceil_div(s.out[2], M)), per_image(ceil_div(s.out[1], M) * across), tiles(s.batch * per_image),
        panels(ceil_div(s.out_channels, NR)), row(copied_stride(round_up(s.in_channels, kLanes), 4)) {
    const int64_t fit = max_i64(kWinogradLeast, kWinogradBytes / (N * N * (row + NR) * 4));
    block = tiles <= fit ? tiles : ceil_div(tiles, ceil_div(tiles, fit));
    // An odd number of cache lines: points spread over all sets.
    point = (round_up(block * row, 16) / 16 | 1) * 16;
    apart = (block * NR / kLanes | 1) * kLanes;
  }
  int64_t input_bytes() const { return round_up(N * N * point * 4, 64); }
  int64_t product_bytes() const { return round_up(N * N * apart * 4, 64); }
  int64_t worker_bytes(const ConvShape& s) const {
    return input_bytes() + product_bytes() + round_up(10 * s.in_channels * 4, 64);
  }
};

template <class Tile, int M>
struct Winograd {
  static constexpr int64_t N = M + 2, MR = Tile::MR, NR = Tile::NR;
  const float* x;
  const float* packed;
  const float* weight;
  const ConvShape& s;
  const WinogradPlan<Tile, M>& p;
  const Emitter<float>& emit;
  const float* zeros;  // one for every input channel

  // A tile's place: its image, and its first output in it. Divides once for a run of tiles.
  struct Place {
    int64_t image, top, left;
  };
  Place place(int64_t tile) const {
    return {tile / p.per_image, tile % p.per_image / p.across * M, tile % p.across * M};
  }
  void next(Place& at) const {
    if ((at.left += M) < s.out[2]) return;
    at.left = 0;
    if ((at.top += M) < s.out[1]) return;
    at.top = 0, ++at.image;
  }
  const float* image(const Place& at) const { return x + at.image * s.in[1] * s.in[2] * s.in_channels; }

  // Products of tiles [rows) of a block with a panel, for every point.
  void multiply(const float* v, Range rows, int64_t panel, float* a) const {
    const int64_t no_tap = 0, parts = ceil_div(rows.size(), MR), k = s.in_channels;
    for (int64_t at = 0; at < N * N; ++at) {
      const float* u = packed + (panel * N * N + at) * k * NR;
      for (int64_t i = 0; i < parts; ++i) {
        const int64_t r0 = rows.size() * i / parts, r1 = rows.size() * (i + 1) / parts;
        micro_tiles<FloatDot<float, float>, MR, Tile::NV>.table[r1 - r0](
            v + at * p.point + (rows.begin + r0) * p.row, p.row, &no_tap, 1, k, u, NR, a + at * p.apart + r0 * NR,
            nullptr, {});
      }
    }
  }

  // Inputs of tiles [tiles) of a block, which starts at tile `start`.
  void transform(int64_t start, Range tiles, float* v) const {
    Place at = place(start + tiles.begin);
    for (int64_t t = tiles.begin; t < tiles.end; ++t, next(at))
      winograd_input_tile<M>(image(at), s, at.top - s.pad[1], at.left - s.pad[2], v + t * p.row, p.point, zeros);
  }

  // Hands the results of tiles [tiles) and a panel over; a: those of the first tile.
  void finish(const float* a, Range tiles, int64_t panel, float* patch) const {
    alignas(64) float y[M * M * NR];
    const int64_t first = panel * NR, count = min_i64(NR, s.out_channels - first);
    Place at = place(tiles.begin);
    for (int64_t t = tiles.begin; t < tiles.end; ++t, a += NR, next(at)) {
      const int64_t height = min_i64(M, s.out[1] - at.top), width = min_i64(M, s.out[2] - at.left);
      if (!winograd_output<M, Tile::NV>(a, p.apart, y)) {
        for (int64_t i = 0; i < height; ++i)
          for (int64_t j = 0; j < width; ++j)
            winograd_direct(image(at), weight, s, at.top + i, at.left + j, first, count, patch, y + (i * M + j) * NR);
      }
      const int64_t row0 = (at.image * s.out[1] + at.top) * s.out[2] + at.left;
      for (int64_t i = 0; i < height; ++i) emit(y + i * M * NR, NR, width, row0 + i * s.out[2], 1, first, count);
    }
  }

  // All tiles in `all`, by the workers of a team. v: shared by the team; a and patch: the worker's own.
  void run(const Worker& team, Range all, float* v, float* a, float* patch) const {
    for (int64_t b = all.begin; b < all.end; b += p.block) {
      const int64_t height = min_i64(p.block, all.end - b);
      transform(b, team.range(height), v);
      team.barrier();
      const Split split = split_product(team, height, 1, p.panels, true);
      for (int64_t panel = split.panels.begin; panel < split.panels.end; ++panel) {
        multiply(v, split.rows, panel, a);
        finish(a, {b + split.rows.begin, b + split.rows.end}, panel, patch);
      }
      if (b + p.block < all.end) team.barrier();
    }
  }
};

template <class Tile, int M>
void conv_winograd_emitting(const Worker& w, const float* x, const float* packed, const float* weight,
                            const ConvShape& s, const Emitter<float>& emit, void* scratch) {
  const WinogradPlan<Tile, M> p(s);
  if (p.tiles == 0) return;
  const int64_t own_bytes = p.worker_bytes(s), weight_bytes = (M + 2) * (M + 2) * s.in_channels * s.out_channels * 4;
  // Workers divide the panels where each would otherwise stream many weights, or have few rows to multiply.
  const bool few = 2 * p.tiles < w.count * Tile::MR;
  const bool together = w.count > 1 && p.panels > 1 && (few || weight_bytes > kWinogradShared);
  char* own = static_cast<char*>(scratch) + w.id * own_bytes;
  float* v = reinterpret_cast<float*>(together ? static_cast<char*>(scratch) : own);
  float* a = reinterpret_cast<float*>(own + p.input_bytes());
  float* patch = reinterpret_cast<float*>(own + p.input_bytes() + p.product_bytes());
  float* zeros = patch + 9 * s.in_channels;
  for (int64_t c = 0; c < s.in_channels; ++c) zeros[c] = 0.0f;
  const Winograd<Tile, M> conv{x, packed, weight, s, p, emit, zeros};
  conv.run(together ? w : Worker{}, together ? Range{0, p.tiles} : w.range(p.tiles), v, a, patch);
}

}  // namespace detail

template <class Tile, int M>
int64_t packed_winograd_elements(const ConvShape& s) {
  return round_up(s.out_channels, Tile::NR) * (M + 2) * (M + 2) * s.in_channels;
}

// src: [O, C, 3, 3] contiguous. Panels of NR output channels; in a panel the points one after the other, each [C][NR].
template <class Tile, int M>
void pack_winograd(const Worker& w, float* dst, const float* src, const ConvShape& s) {
  constexpr int64_t N = M + 2, NR = Tile::NR;
  const int64_t channels = s.in_channels;
  const Range mine = w.range(ceil_div(s.out_channels, NR));
  for (int64_t panel = mine.begin; panel < mine.end; ++panel) {
    float* to = dst + panel * N * N * channels * NR;
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t o = 0; o < NR; ++o) {
        double lines[3][N] = {}, u[N][N] = {};
        if (panel * NR + o < s.out_channels) {
          const float* g = src + ((panel * NR + o) * channels + c) * 9;
          for (int j = 0; j < 3; ++j) {
            const double column[3] = {g[j], g[3 + j], g[6 + j]};
            detail::WinogradAxis<M>::weight(column, lines[j]);
          }
          for (int i = 0; i < N; ++i) {
            const double line[3] = {lines[0][i], lines[1][i], lines[2][i]};
            detail::WinogradAxis<M>::weight(line, u[i]);
          }
        }
        for (int64_t at = 0; at < N * N; ++at)
          to[(at * channels + c) * NR + o] = static_cast<float>(u[at / N][at % N]);
      }
  }
}

template <class Tile, int M>
int64_t winograd_scratch_bytes(const ConvShape& s, int64_t workers) {
  return workers * detail::WinogradPlan<Tile, M>(s).worker_bytes(s);
}

template <class Tile, int M, class Ep>
void conv_winograd(const Worker& w, const float* x, const float* packed, const float* weight, const ConvShape& s,
                   const Ep& ep, void* scratch) {
  detail::conv_winograd_emitting<Tile, M>(w, x, packed, weight, s, detail::emitter<Tile::NR, float>(ep), scratch);
}

}  // namespace mcomp
