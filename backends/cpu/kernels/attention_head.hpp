// What a worker knows of an attention and of the head that it is at; packing of queries, keys and values (attention.hpp).
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "attention_parts.hpp"
#include "attention_rotary.hpp"
#include "isa.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

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
  Rotary<std::conditional_t<detail::is_byte<T>, float, T>> q_rotary, k_rotary;  // not of bytes

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
  float* turned;  // of floats: kLanes rows of keys or queries, turn_step() apart
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
    turned = reinterpret_cast<float*>(take(is_byte<T> ? 0 : kLanes * turn_step(dim) * 4));
  }
  static int64_t turn_step(int64_t dim) { return round_up(dim, kLanes); }
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

// Keys up to `end`, a multiple of kPanel or the end.
template <class T>
inline void pack_head_keys(const Attention<T>& a, const AttentionScratch<T>& s, const AttentionHead<T>& head,
                           int64_t end) {
  const int64_t step = a.k_stride.position;
  if constexpr (!is_byte<T>) {
    if (a.k_rotary.cos != nullptr) {
      const int64_t kv_head = head.h / (a.heads / a.kv_heads), turn_step = s.turn_step(a.dim);
      const auto rows = [&](int64_t key, int64_t live) {
        for (int64_t i = 0; i < live; ++i)
          a.k_rotary.turn(head.k + (key + i) * step, head.b, kv_head, key + i, a.dim, s.turned + i * turn_step);
        return static_cast<const float*>(s.turned);
      };
      return pack_keys<float>(rows, turn_step, head.packed, end, a.keys, a.dim, s.keys, s.key_sums);
    }
  }
  const auto rows = [&](int64_t key, int64_t) { return head.k + key * step; };
  pack_keys<T>(rows, step, head.packed, end, a.keys, a.dim, s.keys, s.key_sums);
}

template <class T>
inline void pack_until(const Attention<T>& a, const AttentionScratch<T>& s, AttentionHead<T>& head, int64_t keys) {
  if (keys <= head.packed) return;
  const int64_t capacity = round_up(a.keys, kPanel), end = round_up(keys, kPanel);
  pack_head_keys(a, s, head, end);
  pack_values(head.v, a.v_stride.position, head.packed, end, a.keys, a.value_dim, s.values, capacity);
  if constexpr (is_byte<T>) {
    // A score is the sum of (q - zero_q) (k - zero_k); what depends on the query only cancels in the softmax.
    const int32_t zero = a.q_code.zero + row_offset<T>();
    for (int64_t n = head.packed; n < end; ++n) s.key_sums[n] *= -zero;
  }
  head.packed = end;
}

// One query as row i of a tile.
template <class T, class X>
inline void pack_query(const Attention<T>& a, const AttentionScratch<T>& s, const X* q, int64_t i) {
  for (int64_t d = 0; d < a.dim; d += kBlock) {
    const int64_t count = min_i64(kBlock, a.dim - d);
    RowElement<T>* to = s.queries + d * kTileRows + i * kBlock;
    const X* from = q + d;
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

// Queries of a tile as rows, `rows` of them, in pieces of kBlock dims.
template <class T>
inline void pack_queries(const Attention<T>& a, const AttentionScratch<T>& s, const AttentionHead<T>& head,
                         int64_t query0, int64_t live, int64_t rows) {
  const T* const q = a.q + head.b * a.q_stride.batch + head.h * a.q_stride.head + query0 * a.q_stride.position;
  for (int64_t i = 0; i < rows; ++i) {
    const T* const row = q + i * a.q_stride.position;
    if constexpr (!is_byte<T>) {
      if (i < live && a.q_rotary.cos != nullptr) {
        a.q_rotary.turn(row, head.b, head.h, query0 + i, a.dim, s.turned);
        pack_query(a, s, static_cast<const float*>(s.turned), i);
        continue;
      }
    }
    if (i < live) {
      pack_query(a, s, row, i);
    } else {
      for (int64_t d = 0; d < a.dim; d += kBlock)
        std::memset(s.queries + d * kTileRows + i * kBlock, 0, size_t(kBlock) * sizeof(RowElement<T>));
    }
  }
}

}  // namespace detail
}  // namespace mcomp
