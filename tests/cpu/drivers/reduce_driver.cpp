// Reductions, scans, sorting.
#include "reduce.hpp"
#include "scan.hpp"
#include "sort.hpp"

using namespace mcomp;

#define API extern "C" __attribute__((visibility("default")))

namespace {

template <class T>
void run_reduce(int kind, const Worker& w, const T* x, T* y, int64_t o, int64_t n, int64_t i, double order) {
  if (kind == 0) reduce(w, Sum<T>{}, x, y, o, n, i);
  if (kind == 1) reduce(w, Prod<T>{}, x, y, o, n, i);
  if (kind == 2) reduce(w, Max<T>{}, x, y, o, n, i);
  if (kind == 3) reduce(w, Min<T>{}, x, y, o, n, i);
  if constexpr (std::is_floating_point<T>::value) {
    if (kind == 4) reduce(w, Mean<T>{}, x, y, o, n, i);
    if (kind == 5 && order == 1.0) reduce(w, Norm1<T>{}, x, y, o, n, i);
    if (kind == 5 && order == 2.0) reduce(w, Norm2<T>{}, x, y, o, n, i);
    if (kind == 5 && order != 1.0 && order != 2.0) {
      NormP<T> op;
      op.order = order;
      reduce(w, op, x, y, o, n, i);
    }
    if (kind == 6) reduce(w, MaxAbs<T>{}, x, y, o, n, i);
    if (kind == 7) reduce(w, MinAbs<T>{}, x, y, o, n, i);
    if (kind == 8) variance<T, T>(w, x, y, nullptr, o, n, i, order, false);
    if (kind == 9) variance<T, T>(w, x, y, nullptr, o, n, i, order, true);
  }
}

}  // namespace

API void reduce_f32(int kind, int threads, const float* x, float* y, int64_t o, int64_t n, int64_t i, double order) {
  Pool::run(threads, [&](const Worker& w) { run_reduce(kind, w, x, y, o, n, i, order); });
}
API void reduce_i64(int kind, int threads, const int64_t* x, int64_t* y, int64_t o, int64_t n, int64_t i,
                    double order) {
  Pool::run(threads, [&](const Worker& w) { run_reduce(kind, w, x, y, o, n, i, order); });
}
API void reduce_logic(int all, int threads, const float* x, bool* y, int64_t o, int64_t n, int64_t i) {
  Pool::run(threads, [&](const Worker& w) {
    if (all) return reduce(w, All<float>{}, x, y, o, n, i);
    reduce(w, Any<float>{}, x, y, o, n, i);
  });
}
API void sum_bool(int threads, const bool* x, int64_t* y, int64_t o, int64_t n, int64_t i) {
  Pool::run(threads, [&](const Worker& w) { reduce(w, Sum<bool>{}, x, y, o, n, i); });
}
API void reduce_dims(int maximum, int threads, const float* x, float* y, int kept_rank, const int64_t* kept, int rank,
                     const int64_t* reduced) {
  DimGroup a{kept_rank, {}, {}}, b{rank, {}, {}};
  for (int d = 0; d < kept_rank; ++d) a.size[d] = kept[d], a.stride[d] = kept[kept_rank + d];
  for (int d = 0; d < rank; ++d) b.size[d] = reduced[d], b.stride[d] = reduced[rank + d];
  Pool::run(threads, [&](const Worker& w) {
    if (maximum) return reduce_strided(w, Max<float>{}, x, y, a, b);
    reduce_strided(w, Mean<float>{}, x, y, a, b);
  });
}
API void arg_f32(int largest, int threads, const float* x, float* v, int64_t* k, int64_t o, int64_t n, int64_t i) {
  Pool::run(threads, [&](const Worker& w) {
    if (largest) return arg_reduce<true>(w, x, v, k, o, n, i);
    arg_reduce<false>(w, x, v, k, o, n, i);
  });
}
API void scan_f32(int kind, int threads, const float* x, float* y, int64_t* k, int64_t o, int64_t n, int64_t i) {
  Pool::run(threads, [&](const Worker& w) {
    if (kind == 0) cumsum(w, x, y, o, n, i);
    if (kind == 1) cumprod(w, x, y, o, n, i);
    if (kind == 2) logcumsumexp(w, x, y, o, n, i);
    if (kind == 3) cumulative_extreme<true>(w, x, y, k, o, n, i);
    if (kind == 4) cumulative_extreme<false>(w, x, y, k, o, n, i);
  });
}
API void cumsum_bool(int threads, const bool* x, int64_t* y, int64_t o, int64_t n, int64_t i) {
  Pool::run(threads, [&](const Worker& w) { cumsum(w, x, y, o, n, i); });
}
API void sort_f32(int descending, int threads, const float* x, float* v, int64_t* k, int64_t o, int64_t n, int64_t i) {
  Pool::run(threads, [&](const Worker& w) { sort(w, x, v, k, o, n, i, descending != 0); });
}
API void sort_i64(int descending, int threads, const int64_t* x, int64_t* v, int64_t* k, int64_t o, int64_t n,
                  int64_t i) {
  Pool::run(threads, [&](const Worker& w) { sort(w, x, v, k, o, n, i, descending != 0); });
}
API void topk_f32(int largest, int threads, const float* x, float* v, int64_t* k, int64_t o, int64_t n, int64_t i,
                  int64_t count) {
  Pool::run(threads, [&](const Worker& w) { topk(w, x, v, k, o, n, i, count, largest != 0, true); });
}
API void searchsorted_f32(int right, int shared, const float* e, const float* q, int64_t* y, int64_t o, int64_t n,
                          int64_t m) {
  searchsorted(Worker{}, e, q, y, o, n, m, right != 0, shared != 0);
}
API int64_t nonzero_f32(const float* x, int rank, const int64_t* size, int64_t n, int64_t* y, int64_t limit) {
  nonzero(Worker{}, x, rank, size, y, limit, rank, 1);
  return nonzero_count(x, n);
}
