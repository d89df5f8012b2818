#include "clamp.hpp"
#include "conv.hpp"
#include "conv_i8.hpp"
#include "depthwise_square.hpp"
#include "driver.hpp"
#include "requantize.hpp"
#include "tiles.hpp"

using namespace mcomp;

// How results become floats, bytes or both; as numbers from Python.
struct Ending {
  const float *bias, *added;
  float low, high, inverse;
  int32_t zero;
  float* floats;
  void* bytes;
};

template <class T, class A, class Ep>
static void run_i8(int threads, const A* x, const int8_t* weight, const ConvShape& s, const Scales8& from, const Ep& ep) {
  Guarded packed(packed_conv_i8_bytes<T>(s)), sums(s.out_channels * 4), scratch(conv_i8_scratch_bytes(s, threads));
  const Scales8 q{from.scale, from.zero, from.column_scale, sums.as<int32_t>()};
  Pool::run(threads, [&](const Worker& w) {
    pack_conv_i8<T>(w, packed.as<int8_t>(), sums.as<int32_t>(), weight, s);
    w.barrier();
    conv_i8<T>(w, x, packed.as<int8_t>(), s, q, ep, scratch.as<void>());
  });
}

static Clamped clamped(const Ending& e, int64_t ld) { return {e.floats, ld, e.bias, e.added, ld, e.low, e.high}; }

// kind: 0, 1 Requantize of unsigned and signed bytes; 2 Clamped. wide: the tile of kind 0.
EXPORT void clamp_i8(int kind, int wide, int threads, const void* x, const int8_t* weight, const ConvShape* shape,
                     float scale, int32_t zero, const float* column_scale, const Ending* ending) {
  using Narrow = TileForI8<1, 1, 1>;
  using Wide = TileForI8<3, 2, 1>;
  const ConvShape& s = *shape;
  const Ending& e = *ending;
  const Scales8 q{&scale, &zero, column_scale, nullptr};
  const int64_t ld = s.out_channels;
  const auto* u8 = static_cast<const uint8_t*>(x);
  const auto* s8 = static_cast<const int8_t*>(x);
  auto* bytes = static_cast<uint8_t*>(e.bytes);
  auto* signed_bytes = static_cast<int8_t*>(e.bytes);
  const float low = e.low * e.inverse, high = e.high * e.inverse;
  if (kind == 0) {
    const Requantize<uint8_t> ep{bytes, ld, e.bias, e.inverse, e.zero, low, high};
    if (wide) {
      run_i8<Wide>(threads, u8, weight, s, q, ep);
    } else {
      run_i8<Narrow>(threads, u8, weight, s, q, ep);
    }
  } else if (kind == 1) {
    const Requantize<int8_t> ep{signed_bytes, ld, e.bias, e.inverse, e.zero, low, high};
    run_i8<DefaultTileI8>(threads, s8, weight, s, q, ep);
  } else {
    run_i8<Narrow>(threads, u8, weight, s, q, clamped(e, ld));
  }
}

template <class T>
static void run_f32(int threads, const float* x, const float* weight, const ConvShape& s, const Ending& e) {
  Guarded packed(packed_conv_elements<T, float>(s) * 4), scratch(conv_f32_scratch_bytes(s, threads));
  Pool::run(threads, [&](const Worker& w) {
    pack_conv<T, float>(w, packed.as<float>(), weight, s);
    w.barrier();
    conv_f32<T>(w, x, packed.as<float>(), s, clamped(e, s.out_channels), scratch.as<void>());
  });
}
EXPORT void clamp_f32(int threads, const float* x, const float* weight, const ConvShape* s, const Ending* e) {
  run_f32<DefaultTile>(threads, x, weight, *s, *e);
}

template <int K, int S>
static void run_square(int threads, const float* x, const float* weight, const ConvShape& s, const Ending& e) {
  Guarded packed(K * K * s.in_channels * 4), scratch(depthwise_square_scratch<K, S, 7>(s, threads));
  Pool::run(threads, [&](const Worker& w) {
    pack_depthwise(w, packed.as<float>(), weight, s);
    w.barrier();
    depthwise_square<K, S, 7>(w, x, packed.as<float>(), s, clamped(e, s.out_channels), scratch.as<void>());
  });
}
EXPORT void clamp_square(int threads, const float* x, const float* weight, const ConvShape* s, const Ending* e) {
  auto run = s->kernel[2] == 3 ? (s->stride[2] == 1 ? run_square<3, 1> : run_square<3, 2>)
                               : (s->stride[2] == 1 ? run_square<5, 1> : run_square<5, 2>);
  run(threads, x, weight, *s, *e);
}
