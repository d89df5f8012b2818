// Depthwise convolutions of bytes with square kernels, one or two dimensions of space, no dilation; channels-last.
//
//   // kernel 3, stride 2 along rows, tiles of up to 7 pixels; packed: packed_depthwise_bytes<3>(C) bytes
//   pack_depthwise_bytes<3>(w, packed, weight8_oihw, s);
//   depthwise_bytes<3, 2, 7>(w, x8, packed, s, scales, ep, scratch);    // scales: Scales8 without column_sums
//   // scratch: depthwise_bytes_scratch<3, 2, 7>(s, workers) bytes for all workers together, 64-byte aligned
//
// x8: uint8_t or int8_t with one zero point. Sums are exact int32. Four kernel positions of a channel share a 32-bit
// lane (byte_vector.hpp): the rows of a kernel column, or four neighbours of a row that is left over. Where the kernel
// overlaps the border, a row of zero points is read instead, so every sum has all its terms. The epilogue gets floats or
// is a Requantize: then sums become bytes in registers.
// 2 * pixels * C * K * K operations.
#pragma once

#include <cstdint>

#include "byte_vector.hpp"
#include "conv_plan.hpp"
#include "depthwise.hpp"
#include "depthwise_pixels.hpp"
#include "gemm_i8.hpp"
#include "product.hpp"
#include "requantize.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

