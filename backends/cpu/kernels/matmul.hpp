// Batched matrix products of two run-time operands with any strides: C[b, M, N] = A[b, M, K] x B[b, K, N].
//
//   MatmulShape s{M, N, K, /*a_row=*/K, /*a_col=*/1, /*b_row=*/N, /*b_col=*/1, /*rank=*/1, {heads}, {M * K}, {K * N}};
//   matmul_f32<DefaultTile>(w, a, b, s, StoreF32{c, N}, scratch);        // epilogue row: batch * M + m
//   // scratch: matmul_f32_scratch_bytes(s, workers) bytes for all workers together, 64-byte aligned
//   matmul_f64<DefaultTile>(w, a, b, s, StoreF64{c, N}, scratch);        // matmul_f64_scratch_bytes
//   matmul_int(w, a, b, s, StoreAs<int64_t, int64_t>{c, N});             // int64_t or int32_t, wraps; no scratch
//
// Strides are in elements and may be zero or negative. Batches are numbered row-major over batch[0 .. rank); a_batch
// and b_batch are the strides of those dimensions (0 where an operand is broadcast). A and B: float, bf16 or f16, each
// its own. 2 * batches * M * N * K operations. B is packed panel by panel, except where few rows make reading it in
// place cheaper.
#pragma once

#include <cstdint>

#include "epilogue.hpp"
#include "product.hpp"

namespace mcomp {

struct MatmulShape {
  static constexpr int kMaxRank = 6;
  int64_t m, n, k;
  int64_t a_row, a_col, b_row, b_col;
  int rank;
  int64_t batch[kMaxRank], a_batch[kMaxRank], b_batch[kMaxRank];

  int64_t batches() const {
    int64_t product = 1;
    for (int i = 0; i < rank; ++i) product *= batch[i];
    return product;
  }
  // Element offset of a batch in an operand whose batch strides are given.
  int64_t offset(int64_t index, const int64_t* strides) const {
    int64_t at = 0;
    for (int i = rank - 1; i >= 0; --i) {
      at += index % batch[i] * strides[i];
      index /= batch[i];
    }
    return at;
  }
};

namespace detail {

constexpr int64_t kGroupBytes = 256 * 1024;  // packed panels of B that a worker keeps hot
constexpr int64_t kDotRows = 4;              // rows up to which a k-contiguous B is read in place

inline int64_t matmul_group_panels(const MatmulShape& s, int64_t width, int64_t element_bytes) {
  const int64_t panel = max_i64(1, s.k * width * element_bytes);
  return max_i64(1, min_i64(ceil_div(s.n, width), kGroupBytes / panel));
}
inline int64_t matmul_row_block(const MatmulShape& s, int64_t element_bytes) {
  return row_block(s.m, copied_stride(s.k, element_bytes) * element_bytes);
}
inline int64_t matmul_worker_bytes(const MatmulShape& s, int64_t width, int64_t element_bytes) {
  const int64_t panels = matmul_group_panels(s, width, element_bytes) * s.k * width * element_bytes;
  const int64_t rows = matmul_row_block(s, element_bytes) * copied_stride(s.k, element_bytes) * element_bytes;
  return round_up(panels, 64) + round_up(rows, 64);
}

// dst[i * stride + j] = src[i * row + j * col] for i < rows, j < columns, converted. Reads along the shorter stride.
template <class To, class From>
void copy_matrix(To* dst, int64_t stride, const From* src, int64_t row, int64_t col, int64_t rows, int64_t columns) {
  if (col == 1) {
    for (int64_t i = 0; i < rows; ++i) convert_row(dst + i * stride, src + i * row, columns);
    return;
  }
  constexpr int64_t kBlock = 16;
  for (int64_t j0 = 0; j0 < columns; j0 += kBlock)
    for (int64_t i0 = 0; i0 < rows; i0 += kBlock) {
      const int64_t j1 = min_i64(columns, j0 + kBlock), i1 = min_i64(rows, i0 + kBlock);
      for (int64_t i = i0; i < i1; ++i)
        for (int64_t j = j0; j < j1; ++j) dst[i * stride + j] = convert<To>(src[i * row + j * col]);
    }
}

// Rows m0 .. m1 times columns n0 .. n1 of a B whose columns are contiguous in k: one dot product per result.
inline void dot_product_rows(const float* a, int64_t a_row, const float* b, int64_t b_col, int64_t k, int64_t rows,
                             int64_t n0, int64_t n1, int64_t row0, const Emitter<float>& emit) {
  constexpr int64_t kColumns = 64;
  alignas(64) float out[kColumns];
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c0 = n0; c0 < n1; c0 += kColumns) {
      const int64_t count = min_i64(kColumns, n1 - c0);
      int64_t c = 0;
      for (; c + 4 <= count; c += 4) {
        vf32 sum[4] = {vset(0.0f), vset(0.0f), vset(0.0f), vset(0.0f)};
        const float *x = a + r * a_row, *y = b + (c0 + c) * b_col;
        int64_t i = 0;
        for (; i + kLanes <= k; i += kLanes) {
          const vf32 xv = vload(x + i);
          unroll<4>([&](auto j) MCOMP_LAMBDA { sum[j] = vfma(xv, vload(y + j * b_col + i), sum[j]); });
        }
        if (i < k) {
          const vf32 xv = vload_n(x + i, k - i);
          unroll<4>([&](auto j) MCOMP_LAMBDA { sum[j] = vfma(xv, vload_n(y + j * b_col + i, k - i), sum[j]); });
        }
        unroll<4>([&](auto j) MCOMP_LAMBDA { out[c + j] = vsum(sum[j]); });
      }
      for (; c < count; ++c) {
        vf32 sum = vset(0.0f);
        const float *x = a + r * a_row, *y = b + (c0 + c) * b_col;
        int64_t i = 0;
        for (; i + kLanes <= k; i += kLanes) sum = vfma(vload(x + i), vload(y + i), sum);
        if (i < k) sum = vfma(vload_n(x + i, k - i), vload_n(y + i, k - i), sum);
        out[c] = vsum(sum);
      }
      emit(out, kColumns, 1, row0 + r, 1, c0, count);
    }
  }
}

