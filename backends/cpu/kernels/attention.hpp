// Scaled dot-product attention without a score matrix in memory.
//
//     Attention<float> a{};
//     a.q = q; a.k = k; a.v = v;                                  // q [B,H,Lq,D], k [B,Hk,Lk,D], v [B,Hk,Lk,Dv]
//     a.batch = B; a.heads = H; a.kv_heads = Hk; a.queries = Lq; a.keys = Lk; a.dim = D; a.value_dim = Dv;
//     a.q_stride = {H * Lq * D, Lq * D, D}; ...                   // batch, head, position; the last dim is contiguous
//     a.row_stride = {H * Lq, Lq, 1};                             // the row of a query's result, for the epilogue
//     a.scale = 0.125f; a.causal = true; a.bias = mask; a.mask_stride = {0, 0, Lk, 1};
//     a.q_rotary = a.k_rotary = {cos, sin, {0, 0, D}, {0, 0, D}, false};    // rotary positions of queries and keys
//     attention(w, a, StoreF32{out, Dv}, scratch);                // attention_scratch_bytes<float>(Lk, D, Dv, w.count)
//
// out = softmax(scale q k^T + bias) v. Head h reads key head h / (heads / kv_heads). A row whose keys are all masked
// gives 0 (torch's CPU kernel). The epilogue gets float rows of the result, piece by piece.
//
// T is float, bf16 or f16, computed in float: weights are within 1e-6 of exact ones, relatively, given exact scores. Or
// int8_t or uint8_t with one scale and zero point for each of q, k, v: scores are exact sums of products of bytes, the
// exponentials of a row (divided by the largest so far) are rounded to 255ths, and what is rounded is normalized. That
// moves a row of the result by at most keys / (510 S) of the largest |v|'s twofold, S >= 1 being the row's sum of
// exponentials over the largest.
//
// FLOPs: 2 B H Lq Lk (D + Dv), and about 10 vector instructions per kLanes scores. Keys and values are packed once per
// head and worker: scores come as rows [query][key] and the result as rows [query][dim], so that masks, sums and stores
// run along vectors.
#pragma once

#include <cstdint>

#include "attention_parts.hpp"
#include "attention_tile.hpp"
#include "epilogue.hpp"
#include "isa.hpp"
#include "math.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {
namespace detail {

// kLanes elements as floats, the lanes from `left` on 0.
template <class T>
MCOMP_INLINE vf32 load_left(const T* p, int64_t left) {
  if (left >= kLanes) return load_as_f32(p);
  if constexpr (is_byte<T>) {
    float wide[kLanes] = {};
    for (int64_t i = 0; i < left; ++i) wide[i] = float(p[i]);
    return vload(wide);
  } else {
    return vload_n(p, left);
  }
}

// The sum of the products of `dim` elements, those of `row` with zeros behind them.
template <class T>
MCOMP_INLINE float row_product(const float* row, const T* key, int64_t dim) {
  vf32 s = vset(0.0f), t = vset(0.0f);
  int64_t d = 0;
  for (; d + 2 * kLanes <= dim; d += 2 * kLanes) {
    s = vfma(vload(row + d), load_as_f32(key + d), s);
    t = vfma(vload(row + d + kLanes), load_as_f32(key + d + kLanes), t);
  }
  for (; d < dim; d += kLanes) s = vfma(vload(row + d), load_left(key + d, dim - d), s);
  return vsum(s + t);
}

// One query of one head: the lanes run over the head dimension. For decoding, where the keys are read once. `scratch`
// holds dim (of bytes) or 2 dim, and value_dim floats.
template <class T, class Ep>
inline void attention_query(const Attention<T>& a, int64_t b, int64_t h, int64_t query, float* scratch, const Ep& ep) {
  constexpr int64_t block = 256;
  const int64_t kv_head = h / (a.heads / a.kv_heads);
  const T* q = a.q + b * a.q_stride.batch + h * a.q_stride.head + query * a.q_stride.position;
  const T* k = a.k + b * a.k_stride.batch + kv_head * a.k_stride.head;
  const T* v = a.v + b * a.v_stride.batch + kv_head * a.v_stride.head;
  float* row = scratch;
  float* turned = row + round_up(a.dim, kLanes);
  float* output = row + (is_byte<T> ? 1 : 2) * round_up(a.dim, kLanes);
  const float scale = is_byte<T> ? a.scale * a.q_code.scale * a.k_code.scale : a.scale;
  const float zero = is_byte<T> ? float(a.q_code.zero) : 0.0f;
  bool turns_query = false, turns_keys = false;
  if constexpr (!is_byte<T>) {
    turns_query = a.q_rotary.cos != nullptr, turns_keys = a.k_rotary.cos != nullptr;
    if (turns_query) a.q_rotary.turn(q, b, h, query, a.dim, turned);
  }
  for (int64_t d = 0; d < a.dim; ++d) row[d] = ((turns_query ? turned[d] : convert<float>(q[d])) - zero) * scale;
  for (int64_t d = a.dim; d < round_up(a.dim, kLanes); ++d) row[d] = 0.0f;
  for (int64_t d = 0; d < round_up(a.value_dim, kLanes); ++d) output[d] = 0.0f;
  float scores[block], top = kLowest, sum = 0.0f;
  const int64_t keys = a.seen(query);
  for (int64_t key0 = 0; key0 < keys; key0 += block) {
    const int64_t count = min_i64(block, keys - key0);
    for (int64_t n = 0; n < count; ++n) {
      const T* key = k + (key0 + n) * a.k_stride.position;
      if constexpr (!is_byte<T>) {
        if (turns_keys) {
          a.k_rotary.turn(key, b, kv_head, key0 + n, a.dim, turned);
          scores[n] = row_product(row, static_cast<const float*>(turned), a.dim);
          continue;
        }
      }
      scores[n] = row_product(row, key, a.dim);
    }
    if (a.masked()) mask_row(a, b, h, query, key0, count, 1.0f, scores);
    float high = top, partial = 0.0f;
    for (int64_t n = 0; n < count; ++n) high = scores[n] > high ? scores[n] : high;
    const float base = high == kLowest ? 0.0f : high;
    const float shrink = math::exp_nonpositive(top - base);
    for (int64_t n = 0; n < count; ++n) scores[n] = math::exp_nonpositive(scores[n] - base);
    for (int64_t n = 0; n < count; ++n) partial += scores[n];
    sum = sum * shrink + partial;
    top = high;
    for (int64_t d = 0; d < a.value_dim; d += kLanes) {
      const int64_t left = a.value_dim - d;
      const T* value = v + key0 * a.v_stride.position + d;
      vf32 s = vload(output + d) * vset(shrink), t = vset(0.0f);
      int64_t n = 0;
      if (left >= kLanes) {
        for (; n + 2 <= count; n += 2) {
          s = vfma(vset(scores[n]), load_as_f32(value + n * a.v_stride.position), s);
          t = vfma(vset(scores[n + 1]), load_as_f32(value + (n + 1) * a.v_stride.position), t);
        }
      }
      for (; n < count; ++n) s = vfma(vset(scores[n]), load_left(value + n * a.v_stride.position, left), s);
      vstore(output + d, s + t);
    }
  }
  const float factor = (sum == 0.0f ? 0.0f : 1.0f / sum) * (is_byte<T> ? a.v_code.scale : 1.0f);
  const float shift = is_byte<T> && sum != 0.0f ? -a.v_code.scale * float(a.v_code.zero) : 0.0f;
  for (int64_t d = 0; d < a.value_dim; ++d) output[d] = output[d] * factor + shift;
  for (int64_t d = 0; d < a.value_dim; d += kBlock)
    ep(static_cast<const float*>(output + d), a.row(b, h, query), d, min_i64(kBlock, a.value_dim - d));
}

}  // namespace detail

