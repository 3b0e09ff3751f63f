// What all kernels share: element types, vector accesses, reductions, the GELU.
//
// The same sources are compiled by nvcc and, for the tests, by a C++ compiler (`emulation/`). So global memory is declared
// with IN(T) and OUT(T), shared memory with DYNAMIC_SHARED, STATIC_SHARED and Shared<T>: plain pointers for nvcc, checked
// ones in the emulation. Sums have one fixed order: no kernel uses atomics, and no result depends on scheduling.
#pragma once

#ifdef CUDA_ON_CPU
#include "emulation/cuda_on_cpu.h"
#else
#include <cuda_bf16.h>
#include <stdint.h>

using bf16 = __nv_bfloat16;
#define IN(T) const T *__restrict__
#define OUT(T) T *__restrict__
template <class T> using GlobalIn = const T *;
template <class T> using GlobalOut = T *;
template <class T> using Shared = T *;
#define DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char dynamic_shared_[]; \
  Shared<T> name = reinterpret_cast<T *>(dynamic_shared_)
#define STATIC_SHARED(T, name, count) __shared__ T name[count]
// Forgets where a number comes from, so that what depends on it is computed anew instead of being kept in registers.
#define OPAQUE(number) asm volatile("" : "+r"(number))
template <class U, class T> __device__ __forceinline__ U *shared_as(T *p) { return reinterpret_cast<U *>(p); }
template <class U, class T> __device__ __forceinline__ U *global_as(T *p) { return reinterpret_cast<U *>(p); }
#endif

constexpr int WARP = 32;
/// Threads of a block of most kernels.
constexpr int THREADS = 256;
constexpr unsigned WHOLE_WARP = 0xffffffffu;
/// Rows whose columns one thread sums: a partial sum of a column is over so many rows.
constexpr int ROWS_PER_THREAD = 32;

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(bf16 v) { return __bfloat162float(v); }
template <class T> __device__ __forceinline__ T from_float(float v);
template <> __device__ __forceinline__ float from_float<float>(float v) { return v; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float v) { return __float2bfloat16_rn(v); }

/// Numbers that lie side by side, as f32.
template <int V> struct Pack {
  float v[V];
};

template <int BYTES> struct Word;
template <> struct alignas(2) Word<2> { uint16_t v[1]; };
template <> struct alignas(4) Word<4> { uint32_t v[1]; };
template <> struct alignas(8) Word<8> { uint32_t v[2]; };
template <> struct alignas(16) Word<16> { uint32_t v[4]; };

/// As many numbers of a type as one instruction moves: 16 bytes.
template <class T> constexpr int WIDEST = 16 / int(sizeof(T));

/// V numbers in one access; `i` is a multiple of V.
template <int V, class T> __device__ __forceinline__ Pack<V> load_pack(GlobalIn<T> p, size_t i) {
  using Raw = Word<V * int(sizeof(T))>;
  union {
    Raw raw;
    T numbers[V];
  } both;
  both.raw = global_as<const Raw>(p + i)[0];
  Pack<V> out;
#pragma unroll
  for (int k = 0; k < V; k++) out.v[k] = to_float(both.numbers[k]);
  return out;
}

template <int V, class T> __device__ __forceinline__ void store_pack(GlobalOut<T> p, size_t i, const Pack<V> &pack) {
  using Raw = Word<V * int(sizeof(T))>;
  union {
    Raw raw;
    T numbers[V];
  } both;
#pragma unroll
  for (int k = 0; k < V; k++) both.numbers[k] = from_float<T>(pack.v[k]);
  global_as<Raw>(p + i)[0] = both.raw;
}

/// The sum over a warp, in every lane.
template <class T> __device__ __forceinline__ T warp_sum(T v) {
#pragma unroll
  for (int other = WARP / 2; other > 0; other >>= 1) v += __shfl_xor_sync(WHOLE_WARP, v, other);
  return v;
}

/// The sums of COUNT numbers over a block, in every thread. `scratch` holds COUNT numbers a warp; nobody may use it until
/// the next barrier, so callers that come again take turns with two.
template <int COUNT, class T> __device__ __forceinline__ void block_sums(T (&v)[COUNT], Shared<T> scratch) {
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
#pragma unroll
  for (int k = 0; k < COUNT; k++) {
    v[k] = warp_sum(v[k]);
    if (lane == 0) scratch[warp * COUNT + k] = v[k];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < COUNT; k++) {
    T sum = T(0);
    for (int w = 0; w < warps; w++) sum += T(scratch[w * COUNT + k]);
    v[k] = sum;
  }
}

/// What a thread works on: some columns of ROWS_PER_THREAD rows of a matrix.
struct Strip {
  /// Number of its rows' partial sums.
  long long part;
  int column, row, end;
};

/// False for a thread beyond the last strip.
template <int V> __device__ __forceinline__ bool strip_of_thread(int rows, int cols, Strip &strip) {
  int packs = cols / V;
  long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  strip.part = thread / packs;
  strip.column = int(thread % packs) * V;
  long long row = strip.part * ROWS_PER_THREAD;
  strip.row = int(row);
  strip.end = int(min(row + ROWS_PER_THREAD, (long long)rows));
  return row < rows;
}

/// Which GELU: as `ops::bias_gelu::Gelu`.
constexpr int GELU_TANH = 0, GELU_ERF = 1;

/// The value and the derivative of a GELU.
struct Gelu {
  float value, slope;
};

__device__ __forceinline__ Gelu gelu(int kind, float x) {
  if (kind == GELU_TANH) {
    // 0.5 (1 + tanh z) = sigmoid(2 z)
    constexpr float TWO_ROOT = 2.f * 0.7978845608f, CUBIC = 0.044715f;
    float square = x * x;
    float s = __fdividef(1.f, 1.f + expf(fminf(-TWO_ROOT * x * (1.f + CUBIC * square), 88.f)));
    float slope = TWO_ROOT * (1.f + 3.f * CUBIC * square);
    // Where s (1 - s) is zero the slope may be infinite.
    float bend = s * (1.f - s);
    return {x * s, bend > 0.f ? s + x * bend * slope : s};
  }
  float cdf = 0.5f * erfcf(-0.70710678f * x);
  return {x * cdf, cdf + x * 0.39894228f * expf(-0.5f * x * x)};
}
