// Shapes of convolutions, and the implicit matrix product that computes them: no im2col matrix is ever built.
//
// Activations are channels-last: [N, D, H, W, C] (D = 1 for images, D = H = 1 for sequences). A tile is a run of pixels
// of one output row; for each kernel position its A rows lie a constant stride apart in the input, so the micro-kernels
// of micro.hpp read them in place. Where the convolution pads (or converts the element type), the rows that a band of
// output rows needs are first copied with their borders to the worker's scratch.
//
// Output pixel ((n * OD + od) * OH + oh) * OW + ow is the epilogue's row.
#pragma once

#include <cstdint>
#include <cstring>

#include "byte_vector.hpp"
#include "isa.hpp"
#include "product.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

// A convolution or transposed convolution; [0] depth, [1] height, [2] width. Output sizes are the caller's: padding
// after the last element follows from them. in_channels and out_channels count all groups.
struct ConvShape {
  int64_t batch, in_channels, out_channels, groups;
  int64_t in[3], out[3], kernel[3], stride[3], pad[3], dilation[3];
};

namespace detail {

constexpr int64_t kBandBytes = 192 * 1024;          // padded input rows that a worker keeps hot
constexpr int64_t kSharedWeightBytes = 256 * 1024;  // weights up to which workers rather share rows than columns

// One axis of a walk: output j (0 <= j < count) is pixel out_first + j * out_step and reads the input at
// j * step + first + t * tap_step for t < taps, which is kernel position kernel_first + t * kernel_step.
struct Axis {
  int64_t in, out, count, step, first, taps, tap_step, out_first, out_step, kernel_first, kernel_step;
  int64_t span(int64_t outputs) const { return (outputs - 1) * step + (taps - 1) * tap_step + 1; }
  bool inside() const { return first >= 0 && first + span(count) <= in; }
};

inline Axis conv_axis(const ConvShape& s, int i) {
  return {s.in[i], s.out[i], s.out[i], s.stride[i], -s.pad[i], s.kernel[i], s.dilation[i], 0, 1, 0, 1};
}

constexpr int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
constexpr int64_t gcd(int64_t a, int64_t b) { return b == 0 ? a : gcd(b, a % b); }

// Phase f of a transposed convolution's axis: the outputs o with (o + pad) % stride == f. Kernel position k reaches
// them when k * dilation % stride == f, from input (o + pad - k * dilation) / stride; positions are taken in falling
// order, so that inputs rise.
inline Axis transposed_axis(const ConvShape& s, int i, int64_t f) {
  const int64_t stride = s.stride[i], dilation = s.dilation[i], pad = s.pad[i];
  const int64_t j0 = f >= pad ? 0 : ceil_div(pad - f, stride), o0 = f - pad + stride * j0;
  const int64_t count = o0 < s.out[i] ? ceil_div(s.out[i] - o0, stride) : 0;
  const int64_t period = stride / gcd(stride, dilation);
  int64_t k0 = 0;
  while (k0 < period && k0 * dilation % stride != f) ++k0;
  const int64_t taps = k0 < period && k0 < s.kernel[i] ? ceil_div(s.kernel[i] - k0, period) : 0;
  const int64_t last = k0 + (taps - 1) * period;
  const int64_t first = taps == 0 ? 0 : j0 + floor_div(f - last * dilation, stride);
  return {s.in[i], s.out[i], count, 1, first, taps, period * dilation / stride, o0, stride, taps == 0 ? 0 : last,
          -period};
}

// A walk over all output pixels of a convolution, or of one phase of a transposed one.
struct TapWalk {
  int64_t batch, channels, group_channels;
  Axis axis[3];
  bool merged;  // a kernel row is one segment: neighbouring taps are neighbouring channels of one group

