// Attention as a worker computes it: a tile of queries of one head against all its keys, block by block (attention.hpp).
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "attention_head.hpp"
#include "attention_parts.hpp"
#include "isa.hpp"
#include "quantize_rows.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {
namespace detail {

// What a mask adds, in other units. Lowest floats, which masks hide keys with, would overflow: they stay finite, so that a
// row with nothing else weighs its keys alike; infinity stays what it is.
inline float mask_in(float bias, float unit) {
  constexpr float lowest = std::numeric_limits<float>::lowest();
  const float scaled = bias * unit;
  return scaled < lowest && bias >= lowest ? lowest : scaled;
}
MCOMP_INLINE vf32 mask_in(vf32 bias, float unit) {
  const vf32 lowest = vset(std::numeric_limits<float>::lowest()), scaled = bias * vset(unit);
  return bias < lowest ? bias : vmax(lowest, scaled);
}

// Reads a mask that is the same for all queries: keys masked at the end are left out.
template <class T>
inline void read_row_mask(const Attention<T>& a, const AttentionScratch<T>& s, AttentionHead<T>& head) {
  const int64_t at = a.mask_at(head.b, head.h, 0), step = a.mask_stride.key;
  if (a.bias) {
    for (int64_t n = 0; n < a.keys; ++n) s.mask[n] = mask_in(a.bias[at + n * step], kLog2E);
  } else {
    for (int64_t n = 0; n < a.keys; ++n) s.mask[n] = a.keep[at + n * step] ? 0.0f : kLowest;
  }
  while (head.keys > 0 && s.mask[head.keys - 1] == kLowest) --head.keys;
  bool zero = true;
  for (int64_t n = 0; n < head.keys; ++n) zero &= s.mask[n] == 0.0f;
  head.row_masked = !zero;
}

inline bool all_kept(const bool* keep, int64_t count) {
  static_assert(sizeof(bool) == 1, "masks are read as bytes");
  vi32 all = vset(-1);
  int64_t n = 0;
  for (; n + 4 * kLanes <= count; n += 4 * kLanes) all = all & vload(reinterpret_cast<const int32_t*>(keep + n));
  bool rest = true;
  for (; n < count; ++n) rest &= keep[n];
  const vf32 gone = all == 0x01010101 ? vset(0.0f) : vset(1.0f);
  return rest && (count < 4 * kLanes || vsum(gone) == 0.0f);
}

// Adds the mask of `count` keys from `key0` for one query.
template <class T>
inline void mask_row(const Attention<T>& a, int64_t b, int64_t h, int64_t query, int64_t key0, int64_t count,
                     float unit, float* s) {
  const int64_t step = a.mask_stride.key, at = a.mask_at(b, h, query) + key0 * step;
  const auto masked = [&](int64_t n) MCOMP_LAMBDA {
    return a.bias ? s[n] + mask_in(a.bias[at + n * step], unit) : a.keep[at + n * step] ? s[n] : kLowest;
  };
  int64_t n = 0;
  if (step == 1 && a.bias) {
    for (; n + kLanes <= count; n += kLanes) vstore(s + n, vload(s + n) + mask_in(vload(a.bias + at + n), unit));
  } else if (step == 1) {
    if (all_kept(a.keep + at, count)) return;
    const uint8_t* from = reinterpret_cast<const uint8_t*>(a.keep + at);
    for (; n + kLanes <= count; n += kLanes)
      vstore(s + n, load_as_f32(from + n) == 0.0f ? vset(kLowest) : vload(s + n));
  }
  for (; n < count; ++n) s[n] = masked(n);
}

// The running softmax of a tile: for each row its largest score (in units of ln 2) and the sum of its weights so far, and
// what has to be multiplied into what was summed before the last block.
struct RowState {
  alignas(64) float top[16], sum[16], shrink[16];
};

// Scores of `rows` rows to weights. `limit(i)`: the keys of the block that row i sees.
template <class T, class Limit>
inline void softmax_block(const Attention<T>& a, const AttentionScratch<T>& scratch, const AttentionHead<T>& head,
                          int64_t query0, int64_t live, int64_t rows, int64_t key0, int64_t count, const Limit& limit,
                          RowState& state) {
  const int64_t padded = round_up(count, kLanes);
  alignas(64) float high[16] = {}, base[16], sums[16] = {};
  vf32 folded[kTileRows];
  for (int64_t i = 0; i < rows; ++i) {
    float* s = scratch.scores + i * kBlock;
    if (head.row_masked) {
      for (int64_t n = 0; n < count; n += kLanes) vstore(s + n, vload(s + n) + vload(scratch.mask + key0 + n));
    } else if (a.masked() && a.mask_stride.query != 0 && i < live) {
      mask_row(a, head.b, head.h, query0 + i, key0, count, kLog2E, s);
    }
    for (int64_t n = limit(i); n < padded; ++n) s[n] = kLowest;
    vf32 most = vset(kLowest);
    for (int64_t n = 0; n < padded; n += kLanes) most = vmax(vload(s + n), most);
    folded[i] = most;
  }
  for (int64_t i = rows; i < kTileRows; ++i) folded[i] = vset(kLowest);
  reduce_rows<false>(folded, high);
  for (int64_t i = 0; i < kTileRows; i += kLanes) {
    const vf32 before = vload(state.top + i), now = vmax(vload(high + i), before);
    const vf32 from = now == kLowest ? vset(0.0f) : now;
    vstore(state.top + i, now);
    vstore(base + i, from);
    vstore(state.shrink + i, exp2_small(before - from));
  }
  for (int64_t i = 0; i < rows; ++i) {
    const float* s = scratch.scores + i * kBlock;
    if constexpr (is_byte<T>) {
      const vf32 from = vset(base[i] - 7.99435344f);  // log2(255)
      vi32 total = vset(0);
      uint8_t* const to = scratch.weights + i * kBlock;
      int64_t n = 0;
#if defined(MCOMP_X86_SIMD)
      for (; n + 4 * kLanes <= padded; n += 4 * kLanes) {
        vi32 p[4];
        unroll<4>([&](auto j) MCOMP_LAMBDA { p[j] = exp2_rounded(vload(s + n + j * kLanes) - from); });
        store_four(to + n, p, 0);
        total = total + ((p[0] + p[1]) + (p[2] + p[3]));
      }
#endif
      for (; n < padded; n += kLanes) {
        const vi32 p = exp2_rounded(vload(s + n) - from);
        store_bytes(to + n, p);
        total = total + p;
      }
      folded[i] = vto_f32(total);
      if (a.bias) {  // NaN and +inf do not survive as bytes
        vi32 finite = vset(-1);
        for (int64_t n = 0; n < padded; n += kLanes) finite = finite & (vi32)(vload(s + n) < vset(-kLowest));
        folded[i] = finite == 0 ? vset(std::numeric_limits<float>::quiet_NaN()) : folded[i];
      }
    } else {
      const vf32 from = vset(base[i]);
      vf32 total = vset(0.0f);
      for (int64_t n = 0; n < padded; n += kLanes) {
        const vf32 p = exp2_small(vload(s + n) - from);
        vstore(scratch.weights + i * kBlock + n, p);
        total = total + p;
      }
      folded[i] = total;
    }
  }
  for (int64_t i = rows; i < kTileRows; ++i) folded[i] = vset(0.0f);
  reduce_rows<true>(folded, sums);
  for (int64_t i = 0; i < kTileRows; i += kLanes)
    vstore(state.sum + i, vfma(vload(state.sum + i), vload(state.shrink + i), vload(sums + i)));
}

// Rows of sums over weights and packed values, as what they mean, to the epilogue.
template <class T, class Ep>
inline void finish_tile(const Attention<T>& a, const AttentionScratch<T>& s, const AttentionHead<T>& head,
                        const RowState& state, int64_t query0, int64_t live, bool any, const Ep& ep) {
  const int32_t packed_zero = a.v_code.zero - (key_flip<T> != 0 ? 128 : 0);
  for (int64_t i = 0; i < live; ++i) {
    const int64_t row = a.row(head.b, head.h, query0 + i);
    const bool some = any && state.sum[i] != 0.0f;
    const vf32 factor = vset(some ? (is_byte<T> ? a.v_code.scale : 1.0f) / state.sum[i] : 0.0f);
    const vf32 shift = vset(some && is_byte<T> ? -a.v_code.scale * float(packed_zero) : 0.0f);
    for (int64_t d = 0; d < a.value_dim; d += kPanel) {
      alignas(64) float held[kPanel];
      const float* sums = s.output + d / kBlock * (kTileRows * kBlock) + i * kBlock + d % kBlock;
      const int64_t width = min_i64(kPanel, a.value_dim - d);
      for (int64_t j = 0; j < kPanel; j += kLanes) {
        if (j > 0 && width <= kLanes) break;
        const vf32 sum = any ? vload(sums + j) : vset(0.0f);
        vstore(held + j, is_byte<T> ? vfma(sum, factor, shift) : sum * factor);
      }
      if (width == kPanel) {
        ep(static_cast<const float*>(held), row, d, kPanel);
      } else {
        ep(static_cast<const float*>(held), row, d, width);
      }
    }
  }
}

// One tile of `live` queries of one head.
template <class T, class Ep>
inline void attention_tile(const Attention<T>& a, const AttentionScratch<T>& s, AttentionHead<T>& head, int64_t query0,
                           int64_t live, const Ep& ep) {
  constexpr int64_t group = kGroup<T>;
  const int64_t rows = min_i64(kTileRows, round_up(live, 4)), words = ceil_div(a.dim, group);
  const int64_t capacity = round_up(a.keys, kPanel), keys = min_i64(head.keys, a.seen(query0 + live - 1));
  pack_until(a, s, head, keys);
  pack_queries(a, s, head, query0, live, rows);
  RowState state;
  for (int i = 0; i < 16; ++i) state.top[i] = kLowest, state.sum[i] = 0.0f;
  for (int64_t key0 = 0; key0 < keys; key0 += kBlock) {
    const int64_t count = min_i64(kBlock, keys - key0);
    for (int64_t n = 0; n < count; n += kPanel) {
      const int64_t key = key0 + n, width = a.keys - key <= kLanes ? kLanes : kPanel;
      for (int64_t word = 0; word < words || word == 0; word += kBlock / group) {
        const PanelElement<T>* panel = s.keys + (key * words + word * width) * group;
        const RowElement<T>* q = s.queries + word * group * kTileRows;
        const int64_t steps = min_i64(kBlock / group, words - word);
        if constexpr (is_byte<T>) {
          const float factor = a.scale * kLog2E * a.q_code.scale * a.k_code.scale;
          const ByteFinish finish{word == 0 ? s.key_sums + key : nullptr, factor};
          tile_product(rows, width, q, panel, steps, s.scores + n, word > 0, finish);
        } else {
          tile_product(rows, width, q, panel, steps, s.scores + n, word > 0, FloatFinish{});
        }
      }
    }
    const auto limit = [&](int64_t i) MCOMP_LAMBDA {
      return a.causal ? max_i64(0, min_i64(count, a.seen(query0 + i) - key0)) : count;
    };
    softmax_block(a, s, head, query0, live, rows, key0, count, limit, state);
    for (int64_t d = 0; d < a.value_dim; d += kPanel) {
      const int64_t width = a.value_dim - d <= kLanes ? kLanes : kPanel;
      float* out = s.output + d / kBlock * (kTileRows * kBlock) + d % kBlock;
      const PanelElement<T>* panel = s.values + d * capacity + key0 * width;
      if (key0 > 0)
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t j = 0; j < width; j += kLanes)
            vstore(out + i * kBlock + j, vload(out + i * kBlock + j) * vset(state.shrink[i]));
      if constexpr (is_byte<T>) {
        tile_product(rows, width, s.weights, panel, ceil_div(count, 4), out, key0 > 0, ByteFinish{nullptr, 1.0f});
      } else {
        tile_product(rows, width, s.weights, panel, count, out, key0 > 0, FloatFinish{});
      }
    }
  }
  finish_tile(a, s, head, state, query0, live, keys > 0, ep);
}

}  // namespace detail
}  // namespace mcomp
