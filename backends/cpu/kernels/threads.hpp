// Thread pool of one compiled model, the workers of a parallel region, and their barrier.
//
// One region per model call; the generated function runs in every worker and puts a barrier between dependent kernels:
//
//   static void body(void* p, const Worker& w) {
//     auto* c = static_cast<Call*>(p);
//     kernel_a(w, ...);
//     w.barrier();
//     kernel_b(w, ...);
//   }
//   extern "C" void model_run(Call* c, int threads) { Pool::run(threads, body, c); }
//
// - Threads start at the first call that wants them, spin for about 50 microseconds after a region and then sleep.
// - A call made while another thread is inside the pool, or from inside a region, runs alone (count == 1).
// - A region too short to wake threads for asks for `-threads`: it runs alone unless they are awake, or calls follow each
//   other so closely that they will be.
// - A thread that finds itself on the core of one that it works with moves to a core of its own, where there is one: a
//   scheduler that packs threads leaves them there otherwise, and every barrier costs a time slice.
// - After fork() the child starts with no pool and makes its own at its next call.
// - When the shared object is unloaded or the process exits, sleeping threads are woken and joined.
#pragma once

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

#include <atomic>
#include <cstdint>
#include <new>

#include "isa.hpp"

namespace mcomp {

MCOMP_INLINE void cpu_pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins a little, then gives the core away between looks: for waits that end soon unless the other side lost its core.
class SpinWait {
 public:
  void operator()() {
    if (++spins_ < kSpins) {
      cpu_pause();
    } else {
      sched_yield();
    }
  }

 private:
  static constexpr int kSpins = 4000;
  int spins_ = 0;
};

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
  bool empty() const { return end <= begin; }
};

// Contiguous share `id` of `count` of [0, n), in multiples of grain; shares differ by at most one grain.
MCOMP_INLINE Range share(int64_t n, int64_t grain, int64_t id, int64_t count) {
  const int64_t units = ceil_div(n, grain);
  const int64_t begin = units * id / count * grain, end = units * (id + 1) / count * grain;
  return {begin < n ? begin : n, end < n ? end : n};
}

// Counting barrier; reusable at once. Orders all memory accesses before it against all after it.
class Barrier {
 public:
  void wait(int count) {
    const uint32_t generation = generation_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
      arrived_.store(0, std::memory_order_relaxed);
      generation_.store(generation + 1, std::memory_order_release);
      return;
    }
    SpinWait pause;
    while (generation_.load(std::memory_order_acquire) == generation) pause();
  }

 private:
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};
};

// One participant of a parallel region: 0 <= id < count. Worker{} is a region of one.
struct Worker {
  int id = 0;
  int count = 1;
  Barrier* shared = nullptr;

  // All workers of the region must call it the same number of times.
  void barrier() const {
    if (count > 1) shared->wait(count);
  }
  // This worker's contiguous share of [0, n), in multiples of grain.
  Range range(int64_t n, int64_t grain = 1) const { return share(n, grain, id, count); }
};

class Pool {
 public:
  using Body = void (*)(void* argument, const Worker& worker);

  static constexpr int kMaxThreads = 1024;

  // Runs body(argument, worker) in `threads` workers at most (the caller is worker 0) and returns when all are done.
  // Fewer take part when the system refuses threads or the pool is in use. body must not throw. Negative: as many, but only
  // where that costs no waking.
  static void run(int threads, Body body, void* argument) {
    if (threads < 0) threads = in_a_row(-threads) ? -threads : 1;
    if (threads > 1) {
      Pool* pool = current();
      if (pool != nullptr && !pool->busy_.exchange(true, std::memory_order_acquire)) {
        pool->run_region(threads < kMaxThreads ? threads : kMaxThreads, body, argument);
        pool->busy_.store(false, std::memory_order_release);
        return;
      }
    }
    body(argument, Worker{});
  }

