// Times one product with tiles of several widths, to choose among them; see tune.py.
//
//   const int64_t widths[] = {2, 3};
//   double ns[2];
//   time_tiles(TuneKind::kFloat, M, N, K, widths, 2, /*microseconds=*/20000, ns);    // nanoseconds of one product each
//
// On the calling thread alone, in time of that thread, so that other load counts little: widths take turns, and the
// fastest of all turns counts. Widths are 1, 2 or 3 vectors. Weights and rows are zeros: their values cost nothing.
#pragma once

#include <time.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "gemm_f32.hpp"
#include "gemm_i8.hpp"
#include "tiles.hpp"

namespace mcomp {

// What is multiplied: floats, bytes in vector registers, bytes in matrix registers (widths 1 and 2) where there are some.
enum class TuneKind { kFloat, kBytes, kMatrix };

namespace detail {

inline double thread_ns() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}

// Zeroed memory, 64-byte aligned.
class TuneMemory {
 public:
  explicit TuneMemory(int64_t bytes)
      : data_(static_cast<char*>(std::aligned_alloc(64, static_cast<size_t>(round_up(bytes + 64, 64))))) {
    if (data_ != nullptr) std::memset(data_, 0, static_cast<size_t>(round_up(bytes + 64, 64)));
  }
  ~TuneMemory() { std::free(data_); }
  TuneMemory(const TuneMemory&) = delete;
  TuneMemory& operator=(const TuneMemory&) = delete;
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  char* data_;
};

struct TuneProduct {
  int64_t m, n, k;
  const char *rows, *packed;  // packed: enough for every width
  const float* columns;       // zeros
  float* out;
  char* scratch;
};

template <int V>
void tune_f32(const TuneProduct& p) {
  using T = tile_of<DefaultTile, V>;
  gemm_f32<T>(Worker{}, reinterpret_cast<const float*>(p.rows), p.k, reinterpret_cast<const float*>(p.packed), p.m, p.n,
              p.k, StoreF32{p.out, p.n, p.columns}, p.scratch);
}
template <class T>
void tune_bytes(const TuneProduct& p) {
  const float scale = 1.0f;
  const int32_t zero = 3;
  const Scales8 scales{&scale, &zero, p.columns, reinterpret_cast<const int32_t*>(p.columns)};
  gemm_i8<T>(Worker{}, reinterpret_cast<const uint8_t*>(p.rows), p.k, reinterpret_cast<const int8_t*>(p.packed), p.m,
             p.n, p.k, scales, StoreF32{p.out, p.n, p.columns}, p.scratch);
}

template <int V>
void tune_i8(const TuneProduct& p) {
  tune_bytes<tile_of<DefaultTileI8, V>>(p);
}
template <int V>
void tune_matrix(const TuneProduct& p) {
  tune_bytes<MatrixTileOr<DefaultTileI8, V < 3 ? V : 2>>(p);
}

}  // namespace detail

inline void time_tiles(TuneKind kind, int64_t m, int64_t n, int64_t k, const int64_t* widths, int64_t count,
                       double microseconds, double* ns) {
  using Function = void (*)(const detail::TuneProduct&);
  static constexpr Function kTable[3][3] = {{detail::tune_f32<1>, detail::tune_f32<2>, detail::tune_f32<3>},
                                            {detail::tune_i8<1>, detail::tune_i8<2>, detail::tune_i8<3>},
                                            {detail::tune_matrix<1>, detail::tune_matrix<2>, detail::tune_matrix<3>}};
  const bool int8 = kind != TuneKind::kFloat;
  const int64_t bytes = int8 ? 1 : 4, padded = n + 3 * kLanes;  // at least n in whole panels of any width
  const detail::TuneMemory rows(m * k * bytes), packed(padded * round_up(k, 64) * bytes);
  const detail::TuneMemory columns(padded * 4), out(m * n * 4);
  const detail::TuneMemory scratch(int8 ? gemm_i8_scratch_bytes(m, k, 1) : gemm_f32_scratch_bytes(m, k, 1));
  const detail::TuneProduct p{m, n, k, rows.as<char>(), packed.as<char>(), columns.as<float>(), out.as<float>(),
                              scratch.as<char>()};
  for (int64_t i = 0; i < count; ++i) ns[i] = 1e300;
  const double start = detail::thread_ns();
  int64_t repeats = 1;
  for (int64_t turn = 0; turn < 5 || detail::thread_ns() - start < microseconds * 1e3; ++turn) {
    for (int64_t i = 0; i < count; ++i) {
      const double begin = detail::thread_ns();
      for (int64_t r = 0; r < repeats; ++r) kTable[static_cast<int>(kind)][widths[i] - 1](p);
      const double each = (detail::thread_ns() - begin) / static_cast<double>(repeats);
      if (turn > 0 && each < ns[i]) ns[i] = each;
      if (turn == 0 && i == 0) repeats = max_i64(1, static_cast<int64_t>(50e3 / (each > 1.0 ? each : 1.0)));
    }
  }
}

}  // namespace mcomp