namespace detail {

// How the K * K positions of a kernel are put into groups of four: columns of four rows; then the last row in pieces of
// four columns if it is alone, else columns of the two or three rows that remain.
template <int K>
struct Quads {
  static constexpr int kColumns = (K / 4 + (K % 4 > 1 ? 1 : 0)) * K;
  static constexpr int kPieces = K % 4 == 1 ? (K + 3) / 4 : 0;
  static constexpr int kCount = kColumns + kPieces;
  // Kernel position (row * K + column) of byte t of group i; -1 for none.
  static constexpr int position(int i, int t) {
    if (i >= kColumns) return 4 * (i - kColumns) + t < K ? (K - 1) * K + 4 * (i - kColumns) + t : -1;
    return i / K * 4 + t < K ? (i / K * 4 + t) * K + i % K : -1;
  }
};

// Pixels of a tile, at most `wanted`, whose sums leave room in the registers.
constexpr int depthwise_pixels(int kernel, int wanted) {
  const int most = kVectorRegisters == 32 ? (kernel == 3 ? 8 : kernel == 5 ? 7 : 5) : 3;
  return wanted < most ? wanted : most;
}

#if defined(MCOMP_ISA_AVX512)
constexpr int kWidestBytes = 64;
#elif defined(MCOMP_ISA_AVX2)
constexpr int kWidestBytes = 32;
#else
constexpr int kWidestBytes = 16;
#endif

// Calls f(vector of bytes, first channel, channels) for the blocks that channels are taken in; the last may be short.
template <class F>
MCOMP_INLINE void each_byte_block(int64_t begin, int64_t end, F&& f) {
  int64_t c = begin;
#if defined(MCOMP_ISA_AVX512)
  for (; end - c >= 64; c += 64) f(ByteVector<64>{}, c, int64_t{64});
#endif
#if defined(MCOMP_X86_SIMD)
  for (; end - c >= 32; c += 32) f(ByteVector<32>{}, c, int64_t{32});
#endif
  for (; c < end; c += 16) f(ByteVector<16>{}, c, min_i64(16, end - c));
}

// Packed bytes of one channel: the sum of its weights, then the groups.
template <int K>
constexpr int64_t channel_bytes() {
  return 4 + Quads<K>::kCount * 4 * (ByteSums<ByteVector<16>>::kColumnBytes / 16);
}

// Whether four neighbours from column j on are a group of one of P pixels.
template <int K, int S, int P>
constexpr bool piece_used(int j) {
  for (int i = 0; i < Quads<K>::kPieces; ++i)
    if (j >= 4 * i && (j - 4 * i) % S == 0 && (j - 4 * i) / S < P) return true;
  return false;
}

// sums[p][h] of channels 8 * High + 4 * h of every lane for P pixels of one row; table[column * K + row] is where the
// pixel of that column and row starts.
template <class V, class X, int K, int S, int P, bool High, bool Masked>
MCOMP_INLINE void quad_sums(const X* const* table, int64_t c, int64_t count, const int8_t* packed,
                            typename V::Bytes (&sums)[P][2]) {
  using Bytes = typename V::Bytes;
  using D = ByteSums<V>;
  using Q = Quads<K>;
  constexpr int columns = (P - 1) * S + K;
  auto weight = [&](int i, int h) MCOMP_LAMBDA { return D::columns(packed + (i * 2 + h) * D::kColumnBytes); };
  auto load = [&](auto column, auto row) MCOMP_LAMBDA {
    const X* at = table[column * K + row] + c;
    const Bytes v = Masked ? V::load_n(at, count) : V::load(at);
    return row_offset<X>() != 0 ? V::exclusive_or(v, V::set8(128)) : v;
  };
  unroll<Q::kColumns / K>([&](auto g) MCOMP_LAMBDA {
    constexpr int row = g * 4;
    unroll<columns>([&](auto j) MCOMP_LAMBDA {
      const Bytes a = load(j, std::integral_constant<int, row>{});
      const Bytes b = load(j, std::integral_constant<int, row + 1>{});
      const Bytes ab = V::template zip8<High>(a, b);
      Bytes cd;
      if constexpr (row + 2 < K) {
        const Bytes third = load(j, std::integral_constant<int, row + 2>{});
        if constexpr (row + 3 < K) {
          cd = V::template zip8<High>(third, load(j, std::integral_constant<int, row + 3>{}));
        } else {
          cd = V::template zip8<High>(third, third);
        }
      } else {
        cd = ab;
      }
      const auto x0 = D::row(V::template zip16<false>(ab, cd)), x1 = D::row(V::template zip16<true>(ab, cd));
      unroll<P>([&](auto p) MCOMP_LAMBDA {
        constexpr int tap = j - p * S;
        if constexpr (tap >= 0 && tap < K) {
          sums[p][0] = D::dot(sums[p][0], x0, weight(g * K + tap, 0));
          sums[p][1] = D::dot(sums[p][1], x1, weight(g * K + tap, 1));
        }
      });
    });
  });
  if constexpr (Q::kPieces > 0) {
    Bytes pair[columns];
    Bytes last = load(std::integral_constant<int, 0>{}, std::integral_constant<int, K - 1>{});
    unroll<columns>([&](auto j) MCOMP_LAMBDA {
      if constexpr (j + 1 < columns) {
        const Bytes next = load(std::integral_constant<int, j + 1>{}, std::integral_constant<int, K - 1>{});
        pair[j] = V::template zip8<High>(last, next);
        last = next;
      } else {
        pair[j] = V::template zip8<High>(last, last);
      }
    });
    unroll<columns>([&](auto j) MCOMP_LAMBDA {
      constexpr int second = j + 2 < columns ? j + 2 : j;
      if constexpr (piece_used<K, S, P>(j)) {
        const auto x0 = D::row(V::template zip16<false>(pair[j], pair[second]));
        const auto x1 = D::row(V::template zip16<true>(pair[j], pair[second]));
        unroll<Q::kPieces>([&](auto i) MCOMP_LAMBDA {
          constexpr int from = j - 4 * i;
          if constexpr (from >= 0 && from % S == 0 && from / S < P) {
            sums[from / S][0] = D::dot(sums[from / S][0], x0, weight(Q::kColumns + i, 0));
            sums[from / S][1] = D::dot(sums[from / S][1], x1, weight(Q::kColumns + i, 1));
          }
        });
      }
    });
  }
}

// What becomes of a tile of sums: half() is called with those of the lower and then of the upper half of every lane,
// end() after both. Here: bytes, with the factors and shifts of Requantize in the order of the sums.
template <class Q>
struct QuadsToBytes {
  const float* factor;
  const float* shift;
  Q* out;
  int64_t ld;
  int32_t zero, low, high;