  // As above for any callable f(const Worker&).
  template <class F>
  static void run(int threads, F&& f) {
    run(
        threads, [](void* p, const Worker& w) { (*static_cast<std::remove_reference_t<F>*>(p))(w); },
        const_cast<void*>(static_cast<const void*>(&f)));
  }

  // Threads that the pool holds now, the caller not counted.
  static int thread_count() {
    Pool* pool = slot().load(std::memory_order_acquire);
    return pool == nullptr ? 0 : pool->started_;
  }

 private:
  struct Thread {
    Pool* pool;
    pthread_t handle;
    int id;
    uint64_t seen;
    std::atomic<int> core;
    bool moved = false;
    cpu_set_t home = {};  // the cores that it was allowed before it moved
  };

  // A region's ticket: a sequence number above, the number of its workers in the low 16 bits, so that a thread that
  // takes no part never reads the region's fields.
  static constexpr uint64_t kStep = 1u << 16;
  static constexpr uint64_t kStop = kStep - 1;
  static constexpr int64_t kIdleSpinNs = 50000;

  static std::atomic<Pool*>& slot() {
    static std::atomic<Pool*> pool{nullptr};
    return pool;
  }

  static Pool* current() {
    std::atomic<Pool*>& where = slot();
    Pool* pool = where.load(std::memory_order_acquire);
    if (pool != nullptr) return pool;
    static const bool registered = (pthread_atfork(nullptr, nullptr, [] { slot().store(nullptr); }) == 0);
    if (!registered) return nullptr;
    Pool* fresh = new (std::nothrow) Pool;
    if (fresh == nullptr) return nullptr;
    if (where.compare_exchange_strong(pool, fresh, std::memory_order_acq_rel)) {
      static Unloader unloader;
      return fresh;
    }
    delete fresh;
    return pool;
  }

  // Whether so many threads are awake, or the call before asked this less than their spinning time ago.
  static bool in_a_row(int threads) {
    Pool* pool = slot().load(std::memory_order_acquire);
    if (pool != nullptr && pool->awake_.load(std::memory_order_relaxed) >= threads - 1) return true;
    static std::atomic<int64_t> asked{0};
    const int64_t now = now_ns();
    return now - asked.exchange(now, std::memory_order_relaxed) < kIdleSpinNs;
  }

  // Its destructor runs when the shared object goes away or the process exits.
  struct Unloader {
    ~Unloader() {
      Pool* pool = slot().exchange(nullptr);
      if (pool != nullptr) pool->stop();
    }
  };

  void run_region(int threads, Body body, void* argument) {
    start_threads(threads - 1);
    const int count = started_ + 1 < threads ? started_ + 1 : threads;
    if (count == 1) return body(argument, Worker{});
    body_ = body;
    argument_ = argument;
    caller_core_.store(sched_getcpu(), std::memory_order_relaxed);
    remaining_.store(count - 1, std::memory_order_relaxed);
    publish((ticket_.load(std::memory_order_relaxed) / kStep + 1) * kStep + static_cast<uint64_t>(count));
    body(argument, Worker{0, count, &barrier_});
    SpinWait pause;
    while (remaining_.load(std::memory_order_acquire) != 0) pause();
  }

