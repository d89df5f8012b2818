// Elementary functions for float (vectorizable, branch-free) and double (the C library's).
//
// Plain loops over these vectorize on every ISA, so fused element-wise code is written as scalar expressions:
//     #include "kernels/math.hpp"
//     const Range r = w.range(n, 64);
//     for (int64_t i = r.begin; i < r.end; ++i) out[i] = math::gelu_erf(a[i] + b[i]);
// Float results are within the given number of units in the last place of the exact value over all floats, denormals,
// zeros, infinities and NaN included: exp, exp2, log, log2, log10, log1p, expm1, sin, cos: 2; tan: 4; tanh, erf: 6;
// pow: 1. Polynomials and rationals are least-maximum fits to the named function on the reduced range.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "arithmetic.hpp"

namespace mcomp {
namespace math {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

inline int32_t bits_of(float x) {
  int32_t b;
  std::memcpy(&b, &x, 4);
  return b;
}
inline float float_of(int32_t b) {
  float x;
  std::memcpy(&x, &b, 4);
  return x;
}
inline int64_t bits_of(double x) {
  int64_t b;
  std::memcpy(&b, &x, 8);
  return b;
}
inline double double_of(int64_t b) {
  double x;
  std::memcpy(&x, &b, 8);
  return x;
}

namespace detail {

// Adding this constant rounds a float of magnitude below 2^22 to the nearest integer, left in the low mantissa bits.
constexpr float kRound = 12582912.0f;
constexpr int32_t kRoundBits = 0x4b400000;
constexpr double kRoundD = 6755399441055744.0;
constexpr float kLog2E = 1.44269504f;
constexpr float kLn2Hi = 0.693359375f;
constexpr float kLn2Lo = -2.12194440e-4f;

// 2^n for n in [-126, 127].
inline float power_of_two(int32_t n) { return float_of(int32_t(uint32_t(n + 127) << 23)); }

struct Reduced {
  float r;    // x - n ln 2, |r| <= ln 2 / 2
  int32_t n;  // nearest integer to x / ln 2
};
inline Reduced reduce_ln2(float x) {
  const float t = x * kLog2E + kRound;
  const float k = t - kRound;
  return {(x - k * kLn2Hi) - k * kLn2Lo, bits_of(t) - kRoundBits};
}
// exp(r) - 1 for |r| <= ln 2 / 2.
inline float expm1_reduced(float r) {
  float q = 1.99183851e-4f;
  q = q * r + 1.39460736e-3f;
  q = q * r + 8.33326392e-3f;
  q = q * r + 4.16662693e-2f;
  q = q * r + 0.166666672f;
  q = q * r + 0.5f;
  return q * (r * r) + r;
}

struct Mantissa {
  float f;  // m - 1, m in [sqrt(1/2), sqrt(2))
  float e;  // exponent: x = m 2^e
};
inline Mantissa split(float x) {
  const bool tiny = x < 1.17549435e-38f;
  const int32_t b = bits_of(tiny ? x * 8388608.0f : x);
  const int32_t e = (b - 0x3f3504f3) >> 23;
  const float m = float_of(b - int32_t(uint32_t(e) << 23));
  return {m - 1.0f, float(e) - (tiny ? 23.0f : 0.0f)};
}
// log(1 + f) - f for f in [sqrt(1/2) - 1, sqrt(2) - 1].
inline float log1p_tail(float f) {
  float q = 6.74663857e-2f;
  q = q * f - 0.116756514f;
  q = q * f + 0.118881628f;
  q = q * f - 0.124055892f;
  q = q * f + 0.142195523f;
  q = q * f - 0.166679963f;
  q = q * f + 0.200021192f;
  q = q * f - 0.250000089f;
  q = q * f + 0.333333135f;
  const float s = f * f;
  return q * (s * f) - 0.5f * s;
}
// The value of a logarithm at x, given `r` for positive finite x.
inline float log_limits(float x, float r) {
  const float special = x == 0.0f ? -kInf : (x < 0.0f ? kNan : x);
  r = x > 0.0f ? r : special;
  return x < kInf ? r : special;
}

}  // namespace detail

inline float exp(float x) {
  x = x > 89.0f ? 89.0f : x;
  x = x < -104.0f ? -104.0f : x;
  const detail::Reduced d = detail::reduce_ln2(x);
  const float p = 1.0f + detail::expm1_reduced(d.r);
  const int32_t half = d.n >> 1;
  return p * detail::power_of_two(half) * detail::power_of_two(d.n - half);
}
inline double exp(double x) { return std::exp(x); }

// exp for x <= 0 (or NaN), cheaper: results below the smallest normal float are 0.
inline float exp_nonpositive(float x) {
  const float c = x < -87.33f ? -87.33f : x;
  const detail::Reduced d = detail::reduce_ln2(c);
  const float y = (1.0f + detail::expm1_reduced(d.r)) * detail::power_of_two(d.n);
  return x < -87.33f ? 0.0f : y;
}
inline double exp_nonpositive(double x) { return std::exp(x); }

inline float exp2(float x) {
  x = x > 129.0f ? 129.0f : x;
  x = x < -151.0f ? -151.0f : x;
  const float t = x + detail::kRound;
  const float r = x - (t - detail::kRound);
  float q = 1.53149522e-5f;
  q = q * r + 1.54671128e-4f;
  q = q * r + 1.3333431e-3f;
  q = q * r + 9.61803645e-3f;
  q = q * r + 5.55041097e-2f;
  q = q * r + 0.240226507f;
  q = q * r + 0.693147182f;
  const int32_t n = bits_of(t) - detail::kRoundBits;
  const int32_t half = n >> 1;
  return (1.0f + q * r) * detail::power_of_two(half) * detail::power_of_two(n - half);
}
inline double exp2(double x) { return std::exp2(x); }

inline float expm1(float x) {
  const float zero = x;
  x = x > 89.0f ? 89.0f : x;
  x = x < -18.0f ? -18.0f : x;
  const detail::Reduced d = detail::reduce_ln2(x);
  const float half = detail::power_of_two(d.n - 1);
  const float y = (detail::expm1_reduced(d.r) * half + (half - 0.5f)) * 2.0f;
  return zero == 0.0f ? zero : y;
}
inline double expm1(double x) { return std::expm1(x); }

inline float log(float x) {
  const detail::Mantissa d = detail::split(x);
  const float r = d.e * detail::kLn2Hi + (d.f + (detail::log1p_tail(d.f) + d.e * detail::kLn2Lo));
  return detail::log_limits(x, r);
}
inline double log(double x) { return std::log(x); }

// A logarithm in another base b: scale + scale_low is 1 / ln b, unit + unit_low is ln 2 / ln b; scale and unit have 12
// significant bits, so that their products with 12-bit factors are exact.
namespace detail {
inline float log_in_base(float x, float scale, float scale_low, float unit, float unit_low) {
  const Mantissa d = split(x);
  const float tail = log1p_tail(d.f);
  const float f_hi = float_of(bits_of(d.f) & ~0xfff);
  const float f_lo = d.f - f_hi;
  const float small = (tail + f_lo) * scale + (f_hi * scale_low + tail * scale_low) + d.e * unit_low;
  return log_limits(x, d.e * unit + (f_hi * scale + small));
}
}  // namespace detail

inline float log2(float x) { return detail::log_in_base(x, 1.44287109375f, -1.76053039e-4f, 1.0f, 0.0f); }
inline double log2(double x) { return std::log2(x); }
inline float log10(float x) {
  return detail::log_in_base(x, 0.434326171875f, -3.1689971e-5f, 0.301025390625f, 4.6050390e-6f);
}
inline double log10(double x) { return std::log10(x); }

inline float log1p(float x) {
  const float u = 1.0f + x;
  const detail::Mantissa d = detail::split(u);
  const float lost = (x - (u - 1.0f)) / u;
  const float r = d.e * detail::kLn2Hi + (d.f + ((detail::log1p_tail(d.f) + lost) + d.e * detail::kLn2Lo));
  const float limited = detail::log_limits(u, r);
  return std::fabs(x) < 5.0e-8f ? x : limited;
}
inline double log1p(double x) { return std::log1p(x); }

// tanh(x) = x P(x^2) / Q(x^2) on |x| <= 9.02, beyond which the nearest float is 1.
inline float tanh(float x) {
  const float t = x * x;
  float p = 5.07624008e-8f;
  p = p * t + 3.15891106e-5f;
  p = p * t + 4.00851105e-3f;
  p = p * t + 0.137853656f;
  p = p * t + 1.0f;
  float q = 7.37447148e-10f;
  q = q * t + 1.61748929e-6f;
  q = q * t + 4.20741138e-4f;
  q = q * t + 2.77375196e-2f;
  q = q * t + 0.47118698f;
  q = q * t + 1.0f;
  const float y = x * p / q;
  const float high = (x > 9.02f || y > 1.0f) ? 1.0f : y;
  return (x < -9.02f || y < -1.0f) ? -1.0f : high;
}
inline double tanh(double x) { return std::tanh(x); }

// erf(x) = x P(x^2) / Q(x^2) on |x| <= 3.95, beyond which the nearest float is 1.
inline float erf(float x) {
  const float t = x * x;
  float p = 2.02590938e-6f;
  p = p * t + 2.84688336e-4f;
  p = p * t + 3.80817588e-3f;
  p = p * t + 5.28754904e-2f;
  p = p * t + 0.191550608f;
  p = p * t + 1.12837914f;
  float q = 3.78318469e-5f;
  q = q * t + 1.17072979e-3f;
  q = q * t + 1.50551178e-2f;
  q = q * t + 0.114559751f;
  q = q * t + 0.503089982f;
  q = q * t + 1.0f;
  const float y = x * p / q;
  const float high = (x > 3.95f || y > 1.0f) ? 1.0f : y;
  return (x < -3.95f || y < -1.0f) ? -1.0f : high;
}
inline double erf(double x) { return std::erf(x); }

namespace detail {

// log2(x) for positive finite x (a float widened), relative error 1e-13.
inline double log2_wide(double x) {
  const int64_t b = bits_of(x);
  const int64_t e = int64_t(uint64_t(b + (0x3ff0000000000000LL - 0x3fe6a09e667f3bcdLL)) >> 52) - 1023;
  const double m = double_of(b - int64_t(uint64_t(e) << 52));
  const double s = (m - 1.0) / (m + 1.0), t = s * s;
  double q = 0.097927643910264373;
  q = q * t + 0.11088049539686001;
  q = q * t + 0.14286055574106596;
  q = q * t + 0.19999997802317498;
  q = q * t + 0.33333333337923249;
  const double k = double_of(e + 0x4338000000000000LL) - kRoundD;
  return k + (s + s * (t * q)) * 2.8853900817779268;
}
// 2^x rounded to float: overflow gives infinity, underflow a denormal or 0.
inline float exp2_narrow(double x) {
  x = x > 130.0 ? 130.0 : x;
  x = x < -160.0 ? -160.0 : x;
  const double t = x + kRoundD;
  const double r = x - (t - kRoundD);
  double q = 1.5314951508659989e-05;
  q = q * r + 1.5467112705044633e-4;
  q = q * r + 1.3333430767820439e-3;
  q = q * r + 9.6180369041562429e-3;
  q = q * r + 5.5504109625931233e-2;
  q = q * r + 0.2402265107589299;
  q = q * r + 0.69314718054164914;
  const int64_t scale = int64_t(uint64_t(bits_of(t) - 0x4338000000000000LL + 1023) << 52);
  return float((1.0 + q * r) * double_of(scale));
}

}  // namespace detail

// C's pow: 1 where x is 1 or y is 0, NaN for a negative finite x with a fractional y.
inline float pow(float x, float y) {
  const float ax = std::fabs(x);
  const bool regular = ax > 0.0f && ax < kInf;
  const double l = detail::log2_wide(double(regular ? ax : 1.0f));
  float r = detail::exp2_narrow(l * double(y));
  const float edge = (ax == 0.0f) == (y < 0.0f) ? kInf : 0.0f;  // |x| is 0 or infinite
  r = regular ? r : edge;
  const float ay = std::fabs(y);
  const float whole = trunc(y), half = y * 0.5f;
  const bool odd = ay < 16777216.0f && whole == y && trunc(half) != half;
  const bool integral = whole == y;
  r = odd ? float_of(bits_of(r) | (bits_of(x) & int32_t(0x80000000))) : r;
  r = (x < 0.0f && ax < kInf && !integral) ? kNan : r;
  r = (x != x || y != y) ? kNan : r;
  r = (ax == 1.0f && ay == kInf) ? 1.0f : r;
  return (y == 0.0f || x == 1.0f) ? 1.0f : r;
}
inline double pow(double x, double y) { return std::pow(x, y); }

// C library functions for operators too rare to vectorize.
#define MCOMP_LIBRARY(name)                           \
  inline float name(float x) { return std::name(x); } \
  inline double name(double x) { return std::name(x); }
MCOMP_LIBRARY(asin)
MCOMP_LIBRARY(acos)
MCOMP_LIBRARY(atan)
MCOMP_LIBRARY(sinh)
MCOMP_LIBRARY(cosh)
MCOMP_LIBRARY(asinh)
MCOMP_LIBRARY(acosh)
MCOMP_LIBRARY(atanh)
MCOMP_LIBRARY(erfc)
MCOMP_LIBRARY(lgamma)
#undef MCOMP_LIBRARY
inline float atan2(float y, float x) { return std::atan2(y, x); }
inline double atan2(double y, double x) { return std::atan2(y, x); }
inline float nextafter(float x, float y) { return std::nextafter(x, y); }
inline double nextafter(double x, double y) { return std::nextafter(x, y); }
inline float hypot(float x, float y) { return std::hypot(x, y); }
inline double hypot(double x, double y) { return std::hypot(x, y); }

// Inverse of erf: an estimate (Winitzki 2008) and three Newton steps in double.
inline double erfinv(double y) {
  if (!(std::fabs(y) < 1.0)) return std::fabs(y) == 1.0 ? y * std::numeric_limits<double>::infinity() : kNan;
  const double l = std::log1p(-y * y), b = 4.330746750799873 + 0.5 * l;
  double x = std::copysign(std::sqrt(std::sqrt(b * b - l / 0.147) - b), y);
  for (int i = 0; i < 3; ++i) {
    const double miss = y > 0.5 ? (1.0 - y) - std::erfc(x) : y < -0.5 ? std::erfc(-x) - (1.0 + y) : std::erf(x) - y;
    x -= miss * 0.88622692545275801365 * std::exp(x * x);
  }
  return x;
}
inline float erfinv(float y) { return float(erfinv(double(y))); }

// Logarithmic derivative of gamma: recurrence up to 10, then the asymptotic series (Abramowitz and Stegun 6.3.18).
inline double digamma(double x) {
  if (x == 0.0) return std::copysign(std::numeric_limits<double>::infinity(), -x);
  double result = 0.0;
  if (x < 0.0) {
    const double whole = std::trunc(x);
    if (x == whole) return kNan;
    result = -3.14159265358979323846 / std::tan(3.14159265358979323846 * (x - whole));
    x = 1.0 - x;
  }
  for (; x < 10.0; x += 1.0) result -= 1.0 / x;
  const double z = 1.0 / (x * x);
  double series = 8.33333333333333333333e-2;
  series = series * z - 2.10927960927960927961e-2;
  series = series * z + 7.57575757575757575758e-3;
  series = series * z - 4.16666666666666666667e-3;
  series = series * z + 3.96825396825396825397e-3;
  series = series * z - 8.33333333333333333333e-3;
  series = series * z + 8.33333333333333333333e-2;
  return result + std::log(x) - 0.5 / x - (x < 1.0e17 ? z * series : 0.0);
}
inline float digamma(float x) { return float(digamma(double(x))); }

}  // namespace math
}  // namespace mcomp

#include "trigonometry.hpp"
#include "activation.hpp"
