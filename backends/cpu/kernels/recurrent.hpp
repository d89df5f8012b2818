// Time loops of LSTM, GRU and RNN layers.
//
//     pack_recurrent<FloatSteps, 4>(w, packed, w_hh, nullptr, H, H);          // once; w_hh as torch has it [4H, H]
//     gemm_f32<Tile>(w, x, I, packed_ih, T * N, 4 * H, I, StoreF32{..b_ih}, scratch);  w.barrier();
//     Recurrent a{}; a.projected = gates; a.projected_step = N * 4 * H; a.projected_batch = 4 * H; a.packed = packed;
//     a.bias = b_hh; a.out = y; a.out_step = N * H; a.out_batch = H; a.steps = T; a.batch = N; a.hidden = a.size = H; ...
//     recurrent_layer<Lstm, FloatSteps>(w, a);                                // or Gru, RnnTanh, RnnRelu
//     // packed: recurrent_bytes<FloatSteps, 4>(units, length); scratch: recurrent_scratch_bytes<FloatSteps>(...)
//
// How a step multiplies: FloatSteps; ByteWeightSteps, int8 weights times floats; ByteSteps, int8 weights times rows that
// are rounded to bytes with a scale of their own (largest magnitude / 127). Weights are int8 with a scale per row.
// Gates lie in torch's order: i f g o; r z n. A direction is one call: the reverse one with reverse = true and, in a
// bidirectional layer, out + H with out_batch = 2 H. batch_first is a matter of strides. 2 G N H^2 operations a step;
// packed weights are read once a step and tile of rows. Workers divide the units, with a barrier a step (two with a
// projection), or the rows of the batch, without any.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "gemm_weight_only.hpp"
#include "isa.hpp"
#include "math.hpp"
#include "micro_i8.hpp"
#include "quantize_rows.hpp"
#include "threads.hpp"