// One batch: the worker's rows and panels.
template <class Tile, class T, class A, class B>
void matmul_one(const A* a, const B* b, const MatmulShape& s, const Split& split, int64_t row0, const Emitter<T>& emit,
                char* scratch) {
  constexpr int NR = Tile::NV * kVectorBytes / static_cast<int>(sizeof(T));
  constexpr int64_t MR = Tile::MR;
  constexpr bool a_same = std::is_same<A, T>::value, b_same = std::is_same<B, T>::value;
  const Panels panels{s.n, 1, NR};
  if (split.rows.empty() || split.panels.empty()) return;
  if constexpr (a_same && b_same && std::is_same<T, float>::value) {
    if (split.rows.size() <= kDotRows && s.b_row == 1 && s.a_col == 1) {
      const int64_t n1 = min_i64(s.n, split.panels.end * NR);
      dot_product_rows(a + split.rows.begin * s.a_row, s.a_row, b, s.b_col, s.k, split.rows.size(),
                       split.panels.begin * NR, n1, row0 + split.rows.begin, emit);
      return;
    }
  }
  const bool b_in_place = b_same && s.b_col == 1 && split.rows.size() <= 2 * MR;
  const bool a_in_place = a_same && s.a_col == 1;
  const int64_t group = matmul_group_panels(s, NR, sizeof(T)), block = matmul_row_block(s, sizeof(T));
  const int64_t stride = copied_stride(s.k, sizeof(T)), no_tap = 0;
  T* packed = reinterpret_cast<T*>(scratch);
  T* rows = reinterpret_cast<T*>(scratch + round_up(group * s.k * NR * static_cast<int64_t>(sizeof(T)), 64));
  alignas(64) T out[MR * NR];
  for (int64_t g = split.panels.begin; g < split.panels.end; g += group) {
    const int64_t g_end = min_i64(g + group, split.panels.end);
    for (int64_t p = g; p < g_end; ++p) {
      const int64_t width = panels.size(p);
      if (b_in_place && width == NR) continue;
      T* panel = packed + (p - g) * s.k * NR;
      copy_matrix(panel, NR, b + p * NR * s.b_col, s.b_row, s.b_col, s.k, width);
      if (width < NR)
        for (int64_t k = 0; k < s.k; ++k)
          for (int64_t c = width; c < NR; ++c) panel[k * NR + c] = T(0);
    }
    for (int64_t r = split.rows.begin; r < split.rows.end; r += block) {
      const int64_t height = min_i64(block, split.rows.end - r), tiles = ceil_div(height, MR);
      if (!a_in_place) copy_matrix(rows, stride, a + r * s.a_row, s.a_row, s.a_col, height, s.k);
      const T* base = a_in_place ? reinterpret_cast<const T*>(a + r * s.a_row) : rows;
      const int64_t base_stride = a_in_place ? s.a_row : stride;
      for (int64_t p = g; p < g_end; ++p) {
        const bool direct = b_in_place && panels.size(p) == NR;
        const T* panel = direct ? reinterpret_cast<const T*>(b + p * NR) : packed + (p - g) * s.k * NR;
        for (int64_t t = 0; t < tiles; ++t) {
          const int64_t r0 = height * t / tiles, r1 = height * (t + 1) / tiles;
          micro_tiles<FloatDot<T, T>, Tile::MR, Tile::NV>.table[r1 - r0](base + r0 * base_stride, base_stride, &no_tap,
                                                                         1, s.k, panel, direct ? s.b_row : NR, out, nullptr, {});
          emit(out, NR, r1 - r0, row0 + r + r0, 1, p * NR, panels.size(p));
        }
      }
    }
  }
}

