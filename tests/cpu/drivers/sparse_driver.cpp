// Entry points of gemm_sparse.hpp for tests/cpu/test_kernels_sparse.py.
#include "driver.hpp"
#include "gemm_sparse.hpp"

using namespace mcomp;

template <class T, class W, class A, class S>
static void run(int threads, const A* a, const S* values, const int32_t* at, const int32_t* starts, const float* scale,
                int64_t scale_step, int64_t count, int64_t block_rows, int64_t block_columns, int64_t m, int64_t n,
                int64_t k, float* c) {
  Guarded packed(packed_sparse_bytes<T, W>(n, k, block_rows, block_columns, count));
  Guarded scratch(gemm_f32_scratch_bytes(m, k, threads));
  Pool::run(threads, [&](const Worker& w) {
    const auto blocks = make_blocks(values, at, starts, block_rows, block_columns, scale, scale_step);
    pack_sparse<T, W>(w, packed.as<void>(), blocks, n, k);
    w.barrier();
    gemm_sparse<T, W>(w, a, k, packed.as<void>(), m, n, k, block_columns, StoreF32{c, n}, scratch.as<void>());
  });
}

#define SPARSE(NAME, TILE, W, A, S)                                                                                \
  EXPORT void NAME(int threads, const A* a, const S* values, const int32_t* at, const int32_t* starts,             \
                   const float* scale, int64_t scale_step, int64_t count, int64_t block_rows, int64_t block_columns, \
                   int64_t m, int64_t n, int64_t k, float* c) {                                                    \
    run<TILE, W>(threads, a, values, at, starts, scale, scale_step, count, block_rows, block_columns, m, n, k, c); \
  }
SPARSE(sparse_wide, SparseTile<32>, float, float, float)
SPARSE(sparse_narrow, SparseTile<16>, float, float, float)
SPARSE(sparse_of_bytes, SparseTile<16>, float, float, int8_t)
SPARSE(sparse_bf16, SparseTile<32>, bf16, bf16, bf16)

template <class T, class A, class Scales>
static void run_i8(int threads, const A* a, const int8_t* values, const int32_t* at, const int32_t* starts,
                   int64_t count, int64_t block_rows, int64_t block_columns, int64_t m, int64_t n, int64_t k,
                   const Scales& scales, float* c) {
  Guarded packed(packed_sparse_bytes_i8<T>(n, k, block_rows, block_columns, count));
  Guarded scratch(gemm_i8_scratch_bytes(m, k, threads));
  Pool::run(threads, [&](const Worker& w) {
    pack_sparse_i8<T>(w, packed.as<void>(), make_blocks(values, at, starts, block_rows, block_columns), n, k);
    w.barrier();
    gemm_sparse_i8<T>(w, a, k, packed.as<void>(), m, n, k, block_columns, scales, StoreF32{c, n}, scratch.as<void>());
  });
}

#define SPARSE_I8(NAME, TILE, A, SCALES)                                                                            \
  EXPORT void NAME(int threads, const A* a, const int8_t* values, const int32_t* at, const int32_t* starts,         \
                   int64_t count, int64_t block_rows, int64_t block_columns, int64_t m, int64_t n, int64_t k,       \
                   const float* row_scale, const int32_t* row_zero, const float* column_scale, float* c) {          \
    run_i8<TILE>(threads, a, values, at, starts, count, block_rows, block_columns, m, n, k,                         \
                 SCALES{row_scale, row_zero, column_scale, nullptr}, c);                                            \
  }
SPARSE_I8(sparse_u8_wide, SparseTileI8<32>, uint8_t, RowScales8)
SPARSE_I8(sparse_u8_narrow, SparseTileI8<16>, uint8_t, Scales8)
SPARSE_I8(sparse_s8_wide, SparseTileI8<32>, int8_t, Scales8)
// Blocks and rows of whole steps of 64 bytes.
SPARSE_I8(sparse_u8_steps, MCOMP_TEST_BYTES, uint8_t, RowScales8)
SPARSE_I8(sparse_s8_steps, MCOMP_TEST_BYTES, int8_t, Scales8)

// How the panels of a product are divided: writes begin and end of every worker's rows and panels.
EXPORT void sparse_split(int64_t workers, int64_t m, int64_t panels, const int64_t* first, int64_t* out) {
  for (int64_t i = 0; i < workers; ++i) {
    const detail::Split s =
        detail::split_sparse(Worker{static_cast<int>(i), static_cast<int>(workers)}, m, panels, first);
    *out++ = s.rows.begin, *out++ = s.rows.end, *out++ = s.panels.begin, *out++ = s.panels.end;
  }
}
