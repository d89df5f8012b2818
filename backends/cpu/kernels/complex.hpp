// Scalar arithmetic on complex64, overloads of the functions of arithmetic.hpp and math.hpp.
//
//     for (int64_t i = r.begin; i < r.end; ++i) y[i] = math::mul(a[i], b[i]);
//     for (int64_t i = r.begin; i < r.end; ++i) y[i] = math::polar(radius[i], angle[i]);
#pragma once

#include "math.hpp"
#include "types.hpp"

namespace mcomp {
namespace math {

inline complex64 add(complex64 a, complex64 b) { return {a.re + b.re, a.im + b.im}; }
inline complex64 sub(complex64 a, complex64 b) { return {a.re - b.re, a.im - b.im}; }
inline complex64 neg(complex64 a) { return {-a.re, -a.im}; }
inline complex64 conj(complex64 a) { return {a.re, -a.im}; }
inline complex64 mul(complex64 a, complex64 b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
inline complex64 square(complex64 a) { return mul(a, a); }
// Quotient by the larger part of the divisor, which avoids overflow of its square (Smith 1962).
inline complex64 div(complex64 a, complex64 b) {
  const bool real = abs(b.re) >= abs(b.im);
  const float large = real ? b.re : b.im, small = real ? b.im : b.re;
  const float ratio = small / large, scale = 1.0f / (large + small * ratio);
  const float re = real ? a.re + a.im * ratio : a.re * ratio + a.im;
  const float im = real ? a.im - a.re * ratio : a.im * ratio - a.re;
  return {re * scale, im * scale};
}
inline complex64 reciprocal(complex64 a) { return div({1.0f, 0.0f}, a); }
inline float abs(complex64 a) { return hypot(a.re, a.im); }
inline float angle(complex64 a) { return atan2(a.im, a.re); }
inline float real(complex64 a) { return a.re; }
inline float imag(complex64 a) { return a.im; }
inline complex64 polar(float radius, float phase) { return {radius * cos(phase), radius * sin(phase)}; }
inline complex64 exp(complex64 a) { return polar(exp(a.re), a.im); }
inline complex64 log(complex64 a) { return {log(abs(a)), angle(a)}; }
inline bool equal(complex64 a, complex64 b) { return a.re == b.re && a.im == b.im; }
inline bool is_nan(complex64 a) { return a.re != a.re || a.im != a.im; }

}  // namespace math
}  // namespace mcomp
