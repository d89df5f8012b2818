// Averages of bytes that stand for scale * (byte - zero), channels last, as floats or as bytes of another scale.
//
//     const PoolShape s{N, C, {1, H, W}, {1, OH, OW}, {1, 2, 2}, {1, 2, 2}, {0, 0, 0}, {1, 1, 1}, true};
//     average_bytes<false>(w, s, x, scale, zero, count_include_pad, divisor_override, StoreAverages{y});
//     average_bytes<true>(w, s, x, scale, zero, false, 0, StoreAverageBytes<uint8_t>{q, 1 / scale, zero, 0, 255});
// Adaptive: as in adaptive_avg_pool, kernel, stride, pad and dilation are not used. T is uint8_t or int8_t. Sums of bytes
// are exact; pieces of 2^22 terms are added in float.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "isa.hpp"
#include "pool.hpp"
#include "quantize_rows.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

struct StoreAverages {
  float* y;
  MCOMP_INLINE void operator()(int64_t at, vf32 v, int64_t lanes) const {
    if (lanes == kLanes) return vstore(y + at, v);
    vstore_n(y + at, v, lanes);
  }
};

// round(v * inverse) + zero, clamped to [low, high].
template <class Q>
struct StoreAverageBytes {
  Q* q;
  float inverse;
  int32_t zero, low, high;
  MCOMP_INLINE void operator()(int64_t at, vf32 v, int64_t lanes) const {
    const vf32 least = vset(static_cast<float>(low - zero)), most = vset(static_cast<float>(high - zero));
    const vi32 rounded = detail::quantized(v, vset(inverse), least, most, zero);
    if (lanes == kLanes) return detail::store_bytes(q + at, rounded);
    alignas(64) Q bytes[kLanes];
    detail::store_bytes(bytes, rounded);
    for (int64_t i = 0; i < lanes; ++i) q[at + i] = bytes[i];
  }
};

namespace detail {

// Terms whose sum fits 16 bits, and 32 bits.
constexpr int64_t kShortTerms = 256, kByteTerms = int64_t(1) << 22;

template <class T>
struct ShortSums {
  static constexpr int kWide = 2 * kLanes;  // bytes of a vector
  using Short = std::conditional_t<std::is_same<T, int8_t>::value, int16_t, uint16_t>;
  typedef T Bytes __attribute__((vector_size(kWide)));
  typedef Short Sums __attribute__((vector_size(2 * kWide)));
  typedef Short Half __attribute__((vector_size(kWide)));