namespace mcomp {

using FloatSteps = detail::FloatDot<float, float>;
using ByteWeightSteps = detail::Int8WeightDot;
using ByteSteps = detail::ByteDot<uint8_t>;

// Strides in elements.
struct Recurrent {
  const float* projected;  // [steps, batch, gates * hidden]: x W_ih^T + b_ih for all steps
  int64_t projected_step, projected_batch;
  const void* packed;  // pack_recurrent of W_hh [gates * hidden, size]
  const float* bias;   // b_hh [gates * hidden] or nullptr
  const float* h0;     // [batch, size] or nullptr for zeros
  const float* c0;     // LSTM only: [batch, hidden] or nullptr for zeros
  float* out;          // [steps, batch, size], also read back as the previous state
  int64_t out_step, out_batch;
  float* h_last;  // [batch, size] or nullptr
  float* c_last;  // LSTM only: [batch, hidden] or nullptr
  float* cells;   // LSTM only: [batch, hidden] scratch
  int64_t steps, batch, hidden;
  int64_t size;            // of the state: hidden, or what the projection makes of it
  const void* projection;  // pack_recurrent<., 1> of W_hr [size, hidden], or nullptr
  float* whole;            // with a projection: [batch, hidden] scratch
  char* scratch;           // recurrent_scratch_bytes, 64-byte aligned
  bool reverse;
};

namespace detail {

template <class Dot>
constexpr bool kByteRows = Dot::kLength > 1;
template <class Dot>
constexpr bool kByteWeights = sizeof(typename Dot::Panel) == 1;

constexpr int64_t kByteZero = 128;  // the byte that stands for zero in rounded rows

// Elements of a block of kLanes units: [step][gate][lane][k % kLength].
template <class Dot, int Gates>
constexpr int64_t block_elements(int64_t length) {
  return ceil_div(length, Dot::kLength) * Gates * Dot::kPanel;
}
// Bytes of all blocks; behind them [block][gate][lane] of scales, then of what bytes' zero adds to sums.
template <class Dot, int Gates>
constexpr int64_t blocks_bytes(int64_t units, int64_t length) {
  return round_up(ceil_div(units, kLanes) * block_elements<Dot, Gates>(length) *
                      static_cast<int64_t>(sizeof(typename Dot::Panel)), 64);
}

}  // namespace detail

// Bytes of packed weights [gates * units, length].
template <class Dot, int Gates>
constexpr int64_t recurrent_bytes(int64_t units, int64_t length) {
  const int64_t columns = round_up(units, kLanes) * Gates;
  return detail::blocks_bytes<Dot, Gates>(units, length) + (detail::kByteWeights<Dot> ? columns * 8 : 0);
}

// Weights: float, or int8_t with `scales` [gates * units].
template <class Dot, int Gates, class S>
void pack_recurrent(const Worker& w, void* packed, const S* weights, const float* scales, int64_t units,
                    int64_t length) {
  using Panel = typename Dot::Panel;
  constexpr int64_t L = Dot::kLength;
  const int64_t steps = ceil_div(length, L), columns = round_up(units, kLanes) * Gates;
  char* bytes = static_cast<char*>(packed);
  float* scale = reinterpret_cast<float*>(bytes + detail::blocks_bytes<Dot, Gates>(units, length));
  int32_t* shift = reinterpret_cast<int32_t*>(scale + columns);
  const Range r = w.range(ceil_div(units, kLanes));
  for (int64_t block = r.begin; block < r.end; ++block) {
    Panel* to = static_cast<Panel*>(packed) + block * detail::block_elements<Dot, Gates>(length);
    for (int64_t g = 0; g < Gates; ++g)
      for (int64_t j = 0; j < kLanes; ++j) {
        const int64_t unit = block * kLanes + j, row = g * units + unit, column = (block * Gates + g) * kLanes + j;
        [[maybe_unused]] int32_t sum = 0;
        for (int64_t k = 0; k < steps * L; ++k) {
          const Panel x = unit < units && k < length ? static_cast<Panel>(weights[row * length + k]) : Panel(0);
          to[(k / L * Gates + g) * Dot::kPanel + j * L + k % L] = x;
          if constexpr (detail::kByteWeights<Dot>) sum += x;
        }
        if constexpr (detail::kByteWeights<Dot>) {
          scale[column] = unit < units ? scales[row] : 0.0f;
          shift[column] = sum * static_cast<int32_t>(detail::kByteZero);
        }
      }
  }
}

namespace detail {

// Of kLanes numbers, in place. One function a loop: several in one are not vectorized.
inline void sigmoid_lanes(float* v) {
  for (int j = 0; j < kLanes; ++j) v[j] = math::sigmoid(v[j]);
}
inline void tanh_lanes(float* v) {
  for (int j = 0; j < kLanes; ++j) v[j] = math::tanh(v[j]);
}
inline void add_lanes(const float* a, const float* b, float* sum) {
  vstore(sum, vload(a) + vload(b));
}

}  // namespace detail

// A cell: `x` the projected input of its gates, `s` W_hh h + b_hh, both [gate][kLanes]; h the previous state; c the
// cell state, updated. Leaves the new state in h.
struct Lstm {
  static constexpr int kGates = 4;
  static void update(const float (*x)[kLanes], const float (*s)[kLanes], float* h, float* c) {
    alignas(64) float gate[kGates][kLanes];
    for (int g = 0; g < kGates; ++g) detail::add_lanes(x[g], s[g], gate[g]);
    for (int g : {0, 1, 3}) detail::sigmoid_lanes(gate[g]);
    detail::tanh_lanes(gate[2]);
    const vf32 cell = vload(gate[1]) * vload(c) + vload(gate[0]) * vload(gate[2]);
    vstore(c, cell);
    vstore(gate[2], cell);
    detail::tanh_lanes(gate[2]);
    vstore(h, vload(gate[3]) * vload(gate[2]));
  }
};
struct Gru {
  static constexpr int kGates = 3;
  static void update(const float (*x)[kLanes], const float (*s)[kLanes], float* h, float*) {
    alignas(64) float gate[kGates][kLanes];
    for (int g = 0; g < 2; ++g) detail::add_lanes(x[g], s[g], gate[g]), detail::sigmoid_lanes(gate[g]);
    vstore(gate[2], vload(x[2]) + vload(gate[0]) * vload(s[2]));
    detail::tanh_lanes(gate[2]);
    vstore(h, (vload(h) - vload(gate[2])) * vload(gate[1]) + vload(gate[2]));
  }
};
struct RnnTanh {
  static constexpr int kGates = 1;
  static void update(const float (*x)[kLanes], const float (*s)[kLanes], float* h, float*) {
    detail::add_lanes(x[0], s[0], h);
    detail::tanh_lanes(h);
  }
};
struct RnnRelu {
  static constexpr int kGates = 1;
  static void update(const float (*x)[kLanes], const float (*s)[kLanes], float* h, float*) {
    for (int j = 0; j < kLanes; ++j) h[j] = math::relu(x[0][j] + s[0][j]);
  }
};

namespace detail {

// Rows of a tile: as many as keep its sums in registers.
template <class Dot, int Gates>
constexpr int recurrent_rows() {
  if (kVectorRegisters == 32 && sizeof(typename Dot::Columns) == kVectorBytes) return Gates == 4 ? 6 : 8;
  return 2;
}

// sums[row][gate][lane] of `steps` reduction steps. Few rows are summed in independent chains, to hide latency.
template <class Dot, int Rows, int Gates>
MCOMP_NOINLINE void recurrent_product(const typename Dot::Element* rows, int64_t stride, const typename Dot::Panel* packed,
                                      int64_t steps, typename Dot::Out (*sums)[Gates][kLanes]) {
  constexpr int Chains = Rows * Gates >= 6 ? 1 : Rows * Gates >= 3 ? 2 : 4;
  typename Dot::Acc acc[Chains][Rows][Gates] = {};
  int64_t k = 0;
  for (; k + Chains <= steps; k += Chains) {
    unroll<Chains>([&](auto c) MCOMP_LAMBDA {
      const typename Dot::Panel* from = packed + (k + c) * Gates * Dot::kPanel;
      typename Dot::Columns columns[Gates];
      unroll<Gates>([&](auto g) MCOMP_LAMBDA { columns[g] = Dot::columns(from + g * Dot::kPanel); });
      unroll<Rows>([&](auto n) MCOMP_LAMBDA {
        const auto row = Dot::row(reinterpret_cast<const char*>(rows + n * stride + (k + c) * Dot::kLength));
        unroll<Gates>([&](auto g) MCOMP_LAMBDA { acc[c][n][g] = Dot::add(acc[c][n][g], row, columns[g]); });
      });
    });
  }
  if constexpr (Chains > 1) {
    for (; k < steps; ++k) {
      unroll<Rows>([&](auto n) MCOMP_LAMBDA {
        const auto row = Dot::row(reinterpret_cast<const char*>(rows + n * stride + k * Dot::kLength));
        unroll<Gates>([&](auto g) MCOMP_LAMBDA {
          acc[0][n][g] = Dot::add(acc[0][n][g], row, Dot::columns(packed + (k * Gates + g) * Dot::kPanel));
        });
      });
    }
  }
  unroll<Rows>([&](auto n) MCOMP_LAMBDA {
    unroll<Gates>([&](auto g) MCOMP_LAMBDA {
      if constexpr (Chains == 4) acc[1][n][g] = acc[1][n][g] + acc[3][n][g], acc[0][n][g] = acc[0][n][g] + acc[2][n][g];
      if constexpr (Chains >= 2) acc[0][n][g] = acc[0][n][g] + acc[1][n][g];
      vstore(sums[n][g], acc[0][n][g]);
    });
  });
}

template <class Dot, int Gates>
struct RecurrentTable {
  static constexpr int kRows = recurrent_rows<Dot, Gates>();
  using Function = void (*)(const typename Dot::Element*, int64_t, const typename Dot::Panel*, int64_t,
                            typename Dot::Out (*)[Gates][kLanes]);
  Function table[kRows + 1];
  template <int... R>
  static constexpr RecurrentTable make(std::integer_sequence<int, R...>) {
    return {{nullptr, recurrent_product<Dot, R + 1, Gates>...}};
  }
};

// Packed weights [Gates * units, length] times rows of states.
template <class Dot, int Gates>
struct RecurrentProduct {
  using Element = typename Dot::Element;
  static constexpr int kRows = recurrent_rows<Dot, Gates>();
  static constexpr RecurrentTable<Dot, Gates> kTable =
      RecurrentTable<Dot, Gates>::make(std::make_integer_sequence<int, kRows>{});

