// C[M, N] = A[M, K] x W with float activations and int8 or int4 weights that are scaled per column and group of k.
//
//   pack_weight_only<T0, 4>(w, packed, q, N, K, /*stride_n=*/K, /*stride_k=*/1, group);   // once; q: int8_t per value
//   GroupScales s{scale, offset, group};                  // scale and offset: [ceil(K / group)][N]; offset may be null
//   gemm_weight_only<T0, 4>(w, a, lda, packed, M, N, K, s, Ep0{bias, out, N}, scratch);
//   // packed: packed_weight_only_bytes<T0, 4>(N, K, group), 64-byte aligned
//   // scratch: gemm_weight_only_scratch_bytes<T0>(M, K, workers)
//
// W[n, k] = scale[k / group][n] * q[n, k] + offset[k / group][n], q in [-128, 127] or [-8, 7]. Bits: 8 or 4. Weights
// cost K * N * Bits / 8 bytes of memory traffic, 2 M N K operations. Few rows: values are decoded in registers as panels
// stream by. Many rows: pieces of a panel are decoded to floats in the second-level cache, once for all rows.
#pragma once

#include <cstdint>

#include "gemm_f32.hpp"

namespace mcomp {

struct GroupScales {
  const float* scale;
  const float* offset;
  int64_t group;
};

namespace detail {

// Float rows with a panel of int8_t: one byte per column and reduction step.
struct Int8WeightDot : FloatDot<float, int8_t> {
  static MCOMP_INLINE Columns columns(const int8_t* b) { return load_as_f32(b); }
};

// Float rows with a panel of nibbles: a byte per column holds two reduction steps, the first in its low half.
struct Int4WeightDot {
  using Element = float;
  using Panel = int8_t;
  using Acc = vf32;
  using Out = float;
  struct Row {
    vf32 first, second;
  };
  using Columns = Row;
  static constexpr int kLength = 2;
  static constexpr int kPanel = kLanes;
  static constexpr int kWidth = kLanes;
  static constexpr bool kStarts = false;

  static MCOMP_INLINE Row row(const char* p) {
    const float* x = reinterpret_cast<const float*>(p);
    return {vset(x[0]), vset(x[1])};
  }
  static MCOMP_INLINE Columns columns(const int8_t* b) {
#if defined(MCOMP_ISA_AVX512)
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b)));
    const __m512 values = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
    const __m512i high = _mm512_srli_epi32(bytes, 4);
    return {(vf32)_mm512_permutexvar_ps(bytes, values), (vf32)_mm512_permutexvar_ps(high, values)};
#else
#if defined(MCOMP_ISA_AVX2)
    const vi32 bytes = (vi32)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(b)));
#else
    vi32 bytes{};
    for (int i = 0; i < kLanes; ++i) bytes[i] = b[i];
#endif
    return {vto_f32((bytes << 28) >> 28), vto_f32(bytes >> 4)};
#endif
  }
  static MCOMP_INLINE Acc add(Acc acc, const Row& a, const Columns& b) {
    return vfma(a.second, b.second, vfma(a.first, b.first, acc));
  }
};

template <int Bits>
struct weight_dot;
template <>
struct weight_dot<8> {
  using type = Int8WeightDot;
};
template <>
struct weight_dot<4> {
  using type = Int4WeightDot;
};

// Bytes of a panel's group of `length` reduction steps.
template <class Tile, int Bits>
constexpr int64_t group_bytes(int64_t length) {
  return (Bits == 4 ? ceil_div(length, 2) : length) * Tile::NR;
}
template <class Tile, int Bits>
constexpr int64_t weight_only_panel_bytes(int64_t k, int64_t group) {
  return k / group * group_bytes<Tile, Bits>(group) + group_bytes<Tile, Bits>(k % group);
}

template <class Tile, int Bits>
struct WeightOnlyProduct {
  using Element = float;
  using Dot = typename weight_dot<Bits>::type;
  static constexpr int MR = Tile::MR;
  static constexpr bool kMatrix = false;
  static constexpr bool kFinite = false;
  static constexpr bool kParts = false;
  static constexpr int64_t kStep = 1;
  static constexpr int NR = Tile::NR;

  const int8_t* packed;
  int64_t panel_stride;
  Panels panels;
  const GroupScales& scales;
  Emitter<float> emit;

