// One direction of one recurrent layer; the input projection is done by the caller.
#include "driver.hpp"
#include "recurrent.hpp"

using namespace mcomp;

template <class Cell, class Dot, class S>
static void run(const int64_t* s, Recurrent a, const S* w_hh, const float* scales, const S* w_hr,
                const float* hr_scales) {
  constexpr int gates = Cell::kGates;
  const int threads = static_cast<int>(s[8]);
  const Guarded packed(recurrent_bytes<Dot, gates>(a.hidden, a.size));
  const Guarded projection(recurrent_bytes<Dot, 1>(a.size, a.hidden));
  const Guarded scratch(recurrent_scratch_bytes<Dot>(a.batch, max_i64(a.hidden, a.size), threads));
  const Guarded cells(a.batch * a.hidden * 4), whole(a.batch * a.hidden * 4);
  a.packed = packed.as<char>(), a.scratch = scratch.as<char>(), a.cells = cells.as<float>();
  a.whole = whole.as<float>();
  if (w_hr != nullptr) a.projection = projection.as<char>();
  Pool::run(threads, [&](const Worker& w) {
    pack_recurrent<Dot, gates>(w, packed.as<char>(), w_hh, scales, a.hidden, a.size);
    if (w_hr != nullptr) pack_recurrent<Dot, 1>(w, projection.as<char>(), w_hr, hr_scales, a.size, a.hidden);
    w.barrier();
    recurrent_layer<Cell, Dot>(w, a);
  });
}

template <class Dot, class S>
static void run_cell(int cell, const int64_t* s, const Recurrent& a, const S* w_hh, const float* scales, const S* w_hr,
                     const float* hr_scales) {
  if (cell == 0) run<Lstm, Dot>(s, a, w_hh, scales, w_hr, hr_scales);
  if (cell == 1) run<Gru, Dot>(s, a, w_hh, scales, w_hr, hr_scales);
  if (cell == 2) run<RnnTanh, Dot>(s, a, w_hh, scales, w_hr, hr_scales);
  if (cell == 3) run<RnnRelu, Dot>(s, a, w_hh, scales, w_hr, hr_scales);
}

// mode: 0 floats, 1 int8 weights, 2 int8 weights and rounded states. s: steps, batch, hidden, projected step and batch
// strides, out step and batch strides, reverse, threads, size.
EXPORT void layer(int cell, int mode, const int64_t* s, const float* projected, const void* w_hh, const float* scales,
                  const void* w_hr, const float* hr_scales, const float* bias, const float* h0, const float* c0,
                  float* out, float* h_last, float* c_last) {
  Recurrent a{};
  a.projected = projected, a.bias = bias, a.h0 = h0, a.c0 = c0, a.out = out;
  a.h_last = h_last, a.c_last = c_last, a.steps = s[0], a.batch = s[1], a.hidden = s[2];
  a.projected_step = s[3], a.projected_batch = s[4], a.out_step = s[5], a.out_batch = s[6], a.reverse = s[7] != 0;
  a.size = s[9];
  const float *hh = static_cast<const float*>(w_hh), *hr = static_cast<const float*>(w_hr);
  const int8_t *hh8 = static_cast<const int8_t*>(w_hh), *hr8 = static_cast<const int8_t*>(w_hr);
  if (mode == 0) run_cell<FloatSteps>(cell, s, a, hh, scales, hr, hr_scales);
  if (mode == 1) run_cell<ByteWeightSteps>(cell, s, a, hh8, scales, hr8, hr_scales);
  if (mode == 2) run_cell<ByteSteps>(cell, s, a, hh8, scales, hr8, hr_scales);
}
