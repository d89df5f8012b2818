// Products of bytes in the matrix registers of AMX: unsigned or signed bytes times signed bytes, exact int32 sums.
//
//   using T0 = MatrixTileI8<DefaultTileI8, 2>;    // MatrixTile<2> where there are matrix registers, else DefaultTileI8
//
// A register holds 16 rows of 64 bytes; one instruction adds the products of 16 rows by 64 bytes with 64 bytes by 16
// columns. Panels are those of micro_i8.hpp (four bytes of a column together) padded to whole steps of 64 bytes: with
// the padding's zeros, whatever lies behind a row adds nothing, so that rows must be readable to a multiple of 64 bytes.
//
// The registers belong to a thread and are given back after each product: a thread that keeps them makes its switches
// slower. Code is compiled for them only where the system allows their use (isa.py).
#pragma once

#include <cstdint>

#include "isa.hpp"
#include "micro_i8.hpp"

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
};

#if defined(MCOMP_AMX)

template <class Other, int NV>
using MatrixTileI8 = MatrixTile<NV>;

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
#define MCOMP_MATRIX_ADD(sums, rows, columns)     \
  do {                                            \
    if constexpr (std::is_same<A, int8_t>::value) \
      _tile_dpbssd(sums, rows, columns);          \
    else                                          \
      _tile_dpbusd(sums, rows, columns);          \
  } while (false)

// Sums of up to Height registers of rows by two of columns. The register of rows t starts at rows[t]; out gets it at
// out[t], rows of 32 columns.
template <class A, int Height>
MCOMP_INLINE void matrix_wide(const A* const (&rows)[4], int64_t row_stride, int64_t steps, const int8_t* b,
                              const int32_t* start, int32_t* const (&out)[4]) {
  _tile_loadd(0, start, 0);
  _tile_loadd(1, start + 16, 0);
  if constexpr (Height > 1) {
    _tile_loadd(2, start, 0);
    _tile_loadd(3, start + 16, 0);
  }
  for (int64_t s = 0; s < steps; ++s, b += 2048) {
    _tile_loadd(6, b, 128);
    _tile_loadd(4, rows[0] + s * 64, row_stride);
    MCOMP_MATRIX_ADD(0, 4, 6);
    _tile_loadd(7, b + 64, 128);
    MCOMP_MATRIX_ADD(1, 4, 7);
    if constexpr (Height > 1) {
      _tile_loadd(5, rows[1] + s * 64, row_stride);
      MCOMP_MATRIX_ADD(2, 5, 6);
      MCOMP_MATRIX_ADD(3, 5, 7);
    }
  }
  _tile_stored(0, out[0], 128);
  _tile_stored(1, out[0] + 16, 128);
  if constexpr (Height > 1) {
    _tile_stored(2, out[1], 128);
    _tile_stored(3, out[1] + 16, 128);
  }
}

// Sums of up to Height registers of rows by one of columns.
template <class A, int Height>
MCOMP_INLINE void matrix_narrow(const A* const (&rows)[4], int64_t row_stride, int64_t steps, const int8_t* b,
                                const int32_t* start, int32_t* const (&out)[4]) {
  _tile_loadd(0, start, 0);
  if constexpr (Height > 1) _tile_loadd(1, start, 0);
  if constexpr (Height > 2) _tile_loadd(2, start, 0);
  if constexpr (Height > 3) _tile_loadd(3, start, 0);
  for (int64_t s = 0; s < steps; ++s, b += 1024) {
    _tile_loadd(6, b, 64);
    _tile_loadd(4, rows[0] + s * 64, row_stride);
    MCOMP_MATRIX_ADD(0, 4, 6);
    if constexpr (Height > 1) {
      _tile_loadd(5, rows[1] + s * 64, row_stride);
      MCOMP_MATRIX_ADD(1, 5, 6);
    }
    if constexpr (Height > 2) {
      _tile_loadd(4, rows[2] + s * 64, row_stride);
      MCOMP_MATRIX_ADD(2, 4, 6);
    }
    if constexpr (Height > 3) {
      _tile_loadd(5, rows[3] + s * 64, row_stride);
      MCOMP_MATRIX_ADD(3, 5, 6);
    }
  }
  _tile_stored(0, out[0], 64);
  if constexpr (Height > 1) _tile_stored(1, out[1], 64);
  if constexpr (Height > 2) _tile_stored(2, out[2], 64);
  if constexpr (Height > 3) _tile_stored(3, out[3], 64);
}

// out[r][c] = start[c] + the sum over i < length of a[r * row_stride + i] * b's element (i, c), for r < mr <= MR rows.
// Where mr is no multiple of 16, the last register of rows begins inside the one before.
template <class A, int NV>
MCOMP_NOINLINE void matrix_tile(MatrixRegisters& registers, const A* a, int64_t row_stride, int64_t length, int64_t mr,
                                const int8_t* b, const int32_t* start, int32_t* out) {
  const int64_t height = min_i64(mr, 16), count = ceil_div(mr, 16), steps = ceil_div(length, 64);
  registers.set_rows(height);
  asm volatile("" ::: "memory");  // what the intrinsics read must have been written
  const A* rows[4];
  int32_t* to[4];
  for (int64_t t = 0; t < count; ++t) {
    const int64_t first = min_i64(16 * t, mr - height);
    rows[t] = a + first * row_stride, to[t] = out + first * 16 * NV;
  }
  if constexpr (NV == 2) {
    if (count == 1) return matrix_wide<A, 1>(rows, row_stride, steps, b, start, to);
    return matrix_wide<A, 2>(rows, row_stride, steps, b, start, to);
  } else {
    switch (count) {
      case 1: return matrix_narrow<A, 1>(rows, row_stride, steps, b, start, to);
      case 2: return matrix_narrow<A, 2>(rows, row_stride, steps, b, start, to);
      case 3: return matrix_narrow<A, 3>(rows, row_stride, steps, b, start, to);
      default: return matrix_narrow<A, 4>(rows, row_stride, steps, b, start, to);
    }
  }
}

#undef MCOMP_MATRIX_ADD

}  // namespace detail

#else

template <class Other, int NV>
using MatrixTileI8 = Other;

namespace detail {
struct MatrixRegisters {};
template <class A, int NV>
void matrix_tile(MatrixRegisters& registers, const A* a, int64_t row_stride, int64_t length, int64_t mr, const int8_t* b,
                 const int32_t* start, int32_t* out);
}  // namespace detail

#endif

namespace detail {
struct NoRegisters {};
}  // namespace detail

}  // namespace mcomp
