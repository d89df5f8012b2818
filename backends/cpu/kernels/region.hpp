// What generated code shares: the call of one parallel region, sizes as Python computes them, and the arena's layout.
#pragma once

#include <time.h>

#include <cstdint>
#include <cstring>

#include "fault.hpp"
#include "isa.hpp"
#include "threads.hpp"

namespace mcomp {

// One call: the buffers by slot, the numbers of all steps, where a fault is noted, and room for per-step times or null.
struct Call {
  char* const* slots;
  const int64_t* numbers;
  int32_t* fault;
  double* microseconds;
};

template <class T>
MCOMP_INLINE T* at(char* base, int64_t offset = 0) {
  return reinterpret_cast<T*>(base) + offset;
}

// A number that Python handed over as its bits.
MCOMP_INLINE double real_number(int64_t bits) {
  double x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline double now_us() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) * 1e6 + static_cast<double>(t.tv_nsec) * 1e-3;
}

// Python's // and %, and max and min of sizes.
inline int64_t dim_floordiv(int64_t a, int64_t b) {
  if (b == 0) return 0;
  const int64_t q = a / b;
  return q - ((a % b != 0) && ((a < 0) != (b < 0)));
}
inline int64_t dim_mod(int64_t a, int64_t b) { return b == 0 ? 0 : a - dim_floordiv(a, b) * b; }
inline int64_t dim_max(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t dim_min(int64_t a, int64_t b) { return a < b ? a : b; }

// A buffer of the arena: its bytes and the phases, first and last, between which it holds something.
struct Life {
  int64_t bytes;
  int32_t first, last;
};

namespace detail {

inline int64_t arena_bytes(const Life& life) { return round_up(life.bytes > 0 ? life.bytes : 1, 64); }

// The lowest free offset, a multiple of 64, beside `near`: buffers alive at once, by offset.
inline int64_t lowest_place(const Life* lives, const int32_t* near, int32_t neighbours, const int64_t* offsets,
                            int64_t bytes) {
  int64_t place = 0;
  for (int32_t j = 0; j < neighbours; ++j) {
    if (offsets[near[j]] - place >= bytes) break;
    const int64_t end = offsets[near[j]] + arena_bytes(lives[near[j]]);
    place = end > place ? end : place;
  }
  return place;
}

// The place of an earlier buffer of the same size that is free, else behind all.
inline int64_t same_place(const Life* lives, const int32_t* placed, int32_t count, const int32_t* near,
                          int32_t neighbours, const int64_t* offsets, int64_t bytes, int64_t total) {
  for (int32_t j = 0; j < count; ++j) {
    if (arena_bytes(lives[placed[j]]) != bytes) continue;
    bool free = true;
    for (int32_t k = 0; k < neighbours; ++k) free = free && offsets[near[k]] != offsets[placed[j]];
    if (free) return offsets[placed[j]];
  }
  return total;
}

// Places buffers, in this order, so that those alive at once do not overlap; returns the bytes of the arena.
inline int64_t place_arena(const Life* lives, const int32_t* order, int32_t count, int32_t* near, int64_t* offsets,
                           bool by_size) {
  int64_t total = 0;
  for (int32_t k = 0; k < count; ++k) {
    const Life& life = lives[order[k]];
    int32_t neighbours = 0;
    for (int32_t j = 0; j < k; ++j) {
      const Life& other = lives[order[j]];
      if (other.first > life.last || life.first > other.last) continue;
      int32_t at = neighbours++;
      for (; at > 0 && offsets[near[at - 1]] > offsets[order[j]]; --at) near[at] = near[at - 1];
      near[at] = order[j];
    }
    const int64_t bytes = arena_bytes(life);
    const int64_t place = by_size ? same_place(lives, order, k, near, neighbours, offsets, bytes, total)
                                  : lowest_place(lives, near, neighbours, offsets, bytes);
    offsets[order[k]] = place;
    total = place + bytes > total ? place + bytes : total;
  }
  return total;
}

}  // namespace detail

// Places buffers so that those alive at once do not overlap; returns the bytes of the arena. Largest first, each at the
// lowest free offset (a multiple of 64). For several workers, buffers share places with those of their own size only,
// where that takes at most twice the memory: a worker then writes the lines that it wrote before, which are in its own
// cache, rather than those of another worker.
inline int64_t plan_arena(const Life* lives, int32_t count, int64_t workers, int64_t* offsets) {
  int32_t* order = new int32_t[static_cast<size_t>(count) * 2 + 1];
  int32_t* near = order + count;
  for (int32_t i = 0; i < count; ++i) {
    int32_t at = i;
    for (; at > 0 && lives[order[at - 1]].bytes < lives[i].bytes; --at) order[at] = order[at - 1];
    order[at] = i;
  }
  int64_t total = detail::place_arena(lives, order, count, near, offsets, false);
  if (workers > 1) {
    const int64_t least = total;
    total = detail::place_arena(lives, order, count, near, offsets, true);
    if (total > 2 * least) total = detail::place_arena(lives, order, count, near, offsets, false);
  }
  delete[] order;
  return total;
}

}  // namespace mcomp
