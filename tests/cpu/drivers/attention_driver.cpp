// Attention over float, bf16 and byte tensors, run by a number of threads.
#include "attention.hpp"
#include "driver.hpp"

using namespace mcomp;

namespace {

// Rows of the result to where they belong: as elements of Out, or as bytes.
template <class Out>
struct StoreRows {
  Out* out;
  int64_t step;
  float inverse;
  int32_t zero;
  MCOMP_INLINE void operator()(const float* acc, int64_t row, int64_t col, int64_t count) const {
    Out* to = out + row * step + col;
    if constexpr (std::is_same<Out, uint8_t>::value) {
      detail::quantize_row(acc, count, to, inverse, zero, 0, 255);
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = convert<Out>(acc[i]);
    }
  }
};

// numbers: batch, heads, kv_heads, queries, keys, dim, value_dim, then the strides of q, k, v (3 each), of result rows (3)
// and of the mask (4), then causal, causal_offset, threads, zeros of q, k, v and the result. scales: of the scores, of q,
// k, v and the inverse of the result's.
template <class T, class Out>
void run(const T* q, const T* k, const T* v, Out* out, const float* bias, const bool* keep, const int64_t* x,
         const float* scales) {
  Attention<T> a{};
  a.q = q, a.k = k, a.v = v, a.bias = bias, a.keep = keep, a.scale = scales[0];
  a.batch = x[0], a.heads = x[1], a.kv_heads = x[2], a.queries = x[3], a.keys = x[4], a.dim = x[5], a.value_dim = x[6];
  a.q_stride = {x[7], x[8], x[9]}, a.k_stride = {x[10], x[11], x[12]}, a.v_stride = {x[13], x[14], x[15]};
  a.row_stride = {x[16], x[17], x[18]}, a.mask_stride = {x[19], x[20], x[21], x[22]};
  a.causal = x[23] != 0, a.causal_offset = x[24];
  a.q_code = {scales[1], int32_t(x[26])}, a.k_code = {scales[2], int32_t(x[27])}, a.v_code = {scales[3], int32_t(x[28])};
  const StoreRows<Out> ep{out, a.value_dim, scales[4], int32_t(x[29])};
  const Guarded scratch(attention_scratch_bytes<T>(a.keys, a.dim, a.value_dim, x[25]));
  Pool::run(int(x[25]), [&](const Worker& w) { attention(w, a, ep, scratch.as<char>()); });
}

}  // namespace

#define ATTENTION(name, T, Out)                                                                             \
  EXPORT void attention_##name(const T* q, const T* k, const T* v, Out* out, const float* bias,             \
                               const bool* keep, const int64_t* x, const float* scales) {                   \
    run(q, k, v, out, bias, keep, x, scales);                                                               \
  }
ATTENTION(f32, float, float)
ATTENTION(bf16, bf16, bf16)
ATTENTION(i8, int8_t, float)
ATTENTION(u8, uint8_t, float)
ATTENTION(f32_u8, float, uint8_t)
