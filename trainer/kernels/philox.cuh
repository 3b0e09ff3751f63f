// Philox4x32-10 and the project's random numbers: the words of shards/src/rng, bit for bit; normals by the same formula in
// f64, rounded to f32 (a libm that differs in the last place of f64 changes one normal in some hundred million).
#pragma once
#include "common.cuh"

namespace philox {

/// As `shards::rng::Stream`.
enum Stream : unsigned {
  INITIAL_NOISE = 1,
  SAMPLER_NOISE = 2,
  POSTERIOR_NOISE = 3,
  TIMESTEP = 5,
  TRAINING_NOISE = 6,
  LABEL_DROP = 7,
};

struct Words {
  uint32_t v[4];
};

/// Four words at a position; element i of a tensor lies in block i / 4.
__device__ __forceinline__ Words block(long long seed, unsigned stream, long long sample, unsigned step, unsigned number) {
  constexpr uint32_t MULTIPLIER0 = 0xD2511F53, MULTIPLIER1 = 0xCD9E8D57, WEYL0 = 0x9E3779B9, WEYL1 = 0xBB67AE85;
  uint32_t key0 = uint32_t(seed), key1 = uint32_t((unsigned long long)seed >> 32);
  uint32_t high = uint32_t((unsigned long long)sample >> 32) & 0x00FFFFFF;
  uint32_t c0 = number, c1 = step, c2 = uint32_t(sample), c3 = stream << 24 | high;
#pragma unroll
  for (int round = 0; round < 10; round++) {
    if (round != 0) {
      key0 += WEYL0;
      key1 += WEYL1;
    }
    uint32_t high0 = __umulhi(MULTIPLIER0, c0), low0 = MULTIPLIER0 * c0;
    uint32_t high1 = __umulhi(MULTIPLIER1, c2), low1 = MULTIPLIER1 * c2;
    c0 = high1 ^ c1 ^ key0;
    c2 = high0 ^ c3 ^ key1;
    c1 = low1;
    c3 = low0;
  }
  return {{c0, c1, c2, c3}};
}

constexpr double WORD_SCALE = 1.0 / 4294967296.0;

/// A uniform number in [0, 1).
__device__ __forceinline__ double uniform(uint32_t word) { return word * WORD_SCALE; }
/// A uniform integer in 0 .. n - 1.
__device__ __forceinline__ uint32_t below(uint32_t word, uint32_t n) { return __umulhi(word, n); }

struct Normals {
  float v[4];
};

/// Two Box-Muller pairs.
__device__ __forceinline__ Normals normals(Words words) {
  constexpr double TAU = 6.283185307179586;
  Normals out;
#pragma unroll
  for (int pair = 0; pair < 2; pair++) {
    double radius = sqrt(-2.0 * log((double(words.v[2 * pair]) + 1.0) * WORD_SCALE));
    double sine, cosine;
    sincos(__dmul_rn(TAU, double(words.v[2 * pair + 1]) * WORD_SCALE), &sine, &cosine);
    out.v[2 * pair] = float(__dmul_rn(radius, cosine));
    out.v[2 * pair + 1] = float(__dmul_rn(radius, sine));
  }
  return out;
}

}  // namespace philox
