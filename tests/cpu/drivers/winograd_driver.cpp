// Entry points of winograd.hpp for tests/cpu/test_kernels_winograd.py.
#include "conv.hpp"
#include "driver.hpp"
#include "winograd.hpp"

using namespace mcomp;

template <class T, int M>
static void run(int threads, const float* x, const float* weight, const ConvShape& s, const float* bias, float* out) {
  Guarded packed(packed_winograd_elements<T, M>(s) * 4), scratch(winograd_scratch_bytes<T, M>(s, threads));
  Pool::run(threads, [&](const Worker& w) {
    pack_winograd<T, M>(w, packed.as<float>(), weight, s);
    w.barrier();
    conv_winograd<T, M>(w, x, packed.as<float>(), weight, s, StoreF32{out, s.out_channels, bias}, scratch.as<void>());
  });
}

// side: 2 or 4; narrow: panels of one vector.
EXPORT void winograd(int side, int narrow, int threads, const float* x, const float* weight, const ConvShape* s,
                     const float* bias, float* out) {
  using Narrow = Tile<DefaultTile::MR, 1>;
  if (side == 2) {
    narrow ? run<Narrow, 2>(threads, x, weight, *s, bias, out) : run<DefaultTile, 2>(threads, x, weight, *s, bias, out);
  } else {
    narrow ? run<Narrow, 4>(threads, x, weight, *s, bias, out) : run<DefaultTile, 4>(threads, x, weight, *s, bias, out);
  }
}

EXPORT void direct(int threads, const float* x, const float* weight, const ConvShape* s, const float* bias,
                   float* out) {
  using T = DefaultTile;
  Guarded packed(packed_conv_elements<T, float>(*s) * 4), scratch(conv_f32_scratch_bytes(*s, threads));
  Pool::run(threads, [&](const Worker& w) {
    pack_conv<T, float>(w, packed.as<float>(), weight, *s);
    w.barrier();
    conv_f32<T>(w, x, packed.as<float>(), *s, StoreF32{out, s->out_channels, bias}, scratch.as<void>());
  });
}
