// Fourier transforms of lines of N complex numbers in shared memory, several lines at a time.
//
// The mathematics is that of trainer/src/ops/long_conv/fft.rs. Real signals are weighted by `e^{i pi l / 2N}`, so that
// products of spectra give linear convolutions of up to N samples ("right-angle convolution"), without padding to 2N. The
// forward transform is decimated in frequency, the inverse in time; both work in place, so that spectra are in
// digit-reversed order and nothing is reordered. Radix 8, and 4 where the logarithm asks for it.
//
// A thread does one butterfly of 8 (or two of 4) of each of its LINES lines in every pass, with the same twiddles for all
// of them. In the last pass of the forward transform, which is the first of the inverse, a thread holds the elements
// 8 j .. 8 j + 7 in registers, j being its number within the line: products of spectra never touch shared memory.
#pragma once
#include "common.cuh"

namespace fft {

__device__ __forceinline__ float2 add(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }
__device__ __forceinline__ float2 sub(float2 a, float2 b) { return make_float2(a.x - b.x, a.y - b.y); }
__device__ __forceinline__ float2 times(float2 a, float2 b) {
  return make_float2(a.x * b.x - a.y * b.y, a.y * b.x + a.x * b.y);
}
/// `a conj(b)`
__device__ __forceinline__ float2 times_conj(float2 a, float2 b) {
  return make_float2(a.x * b.x + a.y * b.y, a.y * b.x - a.x * b.y);
}
__device__ __forceinline__ float2 swapped(float2 a) { return make_float2(a.y, a.x); }
/// `-i a`
__device__ __forceinline__ float2 turned(float2 a) { return make_float2(a.y, -a.x); }

__host__ __device__ constexpr int radix_of(int size) { return size == 4 || size == 16 ? 4 : 8; }
/// Whether the pass over blocks of `size` is the last of a forward transform.
__host__ __device__ constexpr bool is_last(int size) { return size <= 8; }
/// The size of the blocks of the last pass.
__host__ __device__ constexpr int last_size(int size) { return is_last(size) ? size : last_size(size / radix_of(size)); }

/// Numbers between the starts of neighbouring lines: one more every eight, and so many at the end that the `groups` of
/// threads that share half a warp use different banks.
__host__ __device__ constexpr int line_length(int n, int lines, int groups) {
  int length = n + n / 8;
  if (groups > 1)
    while (lines * length % 16 != 16 / groups % 16) length++;
  return length;
}
__device__ __forceinline__ unsigned place(unsigned i) { return i + i / 8; }
/// From the place of an element to that of the one k STEP behind it, for the elements of one butterfly.
template <int STEP> __device__ __forceinline__ constexpr int step(int k) {
  static_assert(STEP % 8 == 0 || STEP == 4, "the first element lies in the first half of eight");
  return STEP == 4 ? 4 * k + k / 2 : k * (STEP + STEP / 8);
}

/// The forward transform of four numbers, in natural order.
__device__ __forceinline__ void butterfly4(float2 &a0, float2 &a1, float2 &a2, float2 &a3) {
  float2 s0 = add(a0, a2), s1 = add(a1, a3), d0 = sub(a0, a2), d1 = turned(sub(a1, a3));
  a0 = add(s0, s1);
  a1 = add(d0, d1);
  a2 = sub(s0, s1);
  a3 = sub(d0, d1);
}

__device__ __forceinline__ void butterfly8(float2 (&a)[8]) {
  constexpr float ROOT = 0.70710678f;
  float2 s0 = add(a[0], a[4]), d0 = sub(a[0], a[4]), s1 = add(a[1], a[5]), d1 = sub(a[1], a[5]);
  float2 s2 = add(a[2], a[6]), d2 = sub(a[2], a[6]), s3 = add(a[3], a[7]), d3 = sub(a[3], a[7]);
  butterfly4(s0, s1, s2, s3);
  // The odd ones: d1 and d3 are turned by an eighth and three eighths, which share the factor sqrt(1/2).
  float2 f = add(d0, turned(d2)), g = sub(d0, turned(d2));
  float2 m = sub(d1, d3), n = add(d1, d3);
  float2 sum = make_float2(ROOT * (m.x + n.y), ROOT * (m.y - n.x));
  float2 difference = make_float2(ROOT * (n.y - m.x), ROOT * (-n.x - m.y));   // -i times it
  a[0] = s0;
  a[2] = s1;
  a[4] = s2;
  a[6] = s3;
  a[1] = add(f, sum);
  a[5] = sub(f, sum);
  a[3] = add(g, difference);
  a[7] = sub(g, difference);
}

/// `w .. w^7` behind a one.
__device__ __forceinline__ void powers(float2 w, float2 (&t)[8]) {
  t[0] = make_float2(1.f, 0.f);
  t[1] = w;
  t[2] = times(w, w);
  t[3] = times(t[2], w);
  t[4] = times(t[2], t[2]);
  t[5] = times(t[4], w);
  t[6] = times(t[3], t[3]);
  t[7] = times(t[4], t[3]);
}

/// One pass over blocks of SIZE of a line; `table[i] = e^{-2 pi i / N}`, i < N / 4.
template <int N, int SIZE, int LINES, bool INVERSE>
__device__ __forceinline__ void pass(Shared<float2> lines, int stride, GlobalIn<float2> table, unsigned j) {
  OPAQUE(j);
  if constexpr (radix_of(SIZE) == 8) {
    constexpr int STEP = SIZE / 8;
    unsigned inner = j % STEP, first = place(j / STEP * SIZE + inner);
    float2 t[8];
    powers(table[inner * (N / SIZE)], t);
#pragma unroll 1
    for (int c = 0; c < LINES; c++) {
      Shared<float2> line = lines + c * stride;
      float2 a[8];
#pragma unroll
      for (int k = 0; k < 8; k++) {
        a[k] = line[first + step<STEP>(k)];
        if (INVERSE) a[k] = times(swapped(a[k]), t[k]);
      }
      butterfly8(a);
#pragma unroll
      for (int k = 0; k < 8; k++) line[first + step<STEP>(k)] = INVERSE ? swapped(a[k]) : times(a[k], t[k]);
    }
  } else {
    constexpr int STEP = SIZE / 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      unsigned number = j + half * (N / 8), inner = number % STEP, first = place(number / STEP * SIZE + inner);
      float2 w = table[inner * (N / SIZE)], w2 = times(w, w);
      float2 t[4] = {make_float2(1.f, 0.f), w, w2, times(w2, w)};
#pragma unroll 1
      for (int c = 0; c < LINES; c++) {
        Shared<float2> line = lines + c * stride;
        float2 a[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
          a[k] = line[first + step<STEP>(k)];
          if (INVERSE) a[k] = times(swapped(a[k]), t[k]);
        }
        butterfly4(a[0], a[1], a[2], a[3]);
#pragma unroll
        for (int k = 0; k < 4; k++) line[first + step<STEP>(k)] = INVERSE ? swapped(a[k]) : times(a[k], t[k]);
      }
    }
  }
}

