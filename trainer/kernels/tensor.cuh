// Products of small bf16 matrices on tensor cores, with sums in f32.
//
// The emulation has a twin that takes the same fragments from the lanes of a warp and multiplies them one by one.
#pragma once
#include "common.cuh"

/// Two neighbouring numbers of a fragment, the first in the lower half.
__device__ __forceinline__ uint32_t pack_bf16(float first, float second) {
#ifdef CUDA_ON_CPU
  return uint32_t(__float2bfloat16_rn(first).bits) | uint32_t(__float2bfloat16_rn(second).bits) << 16;
#else
  __nv_bfloat162 both = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<uint32_t *>(&both);
#endif
}

/// The same with its numbers exchanged.
__device__ __forceinline__ uint32_t exchanged(uint32_t pair) { return pair >> 16 | pair << 16; }

/// `sums += a b` of a warp: a [16, 16], b [16, 8], sums [16, 8]. With g = lane / 4 and q = lane % 4, a lane has
///   a     rows g, g + 8, g, g + 8 at the columns (2 q, 2 q + 1), twice, then twice at those + 8
///   b     of column g the rows (2 q, 2 q + 1), then those + 8
///   sums  row g at the columns 2 q and 2 q + 1, then row g + 8
#ifdef CUDA_ON_CPU
#define MULTIPLY_ADD(sums, a, b) emu::multiply_add(sums, a, b, {__FILE__, __LINE__})
#else
#define MULTIPLY_ADD(sums, a, b) multiply_add(sums, a, b)
__device__ __forceinline__ void multiply_add(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif
