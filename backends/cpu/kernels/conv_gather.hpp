// Convolution by gathering: what the kernel reads for a block of output pixels is copied to rows of its own, which lie
// in the worker's cache while all panels pass by. For products in the matrix registers (micro_matrix.hpp), which take
// many rows at once and want them whole.
//
// Row p of a block holds, in the order of the packed weights, the group's channels at all kernel positions of output
// pixel p; where the convolution pads, the product's fill.
#pragma once

#include <cstdint>

#include "conv_flat.hpp"
#include "conv_plan.hpp"
#include "isa.hpp"
#include "product.hpp"

namespace mcomp {
namespace detail {

constexpr int64_t kGatheredBytes = 192 * 1024;  // rows that a worker gathers at once

inline int64_t gathered_length(const TapWalk& t) { return t.segments() * matrix_segment_step(t); }
// Elements from a gathered row to the next, with room for whole vectors: an odd number of cache lines, so that the rows of
// a tile lie in different sets.
inline int64_t gathered_stride(const TapWalk& t) { return ((ceil_div(gathered_length(t), 64) + 1) | 1) * 64; }
// Rows that are gathered at once: whole tiles of 64.
inline int64_t gathered_rows(const TapWalk& t) {
  return max_i64(1, kGatheredBytes / (64 * gathered_stride(t))) * 64;
}
inline int64_t gathered_bytes(const TapWalk& t) { return gathered_rows(t) * gathered_stride(t); }

#if defined(MCOMP_ISA_AVX512)

// Copies n bytes; up to 63 more are overwritten with zeros. Short ones in short stores, fewer of which cross lines.
MCOMP_INLINE void copy_over(uint8_t* to, const uint8_t* from, int64_t n) {
  if (n <= 16) {
    const auto mask = static_cast<__mmask16>(_bzhi_u32(~uint32_t{0}, static_cast<uint32_t>(n)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_maskz_loadu_epi8(mask, from));
    return;
  }
  if (n <= 32) {
    const __mmask32 mask = _bzhi_u32(~uint32_t{0}, static_cast<uint32_t>(n));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_maskz_loadu_epi8(mask, from));
    return;
  }
  for (; n > 64; n -= 64, to += 64, from += 64) _mm512_storeu_si512(to, _mm512_loadu_si512(from));
  const __mmask64 mask = _bzhi_u64(~uint64_t{0}, static_cast<uint32_t>(n));
  _mm512_storeu_si512(to, _mm512_maskz_loadu_epi8(mask, from));
}
// Sets n bytes, and up to 63 more.
MCOMP_INLINE void fill_over(uint8_t* to, __m512i value, int64_t n) {
  for (int64_t i = 0; i < n; i += 64) _mm512_storeu_si512(to + i, value);
}

// Copies n bytes to each of `count` rows, which lie `stride` apart and start `step` apart in the source.
MCOMP_INLINE void copy_rows(uint8_t* to, int64_t stride, const uint8_t* from, int64_t step, int64_t n, int64_t count) {
  if (n <= 32) {
    const __mmask32 mask = _bzhi_u32(~uint32_t{0}, static_cast<uint32_t>(n));
    for (int64_t i = 0; i < count; ++i, to += stride, from += step)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_maskz_loadu_epi8(mask, from));
    return;
  }
  for (int64_t i = 0; i < count; ++i, to += stride, from += step) copy_over(to, from, n);
}

// Copies what the pixels [begin, end) of one output line read of one input line, at all kernel columns, into rows, in
// segments `segment` bytes apart. from: the group's first channel of the input line.
inline void gather_line(const TapWalk& t, const uint8_t* from, int64_t begin, int64_t end, __m512i filling,
                        uint8_t* rows, int64_t stride, int64_t segment) {
  const Axis& a = t.axis[2];
  const int64_t c = t.channels, length = t.group_channels, span = (a.taps - 1) * a.tap_step;
  const int64_t apart = t.merged ? length : segment;  // from a kernel column to the next
  const int64_t first = min_i64(end, max_i64(begin, ceil_div(max_i64(0, -a.first), a.step)));
  const int64_t room = a.in - span - a.first;
  const int64_t last = max_i64(first, min_i64(end, room <= 0 ? 0 : ceil_div(room, a.step)));
  const uint8_t* inside = from + (first * a.step + a.first) * c;
  if (t.merged) {
    copy_rows(rows + (first - begin) * stride, stride, inside, a.step * c, a.taps * length, last - first);
  } else {
    for (int64_t k = 0; k < a.taps; ++k)
      copy_rows(rows + (first - begin) * stride + k * apart, stride, inside + k * a.tap_step * c, a.step * c, length,
                last - first);
  }
  for (int64_t j = begin; j < end; ++j) {
    if (j == first) j = last;
    if (j >= end) break;
    uint8_t* to = rows + (j - begin) * stride;
    for (int64_t k = 0; k < a.taps; ++k) {
      const int64_t x = j * a.step + a.first + k * a.tap_step;
      if (x >= 0 && x < a.in) {
        copy_over(to + k * apart, from + x * c, length);
      } else {
        fill_over(to + k * apart, filling, length);
      }
    }
  }
}

// Gathers the pixels [first, first + count) of a group into rows. x: the group's first channel.
inline void gather_rows(const TapWalk& t, const uint8_t* x, int64_t first, int64_t count, uint8_t fill, uint8_t* rows,
                        int64_t stride) {
  const Axis &ad = t.axis[0], &ah = t.axis[1], &aw = t.axis[2];
  const int64_t segment = matrix_segment_step(t), part = t.merged ? segment : aw.taps * segment;
  const int64_t line_bytes = aw.in * t.channels;
  const __m512i filling = _mm512_set1_epi8(static_cast<char>(fill));
  for (int64_t done = 0; done < count;) {
    const int64_t line = (first + done) / aw.count, begin = first + done - line * aw.count;
    const int64_t end = min_i64(aw.count, begin + count - done);
    const int64_t oh = line % ah.count, plane = line / ah.count, od = plane % ad.count, n = plane / ad.count;
    // Kernel lines in order: what a line writes behind its part, the next one overwrites.
    uint8_t* to = rows + done * stride;
    for (int64_t kd = 0; kd < ad.taps; ++kd) {
      const int64_t z = od * ad.step + ad.first + kd * ad.tap_step;
      for (int64_t kh = 0; kh < ah.taps; ++kh, to += part) {
        const int64_t y = oh * ah.step + ah.first + kh * ah.tap_step;
        if (z < 0 || z >= ad.in || y < 0 || y >= ah.in) {
          for (int64_t j = begin; j < end; ++j) fill_over(to + (j - begin) * stride, filling, part);
        } else {
          gather_line(t, x + ((n * ad.in + z) * ah.in + y) * line_bytes, begin, end, filling, to, stride,
                      segment);
        }
      }
    }
    done += end - begin;
  }
}

// All tiles of the worker's share of a convolution of bytes; scratch is the worker's own, gathered_bytes(t) of it and
// t.scratch_bytes(1). All workers choose the same way: their shares depend on it.
template <class Product>
void matrix_convolution(const Worker& w, const Product& product, const TapWalk& t, const typename Product::Element* x,
                        void* scratch) {
  static_assert(sizeof(typename Product::Element) == 1, "bytes are gathered");
  constexpr int64_t MR = Product::MR, unit = 16;
  const int64_t pixels = t.batch * t.axis[0].count * t.axis[1].count * t.axis[2].count;
  const int64_t length = gathered_length(t), stride = gathered_stride(t), block = gathered_rows(t);
  const int64_t panels = product.panels.count();
  const bool many = length * panels * product.panels.width > kSharedWeightBytes;
  if (pixels == 0) return;
  if (packs_lines(t, 64)) {
    const Split lines = split_product(w, pixels / t.axis[2].count, t.axis[2].count, panels, many, many ? 2.0 : 0.0);
    if (suits_lines(t, ceil_div(panels, many ? w.count : 1) * product.panels.width))
      return flat_convolution(lines, product, t, x, scratch);
  }
  const Split split = split_product(w, ceil_div(pixels, unit), unit, panels, many, many ? 2.0 : 0.0);
  uint8_t* rows = static_cast<uint8_t*>(scratch);
  const int64_t no_tap = 0, per_group = product.panels.per_group(), last = min_i64(pixels, split.rows.end * unit);
  for (int64_t first = split.rows.begin * unit; first < last;) {
    const int64_t left = last - first;
    const int64_t height = left <= block ? left : min_i64(block, round_up(ceil_div(left, ceil_div(left, block)), 64));
    const int64_t tiles = ceil_div(height, MR);
    for (int64_t p = split.panels.begin; p < split.panels.end;) {
      const int64_t group = product.panels.group(p), end = min_i64(split.panels.end, (group + 1) * per_group);
      gather_rows(t, reinterpret_cast<const uint8_t*>(x) + group * t.group_channels, first, height,
                  static_cast<uint8_t>(product.fill()), rows, stride);
      for (; p < end; ++p) {
        for (int64_t i = 0; i < tiles; ++i) {
          const int64_t r0 = i * MR, count = min_i64(MR, height - r0);
          product.tile(reinterpret_cast<const typename Product::Element*>(rows + r0 * stride), stride, &no_tap, 1, length,
                       count, p, first + r0, 1);
        }
      }
    }
    first += height;
  }
}

#else

template <class Product>
void matrix_convolution(const Worker& w, const Product& product, const TapWalk& t, const typename Product::Element* x,
                        void* scratch);

#endif

}  // namespace detail
}  // namespace mcomp
