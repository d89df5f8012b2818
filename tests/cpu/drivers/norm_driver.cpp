// Softmax and normalization kernels.
#include "epilogue.hpp"
#include "norm.hpp"
#include "norm_epilogue.hpp"
#include "softmax.hpp"

using namespace mcomp;

#define API extern "C" __attribute__((visibility("default")))

namespace {

template <class T>
void run_softmax(int kind, int threads, const T* x, T* y, int64_t outer, int64_t n, int64_t inner) {
  Pool::run(threads, [&](const Worker& w) {
    if (kind == 0) softmax(w, x, y, outer, n, inner);
    if (kind == 1) log_softmax(w, x, y, outer, n, inner);
    if (kind == 2) logsumexp(w, x, y, outer, n, inner);
  });
}

}  // namespace

API void softmax_f32(int kind, int threads, const float* x, float* y, int64_t outer, int64_t n, int64_t inner) {
  run_softmax(kind, threads, x, y, outer, n, inner);
}
API void softmax_f64(int kind, int threads, const double* x, double* y, int64_t outer, int64_t n, int64_t inner) {
  run_softmax(kind, threads, x, y, outer, n, inner);
}
API void softmax_bf16(int, int threads, const bf16* x, bf16* y, int64_t outer, int64_t n, int64_t inner) {
  Pool::run(threads, [&](const Worker& w) { softmax(w, x, y, outer, n, inner); });
}
API void norm_f32(int kind, int threads, const float* x, float* y, const float* weight, const float* bias, int64_t batch,
                  int64_t channels, int64_t inner, int64_t groups, float eps) {
  Pool::run(threads, [&](const Worker& w) {
    if (kind == 0) layer_norm(w, x, y, weight, bias, batch, inner, eps);
    if (kind == 1) rms_norm(w, x, y, weight, batch, inner, eps);
    if (kind == 2) group_norm(w, x, y, weight, bias, batch, channels, inner, groups, eps);
    if (kind == 3) group_norm_channels(w, x, weight, bias, batch, channels, inner, groups, eps, StoreF32{y, channels});
  });
}
API void layer_norm_f64(const double* x, double* y, const double* weight, const double* bias, int64_t rows, int64_t n) {
  layer_norm(Worker{}, x, y, weight, bias, rows, n, 1e-5f);
}
API void layer_norm_bf16(const bf16* x, bf16* y, const bf16* weight, const bf16* bias, int64_t rows, int64_t n) {
  layer_norm(Worker{}, x, y, weight, bias, rows, n, 1e-5f);
}
API void batch_norm_f32(int threads, const float* x, float* y, const float* mean, const float* variance,
                        const float* weight, const float* bias, int64_t outer, int64_t channels, int64_t inner,
                        float eps) {
  Pool::run(threads, [&](const Worker& w) {
    batch_norm(w, x, y, mean, variance, weight, bias, outer, channels, inner, eps);
  });
}
