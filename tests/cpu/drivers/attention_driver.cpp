// Attention over float and bf16 tensors, run by a number of threads.
#include "attention.hpp"

using namespace mcomp;

namespace {

// numbers: batch, heads, kv_heads, queries, keys, dim, value_dim, then the strides of q, k, v, out (3 each) and of the
// mask (4), then causal, causal_offset, threads.
template <class T>
void run(const T* q, const T* k, const T* v, T* out, const float* bias, const bool* keep, const int64_t* x,
         float scale) {
  Attention<T, T> a{};
  a.q = q, a.k = k, a.v = v, a.out = out, a.bias = bias, a.keep = keep, a.scale = scale;
  a.batch = x[0], a.heads = x[1], a.kv_heads = x[2], a.queries = x[3], a.keys = x[4], a.dim = x[5], a.value_dim = x[6];
  a.q_stride = {x[7], x[8], x[9]}, a.k_stride = {x[10], x[11], x[12]}, a.v_stride = {x[13], x[14], x[15]};
  a.out_stride = {x[16], x[17], x[18]}, a.mask_stride = {x[19], x[20], x[21], x[22]};
  a.causal = x[23] != 0, a.causal_offset = x[24];
  Pool::run(int(x[25]), [&](const Worker& w) { attention(w, a); });
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API void attention_f32(const float* q, const float* k, const float* v, float* out, const float* bias, const bool* keep,
                       const int64_t* x, float scale) {
  run(q, k, v, out, bias, keep, x, scale);
}
API void attention_bf16(const bf16* q, const bf16* k, const bf16* v, bf16* out, const float* bias, const bool* keep,
                        const int64_t* x, float scale) {
  run(q, k, v, out, bias, keep, x, scale);
}