  // Adds a group's sums, scaled, to the tile.
  void add_group(float* out, const float* sums, int64_t mr, const float* scale, const float* offset, const float* a,
                 int64_t row_stride, int64_t length, int64_t count) const {
    vf32 s[Tile::NV], o[Tile::NV];
    for (int v = 0; v < Tile::NV; ++v) {
      const int64_t lanes = max_i64(0, min_i64(kLanes, count - v * kLanes));
      s[v] = vload_n(scale + v * kLanes, lanes);
      if (offset != nullptr) o[v] = vload_n(offset + v * kLanes, lanes);
    }
    for (int64_t r = 0; r < mr; ++r) {
      for (int v = 0; v < Tile::NV; ++v) {
        float* at = out + r * NR + v * kLanes;
        vstore(at, vfma(vload(sums + r * NR + v * kLanes), s[v], vload(at)));
      }
      if (offset == nullptr) continue;
      vf32 total = vset(0.0f);
      const float* x = a + r * row_stride;
      for (int64_t i = 0; i < length; i += kLanes) total = total + vload_n(x + i, min_i64(kLanes, length - i));
      const vf32 all = vset(vsum(total));
      for (int v = 0; v < Tile::NV; ++v)
        vstore(out + r * NR + v * kLanes, vfma(all, o[v], vload(out + r * NR + v * kLanes)));
    }
  }

  void tile(const float* a, int64_t row_stride, const int64_t* taps, int64_t, int64_t length, int64_t mr, int64_t panel,
            int64_t row0, int64_t row_step, const Part& = {}) const {
    alignas(64) float out[MR * NR] = {};
    alignas(64) float sums[MR * NR];
    const int64_t first = panels.first(panel), count = panels.size(panel);
    const int8_t* b = packed + panel * panel_stride;
    for (int64_t k = 0, g = 0; k < length; k += scales.group, ++g) {
      const int64_t part = min_i64(scales.group, length - k), at = g * panels.columns + first;
      micro_tiles<Dot, MR, Tile::NV>.table[mr](a + k, row_stride, taps, 1, part, b, NR, sums, nullptr, {});
      add_group(out, sums, mr, scales.scale + at, scales.offset == nullptr ? nullptr : scales.offset + at, a + k,
                row_stride, part, count);
      b += group_bytes<Tile, Bits>(part);
    }
    emit(out, NR, mr, row0, row_step, first, count);
  }
};

constexpr int64_t kDecodedSteps = 512;  // reduction steps of a panel that are decoded at once
constexpr int64_t kFewRows = 8;         // up to which decoding in registers is faster

// Decodes reduction steps [from, to) of a panel to floats, `Tile::NR` a step. Inside its group, `from` is even.
template <class Tile, int Bits>
void decode_steps(const int8_t* panel, const GroupScales& scales, int64_t first, int64_t count, int64_t columns,
                  int64_t from, int64_t to, float* out) {
  constexpr int64_t NR = Tile::NR;
  using Dot = typename weight_dot<Bits>::type;
  for (int64_t k = from; k < to;) {
    const int64_t g = k / scales.group, start = g * scales.group, end = min_i64(start + scales.group, to);
    const int8_t* b = panel + g * group_bytes<Tile, Bits>(scales.group) + (k - start) / Dot::kLength * NR;
    vf32 s[Tile::NV], o[Tile::NV];
    for (int v = 0; v < Tile::NV; ++v) {
      const int64_t lanes = max_i64(0, min_i64(kLanes, count - v * kLanes)), at = g * columns + first + v * kLanes;
      s[v] = vload_n(scales.scale + at, lanes);
      o[v] = scales.offset == nullptr ? vset(0.0f) : vload_n(scales.offset + at, lanes);
    }
    for (; k < end; k += Dot::kLength, b += NR) {
      for (int v = 0; v < Tile::NV; ++v) {
        const auto values = Dot::columns(b + v * kLanes);
        if constexpr (Bits == 4) {
          vstore(out + v * kLanes, vfma(values.first, s[v], o[v]));
          if (k + 1 < end) vstore(out + NR + v * kLanes, vfma(values.second, s[v], o[v]));
        } else {
          vstore(out + v * kLanes, vfma(values, s[v], o[v]));
        }
      }
      out += min_i64(Dot::kLength, end - k) * NR;
    }
    k = end;
  }
}

// Bytes of a worker beside the rows that it copies: a decoded piece of a panel, and the sums of a block of rows.
template <class Tile>
int64_t decoded_bytes(int64_t rows) {
  return (kDecodedSteps + 2 + rows) * Tile::NR * 4;
}

