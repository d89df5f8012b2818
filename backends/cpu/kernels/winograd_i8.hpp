// Winograd convolutions of bytes for AVX2, which multiplies 16-bit integers only: 3x3 kernels, stride 1, dilation 1, one
// group, channels-last. conv_i8.hpp takes them by itself where suits_winograd_i8 says so; nothing else calls them.
//
// F(2 x 2, 3 x 3) (Lavin and Gray, arXiv:1509.09308), see winograd.hpp: four outputs in 16 multiplications per pair of
// channels instead of 36. The sums are exact: with the points 0, 1, -1 and infinity and weights transformed by twice the
// usual matrix along each axis,
//
//   G = 2 0 0    B^T = 1 0 -1  0    A^T = 1  1  1  0
//       1 1 1          0 1  1  0          0  1 -1 -1
//       1-1 1          0-1  1  0
//       0 0 2          0 1  0 -1
//
// everything is a whole number, and A^T [(G g G^T) . (B^T d B)] A is four times the convolution. With bytes less their zero
// point, |d| <= 255, transformed inputs are at most 1020 and transformed weights at most 9 * 128 = 1152: products of 16-bit
// integers, summed in 32 bits without overflow up to kWinogradChannels channels; what the outputs' sums add may wrap and
// comes back, since four times the convolution fits.
#pragma once

#include <cstdint>
#include <cstring>

#include "conv_plan.hpp"
#include "gemm_i8.hpp"
#include "micro_i8.hpp"
#include "product.hpp"

#if defined(MCOMP_ISA_AVX2) && !defined(MCOMP_VNNI)
#define MCOMP_WINOGRAD_I8 1

namespace mcomp {
namespace detail {

constexpr int64_t kWinogradChannels = 1800;       // inputs up to which sums fit 32 bits
constexpr int64_t kWinogradWeights = 128 * 128;   // channels in times out whose transformed weights stay in a core's cache
constexpr int64_t kWinogradI8Bytes = 160 * 1024;  // transformed inputs and products that a worker keeps hot
constexpr int64_t kWinogradI8Least = 24;          // tiles of a block, so that transformed weights serve several
constexpr int64_t kWords = 2 * kLanes;            // 16-bit lanes of a vector

// Whether a convolution of bytes is computed in this form; by the weights alone, which are packed for it. Planes of a
// depth are images like those of a batch.
inline bool suits_winograd_i8(const ConvShape& s) {
  for (int i = 0; i < 3; ++i)
    if (s.kernel[i] != (i == 0 ? 1 : 3) || s.stride[i] != 1 || s.dilation[i] != 1) return false;
  return s.pad[0] == 0 && s.groups == 1 && s.in_channels >= 16 && s.out_channels >= kLanes &&
         s.in_channels <= kWinogradChannels && s.in_channels * s.out_channels <= kWinogradWeights;
}

// Rows and panels of int16, two steps of a column together, for micro_tile.
struct WordDot : WideDot {
  using Panel = int16_t;
  static MCOMP_INLINE Columns columns(const int16_t* b) {
    return in_register((vi16)vload(reinterpret_cast<const int32_t*>(b)));
  }
};

// The transforms along one axis of vectors of 16- or 32-bit integers.
template <class V>
MCOMP_INLINE void winograd_words(const V (&d)[4], V (&v)[4]) {
  v[0] = d[0] - d[2], v[1] = d[1] + d[2], v[2] = d[2] - d[1], v[3] = d[1] - d[3];
}
template <class V>
MCOMP_INLINE void winograd_sums(const V (&a)[4], V (&y)[2]) {
  y[0] = a[0] + a[1] + a[2], y[1] = a[1] - a[2] - a[3];
}

// kWords bytes from p on as 16-bit integers.
template <class A>
MCOMP_INLINE vi16 widened(const A* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return (vi16)(std::is_same<A, int8_t>::value ? _mm256_cvtepi8_epi16(bytes) : _mm256_cvtepu8_epi16(bytes));
}

// B^T d B of 4 x 4 pixels, of kWords channels each that load(i, j) gives. Point p goes to v + p * point.
template <class Load>
MCOMP_INLINE void winograd_words_of(const Load& load, int16_t* v, int64_t point) {
  vi16 lines[4][4];
  unroll<4>([&](auto j) MCOMP_LAMBDA {
    vi16 column[4], values[4];
    unroll<4>([&](auto i) MCOMP_LAMBDA { column[i] = load(i, j); });
    winograd_words(column, values);
    unroll<4>([&](auto i) MCOMP_LAMBDA { lines[i][j] = values[i]; });
  });
  unroll<4>([&](auto i) MCOMP_LAMBDA {
    vi16 values[4];
    winograd_words(lines[i], values);
    unroll<4>([&](auto j) MCOMP_LAMBDA {
      vstore(reinterpret_cast<int32_t*>(v + (4 * i + j) * point), (vi32)values[j]);
    });
  });
}

// Sizes of the tiles of a convolution and of a worker's scratch, for panels of at most two vectors.
struct WinogradBytes {
  int64_t across, tiles;  // tiles of a line, of everything
  int64_t row;            // words from a tile's transformed channels to the next tile's
  int64_t block;          // tiles handled at once
  int64_t point, apart;   // from a point to the next: words of inputs, sums of products

