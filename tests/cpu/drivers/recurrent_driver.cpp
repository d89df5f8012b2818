// One direction of one recurrent layer; the input projection is done by the caller.
#include "recurrent.hpp"

using namespace mcomp;

#define API extern "C" __attribute__((visibility("default")))

API int64_t packed_size(int64_t gates, int64_t hidden) { return packed_recurrent_elements(gates, hidden); }

// s: steps, batch, hidden, projected step and batch strides, out step and batch strides, reverse, threads.
API void layer_f32(int cell, const int64_t* s, const float* projected, const float* w_hh, float* packed,
                   const float* bias, const float* h0, const float* c0, float* out, float* h_last, float* c_last,
                   float* cells) {
  Recurrent a{};
  a.projected = projected, a.packed = packed, a.bias = bias, a.h0 = h0, a.c0 = c0, a.out = out;
  a.h_last = h_last, a.c_last = c_last, a.cells = cells, a.steps = s[0], a.batch = s[1], a.hidden = s[2];
  a.projected_step = s[3], a.projected_batch = s[4], a.out_step = s[5], a.out_batch = s[6], a.reverse = s[7] != 0;
  Pool::run(int(s[8]), [&](const Worker& w) {
    pack_recurrent(w, packed, w_hh, cell == 0 ? 4 : cell == 1 ? 3 : 1, a.hidden);
    w.barrier();
    if (cell == 0) recurrent_layer<Lstm>(w, a);
    if (cell == 1) recurrent_layer<Gru>(w, a);
    if (cell == 2) recurrent_layer<RnnTanh>(w, a);
    if (cell == 3) recurrent_layer<RnnRelu>(w, a);
  });
}
