// Time loops of LSTM, GRU and RNN layers.
//
//     pack_recurrent(w, packed, w_hh, 4, hidden);                             // once; w_hh as torch has it [4H, H]
//     gemm_f32<Tile>(w, x, I, packed_ih, T * N, 4 * H, I, StoreF32{..b_ih}, scratch);  w.barrier();
//     Recurrent a{}; a.projected = gates; a.projected_step = N * 4 * H; a.projected_batch = 4 * H; a.packed = packed;
//     a.bias = b_hh; a.out = y; a.out_step = N * H; a.out_batch = H; a.steps = T; a.batch = N; a.hidden = H; ...
//     recurrent_layer<Lstm>(w, a);                                            // or Gru, RnnTanh, RnnRelu
//
// Gates lie in torch's order: i f g o; r z n. A direction is one call: the reverse one with reverse = true and, in a
// bidirectional layer, out + H with out_batch = 2 H. batch_first is a matter of strides. 2 G N H^2 FLOPs a step; the
// packed weights are read once a step and every 4 rows of the batch. One barrier a step.
#pragma once

#include <cstdint>

#include "isa.hpp"
#include "math.hpp"
#include "threads.hpp"

namespace mcomp {

// Strides in elements. Every pointer to float.
struct Recurrent {
  const float* projected;  // [steps, batch, gates * hidden]: x W_ih^T + b_ih for all steps
  int64_t projected_step, projected_batch;
  const float* packed;  // pack_recurrent of W_hh
  const float* bias;    // b_hh [gates * hidden] or nullptr
  const float* h0;      // [batch, hidden] or nullptr for zeros
  const float* c0;      // LSTM only, as h0
  float* out;           // [steps, batch, hidden], also read back as the previous state
  int64_t out_step, out_batch;
  float* h_last;  // [batch, hidden] or nullptr
  float* c_last;  // LSTM only, as h_last
  float* cells;   // LSTM only: [batch, hidden] scratch
  int64_t steps, batch, hidden;
  bool reverse;
};

inline int64_t packed_recurrent_elements(int64_t gates, int64_t hidden) {
  return round_up(hidden, kLanes) * gates * hidden;
}

// packed[block][k][gate][lane] = w_hh[gate * hidden + block * kLanes + lane][k], zeros past `hidden`.
inline void pack_recurrent(const Worker& w, float* packed, const float* w_hh, int64_t gates, int64_t hidden) {
  const Range r = w.range(ceil_div(hidden, kLanes));
  for (int64_t block = r.begin; block < r.end; ++block)
    for (int64_t k = 0; k < hidden; ++k)
      for (int64_t g = 0; g < gates; ++g)
        for (int64_t j = 0; j < kLanes; ++j) {
          const int64_t unit = block * kLanes + j;
          packed[((block * hidden + k) * gates + g) * kLanes + j] =
              unit < hidden ? w_hh[(g * hidden + unit) * hidden + k] : 0.0f;
        }
}

// A cell: `x` the projected input of its gates, `s` W_hh h + b_hh, both [gate][kLanes]; h the previous state; c the
// cell state, updated. Leaves the new state in h.
struct Lstm {
  static constexpr int kGates = 4;
  static void update(const float (*x)[kLanes], const float (*s)[kLanes], float* h, float* c) {
    for (int j = 0; j < kLanes; ++j) {
      const float in = math::sigmoid(x[0][j] + s[0][j]), forget = math::sigmoid(x[1][j] + s[1][j]);
      const float candidate = math::tanh(x[2][j] + s[2][j]);
      c[j] = forget * c[j] + in * candidate;
    }
    for (int j = 0; j < kLanes; ++j) h[j] = math::sigmoid(x[3][j] + s[3][j]) * math::tanh(c[j]);
  }
};
struct Gru {
  static constexpr int kGates = 3;
  static void update(const float (*x)[kLanes], const float (*s)[kLanes], float* h, float*) {
    for (int j = 0; j < kLanes; ++j) {
      const float reset = math::sigmoid(x[0][j] + s[0][j]), keep = math::sigmoid(x[1][j] + s[1][j]);
      const float candidate = math::tanh(x[2][j] + reset * s[2][j]);
      h[j] = (h[j] - candidate) * keep + candidate;
    }
  }
};
struct RnnTanh {
  static constexpr int kGates = 1;
  static void update(const float (*x)[kLanes], const float (*s)[kLanes], float* h, float*) {
    for (int j = 0; j < kLanes; ++j) h[j] = math::tanh(x[0][j] + s[0][j]);
  }
};
struct RnnRelu {
  static constexpr int kGates = 1;
  static void update(const float (*x)[kLanes], const float (*s)[kLanes], float* h, float*) {
    for (int j = 0; j < kLanes; ++j) h[j] = math::relu(x[0][j] + s[0][j]);
  }
};

namespace detail {

// sums[row][gate][lane] = sum over k of h[row][k] packed[k][gate][lane], for Rows rows of the batch. Chains:
// independent sums over k, to hide the latency of few rows.
template <int Rows, int Gates, int Chains>
MCOMP_NOINLINE void recurrent_product(const float* h, int64_t h_batch, const float* packed, int64_t hidden,
                                      float (*sums)[Gates][kLanes]) {
  vf32 acc[Chains][Rows][Gates];
  unroll<Chains>([&](auto c) MCOMP_LAMBDA {
    unroll<Rows>([&](auto n) MCOMP_LAMBDA { unroll<Gates>([&](auto g) MCOMP_LAMBDA { acc[c][n][g] = vset(0.0f); }); });
  });
  int64_t k = 0;
  for (; k + Chains <= hidden; k += Chains) {
    unroll<Chains>([&](auto c) MCOMP_LAMBDA {
      const float* from = packed + (k + c) * Gates * kLanes;
      vf32 weight[Gates];
      unroll<Gates>([&](auto g) MCOMP_LAMBDA { weight[g] = vload(from + g * kLanes); });
      unroll<Rows>([&](auto n) MCOMP_LAMBDA {
        const vf32 s = vset(h[n * h_batch + k + c]);
        unroll<Gates>([&](auto g) MCOMP_LAMBDA { acc[c][n][g] = vfma(s, weight[g], acc[c][n][g]); });
      });
    });
  }
  for (; k < hidden; ++k) {
    unroll<Rows>([&](auto n) MCOMP_LAMBDA {
      const vf32 s = vset(h[n * h_batch + k]);
      unroll<Gates>(
          [&](auto g) MCOMP_LAMBDA { acc[0][n][g] = vfma(s, vload(packed + (k * Gates + g) * kLanes), acc[0][n][g]); });
    });
  }
  unroll<Rows>([&](auto n) MCOMP_LAMBDA {
    unroll<Gates>([&](auto g) MCOMP_LAMBDA {
      vf32 total = acc[0][n][g];
      if constexpr (Chains == 2) total += acc[1][n][g];
      vstore(sums[n][g], total);
    });
  });
}

}  // namespace detail

template <class Cell>
void recurrent_layer(const Worker& w, const Recurrent& a) {
  constexpr int gates = Cell::kGates;
  constexpr int rows = kVectorRegisters == 32 ? 4 : 2;
  constexpr bool has_cell = gates == 4;
  const Range blocks = w.range(ceil_div(a.hidden, kLanes));
  for (int64_t t = 0; t < a.steps; ++t) {
    const int64_t step = a.reverse ? a.steps - 1 - t : t;
    const int64_t before = a.reverse ? step + 1 : step - 1;
    const float* h_from = t == 0 ? a.h0 : a.out + before * a.out_step;
    const int64_t h_batch = t == 0 ? a.hidden : a.out_batch;
    for (int64_t block = blocks.begin; block < blocks.end; ++block) {
      const int64_t unit = block * kLanes, live = min_i64(kLanes, a.hidden - unit);
      const float* packed = a.packed + block * a.hidden * gates * kLanes;
      for (int64_t n0 = 0; n0 < a.batch; n0 += rows) {
        float sums[rows][gates][kLanes] = {};
        const int64_t count = min_i64(rows, a.batch - n0);
        if (h_from != nullptr) {
          const float* h = h_from + n0 * h_batch;
          if (count == rows) {
            detail::recurrent_product<rows, gates, 1>(h, h_batch, packed, a.hidden, sums);
          } else {
            for (int64_t n = 0; n < count; ++n)
              detail::recurrent_product<1, gates, 2>(h + n * h_batch, h_batch, packed, a.hidden, sums + n);
          }
        }
        for (int64_t n = n0; n < n0 + count; ++n) {
          float x[gates][kLanes] = {}, h[kLanes] = {}, c[kLanes] = {};
          float (*s)[kLanes] = sums[n - n0];
          const float* from = a.projected + step * a.projected_step + n * a.projected_batch + unit;
          for (int g = 0; g < gates; ++g)
            for (int64_t j = 0; j < live; ++j) x[g][j] = from[g * a.hidden + j];
          if (a.bias)
            for (int g = 0; g < gates; ++g)
              for (int64_t j = 0; j < live; ++j) s[g][j] += a.bias[g * a.hidden + unit + j];
          if (h_from)
            for (int64_t j = 0; j < live; ++j) h[j] = h_from[n * h_batch + unit + j];
          const float* c_from = t > 0 ? a.cells : a.c0;
          if (has_cell && c_from)
            for (int64_t j = 0; j < live; ++j) c[j] = c_from[n * a.hidden + unit + j];
          Cell::update(x, s, h, c);
          for (int64_t j = 0; j < live; ++j) a.out[step * a.out_step + n * a.out_batch + unit + j] = h[j];
          if (has_cell)
            for (int64_t j = 0; j < live; ++j) a.cells[n * a.hidden + unit + j] = c[j];
          if (t + 1 < a.steps) continue;
          for (int64_t j = 0; a.h_last && j < live; ++j) a.h_last[n * a.hidden + unit + j] = h[j];
          for (int64_t j = 0; has_cell && a.c_last && j < live; ++j) a.c_last[n * a.hidden + unit + j] = c[j];
        }
      }
    }
    if (t + 1 < a.steps) w.barrier();
  }
}

}  // namespace mcomp
