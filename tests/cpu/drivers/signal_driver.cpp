// Fourier transforms, complex numbers, rotary embedding, special functions, median, multinomial.
#include "complex.hpp"
#include "fft.hpp"
#include "random.hpp"
#include "rope.hpp"
#include "sort.hpp"

using namespace mcomp;

#define API extern "C" __attribute__((visibility("default")))

API void fft_c64(int kind, int threads, const void* x, void* y, int64_t o, int64_t n, int64_t i, float scale) {
  Pool::run(threads, [&](const Worker& w) {
    if (kind == 2) return rfft(w, static_cast<const float*>(x), static_cast<complex64*>(y), o, n, i, scale);
    if (kind == 3) return irfft(w, static_cast<const complex64*>(x), static_cast<float*>(y), o, n, i, scale);
    fft(w, static_cast<const complex64*>(x), static_cast<complex64*>(y), o, n, i, kind == 1, scale);
  });
}
API void complex_binary(int kind, const complex64* a, const complex64* b, complex64* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    if (kind == 0) y[i] = math::add(a[i], b[i]);
    if (kind == 1) y[i] = math::mul(a[i], b[i]);
    if (kind == 2) y[i] = math::div(a[i], b[i]);
    if (kind == 3) y[i] = math::exp(a[i]);
    if (kind == 4) y[i] = math::log(a[i]);
    if (kind == 5) y[i] = {math::abs(a[i]), math::angle(a[i])};
  }
}
// s: sizes (3), dim, strides of x, cos, sin, y (3 each), interleaved.
API void rope_f32(int threads, const int64_t* s, const float* x, const float* cos, const float* sin, float* y) {
  const RopeShape shape{{s[0], s[1], s[2]},    {s[3]},    {s[4], s[5], s[6]}, {s[7], s[8], s[9]}, {s[10], s[11], s[12]},
                        {s[13], s[14], s[15]}, s[16] != 0};
  Pool::run(threads, [&](const Worker& w) { rope(w, shape, x, cos, sin, y); });
}
API void special_f64(int kind, const double* x, double* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = kind ? math::digamma(x[i]) : math::erfinv(x[i]);
}
API void median_f32(const float* x, float* v, int64_t* k, int64_t o, int64_t n, int64_t i) {
  median(Worker{}, x, v, k, o, n, i);
}
API void multinomial_f32(const float* p, int64_t* y, int64_t rows, int64_t n, int64_t samples, int again, uint64_t seed,
                         int32_t* slot) {
  multinomial(Worker{}, p, y, rows, n, samples, again != 0, seed, 0, Fault{slot, 7});
}