  explicit WinogradBytes(const ConvShape& s)
      : across(ceil_div(s.out[2], 2)), tiles(s.batch * s.out[0] * ceil_div(s.out[1], 2) * across),
        row(round_up(s.in_channels, kWords)) {
    const int64_t fit = max_i64(kWinogradI8Least, kWinogradI8Bytes / (16 * (row * 2 + kPanelSums * 4)));
    block = tiles <= fit ? tiles : ceil_div(tiles, ceil_div(tiles, fit));
    // An odd number of cache lines: points spread over all sets.
    point = (round_up(block * row, 32) / 32 | 1) * 32;
    apart = (round_up(block * kPanelSums, 16) / 16 | 1) * 16;
  }
  static constexpr int64_t kPanelSums = 2 * kLanes;
  int64_t input_bytes() const { return round_up(16 * point * 2, 64); }
  int64_t product_bytes() const { return round_up(16 * apart * 4, 64); }
  // The four outputs of each tile of a line.
  int64_t line_bytes() const { return round_up(across * 4 * kPanelSums * 4, 64); }
  // All of it, with the bytes of a pixel outside and of the ends of 16 pixels.
  int64_t worker_bytes(const ConvShape& s) const {
    return input_bytes() + product_bytes() + line_bytes() + round_up(s.in_channels + kWords, 64) + 16 * kWords;
  }
};

template <class Tile, class A>
struct WinogradI8 {
  static constexpr int MR = Tile::MR, NV = Tile::NV;
  static constexpr int64_t NR = Tile::NR;
  static_assert(NR <= WinogradBytes::kPanelSums, "scratch is made for so many columns");
  using Product = Int8Product<Tile, A, Scales8>;
  const A* x;
  const int16_t* packed;
  const ConvShape& s;
  const WinogradBytes& p;
  const Product& product;
  int16_t* v;      // transformed inputs of a block
  int32_t* sums;   // products of a block with a panel
  int32_t* lines;  // two lines of finished sums
  A* outside;      // a pixel of zeros
  A* ends;         // the last channels of 16 pixels

  // A tile's place: its image of all planes of the batch, and its first output there.
  struct Place {
    int64_t image, top, left;
  };
  Place place(int64_t tile) const {
    const int64_t per_image = ceil_div(s.out[1], 2) * p.across;
    return {tile / per_image, tile % per_image / p.across * 2, tile % p.across * 2};
  }
  void next(Place& at) const {
    if ((at.left += 2) < s.out[2]) return;
    at.left = 0;
    if ((at.top += 2) < s.out[1]) return;
    at.top = 0, ++at.image;
  }

