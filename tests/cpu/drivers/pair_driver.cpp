// Entry points of gemm_pair.hpp for tests/cpu/test_kernels_pair.py.
#include "driver.hpp"
#include "gemm_pair.hpp"

using namespace mcomp;

EXPORT void pair_f32(int threads, const float* a, int64_t lda, const float* v, const float* middle_bias, const float* u,
                     int64_t m, int64_t k, int64_t r, int64_t n, const float* bias, float* c) {
  using T = DefaultTile;
  Guarded v_packed(packed_elements<T, float>(r, k) * 4), u_packed(packed_elements<T, float>(n, r) * 4);
  Guarded scratch(gemm_pair_f32_scratch_bytes(m, k, r, threads));
  Pool::run(threads, [&](const Worker& w) {
    pack_linear<T, float>(w, v_packed.as<float>(), v, r, k, k, 1);
    pack_linear<T, float>(w, u_packed.as<float>(), u, n, r, r, 1);
    w.barrier();
    gemm_pair_f32<T, T>(w, a, lda, v_packed.as<float>(), middle_bias, u_packed.as<float>(), PairShape{m, k, r, n},
                        StoreF32{c, n, bias}, scratch.as<void>());
  });
}

template <class A, class Middle>
static void run_pair_i8(int threads, const A* a, const int8_t* v, const int8_t* u, const PairShape& s,
                        const float* row_scale, const int32_t* row_zero, int each_row, const float* v_scale,
                        const float* u_scale, const Middle& middle, int64_t scratch_bytes, const float* bias,
                        float* c) {
  using T = MCOMP_TEST_BYTES;
  Guarded v_packed(packed_bytes_i8<T>(s.r, s.k)), u_packed(packed_bytes_i8<T>(s.n, s.r));
  Guarded v_sums(round_up(s.r, T::NR) * 4), u_sums(round_up(s.n, T::NR) * 4), scratch(scratch_bytes);
  Pool::run(threads, [&](const Worker& w) {
    pack_linear_i8<T>(w, v_packed.as<int8_t>(), v_sums.as<int32_t>(), v, s.r, s.k, s.k, 1);
    pack_linear_i8<T>(w, u_packed.as<int8_t>(), u_sums.as<int32_t>(), u, s.n, s.r, s.r, 1);
    w.barrier();
    const auto run = [&](const auto& scales) {
      gemm_pair_i8<T, T>(w, a, s.k, v_packed.as<int8_t>(), u_packed.as<int8_t>(), s, scales, middle, u_scale,
                         u_sums.as<int32_t>(), StoreF32{c, s.n, bias}, scratch.as<void>());
    };
    if (each_row != 0) {
      run(RowScales8{row_scale, row_zero, v_scale, v_sums.as<int32_t>()});
    } else {
      run(Scales8{row_scale, row_zero, v_scale, v_sums.as<int32_t>()});
    }
  });
}

// The middle has scale `scale` and zero point `zero`; scale 0: a scale per row.
template <class A, class Q>
static void run_pair_middle(int threads, const A* a, const int8_t* v, const int8_t* u, int64_t m, int64_t k, int64_t r,
                            int64_t n, const float* row_scale, const int32_t* row_zero, int each_row,
                            const float* v_scale, const float* u_scale, const float* middle_bias, float scale,
                            int32_t zero, int symmetric, const float* bias, float* c) {
  const PairShape s{m, k, r, n};
  if (scale == 0.0f) {
    run_pair_i8(threads, a, v, u, s, row_scale, row_zero, each_row, v_scale, u_scale,
                RowMiddle<Q>{middle_bias, symmetric != 0}, gemm_pair_rows_i8_scratch_bytes(m, k, r, threads), bias, c);
    return;
  }
  const float low = static_cast<float>(detail::byte_low<Q>() - zero);
  run_pair_i8(threads, a, v, u, s, row_scale, row_zero, each_row, v_scale, u_scale,
              StaticMiddle<Q>{middle_bias, scale, 1.0f / scale, zero, low, low + 255.0f},
              gemm_pair_i8_scratch_bytes(m, k, r, threads), bias, c);
}

#define PAIR_I8(NAME, A, Q)                                                                                            \
  EXPORT void NAME(int threads, const A* a, const int8_t* v, const int8_t* u, int64_t m, int64_t k, int64_t r,         \
                   int64_t n, const float* row_scale, const int32_t* row_zero, int each_row, const float* v_scale,     \
                   const float* u_scale, const float* middle_bias, float scale, int32_t zero, int symmetric,           \
                   const float* bias, float* c) {                                                                      \
    run_pair_middle<A, Q>(threads, a, v, u, m, k, r, n, row_scale, row_zero, each_row, v_scale, u_scale, middle_bias,  \
                          scale, zero, symmetric, bias, c);                                                            \
  }
PAIR_I8(pair_u8_u8, uint8_t, uint8_t)
PAIR_I8(pair_s8_s8, int8_t, int8_t)
