// Entry points of depthwise_i8.hpp and depthwise_square.hpp for tests/cpu/test_kernels_conv.py.
#include "depthwise_i8.hpp"
#include "depthwise_square.hpp"
#include "driver.hpp"

using namespace mcomp;

template <int K, int S, class A>
static void run_square_i8(int threads, const A* x, const int8_t* weight, const ConvShape* s, float scale, int32_t zero,
                          const float* column_scale, const float* bias, float* floats, uint8_t* bytes) {
  constexpr int P = 4;
  Guarded packed(packed_depthwise_bytes<K>(s->in_channels)), scratch(depthwise_bytes_scratch<K, S, P>(*s, threads));
  const Scales8 q{&scale, &zero, column_scale, nullptr};
  Pool::run(threads, [&](const Worker& w) {
    pack_depthwise_bytes<K>(w, packed.as<int8_t>(), weight, *s);
    w.barrier();
    if constexpr (std::is_same<A, int8_t>::value)
      depthwise_bytes<K, S, P>(w, x, packed.as<int8_t>(), *s, q, StoreF32{floats, s->out_channels}, scratch.as<void>());
    else
      depthwise_bytes<K, S, P>(w, x, packed.as<int8_t>(), *s, q,
                               Requantize<uint8_t>{bytes, s->out_channels, bias, 0.125f, 9, -4.5f, 240.0f},
                               scratch.as<void>());
  });
}
EXPORT void square_s8(int threads, const int8_t* x, const int8_t* weight, const ConvShape* s, float scale, int32_t zero,
                      const float* column_scale, float* out) {
  auto run = s->kernel[2] == 3 ? run_square_i8<3, 1, int8_t> : run_square_i8<5, 2, int8_t>;
  run(threads, x, weight, s, scale, zero, column_scale, nullptr, out, nullptr);
}
// With inverse 1 / 8, zero point 9 and the clamp [-4.5, 240].
EXPORT void square_to_bytes(int threads, const uint8_t* x, const int8_t* weight, const ConvShape* s, float scale,
                            int32_t zero, const float* column_scale, const float* bias, uint8_t* out) {
  auto run = s->kernel[2] == 3   ? run_square_i8<3, 2, uint8_t>
             : s->kernel[2] == 5 ? run_square_i8<5, 1, uint8_t>
                                 : run_square_i8<7, 1, uint8_t>;
  run(threads, x, weight, s, scale, zero, column_scale, bias, nullptr, out);
}

template <int K, int S>
static void run_square(int threads, const float* x, const float* weight, const ConvShape* s, const float* bias,
                       float* out) {
  Guarded packed(K * K * s->in_channels * 4), scratch(depthwise_square_scratch<K, S, 7>(*s, threads));
  Pool::run(threads, [&](const Worker& w) {
    pack_depthwise(w, packed.as<float>(), weight, *s);
    w.barrier();
    depthwise_square<K, S, 7>(w, x, packed.as<float>(), *s, StoreF32{out, s->out_channels, bias}, scratch.as<void>());
  });
}
EXPORT void square_float(int threads, const float* x, const float* weight, const ConvShape* s, const float* bias,
                         float* out) {
  const int64_t kind = s->kernel[2] * 10 + s->stride[2];
  auto run = kind == 31 ? run_square<3, 1> : kind == 32 ? run_square<3, 2> : kind == 51 ? run_square<5, 1> : run_square<5, 2>;
  run(threads, x, weight, s, bias, out);
}