  // Inputs of `count` tiles from number `tile` on to the rows of the block.
  void transform(int64_t tile, int64_t count) const {
    const int64_t channels = s.in_channels, whole = channels / kWords * kWords, line = s.in[2] * channels;
    const vi16 zero = vi16{} + static_cast<int16_t>(product.zero());
    Place at = place(tile);
    int16_t* row = v;
    for (int64_t t = 0; t < count; ++t, next(at), row += p.row) {
      const int64_t top = at.top - s.pad[1], left = at.left - s.pad[2];
      const int64_t plane = at.image % s.out[0], image = at.image / s.out[0] * s.in[0] + plane;
      const A* first = x + (image * s.in[1] + top) * line + left * channels;
      const bool there = plane < s.in[0];  // behind the last plane there may be padding
      const bool inside = there && top >= 0 && left >= 0 && top + 4 <= s.in[1] && left + 4 <= s.in[2];
      if (inside && whole == channels) {
        for (int64_t c = 0; c < whole; c += kWords) {
          const A* lines_of[4] = {first + c, first + line + c, first + 2 * line + c, first + 3 * line + c};
          winograd_words_of([&](auto i, auto j) MCOMP_LAMBDA { return widened(lines_of[i] + j * channels) - zero; },
                            row + c, p.point);
        }
        continue;
      }
      const A* pixels[16];
      for (int64_t i = 0; i < 4; ++i)
        for (int64_t j = 0; j < 4; ++j) {
          const bool in = there && top + i >= 0 && top + i < s.in[1] && left + j >= 0 && left + j < s.in[2];
          pixels[4 * i + j] = in ? first + i * line + j * channels : outside;
        }
      for (int64_t c = 0; c < whole; c += kWords)
        winograd_words_of([&](auto i, auto j) MCOMP_LAMBDA { return widened(pixels[4 * i + j] + c) - zero; }, row + c,
                          p.point);
      if (whole == channels) continue;
      for (int i = 0; i < 16; ++i)
        std::memcpy(ends + i * kWords, pixels[i] + whole, static_cast<size_t>(channels - whole));
      winograd_words_of([&](auto i, auto j) MCOMP_LAMBDA { return widened(ends + (4 * i + j) * kWords) - zero; },
                        row + whole, p.point);
    }
  }

  // Products of `count` tiles of the block with a panel, for every point.
  void multiply(int64_t count, int64_t panel) const {
    alignas(64) static const int32_t nothing[NR] = {};
    const int64_t no_tap = 0, parts = ceil_div(count, MR), k = round_up(s.in_channels, 2);
    for (int64_t at = 0; at < 16; ++at) {
      const int16_t* u = packed + (panel * 16 + at) * k * NR;
      for (int64_t i = 0; i < parts; ++i) {
        const int64_t r0 = count * i / parts, r1 = count * (i + 1) / parts;
        micro_tiles<WordDot, MR, NV>.table[r1 - r0](v + at * p.point + r0 * p.row, p.row, &no_tap, 1, k, u, 2 * NR,
                                                    sums + at * p.apart + r0 * NR, nothing, {});
      }
    }
  }

  // The 2 x 2 outputs of the block's tile `from` to pixels 2 * column of both lines.
  MCOMP_INLINE void outputs(int64_t from, int64_t column) const {
    const int64_t below = p.across * 2 * NR;
    for (int64_t c = 0; c < NR; c += kLanes) {
      const int32_t* a = sums + from * NR + c;
      vu32 halves[2][4];
      unroll<4>([&](auto j) MCOMP_LAMBDA {
        vu32 points[4], pair[2];
        unroll<4>([&](auto i) MCOMP_LAMBDA { points[i] = (vu32)vload(a + (4 * i + j) * p.apart); });
        winograd_sums(points, pair);
        halves[0][j] = pair[0], halves[1][j] = pair[1];
      });
      unroll<2>([&](auto i) MCOMP_LAMBDA {
        vu32 pair[2];
        winograd_sums(halves[i], pair);
        int32_t* to = lines + i * below + column * 2 * NR + c;
        vstore(to, (vi32)pair[0] >> 2);
        vstore(to + NR, (vi32)pair[1] >> 2);
      });
    }
  }

  // Hands over the block's tiles, [tile, tile + count).
  void finish(int64_t tile, int64_t count, const typename Product::PanelTerms& terms) const {
    const int64_t below = p.across * 2 * NR;
    for (int64_t done = 0; done < count;) {
      const Place at = place(tile + done);
      const int64_t first = at.left / 2, some = min_i64(p.across - first, count - done);
      const int64_t width = min_i64(2 * some, s.out[2] - at.left);
      for (int64_t i = 0; i < some; ++i) outputs(done + i, first + i);
      for (int64_t i = 0; i < min_i64(2, s.out[1] - at.top); ++i) {
        const int64_t row0 = (at.image * s.out[1] + at.top + i) * s.out[2] + at.left;
        product.emit.emit(product.emit.epilogue, lines + i * below + 2 * first * NR, terms.scale, product.scales, width,
                          row0, 1, terms.first, terms.count);
      }
      done += some;
    }
  }

