// What this machine can do at most, by loops that do nothing else: products of operands that stay in registers, and reads
// of memory in a row. What kernels reach is compared with it; see peak.py.
//
//   double rate = peak_products(PeakKind::kBytes, /*threads=*/2, /*microseconds=*/20000);    // operations per second
//   double rate = peak_reads(64 << 20, 2, 20000);                                            // bytes per second
//
// A product of two numbers and its addition are two operations. All threads work at once; the fastest of several turns
// counts.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "micro.hpp"
#include "micro_bf16.hpp"
#include "micro_i8.hpp"
#include "micro_matrix.hpp"
#include "region.hpp"
#include "threads.hpp"

namespace mcomp {

enum class PeakKind { kFloat, kBytes, kPairs };

namespace detail {

constexpr int kPeakSums = 12;  // independent sums: more than a multiplier's latency times its throughput
constexpr int64_t kPeakSteps = 20000;

// Makes the compiler know nothing of an operand, so that it can share no products.
template <class V>
MCOMP_INLINE void forget(V& v) {
#if defined(MCOMP_X86_SIMD)
  if constexpr (std::is_class<V>::value) {
    asm volatile("" : "+v"(v.even), "+v"(v.odd));
  } else {
    asm volatile("" : "+v"(v));
  }
#endif
}

// Operations of one call.
template <class Dot>
MCOMP_NOINLINE double peak_of() {
  alignas(64) typename Dot::Panel panel[Dot::kPanel] = {};
  alignas(64) char rows[64] = {};
  typename Dot::Acc sums[kPeakSums] = {};
  typename Dot::Row row = Dot::row(rows);
  typename Dot::Columns columns = Dot::columns(panel);
  forget(row);
  for (int64_t i = 0; i < kPeakSteps; ++i)
    unroll<kPeakSums>([&](auto s) MCOMP_LAMBDA {
      forget(columns);
      sums[s] = in_register(Dot::add(sums[s], row, columns));
    });
  unroll<kPeakSums>([&](auto s) MCOMP_LAMBDA { forget(sums[s]); });
  return 2.0 * Dot::kLength * Dot::kWidth * kPeakSums * kPeakSteps;
}

#if defined(MCOMP_AMX)
template <bool Pairs>
MCOMP_NOINLINE double peak_of_matrices() {
  MatrixRegisters registers;
  registers.set_rows(16);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t i = 0; i < kPeakSteps; ++i) {
    if constexpr (Pairs) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    } else {
      _tile_dpbusd(0, 4, 6);
      _tile_dpbusd(1, 4, 7);
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    }
  }
  return 2.0 * (Pairs ? 32 : 64) * 16 * 16 * 4 * kPeakSteps;
}
#endif

inline double peak_call(PeakKind kind) {
#if !defined(MCOMP_X86_SIMD)
  return 0.0;  // nothing keeps the compiler from leaving products out
#else
  switch (kind) {
    case PeakKind::kFloat: return peak_of<FloatDot<float, float>>();
#if defined(MCOMP_AMX)
    case PeakKind::kBytes: return peak_of_matrices<false>();
    case PeakKind::kPairs: return peak_of_matrices<true>();
#else
    case PeakKind::kBytes: return peak_of<ByteDot<uint8_t>>();
#if defined(MCOMP_BF16)
    case PeakKind::kPairs: return peak_of<Bf16Dot>();
#else
    case PeakKind::kPairs: return 0.0;
#endif
#endif
  }
  return 0.0;
#endif
}

// The most that any turn of `once`, which returns what it did, does in a second.
template <class Once>
double fastest(double microseconds, Once&& once) {
  double best = 0.0;
  const double start = now_us();
  for (int64_t turn = 0; turn < 5 || now_us() - start < microseconds; ++turn) {
    const double begin = now_us(), done = once(), took = now_us() - begin;
    if (turn > 0 && done > best * took) best = done / took;
  }
  return best * 1e6;
}

MCOMP_NOINLINE inline vi32 read_all(const char* data, int64_t bytes) {
  vi32 sums[8] = {};
  for (int64_t i = 0; i + 8 * kVectorBytes <= bytes; i += 8 * kVectorBytes)
    unroll<8>([&](auto s) MCOMP_LAMBDA {
      sums[s] = in_register(sums[s] | vload(reinterpret_cast<const int32_t*>(data + i + s * kVectorBytes)));
    });
  for (int s = 1; s < 8; ++s) sums[0] = sums[0] | sums[s];
  return sums[0];
}

}  // namespace detail

// Operations per second of all threads; 0 where this code has no such products.
inline double peak_products(PeakKind kind, int threads, double microseconds) {
  return detail::fastest(microseconds, [&] {
    double done[Pool::kMaxThreads] = {};
    int64_t count = 1;
    Pool::run(threads, [&](const Worker& w) {
      if (w.id == 0) count = w.count;
      done[w.id] = detail::peak_call(kind);
    });
    double total = 0.0;
    for (int64_t i = 0; i < count; ++i) total += done[i];
    return total;
  });
}

// Bytes per second of all threads that read `bytes` of memory, each its own part, in large pages where the system has them.
inline double peak_reads(int64_t bytes, int threads, double microseconds) {
  constexpr int64_t kPage = 2 << 20;
  const int64_t size = round_up(bytes, bytes < kPage ? 64 : kPage);
  char* const data = static_cast<char*>(
      std::aligned_alloc(static_cast<size_t>(bytes < kPage ? 64 : kPage), static_cast<size_t>(size)));
  if (data == nullptr) return 0.0;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (size >= kPage) madvise(data, static_cast<size_t>(size), MADV_HUGEPAGE);
#endif
  std::memset(data, 1, static_cast<size_t>(size));
  const int64_t repeats = max_i64(1, (1 << 20) / bytes);
  const double rate = detail::fastest(microseconds, [&] {
    Pool::run(threads, [&](const Worker& w) {
      const Range lines = w.range(ceil_div(bytes, 64));
      for (int64_t r = 0; r < repeats; ++r) {
        const vi32 seen = detail::read_all(data + 64 * lines.begin, 64 * lines.size());
        asm volatile("" ::"r"(&seen) : "memory");
      }
    });
    return static_cast<double>(bytes * repeats);
  });
  std::free(data);
  return rate;
}

}  // namespace mcomp
