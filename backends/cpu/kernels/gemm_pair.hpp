// C[M, N] = epilogue((A[M, K] x V) x U) : the two products of a low-rank linear as one kernel. The M x R middle stays
// in scratch, which a worker has in its cache.
//
//   pack_linear<T0, float>(w, v, from, R, K, K, 1), pack_linear<T1, float>(w, u, from, N, R, R, 1);            // once
//   gemm_pair_f32<T0, T1>(w, a, lda, v, middle_bias, u, PairShape{M, K, R, N}, ep, scratch);
//   // scratch: gemm_pair_f32_scratch_bytes(M, K, R, workers) bytes for all workers together, 64-byte aligned
//
//   const StaticMiddle<uint8_t> middle{bias, scale, inverse, zero, low, high};                      // one scale
//   gemm_pair_i8<T0, T1>(w, a8, lda, v8, u8, PairShape{M, K, R, N}, scales, middle, column_scale, column_sums, ep,
//                        scratch);
//   // scratch: gemm_pair_i8_scratch_bytes(M, K, R, workers) bytes; gemm_pair_rows_i8_scratch_bytes for a RowMiddle
//
// A, V, U and the epilogue as in gemm_f32.hpp and gemm_i8.hpp; `scales` belong to A and V, column_scale and column_sums
// to U. The middle's bias [R] may be null. 2 M R (K + N) operations. Where there are kOwnRows for every worker, rows
// are divided and nobody waits for others; else each product is divided as it is alone, with a barrier between the two.
// Any of M, K, R, N may be zero.
#pragma once

#include <cstdint>

#include "clamp.hpp"
#include "gemm_f32.hpp"
#include "gemm_i8.hpp"
#include "quantize_rows.hpp"
#include "requantize.hpp"