  const typename Dot::Panel* packed;
  const float* scale;
  const int32_t* shift;
  int64_t length;

  RecurrentProduct(const void* from, int64_t units, int64_t length_)
      : packed(static_cast<const typename Dot::Panel*>(from)),
        scale(reinterpret_cast<const float*>(static_cast<const char*>(from) + blocks_bytes<Dot, Gates>(units, length_))),
        shift(reinterpret_cast<const int32_t*>(scale + round_up(units, kLanes) * Gates)),
        length(length_) {}

  // totals[row][gate][lane] for `count` rows; row_scale: one per row, for rounded rows.
  void tile(const Element* rows, int64_t stride, const float* row_scale, int64_t count, int64_t block,
            float (*totals)[Gates][kLanes]) const {
    alignas(64) typename Dot::Out sums[kRows][Gates][kLanes];
    kTable.table[count](rows, stride, packed + block * block_elements<Dot, Gates>(length),
                        ceil_div(length, Dot::kLength), sums);
    for (int64_t n = 0; n < count; ++n)
      for (int g = 0; g < Gates; ++g) {
        const int64_t at = (block * Gates + g) * kLanes;
        if constexpr (kByteRows<Dot>) {
          vstore(totals[n][g], vto_f32(vload(sums[n][g]) - vload(shift + at)) * (vload(scale + at) * row_scale[n]));
        } else if constexpr (kByteWeights<Dot>) {
          vstore(totals[n][g], vload(sums[n][g]) * vload(scale + at));
        } else {
          vstore(totals[n][g], vload(sums[n][g]));
        }
      }
  }
};

// States as a product reads them: in place, or rounded to bytes in a worker's scratch.
template <class Dot>
struct StateRows {
  const typename Dot::Element* rows;
  int64_t stride;
  const float* scale;
};

inline int64_t state_stride(int64_t length) { return round_up(length, 64) + 64; }

template <class Dot>
StateRows<Dot> state_rows(const float* from, int64_t stride, Range rows, int64_t length, char* scratch, int64_t batch) {
  if constexpr (kByteRows<Dot>) {
    const int64_t step = state_stride(length);
    uint8_t* bytes = reinterpret_cast<uint8_t*>(scratch);
    float* scale = reinterpret_cast<float*>(scratch + batch * step);
    quantize_rows_dynamic(Worker{}, from + rows.begin * stride, stride, rows.size(), length, bytes + rows.begin * step,
                          step, scale + rows.begin, static_cast<int32_t*>(nullptr), true);
    return {bytes, step, scale};
  } else {
    return {from, stride, nullptr};
  }
}

// Estimated cycles of a step for so many rows and blocks of units.
template <class Dot, int Gates>
double step_cycles(int64_t rows, int64_t blocks, int64_t length) {
  const double panel = static_cast<double>(block_elements<Dot, Gates>(length));
  const double weights = panel * static_cast<double>(blocks) * static_cast<double>(sizeof(typename Dot::Panel));
  const double products = static_cast<double>(rows * blocks) * (panel / Dot::kPanel + 30.0 * Gates);
  const double reading = weights / (weights > 768 * 1024 ? 24.0 : 64.0);
  return products > reading ? products : reading;
}
constexpr double kBarrierCycles = 800;

// The gates of rows x blocks of one step.
template <class Cell, class Dot>
void recurrent_step(const Recurrent& a, int64_t step, const float* h_from, int64_t h_batch, bool first, Range rows,
                    Range blocks, char* scratch) {
  constexpr int gates = Cell::kGates;
  constexpr bool has_cell = gates == 4;
  using Product = RecurrentProduct<Dot, gates>;
  const Product product(a.packed, a.hidden, a.size);
  StateRows<Dot> states{};
  if (h_from != nullptr) states = state_rows<Dot>(h_from, h_batch, rows, a.size, scratch, a.batch);
  float* const out = a.projection != nullptr ? a.whole : a.out + step * a.out_step;
  const int64_t out_batch = a.projection != nullptr ? a.hidden : a.out_batch;
  const float* c_from = first ? a.c0 : a.cells;
  const int64_t tiles = ceil_div(rows.size(), Product::kRows);
  for (int64_t block = blocks.begin; block < blocks.end; ++block) {
    const int64_t unit = block * kLanes, live = min_i64(kLanes, a.hidden - unit);
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t n0 = rows.begin + rows.size() * i / tiles, n1 = rows.begin + rows.size() * (i + 1) / tiles;
      alignas(64) float totals[Product::kRows][gates][kLanes] = {};
      if (h_from != nullptr)
        product.tile(states.rows + n0 * states.stride, states.stride, states.scale + (kByteRows<Dot> ? n0 : 0), n1 - n0,
                     block, totals);
      for (int64_t n = n0; n < n1; ++n) {
        alignas(64) float x[gates][kLanes], h[kLanes] = {}, c[kLanes] = {};
        float (*s)[kLanes] = totals[n - n0];
        const float* from = a.projected + step * a.projected_step + n * a.projected_batch + unit;
        for (int g = 0; g < gates; ++g) vstore(x[g], vload_n(from + g * a.hidden, live));
        if (a.bias != nullptr)
          for (int g = 0; g < gates; ++g) vstore(s[g], vload(s[g]) + vload_n(a.bias + g * a.hidden + unit, live));
        if (!has_cell && h_from != nullptr) vstore(h, vload_n(h_from + n * h_batch + unit, live));
        if (has_cell && c_from != nullptr) vstore(c, vload_n(c_from + n * a.hidden + unit, live));
        Cell::update(x, s, h, c);
        vstore_n(out + n * out_batch + unit, vload(h), live);
        if (has_cell) vstore_n(a.cells + n * a.hidden + unit, vload(c), live);
      }
    }
  }
}

// The projection of rows x blocks of one step.
template <class Dot>
void project_step(const Recurrent& a, int64_t step, Range rows, Range blocks, char* scratch) {
  using Product = RecurrentProduct<Dot, 1>;
  const Product product(a.projection, a.size, a.hidden);
  const StateRows<Dot> states = state_rows<Dot>(a.whole, a.hidden, rows, a.hidden, scratch, a.batch);
  const int64_t tiles = ceil_div(rows.size(), Product::kRows);
  for (int64_t block = blocks.begin; block < blocks.end; ++block) {
    const int64_t unit = block * kLanes, live = min_i64(kLanes, a.size - unit);
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t n0 = rows.begin + rows.size() * i / tiles, n1 = rows.begin + rows.size() * (i + 1) / tiles;
      alignas(64) float totals[Product::kRows][1][kLanes];
      product.tile(states.rows + n0 * states.stride, states.stride, states.scale + (kByteRows<Dot> ? n0 : 0), n1 - n0,
                   block, totals);
      for (int64_t n = n0; n < n1; ++n)
        vstore_n(a.out + step * a.out_step + n * a.out_batch + unit, vload(totals[n - n0][0]), live);
    }
  }
}

}  // namespace detail

