// Random numbers from a counter: Philox 4x32 with 10 rounds (Salmon et al. 2011).
//
//     uniform(w, y, n, seed, stream, 0.0f, 1.0f);               // y[i] in [low, high)
//     normal(w, y, n, seed, stream, 0.0f, 1.0f); bernoulli(w, p, y, n, seed, stream);
// Element i depends on (seed, stream, i) only: the same for every number of workers. Give each node and call its own
// stream. The numbers differ from torch's generator; the distributions agree.
#pragma once

#include <cstdint>

#include "fault.hpp"
#include "math.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace mcomp {

namespace detail {

// 32 random bits of element i.
inline uint32_t philox(uint64_t seed, uint64_t stream, uint64_t i, uint32_t lane) {
  uint32_t c0 = uint32_t(i), c1 = uint32_t(i >> 32), c2 = uint32_t(stream), c3 = uint32_t(stream >> 32) ^ lane;
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t(c0) * 0xD2511F53u, b = uint64_t(c2) * 0xCD9E8D57u;
    const uint32_t n0 = uint32_t(b >> 32) ^ c1 ^ k0, n2 = uint32_t(a >> 32) ^ c3 ^ k1;
    c1 = uint32_t(b), c3 = uint32_t(a), c0 = n0, c2 = n2;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return c0;
}

// Uniform in [0, 1) with 24 bits.
inline float unit(uint64_t seed, uint64_t stream, uint64_t i, uint32_t lane) {
  return float(philox(seed, stream, i, lane) >> 8) * 5.9604644775390625e-8f;
}

}  // namespace detail

template <class T>
void uniform(const Worker& w, T* y, int64_t n, uint64_t seed, uint64_t stream, float low, float high) {
  const Range r = w.range(n, 64);
  for (int64_t i = r.begin; i < r.end; ++i)
    y[i] = convert<T>(low + (high - low) * detail::unit(seed, stream, uint64_t(i), 0));
}

// Integers in [low, high).
template <class T>
void random_integers(const Worker& w, T* y, int64_t n, uint64_t seed, uint64_t stream, int64_t low, int64_t high) {
  const uint64_t span = uint64_t(high) - uint64_t(low);
  const Range r = w.range(n, 64);
  for (int64_t i = r.begin; i < r.end; ++i) {
    const uint64_t bits =
        uint64_t(detail::philox(seed, stream, uint64_t(i), 0)) << 32 | detail::philox(seed, stream, uint64_t(i), 1);
    y[i] = T(uint64_t(low) + (span ? bits % span : bits));
  }
}

// Box-Muller.
template <class T>
void normal(const Worker& w, T* y, int64_t n, uint64_t seed, uint64_t stream, float mean, float deviation) {
  const Range r = w.range(n, 64);
  for (int64_t i = r.begin; i < r.end; ++i) {
    const float a = 1.0f - detail::unit(seed, stream, uint64_t(i), 0), b = detail::unit(seed, stream, uint64_t(i), 1);
    y[i] = convert<T>(mean + deviation * (math::sqrt(-2.0f * math::log(a)) * math::cos(6.28318531f * b)));
  }
}

// y[i] = 1 with probability p[i], else 0.
template <class P, class T>
void bernoulli(const Worker& w, const P* p, T* y, int64_t n, uint64_t seed, uint64_t stream) {
  const Range r = w.range(n, 64);
  for (int64_t i = r.begin; i < r.end; ++i)
    y[i] = convert<T>(detail::unit(seed, stream, uint64_t(i), 0) < to_f32(p[i]) ? 1.0f : 0.0f);
}

// out[rows, samples]: indices drawn with probabilities proportional to p[rows, n]; without replacement an index is
// drawn once. Raises where a row has a negative or non-finite value, or fewer positive ones than it needs. An index is
// the largest of log(p) + Gumbel noise, one draw of noise for all samples without replacement (Kool et al. 2019).
template <class P>
void multinomial(const Worker& w, const P* p, int64_t* out, int64_t rows, int64_t n, int64_t samples, bool replacement,
                 uint64_t seed, uint64_t stream, const Fault& fault) {
  const Range r = w.range(rows);
  for (int64_t row = r.begin; row < r.end; ++row) {
    const P* from = p + row * n;
    int64_t positive = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float v = to_f32(from[i]);
      if (!(v >= 0.0f && v < math::kInf)) fault.raise();
      positive += v > 0.0f ? 1 : 0;
    }
    if (positive < (replacement ? (samples > 0 ? 1 : 0) : samples)) fault.raise();
    for (int64_t s = 0; s < samples; ++s) {
      int64_t best = 0;
      float top = -math::kInf;
      for (int64_t i = 0; i < n; ++i) {
        bool free = to_f32(from[i]) > 0.0f;
        for (int64_t k = 0; !replacement && free && k < s; ++k) free = out[row * samples + k] != i;
        if (!free) continue;
        const uint64_t draw = uint64_t((replacement ? row * samples + s : row) * n + i);
        const float u = (detail::unit(seed, stream, draw, 0) + 2.98023224e-8f);
        const float score = math::log(to_f32(from[i])) - math::log(-math::log(u));
        if (score > top) top = score, best = i;
      }
      out[row * samples + s] = best;
    }
  }
}

}  // namespace mcomp
