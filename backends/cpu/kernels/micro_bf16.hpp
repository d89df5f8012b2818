// Products of bfloat16 pairs for micro.hpp, summed in float32: AVX-512 BF16 multiplies two reduction steps at once.
//
// A panel holds two reduction steps of a column together (see pack_linear_bf16); a segment of odd length is padded in
// the panel only. Products are exact; subnormal numbers count as zero, sums are rounded to nearest even. NaN and
// infinities propagate.
#pragma once

#if defined(MCOMP_BF16)

#include <cstdint>
#include <cstring>

#include "isa.hpp"
#include "micro.hpp"
#include "micro_matrix.hpp"
#include "product.hpp"
#include "types.hpp"

namespace mcomp {
namespace detail {

struct Bf16Dot {
  using Element = bf16;
  using Panel = bf16;
  using Acc = vf32;
  using Row = vi32;
  using Columns = vi32;
  using Out = float;
  static constexpr int kLength = 2;
  static constexpr int kPanel = 2 * kLanes;
  static constexpr int kWidth = kLanes;
  static constexpr bool kStarts = false;

  static MCOMP_INLINE Row row(const char* p) {
    int32_t pair;
    std::memcpy(&pair, p, 4);
    return vset(pair);
  }
  static MCOMP_INLINE Columns columns(const bf16* b) { return vload(reinterpret_cast<const int32_t*>(b)); }
  static MCOMP_INLINE Acc add(Acc acc, const Row& a, const Columns& b) {
    return (vf32)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
  }
};

template <class Tile>
struct Bf16Product {
  using Element = bf16;
  static constexpr int MR = Tile::MR;
  static constexpr int NR = Tile::NR;
  static constexpr bool kMatrix = Tile::kMatrix;
  // What lies past a row or a segment could be NaN, which zero weights do not remove.
  static constexpr bool kFinite = true;
  static constexpr bool kParts = false;
  static constexpr int64_t kStep = kMatrix ? Tile::kPairStep : 1;

  const bf16* packed;
  int64_t panel_stride;  // elements from a panel to the next
  Panels panels;
  Emitter<float> emit;
  mutable std::conditional_t<kMatrix, MatrixRegisters, NoRegisters> registers{};

  bf16 fill() const { return bf16{0}; }

  void tile(const bf16* a, int64_t row_stride, const int64_t* taps, int64_t tap_count, int64_t length, int64_t mr,
            int64_t panel, int64_t row0, int64_t row_step, const Part& part = {}) const {
    alignas(64) float out[MR * NR];
    const bf16* b = packed + panel * panel_stride;
    if constexpr (kMatrix) {
      alignas(64) static constexpr float zeros[NR] = {};
      matrix_tile<bf16, Tile::NV>(registers, a, row_stride, taps, tap_count, length, mr, b, zeros, out);
    } else {
      micro_tiles<Bf16Dot, MR, Tile::NV>.table[mr](a, row_stride, taps, tap_count, length, b, 2 * NR, out, nullptr,
                                              part.ahead);
    }
    emit(out, NR, mr, row0, row_step, panels.first(panel), panels.size(panel));
  }
};

}  // namespace detail
}  // namespace mcomp

#endif