  template <class V, int P, bool High, bool Masked>
  MCOMP_INLINE void half(const typename V::Bytes (&sums)[P][2], int64_t c, char* held, int64_t row0, int64_t pixels,
                         int64_t count) const {
    using Bytes = typename V::Bytes;
    constexpr bool is_signed = std::is_same<Q, int8_t>::value;
    constexpr int64_t lanes = V::kBytes / 4, first = High ? 2 * lanes : 0;
    const auto f0 = V::loadf(factor + c + first), f1 = V::loadf(factor + c + first + lanes);
    const auto s0 = V::loadf(shift + c + first), s1 = V::loadf(shift + c + first + lanes);
    const auto top = V::setf(32767.0f);
    const Bytes zeros = V::set16(zero), lows = V::set8(low), highs = V::set8(high);
    unroll<P>([&](auto p) MCOMP_LAMBDA {
      const Bytes y0 = V::to_int(V::least(V::fma(V::to_float(sums[p][0]), f0, s0), top));
      const Bytes y1 = V::to_int(V::least(V::fma(V::to_float(sums[p][1]), f1, s1), top));
      const Bytes both = V::add16(V::narrow16(y0, y1), zeros);
      if constexpr (!High) {
        V::store(held + p * V::kBytes, both);
      } else {
        const Bytes first = V::load(held + p * V::kBytes);
        const Bytes bytes = V::template clamp8<is_signed>(V::template narrow8<is_signed>(first, both), lows, highs);
        // Pixels past the row go back to where nothing is read any more.
        char* at = p < pixels ? reinterpret_cast<char*>(out + (row0 + p) * ld + c) : held;
        if constexpr (Masked) {
          V::store(held + p * V::kBytes, bytes);
          copy_few(at, held + p * V::kBytes, count);
        } else {
          V::store(at, bytes);
        }
      }
    });
  }
  template <class V>
  MCOMP_INLINE void end(int64_t, int64_t, int64_t, int64_t) const {}
};

// Floats for an epilogue of float rows.
struct QuadsToFloats {
  const float* column_scale;
  float scale;
  const Emitter<float>& emit;
  float* tile;  // P * kWidestBytes floats

  template <class V, int P, bool High, bool Masked>
  MCOMP_INLINE void half(const typename V::Bytes (&sums)[P][2], int64_t, char*, int64_t, int64_t, int64_t) const {
    unroll<P>([&](auto p) MCOMP_LAMBDA {
      unroll<2>([&](auto h) MCOMP_LAMBDA {
        V::scatter(tile + p * V::kBytes + (High ? 8 : 0) + 4 * h, V::to_float(sums[p][h]));
      });
    });
  }
  template <class V>
  MCOMP_INLINE void end(int64_t c, int64_t row0, int64_t pixels, int64_t count) const {
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t i = 0; i < count; ++i) tile[p * V::kBytes + i] *= column_scale[c + i] * scale;
    emit(tile, V::kBytes, pixels, row0, 1, c, count);
  }
};

// One half of a block of channels of P pixels. A function of its own: together the halves would not fit the registers.
template <class V, class X, int K, int S, int P, bool High, bool Masked, class Finish>
MCOMP_NOINLINE void quad_half(const X* const* table, int64_t c, int64_t count, const int8_t* packed, int32_t minus_zero,
                              const Finish& finish, char* held, int64_t row0, int64_t pixels) {
  using Bytes = typename V::Bytes;
  constexpr int64_t size = Quads<K>::kCount * 2 * ByteSums<V>::kColumnBytes;
  const Bytes minus = V::set32(minus_zero);
  Bytes sums[P][2];
  unroll<2>([&](auto h) MCOMP_LAMBDA {
    const Bytes first = V::mul(V::load(packed + (High * 2 + h) * V::kBytes), minus);
    unroll<P>([&](auto p) MCOMP_LAMBDA { sums[p][h] = first; });
  });
  quad_sums<V, X, K, S, P, High, Masked>(table, c, count, packed + 4 * V::kBytes + High * size, sums);
  finish.template half<V, P, High, Masked>(sums, c, held, row0, pixels, count);
}

