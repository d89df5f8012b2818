// Entry points of conv.hpp, conv_i8.hpp and depthwise.hpp for tests/cpu/test_kernels_conv.py.
#include "conv.hpp"
#include "conv_i8.hpp"
#include "depthwise.hpp"
#include "driver.hpp"

using namespace mcomp;

template <class A>
static void run_conv(int threads, const A* x, const float* weight, const ConvShape* s, const float* bias, float* out) {
  using T = DefaultTile;
  Guarded packed(packed_conv_elements<T, float>(*s) * 4), scratch(conv_f32_scratch_bytes(*s, threads));
  Pool::run(threads, [&](const Worker& w) {
    pack_conv<T, float>(w, packed.as<float>(), weight, *s);
    w.barrier();
    conv_f32<T>(w, x, packed.as<float>(), *s, StoreF32{out, s->out_channels, bias}, scratch.as<void>());
  });
}
EXPORT void conv_float(int threads, const float* x, const float* weight, const ConvShape* s, const float* bias,
                       float* out) {
  run_conv(threads, x, weight, s, bias, out);
}
EXPORT void conv_bf16(int threads, const bf16* x, const float* weight, const ConvShape* s, const float* bias,
                      float* out) {
  run_conv(threads, x, weight, s, bias, out);
}
EXPORT void conv_transposed_float(int threads, const float* x, const float* weight, const ConvShape* s,
                                  const float* bias, float* out) {
  using T = DefaultTile;
  Guarded packed(packed_conv_transposed_elements<T, float>(*s) * 4),
      scratch(conv_transposed_f32_scratch_bytes(*s, threads));
  Pool::run(threads, [&](const Worker& w) {
    pack_conv_transposed<T, float>(w, packed.as<float>(), weight, *s);
    w.barrier();
    conv_transposed_f32<T>(w, x, packed.as<float>(), *s, StoreF32{out, s->out_channels, bias}, scratch.as<void>());
  });
}

template <class A>
static void run_conv_i8(int threads, const A* x, const int8_t* weight, const ConvShape* s, float scale, int32_t zero,
                        const float* column_scale, float* out) {
  using T = MCOMP_TEST_BYTES;
  Guarded packed(packed_conv_i8_bytes<T>(*s)), sums(s->out_channels * 4), scratch(conv_i8_scratch_bytes(*s, threads));
  const Scales8 q{&scale, &zero, column_scale, sums.as<int32_t>()};
  Pool::run(threads, [&](const Worker& w) {
    pack_conv_i8<T>(w, packed.as<int8_t>(), sums.as<int32_t>(), weight, *s);
    w.barrier();
    conv_i8<T>(w, x, packed.as<int8_t>(), *s, q, StoreF32{out, s->out_channels}, scratch.as<void>());
  });
}

template <class A>
static void run_conv_transposed_i8(int threads, const A* x, const int8_t* weight, const ConvShape* s, float scale,
                                   int32_t zero, const float* column_scale, float* out) {
  using T = DefaultTileI8;
  Guarded packed(packed_conv_transposed_i8_bytes<T>(*s));
  Guarded sums(s->stride[0] * s->stride[1] * s->stride[2] * s->out_channels * 4);
  Guarded scratch(conv_transposed_i8_scratch_bytes(*s, threads));
  const Scales8 q{&scale, &zero, column_scale, sums.as<int32_t>()};
  Pool::run(threads, [&](const Worker& w) {
    pack_conv_transposed_i8<T>(w, packed.as<int8_t>(), sums.as<int32_t>(), weight, *s);
    w.barrier();
    conv_transposed_i8<T>(w, x, packed.as<int8_t>(), *s, q, StoreF32{out, s->out_channels}, scratch.as<void>());
  });
}
EXPORT void conv_u8(int threads, const uint8_t* x, const int8_t* weight, const ConvShape* s, float scale, int32_t zero,
                    const float* column_scale, float* out, int transposed) {
  if (transposed != 0) return run_conv_transposed_i8(threads, x, weight, s, scale, zero, column_scale, out);
  run_conv_i8(threads, x, weight, s, scale, zero, column_scale, out);
}
EXPORT void conv_s8(int threads, const int8_t* x, const int8_t* weight, const ConvShape* s, float scale, int32_t zero,
                    const float* column_scale, float* out, int transposed) {
  if (transposed != 0) return run_conv_transposed_i8(threads, x, weight, s, scale, zero, column_scale, out);
  run_conv_i8(threads, x, weight, s, scale, zero, column_scale, out);
}

EXPORT void depthwise_float(int threads, const float* x, const float* weight, const ConvShape* s, const float* bias,
                            float* out) {
  Guarded packed(s->kernel[0] * s->kernel[1] * s->kernel[2] * s->in_channels * 4),
      scratch(depthwise_scratch_bytes(*s, threads));
  Pool::run(threads, [&](const Worker& w) {
    pack_depthwise(w, packed.as<float>(), weight, *s);
    w.barrier();
    depthwise_f32(w, x, packed.as<float>(), *s, StoreF32{out, s->out_channels, bias}, scratch.as<void>());
  });
}
template <class A>
static void run_depthwise_i8(int threads, const A* x, const int8_t* weight, const ConvShape* s, float scale,
                             int32_t zero, const float* column_scale, float* out) {
  Guarded packed(s->kernel[0] * s->kernel[1] * s->kernel[2] * s->in_channels * 4),
      scratch(depthwise_scratch_bytes(*s, threads));
  const Scales8 q{&scale, &zero, column_scale, nullptr};
  Pool::run(threads, [&](const Worker& w) {
    pack_depthwise(w, packed.as<float>(), weight, *s);
    w.barrier();
    depthwise_i8(w, x, packed.as<float>(), *s, q, StoreF32{out, s->out_channels}, scratch.as<void>());
  });
}
EXPORT void depthwise_u8(int threads, const uint8_t* x, const int8_t* weight, const ConvShape* s, float scale,
                         int32_t zero, const float* column_scale, float* out) {
  run_depthwise_i8(threads, x, weight, s, scale, zero, column_scale, out);
}
EXPORT void depthwise_s8(int threads, const int8_t* x, const int8_t* weight, const ConvShape* s, float scale,
                         int32_t zero, const float* column_scale, float* out) {
  run_depthwise_i8(threads, x, weight, s, scale, zero, column_scale, out);
}
