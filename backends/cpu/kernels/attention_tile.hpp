// Attention as a worker computes it: a tile of queries of one head against all its keys, block by block (attention.hpp).
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "attention_parts.hpp"
#include "isa.hpp"
#include "quantize_rows.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

// Element strides over batch, head and position.
struct HeadStride {
  int64_t batch, head, position;
};
// Element strides of a mask over batch, head, query and key; 0 broadcasts.
struct MaskStride {
  int64_t batch, head, query, key;
};
// Bytes that stand for scale * (byte - zero); not read for floats.
struct ByteCode {
  float scale;
  int32_t zero;
};

template <class T>
struct Attention {
  const T* q;
  const T* k;
  const T* v;
  int64_t batch, heads, kv_heads, queries, keys, dim, value_dim;
  HeadStride q_stride, k_stride, v_stride, row_stride;
  float scale;
  bool causal;            // query i sees keys j <= i + causal_offset
  int64_t causal_offset;  // 0: aligned top left, torch's is_causal
  const float* bias;      // added to scores, or nullptr
  const bool* keep;       // true: the key takes part, or nullptr; at most one of bias and keep
  MaskStride mask_stride;
  ByteCode q_code, k_code, v_code;

  int64_t row(int64_t b, int64_t h, int64_t query) const {
    return b * row_stride.batch + h * row_stride.head + query * row_stride.position;
  }
  int64_t mask_at(int64_t b, int64_t h, int64_t query) const {
    return b * mask_stride.batch + h * mask_stride.head + query * mask_stride.query;
  }
  bool masked() const { return bias != nullptr || keep != nullptr; }
  // Keys that a query sees.
  int64_t seen(int64_t query) const {
    return causal ? max_i64(0, min_i64(keys, query + 1 + causal_offset)) : keys;
  }
};

namespace detail {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.44269504f;

// A worker's scratch: one head's keys and values in panels, one tile's rows.
template <class T>
struct AttentionScratch {
  PanelElement<T>* keys;
  PanelElement<T>* values;
  int32_t* key_sums;
  float* mask;
  RowElement<T>* queries;
  float* scores;
  RowElement<T>* weights;  // of floats: the scores, in place
  float* output;
  int64_t bytes;

  AttentionScratch(char* base, int64_t keys_count, int64_t dim, int64_t value_dim) : bytes(0) {
    constexpr int64_t element = sizeof(RowElement<T>), tile = kTileRows * kBlock;
    const int64_t capacity = round_up(keys_count, kPanel);
    const auto take = [&](int64_t size) {
      char* at = base + bytes;
      bytes += round_up(size, 64);
      return at;
    };
    keys = reinterpret_cast<PanelElement<T>*>(take(capacity * round_up(dim, kGroup<T>) * element));
    values = reinterpret_cast<PanelElement<T>*>(take(capacity * round_up(value_dim, kLanes) * element));
    key_sums = reinterpret_cast<int32_t*>(take(is_byte<T> ? capacity * 4 : 0));
    mask = reinterpret_cast<float*>(take(capacity * 4));
    queries = reinterpret_cast<RowElement<T>*>(take(ceil_div(dim, kBlock) * tile * element));
    scores = reinterpret_cast<float*>(take(tile * 4));
    if constexpr (is_byte<T>) {
      weights = reinterpret_cast<RowElement<T>*>(take(tile));
    } else {
      weights = scores;
    }
    output = reinterpret_cast<float*>(take(ceil_div(value_dim, kBlock) * tile * 4));
  }
};

// A head as a worker holds it: how many of its keys are packed, and a mask that is the same for all queries.
template <class T>
struct AttentionHead {
  int64_t b, h;
  const T* k;
  const T* v;
  int64_t packed;   // keys
  int64_t keys;     // that any query can see
  bool row_masked;  // scratch.mask holds what is added to the scores of each key
};

template <class T>
inline void pack_until(const Attention<T>& a, const AttentionScratch<T>& s, AttentionHead<T>& head, int64_t keys) {
  if (keys <= head.packed) return;
  const int64_t capacity = round_up(a.keys, kPanel), end = round_up(keys, kPanel);
  pack_keys(head.k, a.k_stride.position, head.packed, end, a.keys, a.dim, s.keys, s.key_sums);
  pack_values(head.v, a.v_stride.position, head.packed, end, a.keys, a.value_dim, s.values, capacity);
  if constexpr (is_byte<T>) {
    // A score is the sum of (q - zero_q) (k - zero_k); what depends on the query only cancels in the softmax.
    const int32_t zero = a.q_code.zero + row_offset<T>();
    for (int64_t n = head.packed; n < end; ++n) s.key_sums[n] *= -zero;
  }
  head.packed = end;
}

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

// Queries of a tile as rows, `rows` of them, in pieces of kBlock dims.
template <class T>
inline void pack_queries(const Attention<T>& a, const AttentionScratch<T>& s, const T* q, int64_t live, int64_t rows) {
  for (int64_t d = 0; d < a.dim; d += kBlock) {
    const int64_t count = min_i64(kBlock, a.dim - d);
    RowElement<T>* piece = s.queries + d * kTileRows;
    for (int64_t i = 0; i < rows; ++i) {
      RowElement<T>* to = piece + i * kBlock;
      if (i >= live) {
        std::memset(to, 0, size_t(kBlock) * sizeof(RowElement<T>));
        continue;
      }
      const T* from = q + i * a.q_stride.position + d;
      if constexpr (is_byte<T>) {
        for (int64_t n = 0; n < count; n += 4 * kLanes)
          vstore(reinterpret_cast<float*>(to + n), words_of(from + n, count - n, query_flip<T>));
      } else {
        const vf32 scale = vset(a.scale * kLog2E);
        int64_t n = 0;
        for (; n + kLanes <= count; n += kLanes) vstore(to + n, vload(from + n) * scale);
        if (n < count) vstore_n(to + n, vload_n(from + n, count - n) * scale, count - n);
      }
    }
  }
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
  pack_queries(a, s, a.q + head.b * a.q_stride.batch + head.h * a.q_stride.head + query0 * a.q_stride.position, live,
               rows);
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