template <class V, class X, int K, int S, int P, bool Masked, class Finish>
MCOMP_INLINE void quad_tile(const X* const* table, int64_t c, int64_t count, const int8_t* packed, int32_t zero,
                            const Finish& finish, int64_t row0, int64_t pixels) {
  alignas(64) char held[P * V::kBytes];
  const int32_t minus = -(zero + row_offset<X>());
  quad_half<V, X, K, S, P, false, Masked>(table, c, count, packed, minus, finish, held, row0, pixels);
  quad_half<V, X, K, S, P, true, Masked>(table, c, count, packed, minus, finish, held, row0, pixels);
  finish.template end<V>(c, row0, pixels, count);
}

template <int K, int S, int P, class X, class Finish>
void walk_depthwise(const Worker& w, const X* x, const int8_t* packed, const ConvShape& s, int32_t zero,
                    const Finish& finish, void* scratch) {
  const int64_t channels = s.in_channels;
  const Split split = split_product(w, s.batch * s.out[1], s.out[2], ceil_div(channels, kWidestBytes), false, 0.0);
  if (split.rows.empty() || split.panels.empty()) return;
  const int64_t c0 = split.panels.begin * kWidestBytes, c1 = min_i64(channels, split.panels.end * kWidestBytes);
  const PixelTable<K, S, P, X> pixels(s, scratch, static_cast<X>(zero));
  pixels.walk(x, split.rows.begin, split.rows.end, [&](int64_t row, int64_t rows) {
    each_byte_block(c0, c1, [&](auto v, int64_t c, int64_t width) {
      using V = decltype(v);
      const int8_t* weights = packed + c * channel_bytes<K>();
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t t = 0; t < pixels.tiles(); ++t) {
          const X* const* at = pixels.tile(r, t);
          const int64_t row0 = (row + r) * s.out[2] + t * P, count = pixels.pixels(t);
          if constexpr (V::kBytes == 16) {
            if (V::kMasks || width < 16) {
              quad_tile<V, X, K, S, P, true>(at, c, width, weights, zero, finish, row0, count);
              continue;
            }
          }
          if constexpr (!V::kMasks) quad_tile<V, X, K, S, P, false>(at, c, width, weights, zero, finish, row0, count);
        }
    });
  });
}

// Floats of a worker: a tile of results, or two numbers per channel.
template <int P>
int64_t depthwise_worker_floats(const ConvShape& s) {
  return max_i64(P * kWidestBytes, 2 * round_up(s.in_channels, 64));
}

template <int K, int S, int P>
int64_t depthwise_worker_bytes(const ConvShape& s) {
  return depthwise_worker_floats<P>(s) * 4 + PixelTable<K, S, P, uint8_t>::bytes(s);
}

}  // namespace detail

template <int K, int S, int P>
int64_t depthwise_bytes_scratch(const ConvShape& s, int64_t workers) {
  return workers * detail::depthwise_worker_bytes<K, S, detail::depthwise_pixels(K, P)>(s);
}

template <int K>
constexpr int64_t packed_depthwise_bytes(int64_t channels) {
  return round_up(channels, 16) * detail::channel_bytes<K>();
}

// src: [C, K * K] contiguous. Blocks of channels as each_byte_block takes them; of each block the sums of the weights,
// then the groups of the lower and of the upper half of every lane.
template <int K>
void pack_depthwise_bytes(const Worker& w, int8_t* dst, const int8_t* src, const ConvShape& s) {
  using namespace detail;
  if (w.id != 0) return;
  std::memset(dst, 0, static_cast<size_t>(packed_depthwise_bytes<K>(s.in_channels)));
  each_byte_block(0, s.in_channels, [&](auto v, int64_t c, int64_t count) {
    using V = decltype(v);
    using D = ByteSums<V>;
    int8_t* block = dst + c * channel_bytes<K>();
    for (int64_t q = 0; q < 4; ++q)
      for (int64_t e = 0; e < V::kBytes / 4; ++e) {
        const int64_t channel = quarter_channel(q, e);
        if (channel >= count) continue;
        const int8_t* from = src + (c + channel) * K * K;
        int32_t sum = 0;
        for (int k = 0; k < K * K; ++k) sum += from[k];
        std::memcpy(block + (q * V::kBytes / 4 + e) * 4, &sum, 4);
        for (int i = 0; i < Quads<K>::kCount; ++i)
          for (int t = 0; t < 4; ++t) {
            const int position = Quads<K>::position(i, t);
            int8_t* at = block + 4 * V::kBytes + ((q / 2 * Quads<K>::kCount + i) * 2 + q % 2) * D::kColumnBytes;
            if (position >= 0) D::put(at, e, t, from[position]);
          }
      }
  });
}

namespace detail {

// dst[i] = f(c) for the channel c that element i of the sums stands for; 0 past the last channel.
template <class F>
void in_quad_order(float* dst, int64_t channels, const F& f) {
  each_byte_block(0, channels, [&](auto v, int64_t c, int64_t count) {
    constexpr int64_t lanes = decltype(v)::kBytes / 4;
    for (int64_t q = 0; q < 4; ++q)
      for (int64_t e = 0; e < lanes; ++e) {
        const int64_t channel = quarter_channel(q, e);
        dst[c + q * lanes + e] = channel < count ? f(c + channel) : 0.0f;
      }
  });
}

}  // namespace detail

template <int K, int S, int P, class X, class Ep>
void depthwise_bytes(const Worker& w, const X* x, const int8_t* packed, const ConvShape& s, const Scales8& q,
                     const Ep& ep, void* scratch) {
  constexpr int N = detail::depthwise_pixels(K, P);
  float* own = reinterpret_cast<float*>(static_cast<char*>(scratch) + w.id * detail::depthwise_worker_bytes<K, S, N>(s));
  const detail::Emitter<float> emit = detail::emitter<detail::kWidestBytes, float>(ep);
  const detail::QuadsToFloats finish{q.column_scale, q.scale[0], emit, own};
  void* rest = own + detail::depthwise_worker_floats<N>(s);
  detail::walk_depthwise<K, S, N>(w, x, packed, s, q.zero == nullptr ? 0 : q.zero[0], finish, rest);
}

template <int K, int S, int P, class X, class Q>
void depthwise_bytes(const Worker& w, const X* x, const int8_t* packed, const ConvShape& s, const Scales8& q,
                     const Requantize<Q>& ep, void* scratch) {
  constexpr int N = detail::depthwise_pixels(K, P);
  float* own = reinterpret_cast<float*>(static_cast<char*>(scratch) + w.id * detail::depthwise_worker_bytes<K, S, N>(s));
  float* shift = own + round_up(s.in_channels, 64);
  const float scale = q.scale[0];
  detail::in_quad_order(own, s.in_channels, [&](int64_t c) { return q.column_scale[c] * scale * ep.inverse; });
  detail::in_quad_order(shift, s.in_channels,
                        [&](int64_t c) { return ep.bias == nullptr ? 0.0f : ep.bias[c] * ep.inverse; });
  const detail::QuadsToBytes<Q> finish{own, shift, ep.out, ep.ld, ep.zero,
                                       static_cast<int32_t>(__builtin_rintf(ep.low)) + ep.zero,
                                       static_cast<int32_t>(__builtin_rintf(ep.high)) + ep.zero};
  void* rest = own + detail::depthwise_worker_floats<N>(s);
  detail::walk_depthwise<K, S, N>(w, x, packed, s, q.zero == nullptr ? 0 : q.zero[0], finish, rest);
}

}  // namespace mcomp
