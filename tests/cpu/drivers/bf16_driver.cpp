// Entry points of gemm_bf16.hpp and conv_bf16.hpp for tests/cpu/test_kernels_bf16.py.
#include "conv_bf16.hpp"
#include "driver.hpp"
#include "gemm_bf16.hpp"

using namespace mcomp;

template <class T>
static void run_gemm(int threads, const bf16* a, int64_t lda, const bf16* weight, int64_t stride_n, int64_t stride_k,
                     int64_t m, int64_t n, int64_t k, const float* bias, float* c) {
  Guarded packed(packed_bf16_elements<T>(n, k) * 2), scratch(gemm_bf16_scratch_bytes(m, k, threads));
  Pool::run(threads, [&](const Worker& w) {
    pack_linear_bf16<T>(w, packed.as<bf16>(), weight, n, k, stride_n, stride_k);
    w.barrier();
    gemm_bf16<T>(w, a, lda, packed.as<bf16>(), m, n, k, StoreF32{c, n, bias}, scratch.as<void>());
  });
}
EXPORT void gemm_pairs(int threads, const bf16* a, int64_t lda, const bf16* weight, int64_t stride_n, int64_t stride_k,
                       int64_t m, int64_t n, int64_t k, const float* bias, float* c) {
  run_gemm<MCOMP_TEST_PAIRS>(threads, a, lda, weight, stride_n, stride_k, m, n, k, bias, c);
}
EXPORT void gemm_pairs_narrow(int threads, const bf16* a, int64_t lda, const bf16* weight, int64_t stride_n,
                              int64_t stride_k, int64_t m, int64_t n, int64_t k, const float* bias, float* c) {
  run_gemm<Tile<DefaultTile::MR, 1>>(threads, a, lda, weight, stride_n, stride_k, m, n, k, bias, c);
}

EXPORT void conv_pairs(int threads, const bf16* x, const bf16* weight, const ConvShape* s, const float* bias,
                       float* out) {
  using T = DefaultTile;
  Guarded packed(packed_conv_bf16_elements<T>(*s) * 2), scratch(conv_bf16_scratch_bytes(*s, threads));
  Pool::run(threads, [&](const Worker& w) {
    pack_conv_bf16<T>(w, packed.as<bf16>(), weight, *s);
    w.barrier();
    conv_bf16<T>(w, x, packed.as<bf16>(), *s, StoreF32{out, s->out_channels, bias}, scratch.as<void>());
  });
}
