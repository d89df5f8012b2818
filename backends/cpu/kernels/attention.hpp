// Scaled dot-product attention without a score matrix in memory.
//
//     Attention<float, float> a{};
//     a.q = q; a.k = k; a.v = v; a.out = o;                       // q [B,H,Lq,D], k [B,Hk,Lk,D], v [B,Hk,Lk,Dv]
//     a.batch = B; a.heads = H; a.kv_heads = Hk; a.queries = Lq; a.keys = Lk; a.dim = D; a.value_dim = Dv;
//     a.q_stride = {H * Lq * D, Lq * D, D}; ...                   // batch, head, position; the last dim is contiguous
//     a.scale = 0.125f; a.causal = true; a.bias = mask; a.mask_stride = {0, 0, Lk, 1};
//     attention(w, a);
//
// out = softmax(scale q k^T + bias) v. Head h reads key head h / (heads / kv_heads). A row whose keys are all masked
// gives 0 (torch's CPU kernel). Float arithmetic; T is float, bf16 or f16, Out any of these.
// FLOPs: 2 B H Lq Lk (D + Dv) plus about 20 per score. Queries lie along the vector lanes: scores, softmax and output
// are computed transposed, [key, query] and [value dim, query], so that nothing is reduced across lanes.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <limits>
#include <type_traits>

#include "isa.hpp"
#include "math.hpp"
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

template <class T, class Out>
struct Attention {
  const T* q;
  const T* k;
  const T* v;
  Out* out;
  int64_t batch, heads, kv_heads, queries, keys, dim, value_dim;
  HeadStride q_stride, k_stride, v_stride, out_stride;
  float scale;
  bool causal;            // query i sees keys j <= i + causal_offset
  int64_t causal_offset;  // 0: aligned top left, torch's is_causal
  const float* bias;      // added to scores, or nullptr
  const bool* keep;       // true: the key takes part, or nullptr; at most one of bias and keep
  MaskStride mask_stride;
};

namespace detail {

constexpr int kKeyBlock = 64;
constexpr int kBroadcasts = kVectorRegisters == 32 ? 8 : 4;
constexpr float kLowest = -std::numeric_limits<float>::infinity();

// c[i][lane] (+)= sum over t of a[i * a_row + t * a_step] * b[t][lane] for i in [0, Rows), lanes NV vectors wide.
template <int Rows, int NV>
MCOMP_NOINLINE void broadcast_product(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t count,
                                      float* c, bool accumulate) {
  constexpr int width = NV * kLanes;
  vf32 acc[Rows][NV];
  unroll<Rows>([&](auto i) MCOMP_LAMBDA {
    unroll<NV>([&](auto j) MCOMP_LAMBDA { acc[i][j] = accumulate ? vload(c + i * width + j * kLanes) : vset(0.0f); });
  });
  for (int64_t t = 0; t < count; ++t) {
    vf32 row[NV];
    unroll<NV>([&](auto j) MCOMP_LAMBDA { row[j] = vload(b + t * width + j * kLanes); });
    unroll<Rows>([&](auto i) MCOMP_LAMBDA {
      const vf32 s = vset(a[i * a_row + t * a_step]);
      unroll<NV>([&](auto j) MCOMP_LAMBDA { acc[i][j] = vfma(s, row[j], acc[i][j]); });
    });
  }
  unroll<Rows>([&](auto i) MCOMP_LAMBDA {
    unroll<NV>([&](auto j) MCOMP_LAMBDA { vstore(c + i * width + j * kLanes, acc[i][j]); });
  });
}

template <int NV>
inline void broadcast_rows(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t count, float* c,
                           int64_t rows, bool accumulate) {
  constexpr int width = NV * kLanes;
  int64_t i = 0;
  for (; i + kBroadcasts <= rows; i += kBroadcasts)
    broadcast_product<kBroadcasts, NV>(a + i * a_row, a_row, a_step, b, count, c + i * width, accumulate);
  for (; i < rows; ++i) broadcast_product<1, NV>(a + i * a_row, a_row, a_step, b, count, c + i * width, accumulate);
}

// A buffer of floats on the stack when it is small enough.
template <int64_t Small>
class FloatScratch {
 public:
  explicit FloatScratch(int64_t count)
      : heap_(count > Small ? static_cast<float*>(std::malloc(size_t(count) * sizeof(float))) : nullptr) {
    if (count > Small && heap_ == nullptr) std::abort();
  }
  ~FloatScratch() { std::free(heap_); }
  FloatScratch(const FloatScratch&) = delete;
  FloatScratch& operator=(const FloatScratch&) = delete;
  float* data() { return heap_ ? heap_ : small_; }

