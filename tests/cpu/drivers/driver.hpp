// Shared by the kernel test drivers: exported C functions, and buffers that notice writes past their end.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "threads.hpp"

// The tile of products of bytes.
#ifndef MCOMP_TEST_BYTES
#define MCOMP_TEST_BYTES DefaultTileI8
#endif

// That of products of bfloat16.
#ifndef MCOMP_TEST_PAIRS
#define MCOMP_TEST_PAIRS DefaultTile
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

// 64-byte aligned bytes, filled with NaN patterns; aborts when anything was written past the end.
class Guarded {
 public:
  explicit Guarded(int64_t bytes)
      : bytes_(bytes), data_(static_cast<char*>(std::aligned_alloc(64, mcomp::round_up(bytes + kGuard, 64)))) {
    std::memset(data_, 0xff, static_cast<size_t>(bytes + kGuard));
  }
  ~Guarded() {
    for (int64_t i = 0; i < kGuard; ++i)
      if (data_[bytes_ + i] != static_cast<char>(0xff)) {
        std::fprintf(stderr, "buffer of %lld bytes overrun at %lld\n", static_cast<long long>(bytes_),
                     static_cast<long long>(i));
        std::abort();
      }
    std::free(data_);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  static constexpr int64_t kGuard = 256;
  int64_t bytes_;
  char* data_;
};
