// Entry points of gemm_weight_only.hpp for tests/cpu/test_kernels_gemm.py.
#include "driver.hpp"
#include "gemm_weight_only.hpp"

using namespace mcomp;

template <int Bits>
static void run(int threads, const float* a, const int8_t* q, int64_t m, int64_t n, int64_t k, const float* scale,
                const float* offset, int64_t group, float* c) {
  using T = DefaultTile;
  Guarded packed(packed_weight_only_bytes<T, Bits>(n, k, group)), scratch(gemm_weight_only_scratch_bytes<T>(m, k, threads));
  Pool::run(threads, [&](const Worker& w) {
    pack_weight_only<T, Bits>(w, packed.as<int8_t>(), q, n, k, k, 1, group);
    w.barrier();
    gemm_weight_only<T, Bits>(w, a, k, packed.as<int8_t>(), m, n, k, GroupScales{scale, offset, group}, StoreF32{c, n},
                              scratch.as<void>());
  });
}
EXPORT void weight_only_8(int threads, const float* a, const int8_t* q, int64_t m, int64_t n, int64_t k,
                          const float* scale, const float* offset, int64_t group, float* c) {
  run<8>(threads, a, q, m, n, k, scale, offset, group, c);
}
EXPORT void weight_only_4(int threads, const float* a, const int8_t* q, int64_t m, int64_t n, int64_t k,
                          const float* scale, const float* offset, int64_t group, float* c) {
  run<4>(threads, a, q, m, n, k, scale, offset, group, c);
}
