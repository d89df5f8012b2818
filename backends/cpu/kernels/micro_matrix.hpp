// Products in the matrix registers of AMX: unsigned or signed bytes times signed bytes with exact int32 sums, and
// bfloat16 with float32 sums (rounded to nearest even; subnormal numbers count as zero).
//
//   using T0 = MatrixTileOr<DefaultTileI8, 2>;    // MatrixTile<2> where there are matrix registers, else DefaultTileI8
//
// A register holds 16 rows of 64 bytes; one instruction adds the products of 16 rows by 64 bytes with 64 bytes by 16
// columns. Panels are those of micro_i8.hpp and micro_bf16.hpp (four bytes of a column together) padded with zeros to
// whole steps of 64 bytes, to which rows must be readable. What lies behind a row of bytes adds nothing then; behind a
// row of bfloat16 it must be finite.
//
// The registers belong to a thread and are given back after each product: a thread that keeps them makes its switches
// slower. Code is compiled for them only where the system allows their use (isa.py).
#pragma once

#include <cstdint>

#include "isa.hpp"
#include "types.hpp"

#if defined(MCOMP_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace mcomp {

// MR rows by NV vectors of columns: four registers of sums. Taller where it is narrower.
template <int NV_>
struct MatrixTile {
  static_assert(NV_ == 1 || NV_ == 2, "four registers of sums");
  static constexpr int NV = NV_;
  static constexpr int MR = 64 / NV_;
  static constexpr int NR = NV_ * 16;
  static constexpr bool kMatrix = true;
  static constexpr int64_t kByteStep = 64;
  static constexpr int64_t kPairStep = 32;
};

#if defined(MCOMP_AMX)

template <class Other, int NV>
using MatrixTileOr = MatrixTile<NV>;

namespace detail {

// Linux gives the registers to processes that ask for them: here when the code is loaded. (ARCH_REQ_XCOMP_PERM, tile data)
inline const bool matrices_asked_for = syscall(SYS_arch_prctl, 0x1023, 18) == 0;

// The shapes of this thread's registers: 0 to 3 sums, 4 and 5 rows, 6 and 7 columns.
class MatrixRegisters {
 public:
  MatrixRegisters() = default;
  MatrixRegisters(const MatrixRegisters&) = delete;
  MatrixRegisters& operator=(const MatrixRegisters&) = delete;
  ~MatrixRegisters() {
    if (rows_ != 0) _tile_release();
  }

  // Sums and rows get this height, 1 to 16; what the registers hold is lost where it changes.
  MCOMP_INLINE void set_rows(int64_t rows) {
    if (rows != rows_) configure(rows);
  }

 private:
  struct alignas(64) Shapes {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  };

  MCOMP_NOINLINE void configure(int64_t rows) {
    Shapes shapes;
    for (int i = 0; i < 8; ++i) {
      shapes.row_bytes[i] = 64;
      shapes.rows[i] = static_cast<uint8_t>(i < 6 ? rows : 16);
    }
    asm volatile("" ::: "memory");
    _tile_loadconfig(&shapes);
    rows_ = rows;
  }