  void run(Range all, Range panels) const {
    typename Product::PanelTerms terms{};
    for (int64_t b = all.begin; b < all.end; b += p.block) {
      const int64_t count = min_i64(p.block, all.end - b);
      transform(b, count);
      for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
        product.compute_terms(panel, terms);
        multiply(count, panel);
        finish(b, count, terms);
      }
    }
  }
};

template <class Tile, class A>
void conv_winograd_i8(const Worker& w, const A* x, const int8_t* packed, const ConvShape& s, const Scales8& q,
                      const Int8Emitter<Scales8>& emit, char* scratch) {
  const WinogradBytes p(s);
  const int64_t panels = ceil_div(s.out_channels, Tile::NR);
  // Few tiles: every worker transforms its own, however many others need the same.
  const Split split = p.tiles >= w.count * Tile::MR ? Split{w.range(p.tiles), {0, panels}}
                                                    : split_product(w, p.tiles, 1, panels, true);
  if (split.rows.empty() || split.panels.empty()) return;
  char* own = scratch + w.id * p.worker_bytes(s);
  char* sums = own + p.input_bytes();
  char* lines = sums + p.product_bytes();
  A* outside = reinterpret_cast<A*>(lines + p.line_bytes());
  A* ends = outside + round_up(s.in_channels + kWords, 64);
  const Int8Product<Tile, A, Scales8> product{packed, 0, {s.out_channels, 1, Tile::NR}, q, emit};
  std::memset(outside, product.zero(), static_cast<size_t>(s.in_channels + kWords));
  std::memset(ends, 0, static_cast<size_t>(16 * kWords));
  const WinogradI8<Tile, A> conv{x, reinterpret_cast<const int16_t*>(packed), s, p, product,
                                 reinterpret_cast<int16_t*>(own), reinterpret_cast<int32_t*>(sums),
                                 reinterpret_cast<int32_t*>(lines), outside, ends};
  conv.run(split.rows, split.panels);
}

// src: [O, C, 3, 3] contiguous. Panels of NR output channels; in a panel the points one after the other, each with two
// channels of a column together. column_sums: those of the weights as they were.
template <class Tile>
void pack_winograd_i8(const Worker& w, int8_t* dst, int32_t* column_sums, const int8_t* src, const ConvShape& s) {
  constexpr int64_t NR = Tile::NR;
  const int64_t channels = s.in_channels, k = round_up(channels, 2);
  const auto axis = [](const int32_t* g, int64_t step, int32_t* u) {
    u[0] = 2 * g[0], u[1] = g[0] + g[step] + g[2 * step], u[2] = g[0] - g[step] + g[2 * step], u[3] = 2 * g[2 * step];
  };
  const Range mine = w.range(ceil_div(s.out_channels, NR));
  for (int64_t panel = mine.begin; panel < mine.end; ++panel) {
    int16_t* to = reinterpret_cast<int16_t*>(dst) + panel * 16 * k * NR;
    for (int64_t i = 0; i < 16 * k * NR; ++i) to[i] = 0;
    for (int64_t o = 0; o < NR && panel * NR + o < s.out_channels; ++o) {
      int32_t total = 0;
      for (int64_t c = 0; c < channels; ++c) {
        int32_t g[9], columns[4][3], u[4];
        for (int i = 0; i < 9; ++i) g[i] = src[((panel * NR + o) * channels + c) * 9 + i], total += g[i];
        for (int j = 0; j < 3; ++j) {
          axis(g + j, 3, u);
          for (int i = 0; i < 4; ++i) columns[i][j] = u[i];
        }
        for (int i = 0; i < 4; ++i) {
          axis(columns[i], 1, u);
          for (int j = 0; j < 4; ++j)
            to[(4 * i + j) * k * NR + (c / 2 * NR + o) * 2 + c % 2] = static_cast<int16_t>(u[j]);
        }
      }
      column_sums[panel * NR + o] = total;
    }
  }
}

template <class Tile>
int64_t packed_winograd_i8_bytes(const ConvShape& s) {
  return round_up(s.out_channels, Tile::NR) * 16 * round_up(s.in_channels, 2) * 2;
}

}  // namespace detail
}  // namespace mcomp
#endif