 private:
  float* heap_;
  alignas(64) float small_[Small];
};

// Adds the mask of `count` keys from `key0` to transposed scores s[key][width] for queries query0 .. query0 + live.
template <class T, class Out>
inline void mask_scores(const Attention<T, Out>& a, int64_t b, int64_t h, int64_t query0, int64_t live, int64_t key0,
                        int64_t count, int64_t width, float* s) {
  const MaskStride& m = a.mask_stride;
  const int64_t at = b * m.batch + h * m.head + query0 * m.query + key0 * m.key;
  if (a.bias) {
    for (int64_t n = 0; n < count; ++n) {
      const float* from = a.bias + at + n * m.key;
      float* row = s + n * width;
      if (m.query == 0) {
        const float x = *from;
        for (int64_t i = 0; i < live; ++i) row[i] += x;
      } else {
        for (int64_t i = 0; i < live; ++i) row[i] += from[i * m.query];
      }
    }
  }
  if (a.keep) {
    for (int64_t n = 0; n < count; ++n) {
      const bool* from = a.keep + at + n * m.key;
      float* row = s + n * width;
      for (int64_t i = 0; i < live; ++i) row[i] = from[i * m.query] ? row[i] : kLowest;
    }
  }
  if (!a.causal) return;
  for (int64_t n = 0; n < count; ++n) {
    const int64_t first = key0 + n - a.causal_offset - query0;  // the first query of the tile that sees this key
    for (int64_t i = 0; i < (first < live ? first : live); ++i) s[n * width + i] = kLowest;
  }
}

// One tile of at most NV * kLanes queries of one head.
template <int NV, class T, class Out>
inline void attention_tile(const Attention<T, Out>& a, int64_t b, int64_t h, int64_t query0, int64_t live,
                           float* scratch) {
  constexpr int width = NV * kLanes;
  const int64_t kv_head = h / (a.heads / a.kv_heads);
  const T* q = a.q + b * a.q_stride.batch + h * a.q_stride.head + query0 * a.q_stride.position;
  const T* k = a.k + b * a.k_stride.batch + kv_head * a.k_stride.head;
  const T* v = a.v + b * a.v_stride.batch + kv_head * a.v_stride.head;
  float* scores = scratch;
  float* queries = scores + kKeyBlock * width;
  float* output = queries + a.dim * width;
  float* wide = output + a.value_dim * width;

  for (int64_t i = 0; i < width; ++i)
    for (int64_t d = 0; d < a.dim; ++d)
      queries[d * width + i] = i < live ? convert<float>(q[i * a.q_stride.position + d]) * a.scale : 0.0f;
  for (int64_t i = 0; i < a.value_dim * width; ++i) output[i] = 0.0f;
  float top[width], sum[width];
  for (int i = 0; i < width; ++i) top[i] = kLowest, sum[i] = 0.0f;

  const int64_t seen = query0 + live + a.causal_offset;
  const int64_t keys = a.causal && seen < a.keys ? (seen > 0 ? seen : 0) : a.keys;
  for (int64_t key0 = 0; key0 < keys; key0 += kKeyBlock) {
    const int64_t count = keys - key0 < kKeyBlock ? keys - key0 : kKeyBlock;
    const float* k_rows = nullptr;
    const float* v_rows = nullptr;
    int64_t k_step = a.k_stride.position, v_step = a.v_stride.position;
    if constexpr (std::is_same<T, float>::value) {
      k_rows = k + key0 * k_step;
      v_rows = v + key0 * v_step;
    } else {
      for (int64_t n = 0; n < count; ++n) {
        convert_row(wide + n * a.dim, k + (key0 + n) * k_step, a.dim);
        convert_row(wide + kKeyBlock * a.dim + n * a.value_dim, v + (key0 + n) * v_step, a.value_dim);
      }
      k_rows = wide;
      v_rows = wide + kKeyBlock * a.dim;
      k_step = a.dim;
      v_step = a.value_dim;
    }
    broadcast_rows<NV>(k_rows, k_step, 1, queries, a.dim, scores, count, false);
    mask_scores(a, b, h, query0, live, key0, count, width, scores);

    float high[width], base[width], partial[width], shrink[width];
    for (int i = 0; i < width; ++i) high[i] = top[i], partial[i] = 0.0f;
    for (int64_t n = 0; n < count; ++n)
      for (int i = 0; i < width; ++i) high[i] = scores[n * width + i] > high[i] ? scores[n * width + i] : high[i];
    for (int i = 0; i < width; ++i) base[i] = high[i] == kLowest ? 0.0f : high[i];
    for (int i = 0; i < width; ++i) shrink[i] = math::exp_nonpositive(top[i] - base[i]);
    for (int64_t n = 0; n < count; ++n)
      for (int i = 0; i < width; ++i) {
        const float p = math::exp_nonpositive(scores[n * width + i] - base[i]);
        scores[n * width + i] = p;
        partial[i] += p;
      }
    for (int i = 0; i < width; ++i) sum[i] = sum[i] * shrink[i] + partial[i], top[i] = high[i];
    if (key0 > 0)
      for (int64_t d = 0; d < a.value_dim; ++d)
        for (int i = 0; i < width; ++i) output[d * width + i] *= shrink[i];
    broadcast_rows<NV>(v_rows, 1, v_step, scores, count, output, a.value_dim, true);
  }

  for (int i = 0; i < width; ++i) sum[i] = sum[i] == 0.0f ? 0.0f : 1.0f / sum[i];
  Out* out = a.out + b * a.out_stride.batch + h * a.out_stride.head + query0 * a.out_stride.position;
  for (int64_t i = 0; i < live; ++i)
    for (int64_t d = 0; d < a.value_dim; ++d)
      out[i * a.out_stride.position + d] = convert<Out>(output[d * width + i] * sum[i]);
}

// One query of one head: the lanes run over the head dimension. For decoding, where the keys are read once.
template <class T, class Out>
inline void attention_query(const Attention<T, Out>& a, int64_t b, int64_t h, int64_t query, float* scratch) {
  constexpr int64_t block = 256;
  const int64_t kv_head = h / (a.heads / a.kv_heads);
  const T* q = a.q + b * a.q_stride.batch + h * a.q_stride.head + query * a.q_stride.position;
  const T* k = a.k + b * a.k_stride.batch + kv_head * a.k_stride.head;
  const T* v = a.v + b * a.v_stride.batch + kv_head * a.v_stride.head;
  float* row = scratch;
  float* output = scratch + a.dim;
  for (int64_t d = 0; d < a.dim; ++d) row[d] = convert<float>(q[d]) * a.scale;
  for (int64_t d = 0; d < a.value_dim; ++d) output[d] = 0.0f;
  float scores[block], top = kLowest, sum = 0.0f;
  const int64_t seen = query + 1 + a.causal_offset;
  const int64_t keys = a.causal && seen < a.keys ? (seen > 0 ? seen : 0) : a.keys;
  for (int64_t key0 = 0; key0 < keys; key0 += block) {
    const int64_t count = keys - key0 < block ? keys - key0 : block;
    for (int64_t n = 0; n < count; ++n) {
      const T* key = k + (key0 + n) * a.k_stride.position;
      vf32 s = vset(0.0f), t = vset(0.0f);
      int64_t d = 0;
      for (; d + 2 * kLanes <= a.dim; d += 2 * kLanes) {
        s = vfma(vload(row + d), vload(key + d), s);
        t = vfma(vload(row + d + kLanes), vload(key + d + kLanes), t);
      }
      for (; d < a.dim; d += kLanes) {
        const int64_t left = a.dim - d < kLanes ? a.dim - d : kLanes;
        s = vfma(vload_n(row + d, left), vload_n(key + d, left), s);
      }
      scores[n] = vsum(s + t);
    }
    mask_scores(a, b, h, query, 1, key0, count, 1, scores);
    float high = top, partial = 0.0f;
    for (int64_t n = 0; n < count; ++n) high = scores[n] > high ? scores[n] : high;
    const float base = high == kLowest ? 0.0f : high;
    const float shrink = math::exp_nonpositive(top - base);
    for (int64_t n = 0; n < count; ++n) scores[n] = math::exp_nonpositive(scores[n] - base);
    for (int64_t n = 0; n < count; ++n) partial += scores[n];
    sum = sum * shrink + partial;
    top = high;
    for (int64_t d = 0; d < a.value_dim; d += kLanes) {
      const int64_t left = a.value_dim - d < kLanes ? a.value_dim - d : kLanes;
      const T* value = v + key0 * a.v_stride.position + d;
      vf32 s = vload_n(output + d, left) * vset(shrink), t = vset(0.0f);
      int64_t n = 0;
      if (left == kLanes) {
        for (; n + 2 <= count; n += 2) {
          s = vfma(vset(scores[n]), vload(value + n * a.v_stride.position), s);
          t = vfma(vset(scores[n + 1]), vload(value + (n + 1) * a.v_stride.position), t);
        }
      }
      for (; n < count; ++n) s = vfma(vset(scores[n]), vload_n(value + n * a.v_stride.position, left), s);
      vstore_n(output + d, s + t, left);
    }
  }
  const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
  Out* out = a.out + b * a.out_stride.batch + h * a.out_stride.head + query * a.out_stride.position;
  for (int64_t d = 0; d < a.value_dim; ++d) out[d] = convert<Out>(output[d] * inverse);
}

}  // namespace detail

