// Index, data movement and copy kernels.
#include "copy.hpp"
#include "index.hpp"
#include "shape.hpp"

using namespace mcomp;

#define API extern "C" __attribute__((visibility("default")))

API void embedding_i64(int threads, const float* table, int64_t rows, int64_t width, const int64_t* ids, int64_t count,
                       float* out, int32_t* slot) {
  Pool::run(threads, [&](const Worker& w) { embedding(w, table, rows, width, ids, count, out, Fault{slot, 7}); });
}
API void embedding_i32(int threads, const float* table, int64_t rows, int64_t width, const int32_t* ids, int64_t count,
                       float* out, int32_t* slot) {
  Pool::run(threads, [&](const Worker& w) { embedding(w, table, rows, width, ids, count, out, Fault{slot, 7}); });
}
API void bag_i64(int mode, const float* table, int64_t rows, int64_t width, const int64_t* ids, int64_t count,
                 const int64_t* offsets, int64_t bags, const float* weights, int64_t padding, float* out,
                 int32_t* slot) {
  embedding_bag(Worker{}, table, rows, width, ids, count, offsets, bags, weights, padding, BagMode(mode), out,
                Fault{slot, 7});
}
API void select_i64(int threads, const float* x, const int64_t* index, float* y, int64_t o, int64_t n, int64_t i,
                    int64_t m, int32_t* slot) {
  Pool::run(threads, [&](const Worker& w) { index_select(w, x, index, y, o, n, i, m, Fault{slot, 7}); });
}
API void gather_f32(int threads, const float* x, const int64_t* x_stride, int64_t n, const int64_t* index, float* out,
                    int rank, const int64_t* size, int dim, int32_t* slot) {
  Pool::run(threads, [&](const Worker& w) { gather(w, x, x_stride, n, index, out, rank, size, dim, Fault{slot, 7}); });
}
API void scatter_f32(int op, int threads, float* out, const int64_t* out_stride, int64_t n, const int64_t* index,
                     const float* src, const int64_t* src_stride, int rank, const int64_t* size, int dim,
                     int32_t* slot) {
  const Fault fault{slot, 7};
  Pool::run(threads, [&](const Worker& w) {
    if (op == 0) scatter<Scatter::replace>(w, out, out_stride, n, index, src, src_stride, rank, size, dim, fault);
    if (op == 1) scatter<Scatter::add>(w, out, out_stride, n, index, src, src_stride, rank, size, dim, fault);
    if (op == 2) scatter<Scatter::multiply>(w, out, out_stride, n, index, src, src_stride, rank, size, dim, fault);
    if (op == 3) scatter<Scatter::maximum>(w, out, out_stride, n, index, src, src_stride, rank, size, dim, fault);
    if (op == 4) scatter<Scatter::minimum>(w, out, out_stride, n, index, src, src_stride, rank, size, dim, fault);
  });
}
// numbers: tensors, index_rank, slice_rank; per tensor bound, x stride and index_rank strides; per index dimension size
// and out stride; per slice dimension size, x stride, out stride.
API void advanced_f32(int put, int threads, const int64_t* numbers, const int64_t* const* index, float* x,
                      float* values, int32_t* slot) {
  IndexArgs<int64_t> a{};
  const int64_t* at = numbers;
  a.tensors = int(*at++), a.index_rank = int(*at++), a.slice_rank = int(*at++);
  for (int t = 0; t < a.tensors; ++t) {
    a.index[t] = index[t], a.bound[t] = *at++, a.x_stride[t] = *at++;
    for (int d = 0; d < a.index_rank; ++d) a.index_stride[t][d] = *at++;
  }
  for (int d = 0; d < a.index_rank; ++d) a.index_size[d] = *at++, a.index_out_stride[d] = *at++;
  for (int d = 0; d < a.slice_rank; ++d)
    a.slice_size[d] = *at++, a.slice_x_stride[d] = *at++, a.slice_out_stride[d] = *at++;
  Pool::run(threads, [&](const Worker& w) {
    if (put == 0) return index_get(w, a, x, values, Fault{slot, 7});
    index_put(w, a, x, values, put == 2, Fault{slot, 7});
  });
}
API void masked_scatter_f32(const float* x, const bool* mask, const float* source, int64_t count, float* y, int64_t n,
                            int32_t* slot) {
  masked_scatter(Worker{}, x, mask, source, count, y, n, Fault{slot, 7});
}
API void pad_f32(int mode, int threads, const float* x, float* y, int rank, const int64_t* size, const int64_t* from,
                 const int64_t* before, const int64_t* after, float value) {
  Pool::run(threads, [&](const Worker& w) { pad(w, x, y, rank, size, from, before, after, PadMode(mode), value); });
}
API void roll_f32(int threads, const float* x, float* y, int64_t o, int64_t n, int64_t i, int64_t shift) {
  Pool::run(threads, [&](const Worker& w) { roll(w, x, y, o, n, i, shift); });
}
API void triangle_f32(int upper, int threads, const float* x, float* y, int64_t b, int64_t r, int64_t c,
                      int64_t diagonal) {
  Pool::run(threads, [&](const Worker& w) { triangle(w, x, y, b, r, c, diagonal, upper != 0); });
}
API void one_hot_i64(const int64_t* index, int64_t* y, int64_t count, int64_t classes, int32_t* slot) {
  one_hot(Worker{}, index, y, count, classes, Fault{slot, 7});
}
API void repeat_f32(const float* x, float* y, int64_t o, int64_t n, int64_t i, int64_t repeats, const int64_t* counts,
                    int64_t total, int32_t* slot) {
  if (counts) return repeat_interleave(Worker{}, x, y, o, n, i, counts, total, Fault{slot, 7});
  repeat_interleave(Worker{}, x, y, o, n, i, repeats);
}
API void fold_f32(int inverse, const float* x, float* y, int64_t batch, int64_t channels, const int64_t* s) {
  const Window2d v{{s[0], s[1]}, {s[2], s[3]}, {s[4], s[5]}, {s[6], s[7]}, {s[8], s[9]}, {s[10], s[11]}};
  if (inverse) return col2im(Worker{}, x, y, batch, channels, v);
  im2col(Worker{}, x, y, batch, channels, v);
}

#define COPY(name, to_type, from_type)                                                                 \
  API void copy_##name(int threads, to_type* dst, const from_type* src, int rank, const int64_t* size, \
                       const int64_t* to, const int64_t* from) {                                       \
    Pool::run(threads, [&](const Worker& w) { copy_strided(w, dst, src, rank, size, to, from); });     \
  }
COPY(f32, float, float)
COPY(u8, uint8_t, uint8_t)
COPY(i64, int64_t, int64_t)
COPY(f32_i64, float, int64_t)
COPY(bool_f32, bool, float)