/// The passes between the first and the last of a forward transform; a barrier after each.
template <int N, int SIZE, int LINES>
__device__ __forceinline__ void forward_middle(Shared<float2> lines, int stride, GlobalIn<float2> table, unsigned j) {
  if constexpr (!is_last(SIZE)) {
    pass<N, SIZE, LINES, false>(lines, stride, table, j);
    __syncthreads();
    forward_middle<N, SIZE / radix_of(SIZE), LINES>(lines, stride, table, j);
  }
}

/// The passes between the first and the last of an inverse transform; a barrier before each.
template <int N, int SIZE, int LINES>
__device__ __forceinline__ void inverse_middle(Shared<float2> lines, int stride, GlobalIn<float2> table, unsigned j) {
  if constexpr (!is_last(SIZE)) {
    inverse_middle<N, SIZE / radix_of(SIZE), LINES>(lines, stride, table, j);
    __syncthreads();
    pass<N, SIZE, LINES, true>(lines, stride, table, j);
  }
}

/// The butterflies of blocks of LAST among eight neighbours.
template <int LAST> __device__ __forceinline__ void smallest(float2 (&a)[8]) {
  if constexpr (LAST == 8) {
    butterfly8(a);
  } else {
    butterfly4(a[0], a[1], a[2], a[3]);
    butterfly4(a[4], a[5], a[6], a[7]);
  }
}

