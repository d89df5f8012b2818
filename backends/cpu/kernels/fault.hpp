// How a kernel reports bad data met at run time (an index out of range, a division by zero).
//
//     const Fault fault{&call->fault, 17};          // 17: number of the node, not 0; the runtime maps it to a layer
//     embedding(w, table, rows, width, ids, count, out, fault);
// The kernel never reads or writes out of range; the result at a fault is unspecified but in bounds. The slot, 0 before
// the call, holds one of the sites that failed; the runtime checks it after the region.
#pragma once

#include <cstdint>

namespace mcomp {

struct Fault {
  int32_t* slot = nullptr;
  int32_t site = 1;
  void raise() const {
    if (slot) __atomic_store_n(slot, site, __ATOMIC_RELAXED);
  }
};

// Index `i` into [0, bound), counting from the end where negative indices are allowed. Raises and gives 0 when outside.
// `bound` must be positive when the result is used to read.
inline int64_t checked_index(int64_t i, int64_t bound, bool negative, const Fault& fault) {
  const int64_t j = negative && i < 0 ? i + bound : i;
  if (j >= 0 && j < bound) return j;
  fault.raise();
  return 0;
}

// An integer divisor, raising where it is 0; torch raises too.
template <class T>
inline T checked_divisor(T b, const Fault& fault) {
  if (b == T(0)) fault.raise();
  return b;
}

}  // namespace mcomp