namespace mcomp {

struct PairShape {
  int64_t m, k, r, n;
};

// The middle becomes bytes with one scale: scale * (byte - zero). inverse: 1 / scale; low and high: the least and the
// largest byte to use, less the zero.
template <class Q>
struct StaticMiddle {
  const float* bias;
  float scale, inverse;
  int32_t zero;
  float low, high;
};

// The middle becomes bytes with a scale per row that its values give, and a zero point unless symmetric.
template <class Q>
struct RowMiddle {
  const float* bias;
  bool symmetric;
};

namespace detail {

constexpr int64_t kMiddleBytes = 256 * 1024;  // rows of the middle that a worker makes before it uses them

// Elements from a row of the middle to the next: as many as it has, unless rows would make each other leave the cache.
inline int64_t middle_stride(int64_t r, int64_t element_bytes) {
  return r * element_bytes % kAlias == 0 ? r + 64 / element_bytes : r;
}

// Rows of the middle at once, of `row_bytes` each: equal parts of m.
inline int64_t pair_block(int64_t m, int64_t row_bytes) {
  const int64_t fit = max_i64(56, kMiddleBytes / row_bytes);
  return m <= fit ? m : ceil_div(m, ceil_div(m, fit));
}

// Bytes of the middle that scratch holds for each worker, in rows of `row_bytes`: a block where rows are divided, its
// share of all where columns are.
inline int64_t pair_middle_bytes(int64_t m, int64_t row_bytes, int64_t workers) {
  return round_up(max_i64(pair_block(m, row_bytes), min_i64(ceil_div(m, workers), kOwnRows)) * row_bytes, 64);
}

// Scratch of a product for each worker, whatever part of the rows it gets.
inline int64_t product_work_bytes(int64_t m, int64_t k, int64_t element_bytes) {
  const int64_t row = copied_stride(k, element_bytes) * element_bytes;
  return min_i64(m, rows_that_fit(row, in_parts(k, element_bytes))) * row_scratch_bytes(k, element_bytes);
}
// Scratch of both products for each worker, at least 64 bytes. The second of bytes that are read as they are needs none:
// what it may read behind its rows is this scratch, which follows them.
inline int64_t pair_work_bytes(const PairShape& s, int64_t element_bytes) {
  const int64_t first = product_work_bytes(s.m, s.k, element_bytes);
  return element_bytes == 1 ? first : max_i64(first, product_work_bytes(s.m, s.r, element_bytes));
}

// Scales of rows from `row` on.
inline Scales8 scales_from(const Scales8& s, int64_t) { return s; }
inline RowScales8 scales_from(const RowScales8& s, int64_t row) {
  return {s.row_scale + row, s.row_zero == nullptr ? nullptr : s.row_zero + row, s.column_scale, s.column_sums};
}

// The epilogue that stores the middle as floats.
inline Clamped middle_floats(char* rows, int64_t stride, const float* bias) {
  return {reinterpret_cast<float*>(rows), stride, bias, nullptr, 0, -__builtin_inff(), __builtin_inff()};
}

// first(workers, row, count, middle, work) fills `count` rows of the middle, those from `row` on; second uses them.
// Where columns are divided, all workers share one middle. `work`: scratch of a product by these workers.
template <class First, class Second>
MCOMP_INLINE void run_pair(const Worker& w, int64_t m, int64_t block, char* middle, int64_t middle_bytes, char* work,
                           int64_t work_bytes, const First& first, const Second& second) {
  if (w.count > 1 && m < kOwnRows * w.count) {
    first(w, int64_t{0}, m, middle, work);
    w.barrier();
    second(w, int64_t{0}, m, middle, work);
    return;
  }
  const Range mine = w.range(m);
  for (int64_t row = mine.begin; row < mine.end; row += block) {
    const int64_t count = min_i64(block, mine.end - row);
    first(Worker{}, row, count, middle + w.id * middle_bytes, work + w.id * work_bytes);
    second(Worker{}, row, count, middle + w.id * middle_bytes, work + w.id * work_bytes);
  }
}

template <class Tile, class A, class Scales, class Ep>
void pair_product_i8(const Worker& w, const A* a, int64_t lda, const int8_t* packed, int64_t m, int64_t n, int64_t k,
                     const Scales& scales, const Ep& ep, void* work, int64_t first_row, int64_t behind) {
  const Int8Product<Tile, A, Scales> product{
      packed, round_up(k, Tile::kByteStep) * Tile::NR, {n, 1, Tile::NR}, scales, int8_emitter<Tile, A, Scales>(ep)};
  gemm_rows(w, product, a, lda, m, k, work, first_row, behind);
  product.finish();
}

}  // namespace detail

inline int64_t gemm_pair_f32_scratch_bytes(int64_t m, int64_t k, int64_t r, int64_t workers) {
  const int64_t middle = detail::pair_middle_bytes(m, detail::middle_stride(r, 4) * 4, workers);
  return workers * (middle + detail::pair_work_bytes({m, k, r, 0}, 4));
}

template <class T0, class T1, class A, class W, class Ep>
void gemm_pair_f32(const Worker& w, const A* a, int64_t lda, const W* v, const float* middle_bias, const W* u,
                   const PairShape& s, const Ep& ep, void* scratch) {
  const int64_t stride = detail::middle_stride(s.r, 4), block = detail::pair_block(s.m, stride * 4);
  const int64_t middle_bytes = detail::pair_middle_bytes(s.m, stride * 4, w.count);
  char* const middle = static_cast<char*>(scratch);
  const detail::FloatProduct<T1, float, W> last{
      u, s.r * T1::NR, {s.n, 1, T1::NR}, detail::float_emitter<T1, float, W>(ep)};
  detail::run_pair(
      w, s.m, block, middle, middle_bytes, middle + w.count * middle_bytes, detail::pair_work_bytes(s, 4),
      [&](const Worker& all, int64_t row, int64_t count, char* rows, char* work) {
        const Clamped keep = detail::middle_floats(rows, stride, middle_bias);
        gemm_f32<T0>(all, a + row * lda, lda, v, count, s.r, s.k, keep, work);
      },
      [&](const Worker& all, int64_t row, int64_t count, char* rows, char* work) {
        detail::gemm_rows(all, last, reinterpret_cast<const float*>(rows), stride, count, s.r, work, row);
      });
}

inline int64_t gemm_pair_i8_scratch_bytes(int64_t m, int64_t k, int64_t r, int64_t workers) {
  const int64_t middle = detail::pair_middle_bytes(m, detail::middle_stride(r, 1), workers);
  return workers * (middle + detail::pair_work_bytes({m, k, r, 0}, detail::kProductBytes));
}

template <class T0, class T1, class A, class Scales, class Q, class Ep>
void gemm_pair_i8(const Worker& w, const A* a, int64_t lda, const int8_t* v, const int8_t* u, const PairShape& s,
                  const Scales& scales, const StaticMiddle<Q>& middle, const float* column_scale,
                  const int32_t* column_sums, const Ep& ep, void* scratch) {
  const int64_t stride = detail::middle_stride(s.r, 1), block = detail::pair_block(s.m, stride);
  const int64_t middle_bytes = detail::pair_middle_bytes(s.m, stride, w.count);
  const Scales8 between{&middle.scale, &middle.zero, column_scale, column_sums};
  char* const start = static_cast<char*>(scratch);
  detail::run_pair(
      w, s.m, block, start, middle_bytes, start + w.count * middle_bytes, detail::pair_work_bytes(s, detail::kProductBytes),
      [&](const Worker& all, int64_t row, int64_t count, char* rows, char* work) {
        const Requantize<Q> keep{reinterpret_cast<Q*>(rows), stride, middle.bias, middle.inverse,
                                 middle.zero, middle.low, middle.high};
        detail::pair_product_i8<T0>(all, a + row * lda, lda, v, count, s.r, s.k, detail::scales_from(scales, row), keep,
                                    work, 0, 0);
      },
      [&](const Worker& all, int64_t row, int64_t count, char* rows, char* work) {
        const Q* const bytes = reinterpret_cast<const Q*>(rows);
        detail::pair_product_i8<T1>(all, bytes, stride, u, count, s.n, s.r, between, ep, work, row, 64);
      });
}

// Scratch where the middle has scales per row: also its floats, and scales and zero points of all rows.
inline int64_t gemm_pair_rows_i8_scratch_bytes(int64_t m, int64_t k, int64_t r, int64_t workers) {
  const int64_t row_bytes = detail::middle_stride(r, 4) * 4 + detail::middle_stride(r, 1);
  const int64_t middle = detail::pair_middle_bytes(m, row_bytes, workers);
  return workers * (middle + detail::pair_work_bytes({m, k, r, 0}, detail::kProductBytes)) + 2 * round_up(m, 16) * 4;
}

template <class T0, class T1, class A, class Scales, class Q, class Ep>
void gemm_pair_i8(const Worker& w, const A* a, int64_t lda, const int8_t* v, const int8_t* u, const PairShape& s,
                  const Scales& scales, const RowMiddle<Q>& middle, const float* column_scale,
                  const int32_t* column_sums, const Ep& ep, void* scratch) {
  const int64_t wide = detail::middle_stride(s.r, 4), stride = detail::middle_stride(s.r, 1);
  const int64_t block = detail::pair_block(s.m, wide * 4 + stride);
  const int64_t middle_bytes = detail::pair_middle_bytes(s.m, wide * 4 + stride, w.count);
  float* const row_scale = static_cast<float*>(scratch);
  int32_t* const row_zero = reinterpret_cast<int32_t*>(row_scale + round_up(s.m, 16));
  char* const start = reinterpret_cast<char*>(row_zero + round_up(s.m, 16));
  const RowScales8 between{row_scale, row_zero, column_scale, column_sums};
  detail::run_pair(
      w, s.m, block, start, middle_bytes, start + w.count * middle_bytes, detail::pair_work_bytes(s, detail::kProductBytes),
      [&](const Worker& all, int64_t row, int64_t count, char* rows, char* work) {
        const Clamped keep = detail::middle_floats(rows, wide, middle.bias);
        detail::pair_product_i8<T0>(all, a + row * lda, lda, v, count, s.r, s.k, detail::scales_from(scales, row), keep,
                                    work, 0, 0);
      },
      [&](const Worker& all, int64_t row, int64_t count, char* rows, char* work) {
        const float* const floats = reinterpret_cast<const float*>(rows);
        Q* const bytes = reinterpret_cast<Q*>(rows + count * wide * 4);
        const Range mine = all.range(count);
        for (int64_t i = mine.begin; i < mine.end; ++i)
          quantize_row_dynamic(floats + i * wide, s.r, bytes + i * stride, row_scale + row + i, row_zero + row + i,
                               middle.symmetric);
        all.barrier();
        detail::pair_product_i8<T1>(all, bytes, stride, u, count, s.n, s.r, between, ep, work, row, 64);
      });
}

}  // namespace mcomp