/// The last pass of a forward transform: eight elements of the spectrum.
template <int N> __device__ __forceinline__ void last_forward(Shared<float2> line, unsigned j, float2 (&a)[8]) {
#pragma unroll
  for (int k = 0; k < 8; k++) a[k] = line[9 * j + k];
  smallest<last_size(N)>(a);
}

/// The first pass of an inverse transform, from eight elements of a spectrum into the line.
template <int N> __device__ __forceinline__ void first_inverse(float2 (&a)[8], Shared<float2> line, unsigned j) {
#pragma unroll
  for (int k = 0; k < 8; k++) a[k] = swapped(a[k]);
  smallest<last_size(N)>(a);
#pragma unroll
  for (int k = 0; k < 8; k++) line[9 * j + k] = swapped(a[k]);
}

/// The twiddles of the outermost pass. For real signals they hold the weight `e^{i pi j / 2N}`, too, which commutes with
/// the butterfly; what remains of the weights is `e^{i pi k / 16}`, constants.
template <int N, bool REAL>
__device__ __forceinline__ void outer_twiddles(GlobalIn<float2> table, unsigned j, float2 (&t)[8]) {
  powers(table[j], t);
  if (REAL) {
    float2 weight = table[N / 4 + j];
#pragma unroll
    for (int k = 0; k < 8; k++) t[k] = times(t[k], weight);
  }
}

/// `cos(pi k / 16)`
__device__ __forceinline__ constexpr float cos16(int k) {
  return k == 0   ? 1.f
         : k == 1 ? 0.98078528f
         : k == 2 ? 0.92387953f
         : k == 3 ? 0.83146961f
         : k == 4 ? 0.70710678f
         : k == 5 ? 0.55557023f
         : k == 6 ? 0.38268343f
         : k == 7 ? 0.19509032f
                  : 0.f;
}

/// The first pass of a forward transform, of the eight numbers in the line that lie N / 8 apart.
template <int N, bool REAL>
__device__ __forceinline__ void first_forward(Shared<float2> line, unsigned j, const float2 (&t)[8]) {
  float2 a[8];
#pragma unroll
  for (int k = 0; k < 8; k++) {
    if (REAL) {
      float x = shared_as<float>(line)[2 * (place(j) + step<N / 8>(k))];
      a[k] = make_float2(x * cos16(k), x * cos16(8 - k));
    } else {
      a[k] = line[place(j) + step<N / 8>(k)];
    }
  }
  butterfly8(a);
#pragma unroll
  for (int k = 0; k < 8; k++) line[place(j) + step<N / 8>(k)] = times(a[k], t[k]);
}

/// The last pass of an inverse transform, in place; of real signals the samples, divided by N, come to the real parts.
template <int N, bool REAL>
__device__ __forceinline__ void last_inverse(Shared<float2> line, unsigned j, const float2 (&t)[8]) {
  float2 a[8];
#pragma unroll
  for (int k = 0; k < 8; k++) a[k] = times(swapped(float2(line[place(j) + step<N / 8>(k)])), t[k]);
  butterfly8(a);
#pragma unroll
  for (int k = 0; k < 8; k++) {
    if (REAL)
      shared_as<float>(line)[2 * (place(j) + step<N / 8>(k))] = (a[k].y * cos16(k) + a[k].x * cos16(8 - k)) * (1.f / N);
    else line[place(j) + step<N / 8>(k)] = swapped(a[k]);
  }
}

}  // namespace fft
