// Ready epilogues, and the contract that generated ones follow.
//
// Matrix-like kernels call, for each row segment of finished results (bias not added, int8 already dequantized),
//
//   ep(acc, int64_t row, int64_t col, int64_t count)
//
// concurrently from all workers, each element once. acc[i] for i < count is a finished element; acc is a pointer to
// 64-byte aligned scratch, or for int8 products an object that converts on the way (gemm_i8.hpp), and stays valid during
// the call only. Full tiles pass a compile-time constant as `count`, so an operator() marked MCOMP_INLINE turns into
// straight vector code:
//
//   struct Ep0 {
//     const float* bias; float* out; int64_t ld;
//     template <class Acc>
//     MCOMP_INLINE void operator()(Acc acc, int64_t row, int64_t col, int64_t count) const {
//       float* o = out + row * ld + col;
//       for (int64_t i = 0; i < count; ++i) o[i] = max0(acc[i] + bias[col + i]);
//     }
//   };
#pragma once

#include <cstdint>

#include "isa.hpp"
#include "types.hpp"

namespace mcomp {

// out[row * ld + col + i] = acc[i] + bias[col + i], converted to Out; bias may be null.
template <class Out, class Compute = float>
struct StoreAs {
  Out* out;
  int64_t ld;
  const Compute* bias = nullptr;

  template <class Acc>
  MCOMP_INLINE void operator()(Acc acc, int64_t row, int64_t col, int64_t count) const {
    Out* o = out + row * ld + col;
    if (bias == nullptr) {
      for (int64_t i = 0; i < count; ++i) o[i] = convert<Out>(acc[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) o[i] = convert<Out>(acc[i] + bias[col + i]);
    }
  }
};

using StoreF32 = StoreAs<float>;
using StoreF64 = StoreAs<double, double>;

}  // namespace mcomp