  int64_t rows_ = 0;
};

// The registers' names are text to the assembler: literals.
#define MCOMP_MATRIX_ADD(sums, rows, columns)            \
  do {                                                   \
    if constexpr (std::is_same<A, bf16>::value)          \
      _tile_dpbf16ps(sums, rows, columns);               \
    else if constexpr (std::is_same<A, int8_t>::value)   \
      _tile_dpbssd(sums, rows, columns);                 \
    else                                                 \
      _tile_dpbusd(sums, rows, columns);                 \
  } while (false)

// A tile's operands in bytes: where its registers of rows start, the segments of its rows (see micro.hpp) in steps of 64,
// the panel, what sums start with, and where they go.
struct MatrixOperands {
  const char* rows[4];
  int64_t row_stride;
  const int64_t* taps;  // elements
  int64_t tap_count, steps;
  const char* b;
  const void* start;
  char* out[4];
};

// Nothing to do beside a tile.
struct Idle {
  void operator()() const {}
};

// Sums of up to Height registers of rows by two of columns; rows of the result have 32 columns. beside() is called after
// every step: the vector units have nothing to do meanwhile.
template <class A, int Height, class Beside>
MCOMP_INLINE void matrix_wide(const MatrixOperands& t, const Beside& beside) {
  const char* const start = static_cast<const char*>(t.start);
  const char* b = t.b;
  _tile_loadd(0, start, 0);
  _tile_loadd(1, start + 64, 0);
  if constexpr (Height > 1) {
    _tile_loadd(2, start, 0);
    _tile_loadd(3, start + 64, 0);
  }
  for (int64_t i = 0; i < t.tap_count; ++i) {
    const int64_t tap = t.taps[i] * static_cast<int64_t>(sizeof(A));
    for (int64_t at = tap; at < tap + t.steps * 64; at += 64, b += 2048) {
      _tile_loadd(6, b, 128);
      _tile_loadd(4, t.rows[0] + at, t.row_stride);
      MCOMP_MATRIX_ADD(0, 4, 6);
      _tile_loadd(7, b + 64, 128);
      MCOMP_MATRIX_ADD(1, 4, 7);
      if constexpr (Height > 1) {
        _tile_loadd(5, t.rows[1] + at, t.row_stride);
        MCOMP_MATRIX_ADD(2, 5, 6);
        MCOMP_MATRIX_ADD(3, 5, 7);
      }
      beside();
    }
  }
  _tile_stored(0, t.out[0], 128);
  _tile_stored(1, t.out[0] + 64, 128);
  if constexpr (Height > 1) {
    _tile_stored(2, t.out[1], 128);
    _tile_stored(3, t.out[1] + 64, 128);
  }
}

// Sums of up to Height registers of rows by one of columns.
template <class A, int Height>
MCOMP_INLINE void matrix_narrow(const MatrixOperands& t) {
  const char* b = t.b;
  _tile_loadd(0, t.start, 0);
  if constexpr (Height > 1) _tile_loadd(1, t.start, 0);
  if constexpr (Height > 2) _tile_loadd(2, t.start, 0);
  if constexpr (Height > 3) _tile_loadd(3, t.start, 0);
  for (int64_t i = 0; i < t.tap_count; ++i) {
    const int64_t tap = t.taps[i] * static_cast<int64_t>(sizeof(A));
    for (int64_t at = tap; at < tap + t.steps * 64; at += 64, b += 1024) {
      _tile_loadd(6, b, 64);
      _tile_loadd(4, t.rows[0] + at, t.row_stride);
      MCOMP_MATRIX_ADD(0, 4, 6);
      if constexpr (Height > 1) {
        _tile_loadd(5, t.rows[1] + at, t.row_stride);
        MCOMP_MATRIX_ADD(1, 5, 6);
      }
      if constexpr (Height > 2) {
        _tile_loadd(4, t.rows[2] + at, t.row_stride);
        MCOMP_MATRIX_ADD(2, 4, 6);
      }
      if constexpr (Height > 3) {
        _tile_loadd(5, t.rows[3] + at, t.row_stride);
        MCOMP_MATRIX_ADD(3, 5, 6);
      }
    }
  }
  _tile_stored(0, t.out[0], 64);
  if constexpr (Height > 1) _tile_stored(1, t.out[1], 64);
  if constexpr (Height > 2) _tile_stored(2, t.out[2], 64);
  if constexpr (Height > 3) _tile_stored(3, t.out[3], 64);
}

// out[r][c] = start[c] + the sum over taps t and i < length of a[r * row_stride + taps[t] + i] * b's element (t, i, c), for
// r < mr <= MR rows. Where mr is no multiple of 16, the last register of rows begins inside the one before. Sums: int32_t
// for bytes, float for bf16. Wide tiles call beside() meanwhile, once for every step of 64 bytes.
template <class A, int NV, class Sums, class Beside = Idle>
MCOMP_NOINLINE void matrix_tile(MatrixRegisters& registers, const A* a, int64_t row_stride, const int64_t* taps,
                                int64_t tap_count, int64_t length, int64_t mr, const void* b, const Sums* start,
                                Sums* out, const Beside& beside = {}) {
  constexpr int64_t size = sizeof(A);
  const int64_t height = min_i64(mr, 16), count = ceil_div(mr, 16);
  registers.set_rows(height);
  asm volatile("" ::: "memory");  // what the intrinsics read must have been written
  MatrixOperands t{{}, row_stride * size, taps, tap_count, ceil_div(length * size, 64), static_cast<const char*>(b), start, {}};
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = min_i64(16 * i, mr - height);
    t.rows[i] = reinterpret_cast<const char*>(a) + first * t.row_stride;
    t.out[i] = reinterpret_cast<char*>(out + first * 16 * NV);
  }
  if constexpr (NV == 2) {
    if (count == 1) return matrix_wide<A, 1>(t, beside);
    return matrix_wide<A, 2>(t, beside);
  } else {
    switch (count) {
      case 1: return matrix_narrow<A, 1>(t);
      case 2: return matrix_narrow<A, 2>(t);
      case 3: return matrix_narrow<A, 3>(t);
      default: return matrix_narrow<A, 4>(t);
    }
  }
}

#undef MCOMP_MATRIX_ADD

}  // namespace detail

#else

template <class Other, int NV>
using MatrixTileOr = Other;

namespace detail {
struct MatrixRegisters {};
struct Idle {};
template <class A, int NV, class Sums, class Beside = Idle>
void matrix_tile(MatrixRegisters& registers, const A* a, int64_t row_stride, const int64_t* taps, int64_t tap_count,
                 int64_t length, int64_t mr, const void* b, const Sums* start, Sums* out, const Beside& beside = {});
}  // namespace detail

#endif

namespace detail {
struct NoRegisters {};
}  // namespace detail

}  // namespace mcomp