// As gemm_rows, with panels decoded piece by piece.
template <class Tile, int Bits, class A>
void decoded_rows(const Worker& w, const WeightOnlyProduct<Tile, Bits>& product, const A* a, int64_t lda, int64_t m,
                  int64_t k, void* scratch) {
  constexpr int64_t MR = Tile::MR, NR = Tile::NR;
  constexpr bool same = std::is_same<A, float>::value;
  const int64_t n = product.panels.count() * NR, group = product.scales.group;
  const Split split = split_product(w, m, 1, product.panels.count(), n >= m);
  if (split.rows.empty() || split.panels.empty()) return;
  const bool copy = !same || (lda * static_cast<int64_t>(sizeof(A)) % kAlias == 0 && split.panels.size() > 1);
  const int64_t stride = copied_stride(k, 4), block = row_block(m, stride * 4), no_tap = 0;
  char* own = static_cast<char*>(scratch) + w.id * (block * stride * 4 + decoded_bytes<Tile>(block));
  float* piece = reinterpret_cast<float*>(own);
  float* sums = piece + (kDecodedSteps + 2) * NR;
  float* rows = sums + block * NR;
  for (int64_t b = split.rows.begin; b < split.rows.end; b += block) {
    const int64_t height = min_i64(block, split.rows.end - b), tiles = ceil_div(height, MR);
    if (copy)
      for (int64_t r = 0; r < height; ++r) convert_row(rows + r * stride, a + (b + r) * lda, k);
    const float* base = copy ? rows : reinterpret_cast<const float*>(a + b * lda);
    const int64_t base_stride = copy ? stride : lda;
    for (int64_t p = split.panels.begin; p < split.panels.end; ++p) {
      const int64_t first = product.panels.first(p), count = product.panels.size(p);
      int64_t from = 0;
      do {
        int64_t to = min_i64(k, from + kDecodedSteps);
        if (to < k) to += to % group % 2;
        decode_steps<Tile, Bits>(product.packed + p * product.panel_stride, product.scales, first, count,
                                 product.panels.columns, from, to, piece);
        for (int64_t t = 0; t < tiles; ++t) {
          const int64_t r0 = height * t / tiles, r1 = height * (t + 1) / tiles;
          float* out = sums + r0 * NR;
          micro_tiles<FloatDot<float, float>, MR, Tile::NV>.table[r1 - r0](base + r0 * base_stride + from, base_stride,
                                                                           &no_tap, 1, to - from, piece, NR, out,
                                                                           from == 0 ? nullptr : out, {});
          if (to >= k) product.emit(out, NR, r1 - r0, b + r0, 1, first, count);
        }
        from = to;
      } while (from < k);
    }
  }
}

}  // namespace detail

template <class Tile, int Bits>
int64_t packed_weight_only_bytes(int64_t n, int64_t k, int64_t group) {
  return ceil_div(n, Tile::NR) * detail::weight_only_panel_bytes<Tile, Bits>(k, group);
}

// q: one value per int8_t, element (n, k) at q[n * stride_n + k * stride_k].
template <class Tile, int Bits>
void pack_weight_only(const Worker& w, int8_t* dst, const int8_t* q, int64_t n, int64_t k, int64_t stride_n,
                      int64_t stride_k, int64_t group) {
  constexpr int64_t NR = Tile::NR;
  const int64_t bytes = detail::weight_only_panel_bytes<Tile, Bits>(k, group);
  const Range mine = w.range(ceil_div(n, NR));
  for (int64_t p = mine.begin; p < mine.end; ++p) {
    int8_t* out = dst + p * bytes;
    for (int64_t begin = 0; begin < k; begin += group) {
      const int64_t end = min_i64(k, begin + group);
      for (int64_t i = begin; i < end; i += Bits == 4 ? 2 : 1, out += NR)
        for (int64_t c = 0; c < NR; ++c) {
          const int64_t column = p * NR + c;
          const int low = column < n ? q[column * stride_n + i * stride_k] : 0;
          const int high = Bits == 4 && column < n && i + 1 < end ? q[column * stride_n + (i + 1) * stride_k] : 0;
          out[c] = static_cast<int8_t>(Bits == 4 ? (low & 15) | (high * 16) : low);
        }
    }
  }
}

template <class Tile>
int64_t gemm_weight_only_scratch_bytes(int64_t m, int64_t k, int64_t workers) {
  const int64_t rows = detail::row_block(m, detail::copied_stride(k, 4) * 4);
  return gemm_f32_scratch_bytes(m, k, workers) + workers * detail::decoded_bytes<Tile>(rows);
}

// A: float, bf16 or f16.
template <class Tile, int Bits, class A, class Ep>
void gemm_weight_only(const Worker& w, const A* a, int64_t lda, const int8_t* packed, int64_t m, int64_t n, int64_t k,
                      const GroupScales& scales, const Ep& ep, void* scratch) {
  const detail::WeightOnlyProduct<Tile, Bits> product{packed,
                                                      detail::weight_only_panel_bytes<Tile, Bits>(k, scales.group),
                                                      {n, 1, Tile::NR},
                                                      scales,
                                                      detail::emitter<Tile::NR, float>(ep)};
  if (m <= detail::kFewRows) {
    detail::gemm_rows(w, product, a, lda, m, k, scratch);
  } else {
    detail::decoded_rows(w, product, a, lda, m, k, scratch);
  }
}

}  // namespace mcomp
