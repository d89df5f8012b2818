// Pooling, resizing, grid sampling, random numbers.
#include "grid_sample.hpp"
#include "pool.hpp"
#include "pool_bytes.hpp"
#include "random.hpp"
#include "resize.hpp"
#include "resize_antialias.hpp"

using namespace mcomp;

#define API extern "C" __attribute__((visibility("default")))

// s: batch, channels, then in, out, kernel, stride, pad, dilation (3 each), then channels_last.
static PoolShape pool_shape(const int64_t* s) {
  PoolShape p{s[0], s[1], {}, {}, {}, {}, {}, {}, s[20] != 0};
  for (int d = 0; d < 3; ++d) {
    p.in[d] = s[2 + d], p.out[d] = s[5 + d], p.kernel[d] = s[8 + d];
    p.stride[d] = s[11 + d], p.pad[d] = p.high[d] = s[14 + d], p.dilation[d] = s[17 + d];
  }
  return p;
}
API void pool_f32(int kind, int threads, const int64_t* s, const float* x, float* y, int64_t* indices,
                  int64_t divisor) {
  const PoolShape p = pool_shape(s);
  Pool::run(threads, [&](const Worker& w) {
    if (kind == 0) max_pool(w, p, x, y, indices);
    if (kind == 1) avg_pool(w, p, x, y, true, divisor);
    if (kind == 2) avg_pool(w, p, x, y, false, divisor);
    if (kind == 3) adaptive_avg_pool(w, p, x, y);
    if (kind == 4) adaptive_max_pool(w, p, x, y, indices);
  });
}
API void max_pool_u8(int threads, const int64_t* s, const uint8_t* x, uint8_t* y) {
  const PoolShape p = pool_shape(s);
  Pool::run(threads, [&](const Worker& w) { max_pool(w, p, x, y); });
}
API void max_pool_i8(int threads, const int64_t* s, const int8_t* x, int8_t* y) {
  const PoolShape p = pool_shape(s);
  Pool::run(threads, [&](const Worker& w) { max_pool(w, p, x, y); });
}
// size: in and out of 3 axes; scale: 3 scale factors, 0 for none.
API void resize_f32(int mode, int align, int threads, const float* x, float* y, int64_t outer, int64_t inner,
                    const int64_t* size, const double* scale) {
  ResizeAxis axis[3];
  for (int d = 0; d < 3; ++d) axis[d] = resize_axis(size[2 * d], size[2 * d + 1], align != 0, scale[d]);
  Pool::run(threads, [&](const Worker& w) { resize(w, x, y, outer, inner, axis, ResizeMode(mode)); });
}
API void grid_f32(int mode, int padding, int align, int threads, const float* x, const float* grid, float* y,
                  const int64_t* s) {
  const GridShape shape{s[0], s[1], s[2], s[3], s[4], s[5], align != 0};
  Pool::run(threads, [&](const Worker& w) { grid_sample(w, shape, x, grid, y, GridMode(mode), GridPadding(padding)); });
}
API void random_f32(int kind, int threads, float* y, int64_t n, uint64_t seed, uint64_t stream, const float* p) {
  Pool::run(threads, [&](const Worker& w) {
    if (kind == 0) uniform(w, y, n, seed, stream, -1.0f, 3.0f);
    if (kind == 1) normal(w, y, n, seed, stream, 2.0f, 0.5f);
    if (kind == 2) bernoulli(w, p, y, n, seed, stream);
  });
}
API void random_i64(int64_t* y, int64_t n, uint64_t seed, int64_t low, int64_t high) {
  random_integers(Worker{}, y, n, seed, 0, low, high);
}
API void antialias_f32(int mode, int align, int threads, const float* x, float* y, int64_t outer, int64_t inner,
                       const int64_t* size) {
  const ResizeAxis axis[] = {resize_axis(size[0], size[1], align != 0, 0.0),
                             resize_axis(size[2], size[3], align != 0, 0.0)};
  Pool::run(threads, [&](const Worker& w) { resize_antialias(w, x, y, outer, inner, axis, ResizeMode(mode)); });
}
API void average_bytes_f32(int adaptive, int is_signed, int threads, const int64_t* s, const void* x, float scale,
                           int zero, int include, int64_t divisor, float* y) {
  const PoolShape p = pool_shape(s);
  const StoreAverages store{y};
  Pool::run(threads, [&](const Worker& w) {
    const auto run = [&](const auto* from) {
      if (adaptive) return average_bytes<true>(w, p, from, scale, zero, false, 0, store);
      average_bytes<false>(w, p, from, scale, zero, include != 0, divisor, store);
    };
    if (is_signed) return run(static_cast<const int8_t*>(x));
    run(static_cast<const uint8_t*>(x));
  });
}
API void average_bytes_u8(int threads, const int64_t* s, const int8_t* x, float scale, int zero, float inverse,
                          int to_zero, uint8_t* y) {
  const PoolShape p = pool_shape(s);
  const StoreAverageBytes<uint8_t> store{y, inverse, to_zero, 0, 255};
  Pool::run(threads, [&](const Worker& w) { average_bytes<true>(w, p, x, scale, zero, false, 0, store); });
}