  // The first `lanes` bytes, the other lanes 0.
  static MCOMP_INLINE Sums load(const T* p, int64_t lanes) {
    Bytes bytes{};
    if (lanes == kWide) {
      std::memcpy(&bytes, p, kWide);
    } else {
#if defined(MCOMP_ISA_AVX512)
      bytes = (Bytes)_mm256_maskz_loadu_epi8((__mmask32{1} << lanes) - 1, p);
#else
      std::memcpy(&bytes, p, static_cast<size_t>(lanes));
#endif
    }
    return __builtin_convertvector(bytes, Sums);
  }
  static MCOMP_INLINE void widen(Sums sums, vi32& low, vi32& high) {
    Half half[2];
    std::memcpy(half, &sums, sizeof half);
    low = low + __builtin_convertvector(half[0], vi32);
    high = high + __builtin_convertvector(half[1], vi32);
  }
};

// NV vectors of channels of one window, the last of them of `lanes` channels: their sums less `zero` a term.
template <int NV, class T>
MCOMP_INLINE void byte_sums(const PoolWindow<T>& win, int64_t lanes, int32_t zero, vf32 (&sums)[2 * NV]) {
  using V = ShortSums<T>;
  typename V::Sums acc[NV];
  vi32 total[2 * NV];
  int64_t pending = 0, terms = 0;
  unroll<2 * NV>([&](auto v) MCOMP_LAMBDA { sums[v] = vset(0.0f), total[v] = vset(0); });
  unroll<NV>([&](auto v) MCOMP_LAMBDA { acc[v] = typename V::Sums{}; });
  const auto widen = [&]() MCOMP_LAMBDA {
    unroll<NV>([&](auto v) MCOMP_LAMBDA {
      V::widen(acc[v], total[2 * v], total[2 * v + 1]);
      acc[v] = typename V::Sums{};
    });
    terms += pending, pending = 0;
  };
  const auto settle = [&]() MCOMP_LAMBDA {
    const int32_t shift = zero * static_cast<int32_t>(terms);
    unroll<2 * NV>([&](auto v) MCOMP_LAMBDA {
      sums[v] = sums[v] + vto_f32(total[v] - shift);
      total[v] = vset(0);
    });
    terms = 0;
  };
  for (int64_t d = 0; d < win.planes; ++d)
    for (int64_t h = 0; h < win.lines; ++h)
      for (int64_t i = 0; i < win.count;) {
        if (pending == kShortTerms) {
          widen();
          if (terms == kByteTerms) settle();
        }
        const int64_t some = min_i64(kShortTerms - pending, win.count - i);
        const T* at = win.x + d * win.plane_step + h * win.line_step + i * win.step;
        for (int64_t k = 0; k < some; ++k, at += win.step)
          unroll<NV>([&](auto v) MCOMP_LAMBDA {
            acc[v] = acc[v] + V::load(at + v * V::kWide, v + 1 == NV ? lanes : int64_t(V::kWide));
          });
        pending += some, i += some;
      }
  widen();
  settle();
}

}  // namespace detail

template <bool Adaptive, class T, class Store>
void average_bytes(const Worker& w, const PoolShape& s, const T* x, float scale, int32_t zero, bool count_include_pad,
                   int64_t divisor, const Store& store) {
  constexpr int64_t wide = detail::ShortSums<T>::kWide, block = 4 * wide;
  const int64_t positions = s.out[0] * s.out[1] * s.out[2], c = s.channels, blocks = ceil_div(c, block);
  const Range mine = w.range(s.batch * positions * blocks);
  for (int64_t item = mine.begin; item < mine.end; ++item) {
    const int64_t place = item / blocks, c0 = item % blocks * block;
    const detail::Spans p = detail::pool_spans<Adaptive>(s, place % positions);
    const auto count = [](const detail::Span& a) { return max_i64(0, ceil_div(a.end - a.begin, a.step)); };
    const int64_t terms = count(p.d) * count(p.h) * count(p.w);
    const int64_t over = divisor ? divisor : count_include_pad ? p.d.padded * p.h.padded * p.w.padded : terms;
    const T* first = x + place / positions * s.in[0] * s.in[1] * s.in[2] * c +
                     ((p.d.begin * s.in[1] + p.h.begin) * s.in[2] + p.w.begin) * c + c0;
    const detail::PoolWindow<T> window{first,      count(p.d), p.d.step * s.in[1] * s.in[2] * c,
                                       count(p.h), p.h.step * s.in[2] * c,
                                       count(p.w), p.w.step * c};
    const vf32 factor = vset(scale / static_cast<float>(over));
    const auto run = [&](auto vectors, int64_t at, int64_t lanes) MCOMP_LAMBDA {
      constexpr int n = decltype(vectors)::value;
      vf32 sums[2 * n];
      detail::PoolWindow<T> part = window;
      part.x += at;
      detail::byte_sums<n>(part, lanes, zero, sums);
      const int64_t end = (n - 1) * wide + lanes;
      for (int v = 0; v < 2 * n && v * kLanes < end; ++v)
        store(place * c + c0 + at + v * kLanes, sums[v] * factor, min_i64(kLanes, end - v * kLanes));
    };
    const int64_t width = min_i64(block, c - c0);
    if (width == block) {
      run(std::integral_constant<int, 4>{}, 0, wide);
      continue;
    }
    for (int64_t at = 0; at < width; at += wide) run(std::integral_constant<int, 1>{}, at, min_i64(wide, width - at));
  }
}

}  // namespace mcomp
