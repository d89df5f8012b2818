// Discrete Fourier transforms along the middle of [outer, n, inner].
//
//     fft(w, x, y, outer, n, inner, /*inverse=*/false, scale);         // complex64 to complex64; y may be x
//     rfft(w, x, y, outer, n, inner, scale);                           // float to the first n / 2 + 1 terms
//     irfft(w, x, y, outer, n, inner, scale);                          // n / 2 + 1 terms to n floats
// The result is multiplied by scale: 1, 1 / n or 1 / sqrt(n). Any n: the factors of n one after another, in double; a
// prime factor p costs p operations an element. Each worker needs 5 n doubles of heap memory (aborts when there is
// none).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>

#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

namespace detail {

struct Complex {
  double re, im;
};

// Work space for transforms of one length: a line, its result and the powers of exp(-2 pi i / n).
class FourierPlan {
 public:
  explicit FourierPlan(int64_t n)
      : n_(n), data_(static_cast<Complex*>(std::malloc(size_t(3 * n + 1) * sizeof(Complex)))) {
    if (data_ == nullptr) std::abort();
    for (int64_t k = 0; k < n; ++k) {
      const double angle = -6.283185307179586476925 * double(k) / double(n);
      data_[2 * n + k] = {std::cos(angle), std::sin(angle)};
    }
  }
  ~FourierPlan() { std::free(data_); }
  FourierPlan(const FourierPlan&) = delete;
  FourierPlan& operator=(const FourierPlan&) = delete;

  Complex* line() { return data_; }

  // Transforms line() (Stockham's order, factor by factor) and returns where the result is.
  const Complex* run(bool inverse) {
    Complex *from = data_, *to = data_ + n_;
    int64_t done = 1;
    for (int64_t rest = n_, p = 2; rest > 1; rest /= p, done *= p) {
      while (rest % p != 0) p = p * p > rest ? rest : p + 1;
      pass(from, to, p, done, inverse);
      Complex* swap = from;
      from = to;
      to = swap;
    }
    return from;
  }

 private:
  // Joins p transforms of length `done` each into one of length p * done, for all n / (p * done) groups.
  void pass(const Complex* from, Complex* to, int64_t p, int64_t done, bool inverse) const {
    const Complex* power = data_ + 2 * n_;
    const int64_t groups = n_ / (p * done), step = n_ / (p * done);
    for (int64_t j = 0; j < done; ++j)
      for (int64_t q = 0; q < p; ++q) {
        const int64_t turn = (j + q * done) * step % n_;
        for (int64_t g = 0; g < groups; ++g) {
          Complex sum{0.0, 0.0};
          int64_t at = 0;
          for (int64_t k = 0; k < p; ++k) {
            const Complex v = from[(j * p + k) * groups + g];
            const Complex t = power[at];
            const double im = inverse ? -t.im : t.im;
            sum.re += v.re * t.re - v.im * im;
            sum.im += v.re * im + v.im * t.re;
            at += turn;
            if (at >= n_) at -= n_;
          }
          to[(j + q * done) * groups + g] = sum;
        }
      }
  }

  int64_t n_;
  Complex* data_;
};

}  // namespace detail

inline void fft(const Worker& w, const complex64* x, complex64* y, int64_t outer, int64_t n, int64_t inner,
                bool inverse, float scale) {
  const Range r = w.range(outer * inner);
  if (r.empty() || n == 0) return;
  detail::FourierPlan plan(n);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t at = item / inner * n * inner + item % inner;
    for (int64_t i = 0; i < n; ++i) plan.line()[i] = {x[at + i * inner].re, x[at + i * inner].im};
    const detail::Complex* result = plan.run(inverse);
    for (int64_t i = 0; i < n; ++i) y[at + i * inner] = {float(result[i].re * scale), float(result[i].im * scale)};
  }
}

inline void rfft(const Worker& w, const float* x, complex64* y, int64_t outer, int64_t n, int64_t inner, float scale) {
  const Range r = w.range(outer * inner);
  if (r.empty() || n == 0) return;
  detail::FourierPlan plan(n);
  const int64_t terms = n / 2 + 1;
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t from = item / inner * n * inner + item % inner, to = item / inner * terms * inner + item % inner;
    for (int64_t i = 0; i < n; ++i) plan.line()[i] = {x[from + i * inner], 0.0};
    const detail::Complex* result = plan.run(false);
    for (int64_t i = 0; i < terms; ++i) y[to + i * inner] = {float(result[i].re * scale), float(result[i].im * scale)};
  }
}

inline void irfft(const Worker& w, const complex64* x, float* y, int64_t outer, int64_t n, int64_t inner, float scale) {
  const Range r = w.range(outer * inner);
  if (r.empty() || n == 0) return;
  detail::FourierPlan plan(n);
  const int64_t terms = n / 2 + 1;
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t from = item / inner * terms * inner + item % inner, to = item / inner * n * inner + item % inner;
    for (int64_t i = 0; i < n; ++i) {
      const bool mirrored = i >= terms;
      const complex64 v = x[from + (mirrored ? n - i : i) * inner];
      plan.line()[i] = {v.re, mirrored ? -v.im : v.im};
    }
    plan.line()[0].im = 0.0;
    if (n % 2 == 0) plan.line()[n / 2].im = 0.0;
    const detail::Complex* result = plan.run(true);
    for (int64_t i = 0; i < n; ++i) y[to + i * inner] = float(result[i].re * scale);
  }
}

}  // namespace mcomp