// For all workers together.
template <class Dot>
int64_t recurrent_scratch_bytes(int64_t batch, int64_t hidden, int64_t workers) {
  if (!detail::kByteRows<Dot>) return 0;
  return workers * round_up(batch * (detail::state_stride(hidden) + 4), 64);
}

template <class Cell, class Dot>
void recurrent_layer(const Worker& w, const Recurrent& a) {
  constexpr int gates = Cell::kGates;
  constexpr bool has_cell = gates == 4;
  const int64_t all = ceil_div(a.hidden, kLanes);
  const double by_rows = detail::step_cycles<Dot, gates>(ceil_div(a.batch, w.count), all, a.size);
  const double by_units = detail::step_cycles<Dot, gates>(a.batch, ceil_div(all, w.count), a.size);
  const bool split_rows = by_rows <= by_units + detail::kBarrierCycles * (a.projection != nullptr ? 2 : 1);
  const Range rows = split_rows ? w.range(a.batch) : Range{0, a.batch};
  const Range blocks = split_rows ? Range{0, all} : w.range(all);
  const int64_t outputs = ceil_div(a.size, kLanes);
  const Range output_blocks = split_rows ? Range{0, outputs} : w.range(outputs);
  char* scratch = a.scratch + w.id * recurrent_scratch_bytes<Dot>(a.batch, max_i64(a.hidden, a.size), 1);
  if (split_rows && rows.empty()) return;
  for (int64_t t = 0; t < a.steps; ++t) {
    const int64_t step = a.reverse ? a.steps - 1 - t : t;
    const int64_t before = a.reverse ? step + 1 : step - 1;
    const float* h_from = t == 0 ? a.h0 : a.out + before * a.out_step;
    const int64_t h_batch = t == 0 ? a.size : a.out_batch;
    detail::recurrent_step<Cell, Dot>(a, step, h_from, h_batch, t == 0, rows, blocks, scratch);
    if constexpr (has_cell) {
      if (a.projection != nullptr) {
        if (!split_rows) w.barrier();
        detail::project_step<Dot>(a, step, rows, output_blocks, scratch);
      }
    }
    if (t + 1 < a.steps && !split_rows) w.barrier();
  }
  if (a.steps == 0) return;
  const float* last = a.out + (a.reverse ? 0 : a.steps - 1) * a.out_step;
  const Range units{blocks.begin * kLanes, min_i64(blocks.end * kLanes, a.hidden)};
  const Range kept{output_blocks.begin * kLanes, min_i64(output_blocks.end * kLanes, a.size)};
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    for (int64_t j = kept.begin; a.h_last != nullptr && j < kept.end; ++j)
      a.h_last[n * a.size + j] = last[n * a.out_batch + j];
    for (int64_t j = units.begin; has_cell && a.c_last != nullptr && j < units.end; ++j)
      a.c_last[n * a.hidden + j] = a.cells[n * a.hidden + j];
  }
}

}  // namespace mcomp
