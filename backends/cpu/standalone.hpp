// What an exported model needs besides its kernels: the weights file, packed constants, and the frames of calls.
#pragma once

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <new>

namespace mcomp {

// Where a slot of a region points: an argument, a buffer of the arena, an offset into the weights file, or a buffer of the
// packing region's arena.
struct Place {
  enum Kind : int32_t { kInput, kOutput, kArena, kWeights, kPacked } kind;
  int64_t at;
};

// A region of generated code and what it is run with.
struct Region {
  int64_t (*plan)(const int64_t* sym, int64_t workers, int64_t* numbers, int64_t* offsets);
  int32_t (*run)(char* const* slots, const int64_t* numbers, int32_t threads);
  const Place* places;
  int32_t slots, numbers, arena;
};

// A read-only file in memory.
class Mapping {
 public:
  bool open(const char* path) {
    const int file = ::open(path, O_RDONLY);
    if (file < 0) return false;
    struct stat facts;
    if (fstat(file, &facts) == 0 && facts.st_size > 0) {
      void* found = mmap(nullptr, static_cast<size_t>(facts.st_size), PROT_READ, MAP_PRIVATE, file, 0);
      if (found != MAP_FAILED) data_ = static_cast<char*>(found), bytes_ = facts.st_size;
    }
    ::close(file);
    return data_ != nullptr;
  }
  ~Mapping() {
    if (data_ != nullptr) munmap(data_, static_cast<size_t>(bytes_));
  }
  char* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  char* data_ = nullptr;
  int64_t bytes_ = 0;
};

// The numbers, memory and slots of one region for one set of sizes.
class Frame {
 public:
  // False when there is not enough memory.
  bool prepare(const Region& region, const int64_t* sym, int32_t threads, char* weights, const Frame* packed) {
    region_ = &region;
    threads_ = threads < 1 ? 1 : threads;
    slots_ = static_cast<char**>(calloc(static_cast<size_t>(region.slots) + 1, sizeof(char*)));
    numbers_ = static_cast<int64_t*>(calloc(static_cast<size_t>(region.numbers) + 1, sizeof(int64_t)));
    offsets_ = static_cast<int64_t*>(calloc(static_cast<size_t>(region.arena) + 1, sizeof(int64_t)));
    if (slots_ == nullptr || numbers_ == nullptr || offsets_ == nullptr) return false;
    bytes_ = region.plan(sym, threads_, numbers_, offsets_);
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, static_cast<size_t>(bytes_) + 64) != 0) return false;
    memory_ = static_cast<char*>(memory);
    for (int32_t i = 0; i < region.slots; ++i) {
      const Place& place = region.places[i];
      if (place.kind == Place::kArena) slots_[i] = memory_ + offsets_[place.at];
      if (place.kind == Place::kWeights) slots_[i] = weights + place.at;
      if (place.kind == Place::kPacked) slots_[i] = packed->memory_ + packed->offsets_[place.at];
    }
    return true;
  }
  // Returns 0, or the number of the step that met bad data.
  int32_t run(const void* const* inputs, void* const* outputs) {
    for (int32_t i = 0; i < region_->slots; ++i) {
      const Place& place = region_->places[i];
      if (place.kind == Place::kInput) slots_[i] = static_cast<char*>(const_cast<void*>(inputs[place.at]));
      if (place.kind == Place::kOutput) slots_[i] = static_cast<char*>(outputs[place.at]);
    }
    return region_->run(slots_, numbers_, threads_);
  }
  int64_t bytes() const { return bytes_; }
  ~Frame() {
    free(slots_);
    free(numbers_);
    free(offsets_);
    free(memory_);
  }

 private:
  const Region* region_ = nullptr;
  int32_t threads_ = 1;
  char** slots_ = nullptr;
  int64_t* numbers_ = nullptr;
  int64_t* offsets_ = nullptr;
  char* memory_ = nullptr;
  int64_t bytes_ = 0;
};

// Why the last call of this thread failed.
inline char* message() {
  static thread_local char text[256] = "";
  return text;
}

inline bool fail(const char* format, const char* what) {
  snprintf(message(), 256, format, what);
  return false;
}

// The weights of a model: the file, and what was packed from it once.
struct Weights {
  Mapping file;
  Frame packed;

  // `key`: the 32 characters that the file must begin with; `bytes`: its length.
  bool open(const char* path, const char* key, int64_t bytes, const Region& packing, int32_t threads) {
    if (!file.open(path)) return fail("%s cannot be read", path);
    if (file.bytes() != bytes || memcmp(file.data(), key, 32) != 0) return fail("%s holds the weights of another model", path);
    if (!packed.prepare(packing, nullptr, threads, file.data(), nullptr)) return fail("%s", "not enough memory");
    return packed.run(nullptr, nullptr) == 0 || fail("%s could not be packed", path);
  }
};

}  // namespace mcomp