// Bytes of 64-byte aligned scratch for `workers` workers.
template <class T>
int64_t attention_scratch_bytes(int64_t keys, int64_t dim, int64_t value_dim, int64_t workers) {
  return detail::AttentionScratch<T>(nullptr, keys, dim, value_dim).bytes * workers;
}

template <class T, class Ep>
void attention(const Worker& w, const Attention<T>& a, const Ep& ep, char* scratch) {
  using detail::kTileRows;
  if (a.kv_heads == 0) return;
  const int64_t own = attention_scratch_bytes<T>(a.keys, a.dim, a.value_dim, 1);
  char* mine = scratch + own * w.id;
  if (a.queries <= (kLanes + 3) / 4) {
    const Range r = w.range(a.batch * a.heads * a.queries);
    for (int64_t item = r.begin; item < r.end; ++item) {
      const int64_t head = item / a.queries;
      float* rows = reinterpret_cast<float*>(mine);
      detail::attention_query(a, head / a.heads, head % a.heads, item % a.queries, rows, ep);
    }
    return;
  }
  const detail::AttentionScratch<T> parts(mine, a.keys, a.dim, a.value_dim);
  const int64_t tiles = ceil_div(a.queries, kTileRows), shared = a.heads / a.kv_heads;
  const Range r = w.range(a.batch * a.heads * tiles);
  detail::AttentionHead<T> head{-1, -1, nullptr, nullptr, 0, 0, false};
  int64_t masked_at = -1;
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t index = item / tiles, b = index / a.heads, h = index % a.heads;
    if (b != head.b || h != head.h) {
      if (b != head.b || h / shared != head.h / shared) {
        head.k = a.k + b * a.k_stride.batch + h / shared * a.k_stride.head;
        head.v = a.v + b * a.v_stride.batch + h / shared * a.v_stride.head;
        head.packed = 0;
      }
      head.b = b;
      head.h = h;
      if (!a.masked() || a.mask_stride.query != 0) {
        head.keys = a.keys;
      } else if (a.mask_at(b, h, 0) != masked_at) {
        masked_at = a.mask_at(b, h, 0);
        head.keys = a.keys;
        read_row_mask(a, parts, head);
      }
    }
    const int64_t query0 = item % tiles * kTileRows;
    detail::attention_tile(a, parts, head, query0, min_i64(kTileRows, a.queries - query0), ep);
  }
}

}  // namespace mcomp