  int64_t taps() const { return axis[0].taps * axis[1].taps * axis[2].taps; }
  int64_t segments() const { return merged ? axis[0].taps * axis[1].taps : taps(); }
  int64_t segment_length() const { return merged ? axis[2].taps * group_channels : group_channels; }
  bool inside() const { return taps() == 0 || (axis[0].inside() && axis[1].inside() && axis[2].inside()); }
  int64_t padded_width() const { return axis[2].span(axis[2].count); }
  int64_t band_bytes(int64_t rows, int64_t element_bytes) const {
    return axis[0].taps * axis[1].span(rows) * padded_width() * channels * element_bytes;
  }
  // Output rows whose input is copied at once.
  int64_t band_rows(int64_t element_bytes) const {
    if (taps() == 0 || axis[1].count == 0) return 1;
    const int64_t one = band_bytes(1, element_bytes), two = band_bytes(2, element_bytes);
    const int64_t more = max_i64(0, kBandBytes - one) / max_i64(1, two - one);
    return min_i64(axis[1].count, 1 + more);
  }
  // Bytes of a worker: the tap table, then the band with room for whole vectors.
  int64_t scratch_bytes(int64_t element_bytes) const {
    const int64_t table = round_up(max_i64(1, segments()) * 8, 64);
    const int64_t band = taps() == 0 ? 0 : band_bytes(band_rows(element_bytes), element_bytes);
    return table + round_up(max_i64(0, band), 64) + 64;
  }
};

inline TapWalk make_walk(const ConvShape& s, const Axis& d, const Axis& h, const Axis& w) {
  const bool merged = s.groups == 1 && w.tap_step == 1;
  return {s.batch, s.in_channels, s.in_channels / s.groups, {d, h, w}, merged};
}
inline TapWalk conv_walk(const ConvShape& s) { return make_walk(s, conv_axis(s, 0), conv_axis(s, 1), conv_axis(s, 2)); }

// Calls f(walk, phase) for every phase of a transposed convolution.
template <class F>
inline void each_phase(const ConvShape& s, F&& f) {
  for (int64_t d = 0; d < s.stride[0]; ++d)
    for (int64_t h = 0; h < s.stride[1]; ++h)
      for (int64_t w = 0; w < s.stride[2]; ++w)
        f(make_walk(s, transposed_axis(s, 0, d), transposed_axis(s, 1, h), transposed_axis(s, 2, w)));
}

// True when the walk is a plain product over all pixels: kernel 1, stride 1, no padding.
inline bool is_pointwise(const TapWalk& t) {
  for (const Axis& a : t.axis)
    if (a.taps != 1 || a.step != 1 || a.first != 0 || a.count != a.in || a.out != a.in) return false;
  return t.channels == t.group_channels;
}

// Bytes of rows that are too short for the start of memcpy and memset to be nothing.
inline void copy_short(char* to, const char* from, int64_t n) {
  using V = ByteVector<kVectorBytes>;
  if (n < kVectorBytes) {
    std::memcpy(to, from, static_cast<size_t>(n));
    return;
  }
  for (int64_t i = 0; i + kVectorBytes <= n; i += kVectorBytes) V::store(to + i, V::load(from + i));
  V::store(to + n - kVectorBytes, V::load(from + n - kVectorBytes));
}
// `pattern` holds whole elements of one value, 16 bytes of them.
inline void fill_short(char* to, int64_t n, const char* pattern) {
  using V = ByteVector<16>;
  if (n < 16) {
    for (; n >= 4; n -= 4, to += 4) std::memcpy(to, pattern, 4);
    if (n >= 2) std::memcpy(to, pattern, 2), to += 2;
    if (n % 2 != 0) *to = *pattern;
    return;
  }
  const V::Bytes all = V::load(pattern);
  for (int64_t i = 0; i + 16 <= n; i += 16) V::store(to + i, all);
  V::store(to + n - 16, all);
}

// Copies the input that output rows [h0, h1) of depth d of image n read into `band`, [depth taps][rows][padded
// width][C].
template <class Element, class A>
void copy_band(const TapWalk& t, const A* x, int64_t n, int64_t d, int64_t h0, int64_t h1, Element fill,
               Element* band) {
  constexpr int64_t size = sizeof(Element);
  const Axis &ad = t.axis[0], &ah = t.axis[1], &aw = t.axis[2];
  const int64_t rows = ah.span(h1 - h0), width = t.padded_width(), c = t.channels;
  const int64_t left = min_i64(width, max_i64(0, -aw.first)), begin = max_i64(0, aw.first);
  const int64_t inner = max_i64(0, min_i64(width - left, aw.in - begin)), right = width - left - inner;
  Element pattern[16 / size];
  for (int64_t i = 0; i < 16 / size; ++i) pattern[i] = fill;
  const auto spread = [&](Element* to, int64_t pixels) {
    fill_short(reinterpret_cast<char*>(to), pixels * c * size, reinterpret_cast<const char*>(pattern));
  };
  for (int64_t k = 0; k < ad.taps; ++k) {
    const int64_t z = d * ad.step + ad.first + k * ad.tap_step;
    for (int64_t r = 0; r < rows; ++r, band += width * c) {
      const int64_t y = h0 * ah.step + ah.first + r;
      if (z < 0 || z >= ad.in || y < 0 || y >= ah.in || inner == 0) {
        spread(band, width);
        continue;
      }
      const A* source = x + (((n * ad.in + z) * ah.in + y) * aw.in + begin) * c;
      spread(band, left);
      if constexpr (std::is_same<A, Element>::value) {
        copy_short(reinterpret_cast<char*>(band + left * c), reinterpret_cast<const char*>(source), inner * c * size);
      } else {
        convert_row(band + left * c, source, inner * c);
      }
      spread(band + (left + inner) * c, right);
    }
  }
}

// Offsets from a pixel to each segment that its output reads, where planes lie `plane` elements and pixels of a line
// t.channels apart, `width` of them a line.
inline void segment_offsets(const TapWalk& t, int64_t plane, int64_t width, int64_t* taps) {
  const Axis &ad = t.axis[0], &ah = t.axis[1], &aw = t.axis[2];
  for (int64_t kd = 0; kd < ad.taps; ++kd)
    for (int64_t kh = 0; kh < ah.taps; ++kh)
      for (int64_t kw = 0; kw < (t.merged ? min_i64(1, aw.taps) : aw.taps); ++kw)
        *taps++ = kd * plane + (kh * ah.tap_step * width + kw * aw.tap_step) * t.channels;
}

// All tiles of the worker's share of the walk; scratch is the worker's own.
template <class Product, class A>
void tap_convolution(const Worker& w, const Product& product, const TapWalk& t, const A* x, char* scratch) {
  using Element = typename Product::Element;
  constexpr int64_t MR = Product::MR;
  const Axis &ad = t.axis[0], &ah = t.axis[1], &aw = t.axis[2];
  const int64_t all_rows = t.batch * ad.count * ah.count, pixels = aw.count;
  const int64_t weights = t.taps() * t.group_channels * product.panels.count() * product.panels.width;
  const bool many = weights * static_cast<int64_t>(sizeof(*product.packed)) > kSharedWeightBytes;
  const Split split = split_product(w, all_rows, pixels, product.panels.count(), many, many ? 2.0 : 0.0);
  if (split.rows.empty() || split.panels.empty() || pixels == 0) return;
  const bool copy = !std::is_same<A, Element>::value || !t.inside();
  const int64_t c = t.channels, band_rows = copy ? t.band_rows(sizeof(Element)) : ah.count;
  int64_t* taps = reinterpret_cast<int64_t*>(scratch);
  Element* band = reinterpret_cast<Element*>(scratch + round_up(max_i64(1, t.segments()) * 8, 64));
  const int64_t width = copy ? t.padded_width() : aw.in;
  const int64_t tiles = ceil_div(pixels, MR), least = pixels / tiles, more = pixels % tiles, segments = t.segments();
  int64_t plane_of_band = -1;
  for (int64_t row = split.rows.begin; row < split.rows.end;) {
    const int64_t h0 = row % ah.count, h1 = min_i64(min_i64(h0 + band_rows, ah.count), h0 + split.rows.end - row);
    const int64_t d = row / ah.count % ad.count, n = row / (ah.count * ad.count);
    if (copy && t.taps() > 0) copy_band(t, x, n, d, h0, h1, product.fill(), band);
    // Offset from a tile's first element to each segment: planes and rows are those of the band or of the input.
    const int64_t plane = copy ? ah.span(h1 - h0) * width * c : ad.tap_step * ah.in * width * c;
    if (plane != plane_of_band) {
      segment_offsets(t, plane, width, taps);
      plane_of_band = plane;
    }
    const Element* origin = band;
    if constexpr (std::is_same<A, Element>::value) {
      if (!copy)
        origin = x + (((n * ad.in + d * ad.step + ad.first) * ah.in + h0 * ah.step + ah.first) * width + aw.first) * c;
    }
    // Copied rows may be read past a segment's end, where the weights are zero: whole steps need no special case.
    const int64_t length = copy ? round_up(t.segment_length(), Product::kStep) : t.segment_length();
    const int64_t out_plane =
        ((n * ad.out + ad.out_first + d * ad.out_step) * ah.out + ah.out_first) * aw.out + aw.out_first;
    for (int64_t p = split.panels.begin; p < split.panels.end; ++p) {
      const Element* group = origin + product.panels.group(p) * t.group_channels;
      for (int64_t h = h0; h < h1; ++h) {
        const Element* line = group + (h - h0) * ah.step * width * c;
        const int64_t out_row = out_plane + h * ah.out_step * aw.out;
        for (int64_t i = 0, p0 = 0; i < tiles; ++i) {
          const int64_t height = least + (i < more ? 1 : 0);
          product.tile(line + p0 * aw.step * c, aw.step * c, taps, segments, length, height, p,
                       out_row + p0 * aw.out_step, aw.out_step);
          p0 += height;
        }
      }
    }
    row += h1 - h0;
  }
}

// Where a walk's weights start: element (out channel o of group g, input channel i, kernel position) of the source
// tensor is src[g * group + o * out + i * in + kd * kernel[0] + kh * kernel[1] + kw * kernel[2]].
struct WeightStrides {
  int64_t group, out, in, kernel[3];
};

// Contiguous [O, I / groups, KD, KH, KW] of a convolution.
inline WeightStrides conv_weight_strides(const ConvShape& s) {
  const int64_t k2 = 1, k1 = s.kernel[2], k0 = k1 * s.kernel[1], in = k0 * s.kernel[0],
                out = in * (s.in_channels / s.groups);
  return {out * (s.out_channels / s.groups), out, in, {k0, k1, k2}};
}
// Contiguous [I, O / groups, KD, KH, KW] of a transposed convolution.
inline WeightStrides transposed_weight_strides(const ConvShape& s) {
  const int64_t k2 = 1, k1 = s.kernel[2], k0 = k1 * s.kernel[1], out = k0 * s.kernel[0],
                in = out * (s.out_channels / s.groups);
  return {in * (s.in_channels / s.groups), out, in, {k0, k1, k2}};
}

// Calls put(offset of the source element, segment, index in the segment) for all of one output channel's weights, in
// reduction order.
template <class F>
inline void each_weight(const TapWalk& t, const WeightStrides& ws, int64_t group, int64_t o, F&& put) {
  int64_t segment = 0, index = 0;
  const int64_t length = t.segment_length();
  for (int64_t kd = 0; kd < t.axis[0].taps; ++kd)
    for (int64_t kh = 0; kh < t.axis[1].taps; ++kh)
      for (int64_t kw = 0; kw < t.axis[2].taps; ++kw) {
        int64_t at = group * ws.group + o * ws.out;
        const int64_t position[3] = {kd, kh, kw};
        for (int a = 0; a < 3; ++a) at += (t.axis[a].kernel_first + position[a] * t.axis[a].kernel_step) * ws.kernel[a];
        for (int64_t i = 0; i < t.group_channels; ++i) {
          put(at + i * ws.in, segment, index);
          if (++index == length) index = 0, ++segment;
        }
      }
}

}  // namespace detail
}  // namespace mcomp
