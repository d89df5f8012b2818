// Entry points of types.hpp and threads.hpp for tests/cpu/test_kernels_base.py.
#include "threads.hpp"
#include "types.hpp"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace mcomp;

EXPORT void bf16_from_f32(bf16* d, const float* s, int64_t n) { convert_row(d, s, n); }
EXPORT void bf16_to_f32(float* d, const bf16* s, int64_t n) { convert_row(d, s, n); }
EXPORT void f16_from_f32(f16* d, const float* s, int64_t n) { convert_row(d, s, n); }
EXPORT void f16_to_f32(float* d, const f16* s, int64_t n) { convert_row(d, s, n); }
EXPORT void e4m3_from_f32(fp8_e4m3* d, const float* s, int64_t n) { convert_row(d, s, n); }
EXPORT void e4m3_to_f32(float* d, const fp8_e4m3* s, int64_t n) { convert_row(d, s, n); }
EXPORT void e5m2_from_f32(fp8_e5m2* d, const float* s, int64_t n) { convert_row(d, s, n); }
EXPORT void e5m2_to_f32(float* d, const fp8_e5m2* s, int64_t n) { convert_row(d, s, n); }
EXPORT void u8_from_f32(uint8_t* d, const float* s, int64_t n) { convert_row(d, s, n); }
EXPORT void bool_from_f32(bool* d, const float* s, int64_t n) { convert_row(d, s, n); }
EXPORT void round_f32(float* d, const float* s, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes)
    vstore_n(d + i, vround(vload_n(s + i, min_i64(kLanes, n - i))), min_i64(kLanes, n - i));
}
EXPORT float sum_f32(const float* s, int64_t n) {
  vf32 total = vset(0.0f);
  for (int64_t i = 0; i < n; i += kLanes) total = total + vload_n(s + i, min_i64(kLanes, n - i));
  return vsum(total);
}
EXPORT float max_f32(const float* s) { return vreduce_max(vload(s)); }

// Each of `rounds` phases adds one to every counter of the worker's share, then, after a barrier, checks that all are
// equal. Returns the number of mismatches seen; *workers gets the number of workers that took part.
EXPORT int64_t count_phases(int threads, int64_t n, int64_t rounds, int64_t* counters, int* workers) {
  std::atomic<int64_t> wrong{0};
  Pool::run(threads, [&](const Worker& w) {
    if (w.id == 0) *workers = w.count;
    const Range mine = w.range(n, 4);
    for (int64_t round = 1; round <= rounds; ++round) {
      for (int64_t i = mine.begin; i < mine.end; ++i) counters[i] += 1;
      w.barrier();
      for (int64_t i = 0; i < n; ++i) wrong += counters[i] != round;
      w.barrier();
    }
  });
  return wrong;
}

// Runs `calls` regions with `barriers` barriers each; for measuring.
EXPORT void empty_regions(int threads, int64_t calls, int64_t barriers) {
  for (int64_t c = 0; c < calls; ++c)
    Pool::run(threads, [&](const Worker& w) {
      for (int64_t b = 0; b < barriers; ++b) w.barrier();
    });
}
// Workers that a region started from inside a region gets.
EXPORT int nested_workers(int threads) {
  int inner = 0;
  Pool::run(threads, [&](const Worker& w) {
    if (w.id == 0) Pool::run(threads, [&](const Worker& v) { inner = v.count; });
  });
  return inner;
}
EXPORT int pool_threads() { return Pool::thread_count(); }
// Puts the second of two threads on the caller's core, where `place` is set. Whether they share a core in this region.
EXPORT int on_one_core(int place) {
  int cores[2] = {-1, -2};
  Pool::run(2, [&](const Worker& w) {
    cores[w.id] = sched_getcpu();
    w.barrier();
    if (w.id == 0 || !place) return;
    cpu_set_t allowed, one;
    for (int core = 0; core < CPU_SETSIZE; ++core) CPU_SET(core, &allowed);
    CPU_ZERO(&one);
    CPU_SET(cores[0], &one);
    sched_setaffinity(0, sizeof one, &one);
    sched_setaffinity(0, sizeof allowed, &allowed);
  });
  return cores[0] == cores[1];
}
// Whether the second of two threads may run on the caller's core.
EXPORT int may_share() {
  int core = -1, may = -1;
  Pool::run(2, [&](const Worker& w) {
    if (w.id == 0) core = sched_getcpu();
    w.barrier();
    cpu_set_t allowed;
    if (w.id == 1 && sched_getaffinity(0, sizeof allowed, &allowed) == 0) may = CPU_ISSET(core, &allowed) != 0;
  });
  return may;
}
EXPORT void share_of(int64_t n, int64_t grain, int id, int count, int64_t* out) {
  const Range r = Worker{id, count, nullptr}.range(n, grain);
  out[0] = r.begin, out[1] = r.end;
}
