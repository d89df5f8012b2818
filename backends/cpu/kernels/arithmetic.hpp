// Scalar arithmetic with torch's meaning: wrapping integers, Python-style division, NaN-keeping min and max, rounding.
//
// Everything here is branch-free where g++ can vectorize it inside a plain loop. A generator writes
//     for (int64_t i = r.begin; i < r.end; ++i) out[i] = math::clamp(math::add(a[i], b[i]), 0.f, 6.f);
// Integer operands of one call have one type T (int8/16/32/64, uint8). Sums, products and negation wrap.
// Division by zero on integers gives 0 here instead of a trap; torch raises, so pass a Fault to `checked_divisor`.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace mcomp {
namespace math {

template <class T>
using if_int = std::enable_if_t<std::is_integral<T>::value, int>;
template <class T>
using if_float = std::enable_if_t<std::is_floating_point<T>::value, int>;
template <class T>
using wide_unsigned = std::conditional_t<sizeof(T) < 4, uint32_t, std::make_unsigned_t<T>>;

template <class T, if_float<T> = 0>
inline T add(T a, T b) {
  return a + b;
}
template <class T, if_float<T> = 0>
inline T sub(T a, T b) {
  return a - b;
}
template <class T, if_float<T> = 0>
inline T mul(T a, T b) {
  return a * b;
}
template <class T, if_float<T> = 0>
inline T neg(T a) {
  return -a;
}
template <class T, if_int<T> = 0>
inline T add(T a, T b) {
  return T(wide_unsigned<T>(a) + wide_unsigned<T>(b));
}
template <class T, if_int<T> = 0>
inline T sub(T a, T b) {
  return T(wide_unsigned<T>(a) - wide_unsigned<T>(b));
}
template <class T, if_int<T> = 0>
inline T mul(T a, T b) {
  return T(wide_unsigned<T>(a) * wide_unsigned<T>(b));
}
template <class T, if_int<T> = 0>
inline T neg(T a) {
  return T(wide_unsigned<T>(0) - wide_unsigned<T>(a));
}
inline bool add(bool a, bool b) { return a | b; }
inline bool mul(bool a, bool b) { return a & b; }

template <class T, if_float<T> = 0>
inline T abs(T a) {
  return std::fabs(a);
}
template <class T, if_int<T> = 0>
inline T abs(T a) {
  return a < T(0) ? neg(a) : a;
}
inline bool abs(bool a) { return a; }

// Quotient towards zero. 0 where b is 0.
template <class T, if_int<T> = 0>
inline T trunc_div(T a, T b) {
  if (b == T(0)) return T(0);
  if (std::is_signed<T>::value && b == T(-1)) return neg(a);
  return T(a / b);
}
template <class T, if_float<T> = 0>
inline T trunc_div(T a, T b) {
  return std::trunc(a / b);
}

// Remainder with the sign of the dividend (C fmod). 0 where an integer b is 0.
template <class T, if_int<T> = 0>
inline T fmod(T a, T b) {
  if (b == T(0) || (std::is_signed<T>::value && b == T(-1))) return T(0);
  return T(a % b);
}
template <class T, if_float<T> = 0>
inline T fmod(T a, T b) {
  return std::fmod(a, b);
}

// Quotient towards minus infinity, torch.floor_divide.
template <class T, if_int<T> = 0>
inline T floor_div(T a, T b) {
  const T q = trunc_div(a, b), r = fmod(a, b);
  return (r != T(0) && ((r < T(0)) != (b < T(0)))) ? T(q - T(1)) : q;
}
template <class T, if_float<T> = 0>
inline T floor_div(T a, T b) {
  if (b == T(0)) return a / b;
  const T mod = std::fmod(a, b);
  T q = (a - mod) / b;
  if (mod != T(0) && ((b < T(0)) != (mod < T(0)))) q -= T(1);
  if (q == T(0)) return std::copysign(T(0), a / b);
  const T f = std::floor(q);
  return q - f > T(0.5) ? f + T(1) : f;
}

// Remainder with the sign of the divisor, torch.remainder and Python's %.
template <class T, if_int<T> = 0>
inline T remainder(T a, T b) {
  const T r = fmod(a, b);
  return (r != T(0) && ((r < T(0)) != (b < T(0)))) ? T(r + b) : r;
}
template <class T, if_float<T> = 0>
inline T remainder(T a, T b) {
  const T r = std::fmod(a, b);
  return (r != T(0) && ((b < T(0)) != (r < T(0)))) ? r + b : r;
}

// Shifts: an amount outside [0, bits) gives 0 to the left, the sign to the right.
template <class T>
inline T shift_left(T a, T n) {
  const bool outside = n < T(0) || n >= T(sizeof(T) * 8);
  return outside ? T(0) : T(wide_unsigned<T>(a) << (outside ? T(0) : n));
}
template <class T>
inline T shift_right(T a, T n) {
  const T last = T(sizeof(T) * 8 - (std::is_signed<T>::value ? 1 : 0));
  const bool outside = n < T(0) || n >= T(sizeof(T) * 8);
  if (!std::is_signed<T>::value && outside) return T(0);
  return T(a >> (outside ? last : n));
}

// torch.pow on integers by squaring; a negative exponent gives 0 except for bases 1 and -1.
template <class T, if_int<T> = 0>
inline T pow(T base, T exponent) {
  if (exponent < T(0)) {
    if (base == T(1)) return T(1);
    if (base == T(-1)) return (exponent & T(1)) ? T(-1) : T(1);
    return T(0);
  }
  T result = T(1);
  while (exponent != T(0)) {
    if (exponent & T(1)) result = mul(result, base);
    exponent = T(exponent >> 1);
    if (exponent != T(0)) base = mul(base, base);
  }
  return result;
}

template <class T, if_float<T> = 0>
inline bool is_nan(T a) {
  return a != a;
}
template <class T, if_int<T> = 0>
inline bool is_nan(T) {
  return false;
}
template <class T, if_float<T> = 0>
inline bool is_inf(T a) {
  return std::fabs(a) == std::numeric_limits<T>::infinity();
}
template <class T, if_int<T> = 0>
inline bool is_inf(T) {
  return false;
}
template <class T, if_float<T> = 0>
inline bool is_finite(T a) {
  return std::fabs(a) < std::numeric_limits<T>::infinity();
}
template <class T, if_int<T> = 0>
inline bool is_finite(T) {
  return true;
}

// torch.maximum, torch.minimum: NaN if either is NaN.
template <class T>
inline T maximum(T a, T b) {
  return a > b ? a : (is_nan(a) ? a : b);
}
template <class T>
inline T minimum(T a, T b) {
  return a < b ? a : (is_nan(a) ? a : b);
}
// torch.fmax, torch.fmin: the other operand if one is NaN.
template <class T>
inline T fmax(T a, T b) {
  return is_nan(a) ? b : (b > a ? b : a);
}
template <class T>
inline T fmin(T a, T b) {
  return is_nan(a) ? b : (b < a ? b : a);
}
template <class T>
inline T clamp(T x, T low, T high) {
  return minimum(maximum(x, low), high);
}
// The same for bounds that are numbers: NaN stays NaN.
template <class T>
inline T between(T x, T low, T high) {
  const T y = x < low ? low : x;
  return y > high ? high : y;
}

template <class T, if_int<T> = 0>
inline T sign(T a) {
  return T((T(0) < a) - (a < T(0)));
}
// torch.sign: 0 for NaN.
template <class T, if_float<T> = 0>
inline T sign(T a) {
  return a > T(0) ? T(1) : (a < T(0) ? T(-1) : T(0));
}
// torch.sgn on reals is sign; torch.heaviside: `at_zero` where a is 0, NaN stays.
template <class T>
inline T heaviside(T a, T at_zero) {
  return is_nan(a) ? a : (a == T(0) ? at_zero : (a > T(0) ? T(1) : T(0)));
}
template <class T, if_float<T> = 0>
inline T copysign(T a, T b) {
  return std::copysign(a, b);
}
template <class T, if_float<T> = 0>
inline bool signbit(T a) {
  return std::signbit(a);
}
template <class T, if_int<T> = 0>
inline bool signbit(T a) {
  return a < T(0);
}

// Rounding: half to even for `round`. On integers the identity.
inline float round(float a) { return __builtin_rintf(a); }
inline double round(double a) { return __builtin_rint(a); }
inline float floor(float a) { return __builtin_floorf(a); }
inline double floor(double a) { return __builtin_floor(a); }
inline float ceil(float a) { return __builtin_ceilf(a); }
inline double ceil(double a) { return __builtin_ceil(a); }
inline float trunc(float a) { return __builtin_truncf(a); }
inline double trunc(double a) { return __builtin_trunc(a); }
template <class T, if_int<T> = 0>
inline T round(T a) {
  return a;
}
template <class T, if_int<T> = 0>
inline T floor(T a) {
  return a;
}
template <class T, if_int<T> = 0>
inline T ceil(T a) {
  return a;
}
template <class T, if_int<T> = 0>
inline T trunc(T a) {
  return a;
}
template <class T, if_float<T> = 0>
inline T frac(T a) {
  return a - trunc(a);
}

inline float sqrt(float a) { return __builtin_sqrtf(a); }
inline double sqrt(double a) { return __builtin_sqrt(a); }
inline float rsqrt(float a) { return 1.0f / __builtin_sqrtf(a); }
inline double rsqrt(double a) { return 1.0 / __builtin_sqrt(a); }
template <class T, if_float<T> = 0>
inline T reciprocal(T a) {
  return T(1) / a;
}
template <class T>
inline T square(T a) {
  return mul(a, a);
}

// torch.nan_to_num.
template <class T, if_float<T> = 0>
inline T nan_to_num(T a, T nan, T positive, T negative) {
  const T inf = std::numeric_limits<T>::infinity();
  return is_nan(a) ? nan : (a == inf ? positive : (a == -inf ? negative : a));
}
template <class T>
inline T lerp(T a, T b, T w) {
  return std::fabs(w) < T(0.5) ? a + w * (b - a) : b - (b - a) * (T(1) - w);
}

}  // namespace math
}  // namespace mcomp