template <class T, class Out>
void attention(const Worker& w, const Attention<T, Out>& a) {
  constexpr int64_t tile = 2 * kLanes;
  constexpr int64_t small = (detail::kKeyBlock + 2 * 128) * tile;
  if (a.kv_heads == 0) return;
  if (a.queries <= (kLanes + 3) / 4) {
    detail::FloatScratch<small> scratch(a.dim + a.value_dim);
    const Range r = w.range(a.batch * a.heads * a.queries);
    for (int64_t item = r.begin; item < r.end; ++item) {
      const int64_t head = item / a.queries;
      detail::attention_query(a, head / a.heads, head % a.heads, item % a.queries, scratch.data());
    }
    return;
  }
  const int64_t widened = std::is_same<T, float>::value ? 0 : detail::kKeyBlock * (a.dim + a.value_dim);
  detail::FloatScratch<small> scratch((detail::kKeyBlock + a.dim + a.value_dim) * tile + widened);
  const int64_t tiles = (a.queries + tile - 1) / tile;
  const Range r = w.range(a.batch * a.heads * tiles);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t head = item / tiles, query0 = item % tiles * tile;
    const int64_t live = a.queries - query0 < tile ? a.queries - query0 : tile;
    if (live > kLanes) {
      detail::attention_tile<2>(a, head / a.heads, head % a.heads, query0, live, scratch.data());
    } else {
      detail::attention_tile<1>(a, head / a.heads, head % a.heads, query0, live, scratch.data());
    }
  }
}

}  // namespace mcomp