  void publish(uint64_t ticket) {
    ticket_.store(ticket, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
    pthread_mutex_lock(&mutex_);
    pthread_cond_broadcast(&wake_);
    pthread_mutex_unlock(&mutex_);
  }

  void start_threads(int wanted) {
    if (started_ >= wanted) return;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (started_ < wanted) {
      Thread* thread = new (std::nothrow) Thread{this, {}, started_ + 1, ticket_.load(std::memory_order_relaxed), {-1}};
      if (thread == nullptr) break;
      if (pthread_create(&thread->handle, nullptr, main, thread) != 0) {
        delete thread;
        break;
      }
      threads_[started_++] = thread;
      awake_.fetch_add(1, std::memory_order_relaxed);
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  // Waits for a region that is under way, for half a second at most: at exit its caller may never run again.
  void stop() {
    const int64_t limit = now_ns() + 500000000;
    while (busy_.exchange(true, std::memory_order_acquire)) {
      if (now_ns() > limit) return;
      sched_yield();
    }
    publish((ticket_.load(std::memory_order_relaxed) / kStep + 1) * kStep + kStop);
    for (int i = 0; i < started_; ++i) {
      pthread_join(threads_[i]->handle, nullptr);
      delete threads_[i];
    }
    delete this;
  }

  static void* main(void* p) {
    Thread* self = static_cast<Thread*>(p);
    Pool* pool = self->pool;
    uint64_t seen = self->seen;
    for (;;) {
      seen = pool->next_ticket(seen);
      const uint64_t count = seen % kStep;
      if (count == kStop) return nullptr;
      if (static_cast<uint64_t>(self->id) >= count) continue;
      pool->keep_apart(*self, static_cast<int>(count));
      pool->body_(pool->argument_, Worker{self->id, static_cast<int>(count), &pool->barrier_});
      pool->remaining_.fetch_sub(1, std::memory_order_release);
    }
  }

  // Moves this thread off a core that the caller, or a thread with a lower number, runs on. It stays off those cores: woken
  // after each call where its caller runs, it would move at each call, which takes longer than small models do.
  void keep_apart(Thread& self, int count) {
    const int core = sched_getcpu();
    self.core.store(core, std::memory_order_relaxed);
    bool shared = core == caller_core_.load(std::memory_order_relaxed);
    for (int i = 0; i + 1 < self.id; ++i) shared |= core == threads_[i]->core.load(std::memory_order_relaxed);
    if (!shared || core < 0) return;
    if (!self.moved && sched_getaffinity(0, sizeof self.home, &self.home) != 0) return;
    cpu_set_t rest = self.home;
    remove(rest, caller_core_.load(std::memory_order_relaxed));
    for (int i = 0; i + 1 < count; ++i) remove(rest, threads_[i]->core.load(std::memory_order_relaxed));
    const bool room = CPU_COUNT(&rest) != 0;
    if (!room && !self.moved) return;
    if (sched_setaffinity(0, sizeof rest, room ? &rest : &self.home) == 0) self.moved = room;
    self.core.store(sched_getcpu(), std::memory_order_relaxed);
  }

  static void remove(cpu_set_t& set, int core) {
    if (core >= 0 && core < CPU_SETSIZE) CPU_CLR(core, &set);
  }

  uint64_t next_ticket(uint64_t seen) {
    const int64_t limit = now_ns() + kIdleSpinNs;
    do {
      for (int i = 0; i < 64; ++i) {
        const uint64_t ticket = ticket_.load(std::memory_order_acquire);
        if (ticket != seen) return ticket;
        cpu_pause();
      }
    } while (now_ns() < limit);
    pthread_mutex_lock(&mutex_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    awake_.fetch_sub(1, std::memory_order_relaxed);
    uint64_t ticket;
    while ((ticket = ticket_.load(std::memory_order_seq_cst)) == seen) pthread_cond_wait(&wake_, &mutex_);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
    awake_.fetch_add(1, std::memory_order_relaxed);
    pthread_mutex_unlock(&mutex_);
    return ticket;
  }

  static int64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * int64_t{1000000000} + t.tv_nsec;
  }

  alignas(64) std::atomic<uint64_t> ticket_{0};
  Body body_ = nullptr;
  void* argument_ = nullptr;
  alignas(64) std::atomic<int> remaining_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<int> awake_{0};
  std::atomic<int> caller_core_{-1};
  std::atomic<bool> busy_{false};
  Barrier barrier_;
  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t wake_ = PTHREAD_COND_INITIALIZER;
  int started_ = 0;
  Thread* threads_[kMaxThreads] = {};
};

}  // namespace mcomp