template <class Tile, class T, class A, class B>
void matmul_float(const Worker& w, const A* a, const B* b, const MatmulShape& s, const Emitter<T>& emit,
                  void* scratch) {
  constexpr int64_t NR = Tile::NV * kVectorBytes / static_cast<int64_t>(sizeof(T));
  const int64_t panels = ceil_div(s.n, NR), batches = s.batches();
  char* own = static_cast<char*>(scratch) + w.id * matmul_worker_bytes(s, NR, sizeof(T));
  auto one = [&](int64_t index, const Split& split) {
    matmul_one<Tile, T>(a + s.offset(index, s.a_batch), b + s.offset(index, s.b_batch), s, split, index * s.m, emit,
                        own);
  };
  if (batches % w.count == 0 || batches * panels >= 4 * w.count) {
    // Contiguous runs of panels, across batches.
    const Range mine = w.range(batches * panels, batches % w.count == 0 ? max_i64(1, panels) : 1);
    for (int64_t u = mine.begin; u < mine.end;) {
      const int64_t index = u / panels, first = u % panels, last = min_i64(panels, first + mine.end - u);
      one(index, {{0, s.m}, {first, last}});
      u += last - first;
    }
    return;
  }
  const Split split = split_product(w, s.m, 1, panels, s.n >= s.m);
  for (int64_t index = 0; index < batches; ++index) one(index, split);
}

}  // namespace detail

template <class Tile = DefaultTile>
int64_t matmul_f32_scratch_bytes(const MatmulShape& s, int64_t workers) {
  return workers * detail::matmul_worker_bytes(s, Tile::NV * kLanes, 4);
}
template <class Tile, class A, class B, class Ep>
void matmul_f32(const Worker& w, const A* a, const B* b, const MatmulShape& s, const Ep& ep, void* scratch) {
  detail::matmul_float<Tile, float>(w, a, b, s, detail::emitter<Tile::NR, float>(ep), scratch);
}

template <class Tile = DefaultTile>
int64_t matmul_f64_scratch_bytes(const MatmulShape& s, int64_t workers) {
  return workers * detail::matmul_worker_bytes(s, Tile::NV * kLanes64, 8);
}
template <class Tile, class Ep>
void matmul_f64(const Worker& w, const double* a, const double* b, const MatmulShape& s, const Ep& ep, void* scratch) {
  detail::matmul_float<Tile, double>(w, a, b, s, detail::emitter<Tile::NV * kLanes64, double>(ep), scratch);
}

// Integers of any width; sums wrap modulo 2^bits as torch's do. ep takes const T*. No scratch.
template <class T, class Ep>
void matmul_int(const Worker& w, const T* a, const T* b, const MatmulShape& s, const Ep& ep) {
  using U = std::make_unsigned_t<T>;
  constexpr int64_t kColumns = 128;
  alignas(64) T out[kColumns];
  const Range mine = w.range(s.batches() * s.m);
  for (int64_t row = mine.begin; row < mine.end; ++row) {
    const T* x = a + s.offset(row / s.m, s.a_batch) + row % s.m * s.a_row;
    const T* y = b + s.offset(row / s.m, s.b_batch);
    for (int64_t c0 = 0; c0 < s.n; c0 += kColumns) {
      const int64_t count = min_i64(kColumns, s.n - c0);
      U sum[kColumns] = {};
      for (int64_t k = 0; k < s.k; ++k) {
        const U xk = static_cast<U>(x[k * s.a_col]);
        const T* line = y + k * s.b_row + c0 * s.b_col;
        for (int64_t c = 0; c < count; ++c) sum[c] = static_cast<U>(sum[c] + xk * static_cast<U>(line[c * s.b_col]));
      }
      for (int64_t c = 0; c < count; ++c) out[c] = static_cast<T>(sum[c]);
      ep(out, row, c0, count);
    }
  }
}

}  // namespace mcomp
