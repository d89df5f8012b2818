// Activation functions, scalar and vectorizable; included by math.hpp. Names and limits are torch.nn.functional's.
//
//     for (int64_t i = r.begin; i < r.end; ++i) out[i] = math::silu(x[i]) * gate[i];
// Absolute error against the exact value: below 1e-6 max(1, |x|) in float.
#pragma once

#include "math.hpp"

namespace mcomp {
namespace math {

template <class T>
inline T relu(T x) {
  return x < T(0) ? T(0) : x;
}
template <class T>
inline T relu6(T x) {
  return clamp(x, T(0), T(6));
}
template <class T>
inline T leaky_relu(T x, T slope) {
  return x > T(0) ? x : x * slope;
}
template <class T>
inline T threshold(T x, T limit, T value) {
  return x <= limit ? value : x;
}
template <class T>
inline T hardtanh(T x, T low, T high) {
  return clamp(x, low, high);
}

template <class T>
inline T sigmoid(T x) {
  return T(1) / (T(1) + exp(-x));
}
template <class T>
inline T silu(T x) {
  return x / (T(1) + exp(-x));
}
template <class T>
inline T log_sigmoid(T x) {
  const T low = x < T(0) ? x : (x != x ? x : T(0));
  return low - log1p(exp(-abs(x)));
}
// log(1 + exp(beta x)) / beta, x itself where beta x > threshold.
template <class T>
inline T softplus(T x, T beta = T(1), T limit = T(20)) {
  const T z = x * beta;
  const T y = log1p(exp(z)) / beta;
  return z > limit ? x : y;
}
template <class T>
inline T mish(T x) {
  return x * tanh(log1p(exp(x)));
}
template <class T>
inline T softsign(T x) {
  return x / (T(1) + abs(x));
}
template <class T>
inline T tanhshrink(T x) {
  return x - tanh(x);
}
template <class T>
inline T hardshrink(T x, T limit) {
  return (x >= -limit && x <= limit) ? T(0) : x;
}
template <class T>
inline T softshrink(T x, T limit) {
  return x > limit ? x - limit : (x < -limit ? x + limit : (x != x ? x : T(0)));
}

template <class T>
inline T gelu_erf(T x) {
  return x * T(0.5) * (T(1) + erf(x * T(0.70710678118654752440)));
}
// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
template <class T>
inline T gelu_tanh(T x) {
  const T u = T(0.79788456080286535588) * (x + T(0.044715) * (x * x * x));
  return T(0.5) * x * (T(1) + tanh(u));
}
template <class T>
inline T quick_gelu(T x) {
  return x / (T(1) + exp(T(-1.702) * x));
}

template <class T>
inline T hardsigmoid(T x) {
  return clamp(x + T(3), T(0), T(6)) / T(6);
}
template <class T>
inline T hardswish(T x) {
  return x * clamp(x + T(3), T(0), T(6)) / T(6);
}
template <class T>
inline T elu(T x, T alpha = T(1), T scale = T(1), T input_scale = T(1)) {
  return x > T(0) ? x * scale : expm1(x * input_scale) * (alpha * scale);
}
template <class T>
inline T celu(T x, T alpha = T(1)) {
  return x > T(0) ? x : alpha * expm1(x / alpha);
}
template <class T>
inline T selu(T x) {
  return elu(x, T(1.6732632423543772848170429916717), T(1.0507009873554804934193349852946));
}

template <class T>
inline T logit(T x) {
  return log(x / (T(1) - x));
}
template <class T>
inline T xlogy(T x, T y) {
  const T v = x * log(y);
  return y != y ? y : (x == T(0) ? T(0) : v);
}
template <class T>
inline T logaddexp(T a, T b) {
  const T high = maximum(a, b);
  const T v = high + log1p(exp(-abs(a - b)));
  return (a == b && is_inf(a)) ? a : v;
}

}  // namespace math
}  // namespace mcomp
