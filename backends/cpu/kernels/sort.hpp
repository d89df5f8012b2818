// Sorting, top-k, binary search and positions of nonzeros.
//
//     sort(w, x, values, indices, outer, n, inner, /*descending=*/true);     // stable; either output may be nullptr
//     topk(w, x, values, indices, outer, n, inner, k, /*largest=*/true, /*sorted=*/true);
//     searchsorted(w, edges, queries, out, outer, n, m, /*right=*/false);
// NaN counts as larger than every number. Workers share the outer * inner rows; a row needs n (key, index) pairs of
// heap memory (aborts when there is none).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "math.hpp"
#include "reduce.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

namespace detail {

template <class C>
struct Keyed {
  C key;
  int64_t index;
};

template <class C>
inline bool key_less(C a, C b) {
  return a < b || (math::is_nan(b) && !math::is_nan(a));
}

// Strict total order: by key, the earlier index first among equals.
template <bool Descending, class C>
struct KeyOrder {
  bool operator()(const Keyed<C>& a, const Keyed<C>& b) const {
    if (Descending ? key_less(b.key, a.key) : key_less(a.key, b.key)) return true;
    if (Descending ? key_less(a.key, b.key) : key_less(b.key, a.key)) return false;
    return a.index < b.index;
  }
};

template <class C>
class Keys {
 public:
  explicit Keys(int64_t n) : data_(static_cast<Keyed<C>*>(std::malloc(size_t(n ? n : 1) * sizeof(Keyed<C>)))) {
    if (data_ == nullptr) std::abort();
  }
  ~Keys() { std::free(data_); }
  Keys(const Keys&) = delete;
  Keys& operator=(const Keys&) = delete;
  Keyed<C>* data() { return data_; }

 private:
  Keyed<C>* data_;
};

template <bool Descending, class T>
inline void select_rows(const Worker& w, const T* x, T* values, int64_t* indices, int64_t outer, int64_t n,
                        int64_t inner, int64_t k, bool sorted) {
  using C = order_t<T>;
  const Range r = w.range(outer * inner);
  if (r.empty()) return;
  Keys<C> keys(n);
  Keyed<C>* a = keys.data();
  const KeyOrder<Descending, C> order{};
  for (int64_t item = r.begin; item < r.end; ++item) {
    const T* from = x + item / inner * n * inner + item % inner;
    for (int64_t i = 0; i < n; ++i) a[i] = {convert<C>(from[i * inner]), i};
    if (k < n && k <= 64) {
      std::partial_sort(a, a + k, a + n, order);
    } else {
      if (k < n) std::nth_element(a, a + k - 1, a + n, order);
      if (sorted) std::sort(a, a + k, order);
    }
    const int64_t at = item / inner * k * inner + item % inner;
    for (int64_t i = 0; i < k; ++i) {
      if (values) values[at + i * inner] = from[a[i].index * inner];
      if (indices) indices[at + i * inner] = a[i].index;
    }
  }
}

}  // namespace detail

// x [outer, n, inner] sorted along n, equal values in their old order.
template <class T>
void sort(const Worker& w, const T* x, T* values, int64_t* indices, int64_t outer, int64_t n, int64_t inner,
          bool descending) {
  if (descending) return detail::select_rows<true>(w, x, values, indices, outer, n, inner, n, true);
  detail::select_rows<false>(w, x, values, indices, outer, n, inner, n, true);
}

// The k largest (smallest) of each row: values, indices [outer, k, inner], 0 <= k <= n; in order if `sorted`.
template <class T>
void topk(const Worker& w, const T* x, T* values, int64_t* indices, int64_t outer, int64_t n, int64_t inner, int64_t k,
          bool largest, bool sorted) {
  if (largest) return detail::select_rows<true>(w, x, values, indices, outer, n, inner, k, sorted);
  detail::select_rows<false>(w, x, values, indices, outer, n, inner, k, sorted);
}

// The lower median of each row and its index, or NaN and its index where the row has one. x [outer, n, inner], n > 0.
template <class T>
void median(const Worker& w, const T* x, T* values, int64_t* indices, int64_t outer, int64_t n, int64_t inner) {
  using C = order_t<T>;
  const Range r = w.range(outer * inner);
  if (r.empty() || n == 0) return;
  detail::Keys<C> keys(n);
  detail::Keyed<C>* a = keys.data();
  const detail::KeyOrder<false, C> order{};
  for (int64_t item = r.begin; item < r.end; ++item) {
    const T* from = x + item / inner * n * inner + item % inner;
    int64_t at = -1;
    for (int64_t i = 0; i < n; ++i) {
      a[i] = {convert<C>(from[i * inner]), i};
      if (at < 0 && math::is_nan(a[i].key)) at = i;
    }
    if (at < 0) {
      std::nth_element(a, a + (n - 1) / 2, a + n, order);
      at = a[(n - 1) / 2].index;
    }
    values[item] = from[at * inner];
    indices[item] = at;
  }
}

// out[row, i] = number of sorted[row] below queries[row, i] (right: not above). edges [outer, n]; queries, out [outer,
// m]. shared: one row of edges for all, which is bucketize.
template <class T, class Q, class I>
void searchsorted(const Worker& w, const T* edges, const Q* queries, I* out, int64_t outer, int64_t n, int64_t m,
                  bool right, bool shared = false) {
  using C = std::conditional_t<is_real_float<T>::value || is_real_float<Q>::value, double, int64_t>;
  const Range r = w.range(outer * m);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const T* row = shared ? edges : edges + item / m * n;
    const C q = convert<C>(queries[item]);
    int64_t low = 0, high = n;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      const C e = convert<C>(row[middle]);
      const bool before = right ? !detail::key_less(q, e) : detail::key_less(e, q);
      low = before ? middle + 1 : low;
      high = before ? high : middle;
    }
    out[item] = I(low);
  }
}

// Number of nonzero elements (NaN is one). Every worker computes the same answer.
template <class T>
int64_t nonzero_count(const T* x, int64_t n) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) count += convert<bool>(x[i]) ? 1 : 0;
  return count;
}

// Coordinates of nonzero elements in row-major order: out[position * position_stride + dim * dim_stride], at most
// `limit`. torch.nonzero: strides (rank, 1); as_tuple or advanced indexing: (1, limit). Worker 0 alone writes.
template <class T>
void nonzero(const Worker& w, const T* x, int rank, const int64_t* size, int64_t* out, int64_t limit,
             int64_t position_stride, int64_t dim_stride) {
  if (w.id != 0) return;
  int64_t n = 1, position = 0;
  for (int d = 0; d < rank; ++d) n *= size[d];
  for (int64_t i = 0; i < n && position < limit; ++i) {
    if (!convert<bool>(x[i])) continue;
    int64_t rest = i;
    for (int d = rank - 1; d >= 0; --d) {
      out[position * position_stride + d * dim_stride] = rest % size[d];
      rest /= size[d];
    }
    ++position;
  }
}

}  // namespace mcomp
