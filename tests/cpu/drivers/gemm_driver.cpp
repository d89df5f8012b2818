// Entry points of gemm_f32.hpp, gemm_i8.hpp, matmul.hpp and quantize_rows.hpp for tests/cpu/test_kernels_gemm.py.
#include "driver.hpp"
#include "gemm_f32.hpp"
#include "gemm_i8.hpp"
#include "matmul.hpp"
#include "quantize_rows.hpp"

using namespace mcomp;

template <class T, class A, class W, class S>
static void run_gemm_f32(int threads, const A* a, int64_t lda, const S* weight, int64_t stride_n, int64_t stride_k,
                         int64_t m, int64_t n, int64_t k, const float* bias, float* c) {
  Guarded packed(packed_elements<T, W>(n, k) * static_cast<int64_t>(sizeof(W)));
  Guarded scratch(gemm_f32_scratch_bytes(m, k, threads));
  Pool::run(threads, [&](const Worker& w) {
    pack_linear<T, W>(w, packed.as<W>(), weight, n, k, stride_n, stride_k);
    w.barrier();
    gemm_f32<T>(w, a, lda, packed.as<W>(), m, n, k, StoreF32{c, n, bias}, scratch.as<void>());
  });
}

#define GEMM(NAME, TILE, A, W, S)                                                                             \
  EXPORT void NAME(int threads, const A* a, int64_t lda, const S* weight, int64_t stride_n, int64_t stride_k, \
                   int64_t m, int64_t n, int64_t k, const float* bias, float* c) {                            \
    run_gemm_f32<TILE, A, W>(threads, a, lda, weight, stride_n, stride_k, m, n, k, bias, c);                  \
  }
GEMM(gemm_float, DefaultTile, float, float, float)
GEMM(gemm_bf16_weight, DefaultTile, float, bf16, bf16)
GEMM(gemm_bf16_rows, DefaultTile, bf16, float, float)
GEMM(gemm_f16_rows, DefaultTile, f16, float, float)

EXPORT void gemm_double(int threads, const double* a, int64_t lda, const double* weight, int64_t stride_n,
                        int64_t stride_k, int64_t m, int64_t n, int64_t k, const double* bias, double* c) {
  using T = DefaultTile;
  Guarded packed(packed_elements<T, double>(n, k) * 8), scratch(gemm_f64_scratch_bytes(m, k, threads));
  Pool::run(threads, [&](const Worker& w) {
    pack_linear<T, double>(w, packed.as<double>(), weight, n, k, stride_n, stride_k);
    w.barrier();
    gemm_f64<T>(w, a, lda, packed.as<double>(), m, n, k, StoreF64{c, n, bias}, scratch.as<void>());
  });
}

template <class A>
static void run_gemm_i8(int threads, const A* a, int64_t lda, const int8_t* weight, int64_t stride_n, int64_t stride_k,
                        int64_t m, int64_t n, int64_t k, const float* row_scale, const int32_t* row_zero,
                        int64_t row_step, const float* column_scale, float* c) {
  using T = MCOMP_TEST_BYTES;
  Guarded packed(packed_bytes_i8<T>(n, k)), sums(round_up(n, T::NR) * 4), scratch(gemm_i8_scratch_bytes(m, k, threads));
  Pool::run(threads, [&](const Worker& w) {
    pack_linear_i8<T>(w, packed.as<int8_t>(), sums.as<int32_t>(), weight, n, k, stride_n, stride_k);
    w.barrier();
    const Scales8 one{row_scale, row_zero, column_scale, sums.as<int32_t>()};
    const RowScales8 each{row_scale, row_zero, column_scale, sums.as<int32_t>()};
    if (row_step == 0) gemm_i8<T>(w, a, lda, packed.as<int8_t>(), m, n, k, one, StoreF32{c, n}, scratch.as<void>());
    if (row_step == 1) gemm_i8<T>(w, a, lda, packed.as<int8_t>(), m, n, k, each, StoreF32{c, n}, scratch.as<void>());
  });
}
#define GEMM_I8(NAME, A)                                                                                               \
  EXPORT void NAME(int threads, const A* a, int64_t lda, const int8_t* weight, int64_t stride_n, int64_t stride_k,     \
                   int64_t m, int64_t n, int64_t k, const float* row_scale, const int32_t* row_zero, int64_t row_step, \
                   const float* column_scale, float* c) {                                                              \
    run_gemm_i8<A>(threads, a, lda, weight, stride_n, stride_k, m, n, k, row_scale, row_zero, row_step, column_scale,  \
                   c);                                                                                                 \
  }
GEMM_I8(gemm_u8, uint8_t)
GEMM_I8(gemm_s8, int8_t)

template <class A, class B>
static void run_matmul(int threads, const A* a, const B* b, const MatmulShape* s, float* c) {
  Guarded scratch(matmul_f32_scratch_bytes(*s, threads));
  Pool::run(threads,
            [&](const Worker& w) { matmul_f32<DefaultTile>(w, a, b, *s, StoreF32{c, s->n}, scratch.as<void>()); });
}
EXPORT void matmul_float(int threads, const float* a, const float* b, const MatmulShape* s, float* c) {
  run_matmul(threads, a, b, s, c);
}
EXPORT void matmul_mixed(int threads, const bf16* a, const f16* b, const MatmulShape* s, float* c) {
  run_matmul(threads, a, b, s, c);
}
EXPORT void matmul_double(int threads, const double* a, const double* b, const MatmulShape* s, double* c) {
  Guarded scratch(matmul_f64_scratch_bytes(*s, threads));
  Pool::run(threads,
            [&](const Worker& w) { matmul_f64<DefaultTile>(w, a, b, *s, StoreF64{c, s->n}, scratch.as<void>()); });
}
EXPORT void matmul_long(int threads, const int64_t* a, const int64_t* b, const MatmulShape* s, int64_t* c) {
  Pool::run(threads, [&](const Worker& w) { matmul_int(w, a, b, *s, StoreAs<int64_t, int64_t>{c, s->n}); });
}
EXPORT void matmul_int32(int threads, const int32_t* a, const int32_t* b, const MatmulShape* s, int32_t* c) {
  Pool::run(threads, [&](const Worker& w) { matmul_int(w, a, b, *s, StoreAs<int32_t, int32_t>{c, s->n}); });
}

#define QUANTIZE(NAME, X, Q)                                                                                      \
  EXPORT void NAME##_dynamic(int threads, const X* x, int64_t m, int64_t k, Q* q, float* scale, int32_t* zero,    \
                             int symmetric) {                                                                     \
    Pool::run(threads,                                                                                            \
              [&](const Worker& w) { quantize_rows_dynamic(w, x, k, m, k, q, k, scale, zero, symmetric != 0); }); \
  }                                                                                                               \
  EXPORT void NAME##_static(int threads, const X* x, int64_t m, int64_t k, Q* q, float scale, int32_t zero) {     \
    Pool::run(threads, [&](const Worker& w) { quantize_rows_static(w, x, k, m, k, q, k, scale, zero); });         \
  }
QUANTIZE(quantize_u8, float, uint8_t)
QUANTIZE(quantize_s8, float, int8_t)
QUANTIZE(quantize_bf16_u8, bf16, uint8_t)

EXPORT int64_t tile_rows() { return DefaultTile::MR; }
EXPORT int64_t tile_columns() { return DefaultTile::NR; }
EXPORT int64_t tile_rows_i8() { return MCOMP_TEST_BYTES::MR; }
