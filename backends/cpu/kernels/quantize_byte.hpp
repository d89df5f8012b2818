// One float to one integer of a static affine encoding, for generated loops: see also quantize_rows.hpp.
#pragma once

#include <cstdint>

#include "isa.hpp"
#include "math.hpp"

namespace mcomp {

// clamp(round(x * inverse) + zero, low, high); ties to even; NaN gives low. Vectorizes.
template <class Q>
MCOMP_INLINE Q quantize_byte(float x, float inverse, int32_t zero, int32_t low, int32_t high) {
  const float least = static_cast<float>(low - zero), most = static_cast<float>(high - zero);
  float y = x * inverse;
  y = y > least ? y : least;
  y = y < most ? y : most;
  return static_cast<Q>(static_cast<int32_t>(math::round(y)) + zero);
}

}  // namespace mcomp
