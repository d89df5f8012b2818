// A float tensor to bytes with one scale for all of it, found from the data.
//
//   quantize_tensor<float, int8_t>(w, x, n, q, &scale, nullptr, /*symmetric=*/true, scratch);   // scratch: 8 KiB
//
// As quantize_rows_dynamic with a single row, shared by all workers: two passes with a barrier between them.
#pragma once

#include <cstdint>

#include "quantize_rows.hpp"
#include "threads.hpp"

namespace mcomp {

template <class X, class Q>
void quantize_tensor(const Worker& w, const X* x, int64_t n, Q* q, float* scale_out, int32_t* zero_out, bool symmetric,
                     float* scratch) {
  constexpr int32_t low = detail::byte_low<Q>();
  constexpr int kMost = 512;
  const int parts = w.count < kMost ? w.count : kMost;
  const Range all = w.id < parts ? share(n, 64, w.id, parts) : Range{0, 0};
  vf32 least = vset(0.0f), most = vset(0.0f), poison = vset(0.0f);
  for (int64_t i = all.begin; i < all.end; i += kLanes) {
    const vf32 v = all.end - i >= kLanes ? vload(x + i) : vload_n(x + i, all.end - i);
    least = vmin(least, v), most = vmax(most, v), poison = poison + v * 0.0f;
  }
  if (w.id < parts) {
    scratch[3 * w.id] = vreduce_min(least);
    scratch[3 * w.id + 1] = vreduce_max(most);
    scratch[3 * w.id + 2] = vsum(poison);
  }
  w.barrier();
  float lo = 0.0f, hi = 0.0f, bad = 0.0f;
  for (int i = 0; i < parts; ++i) {
    lo = scratch[3 * i] < lo ? scratch[3 * i] : lo;
    hi = scratch[3 * i + 1] > hi ? scratch[3 * i + 1] : hi;
    bad += scratch[3 * i + 2];
  }
  const float span = symmetric ? (hi > -lo ? hi : -lo) : hi - lo;
  float scale = span / (symmetric ? 127.0f : 255.0f);
  if (!(scale > 0.0f)) scale = 1.0f;
  const float inverse = 1.0f / scale;
  int32_t zero = symmetric ? low + 128 : low + static_cast<int32_t>(vround_i32(vset(-lo * inverse))[0]);
  if (bad != 0.0f || bad != bad) zero = low + 128;
  if (w.id == 0) {
    *scale_out = scale + bad;
    if (zero_out != nullptr) *zero_out = zero;
  }
  if (!all.empty())
    detail::quantize_row(x + all.begin, all.size(), q + all.begin, inverse, zero, symmetric ? low + 1 : low, low + 255);
}

}  // namespace mcomp
