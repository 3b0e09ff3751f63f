// What the kernels of this folder need of CUDA, on a CPU without a GPU: for tests of their numbers and of their manners.
//
// A thread of a block is a fibre; blocks run one after the other. Pointers to global and shared memory are objects that
// know their bounds and who touched each word when, so that a launch fails with a message at
//   - an access outside of a buffer, or misaligned for its width,
//   - a read of shared memory that nothing was written to,
//   - two threads that touch a word, one of them writing, with no barrier between (of the block, of the warp),
//   - a barrier or a warp's exchange that not all threads reach, or that they reach in different places.
// They count the bytes and the 32-byte sectors that are moved, too. Any barrier can be switched off by its place in the
// source. A warp's product on tensor cores takes the lanes' fragments as the device does, and adds in f32 in the order of the
// inner index. Not covered: speed, `cp.async`.
#pragma once
#include <cmath>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

/// bfloat16 as its bits; rounds to nearest, ties to even.
struct bf16 { uint16_t bits; };
inline float __bfloat162float(bf16 v) {
  uint32_t bits = uint32_t(v.bits) << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
inline bf16 __float2bfloat16_rn(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  if (f != f) return {0x7fff};
  return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

namespace emu {

extern dim3 thread_index, block_index, block_size, grid_size;

/// Ends the launch with a message.
[[noreturn]] void fail(const char *format, ...);

/// Who touched a word last, and when.
struct Shadow {
  uint32_t writer = 0, write_epoch = 0, write_warp_epoch = 0;
  uint32_t reader = 0, read_epoch = 0, read_warp_epoch = 0;
};
void touch(Shadow &word, bool writes, const char *memory, size_t at);

/// Global memory of one argument of a launch.
struct Buffer {
  std::vector<unsigned char> storage;
  unsigned char *data = nullptr;
  size_t bytes = 0, granule = 4;
  std::vector<Shadow> shadow;
  std::vector<unsigned char> touched;   // bit 0 loaded, bit 1 stored
  // Bytes of all accesses; bytes that were loaded, without having been stored before, and stored at least once.
  uint64_t loaded = 0, stored = 0, unique_loaded = 0, unique_stored = 0;
  uint64_t id = 0;
  void access(const void *at, size_t width, bool writes);
};
/// One access of a thread; `buffer` may be missing.
void access(Buffer *buffer, const void *at, size_t width, bool writes);

/// A pointer to global memory.
template <class T> struct Global {
  using Value = std::remove_const_t<T>;
  T *at = nullptr;
  Buffer *buffer = nullptr;
  Global() = default;
  Global(T *p, Buffer *b) : at(p), buffer(b) {}
  template <class U, class = std::enable_if_t<std::is_same<const U, T>::value>>
  Global(Global<U> other) : at(other.at), buffer(other.buffer) {}
  explicit operator bool() const { return buffer != nullptr; }
  Global operator+(size_t offset) const { return {at + offset, buffer}; }
  Value get(size_t i) const {
    access(buffer, at + i, sizeof(T), false);
    return at[i];
  }
  void set(size_t i, Value v) const {
    access(buffer, at + i, sizeof(T), true);
    const_cast<Value *>(at)[i] = v;
  }
  struct Reference {
    Global from;
    size_t index;
    operator Value() const { return from.get(index); }
    const Reference &operator=(Value v) const { from.set(index, v); return *this; }
    const Reference &operator=(const Reference &v) const { return *this = Value(v); }
    const Reference &operator+=(Value v) const { return *this = Value(*this) + v; }
  };
  Reference operator[](size_t i) const { return {*this, i}; }
};

/// The shared memory of the running block.
struct SharedMemory {
  std::vector<unsigned char> storage;
  unsigned char *data = nullptr;
  size_t bytes = 0;
  std::vector<Shadow> shadow;
  void access(const void *at, size_t width, bool writes);
};
extern SharedMemory shared_memory;

/// A pointer to shared memory.
template <class T> struct Shared {
  T *at;
  Shared operator+(size_t offset) const { return {at + offset}; }
  struct Reference {
    T *at;
    operator T() const {
      shared_memory.access(at, sizeof(T), false);
      return *at;
    }
    const Reference &operator=(T v) const {
      shared_memory.access(at, sizeof(T), true);
      *at = v;
      return *this;
    }
    const Reference &operator=(const Reference &v) const { return *this = T(v); }
    const Reference &operator+=(T v) const { return *this = T(*this) + v; }
  };
  Reference operator[](size_t i) const { return {at + i}; }
};

/// The place of a barrier or of a warp's exchange in the source.
struct Site {
  const char *file;
  int line;
};
void sync_threads(Site site);
void sync_warp(Site site);
unsigned lane();
/// Gives `value` to the warp and takes that of lane `source`.
uint64_t exchange(uint64_t value, unsigned source, Site site);
template <class T> T shuffle(T value, unsigned source, Site site) {
  static_assert(sizeof(T) <= 8, "a shuffle moves 4 or 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = exchange(bits, source, site);
  memcpy(&value, &bits, sizeof(T));
  return value;
}

/// `sums += a b` of a warp in bf16, by fragments: see tensor.cuh.
void multiply_add(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site);

/// A place in static shared memory that all threads of a block get alike; `id` names the declaration.
void *static_shared(const void *id, size_t bytes);
void *dynamic_shared();

/// What a launch did.
struct Counts {
  uint64_t load_sectors = 0, store_sectors = 0, barriers = 0;
  std::vector<std::string> sites;
};
/// Runs `body` for every thread. Throws `std::runtime_error` with what was wrong.
Counts launch(dim3 grid, dim3 block, size_t shared_bytes, bool reverse, const std::string &disabled,
              const std::function<void()> &body);

}  // namespace emu

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define threadIdx (emu::thread_index)
#define blockIdx (emu::block_index)
#define blockDim (emu::block_size)
#define gridDim (emu::grid_size)
#define __syncthreads() emu::sync_threads({__FILE__, __LINE__})
#define __syncwarp() emu::sync_warp({__FILE__, __LINE__})
#define __shfl_xor_sync(mask, value, other) emu::shuffle(value, emu::lane() ^ (other), {__FILE__, __LINE__})
#define __shfl_sync(mask, value, source) emu::shuffle(value, source, {__FILE__, __LINE__})

#define IN(T) emu::Global<const T>
#define OUT(T) emu::Global<T>
template <class T> using GlobalIn = emu::Global<const T>;
template <class T> using GlobalOut = emu::Global<T>;
using emu::Shared;
#define DYNAMIC_SHARED(T, name) Shared<T> name{static_cast<T *>(emu::dynamic_shared())}
#define STATIC_SHARED(T, name, count)  \
  static const char name##_id = 0;     \
  Shared<T> name{static_cast<T *>(emu::static_shared(&name##_id, (count) * sizeof(T)))}
#define OPAQUE(number) (void)(number)
template <class U, class T> Shared<U> shared_as(Shared<T> p) { return {reinterpret_cast<U *>(p.at)}; }
template <class U, class T> emu::Global<U> global_as(emu::Global<T> p) {
  return {reinterpret_cast<U *>(p.at), p.buffer};
}

inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __dadd_rn(double x, double y) { return x + y; }
inline uint32_t __umulhi(uint32_t x, uint32_t y) { return uint32_t((uint64_t(x) * y) >> 32); }
template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T max(T a, T b) { return a < b ? b : a; }
