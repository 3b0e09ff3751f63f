// The long convolution of more than 4096 samples: a first pass of radix 4 over the whole sequence, then four transforms of
// 4096 in shared memory (the kernels of long_conv.cuh on complex numbers), then the last pass of the inverse.
//
// Between the passes the quarters lie in global memory as [.., 4, 4096, dim] of (re, im), channels contiguous as everywhere:
// eight bytes a number and pass, which is what this costs beside a transform that fits into shared memory. N = 16,384.
#include "long_conv.cuh"

namespace {

constexpr int QUARTER = 4096, WHOLE = 4 * QUARTER;

/// The numbers that lie QUARTER apart from row j on, weighted and transformed.
template <class T>
__device__ __forceinline__ void split(GlobalIn<T> x, GlobalIn<float2> table, GlobalOut<float2> quarters, int length,
                                      int inner) {
  long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  int column = int(thread % inner), j = int(thread / inner);
  if (j >= QUARTER) return;
  // e^{-2 pi i j / WHOLE} and e^{i pi j / 2 WHOLE}
  float2 w = table[j], weight = table[QUARTER + j], w2 = times(w, w);
  const float COS[4] = {1.f, 0.92387953f, 0.70710678f, 0.38268343f};
  const float SIN[4] = {0.f, 0.38268343f, 0.70710678f, 0.92387953f};
  float2 a[4];
#pragma unroll
  for (int k = 0; k < 4; k++) {
    int l = j + k * QUARTER;
    float v = l < length ? to_float(x[(size_t(blockIdx.y) * length + l) * inner + column]) : 0.f;
    a[k] = make_float2(v * COS[k], v * SIN[k]);
  }
  fft::butterfly4(a[0], a[1], a[2], a[3]);
  float2 t[4] = {weight, times(weight, w), times(weight, w2), times(weight, times(w2, w))};
#pragma unroll
  for (int q = 0; q < 4; q++) quarters[((size_t(blockIdx.y) * 4 + q) * QUARTER + j) * inner + column] = times(a[q], t[q]);
}

template <class T>
__device__ __forceinline__ void merge(GlobalIn<float2> quarters, GlobalIn<float2> table, GlobalOut<T> x, int length,
                                      int inner) {
  long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  int column = int(thread % inner), j = int(thread / inner);
  if (j >= QUARTER) return;
  float2 w = table[j], weight = table[QUARTER + j], w2 = times(w, w);
  const float COS[4] = {1.f, 0.92387953f, 0.70710678f, 0.38268343f};
  const float SIN[4] = {0.f, 0.38268343f, 0.70710678f, 0.92387953f};
  float2 t[4] = {weight, times(weight, w), times(weight, w2), times(weight, times(w2, w))};
  float2 a[4];
#pragma unroll
  for (int q = 0; q < 4; q++) {
    float2 v = quarters[((size_t(blockIdx.y) * 4 + q) * QUARTER + j) * inner + column];
    a[q] = times(fft::swapped(v), t[q]);
  }
  fft::butterfly4(a[0], a[1], a[2], a[3]);
#pragma unroll
  for (int k = 0; k < 4; k++) {
    int l = j + k * QUARTER;
    float v = (a[k].y * COS[k] + a[k].x * SIN[k]) * (1.f / WHOLE);
    if (l < length) x[(size_t(blockIdx.y) * length + l) * inner + column] = from_float<T>(v);
  }
}

}  // namespace

// long_conv_split_{f32,bf16}: the first pass.
//   x [outer, length, inner], 4096 < length <= 16,384; quarters [outer, 4, 4096, inner] of (re, im)
//   outer = batch and inner = dim (or directions dim) for activations, outer = 2 dim and inner = 1 for kernels
//   table [2 * 4096] of (re, im): `e^{-2 pi i j / 16384}`, then `e^{i pi j / 32768}`, j < 4096
//   grid  (ceil(4096 inner / 256), outer)    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(256)
    long_conv_split_f32(IN(float) x, IN(float2) table, OUT(float2) quarters, int length, int inner) {
  split<float>(x, table, quarters, length, inner);
}
extern "C" __global__ void __launch_bounds__(256)
    long_conv_split_bf16(IN(bf16) x, IN(float2) table, OUT(float2) quarters, int length, int inner) {
  split<bf16>(x, table, quarters, length, inner);
}

// long_conv_merge_{f32,bf16}: the last pass of the inverse, of quarters into x; shapes and grid as long_conv_split.
extern "C" __global__ void __launch_bounds__(256)
    long_conv_merge_f32(IN(float2) quarters, IN(float2) table, OUT(float) x, int length, int inner) {
  merge<float>(quarters, table, x, length, inner);
}
extern "C" __global__ void __launch_bounds__(256)
    long_conv_merge_bf16(IN(float2) quarters, IN(float2) table, OUT(bf16) x, int length, int inner) {
  merge<bf16>(quarters, table, x, length, inner);
}

// long_conv_inner_{spectra,forward,backward,gradients}: what the kernels of long_conv.cu for N = 4096 do, on quarters.
//   table is that of N = 4096; spectra [4, directions, dim, 8, 512], sums [parts, 4, directions, dim, 8, 512]
//   blocks and shared memory as there; grids: spectra and gradients (ceil(dim / R) or ceil(2 dim / R), 4) with R = 1,
//   forward (4 batch, ceil(dim / 4)), backward (4 parts, ceil(dim / 2))
//   kernels, dk [2, dim, 4, 4096] of (re, im); u, du [batch, 4, 4096, dim]; y, dy [batch, 4, 4096, directions dim]
//   d_skip is not in gradients: add dk[.., 0] of the merged dk to it (long_conv_add_skip)
extern "C" __global__ void __launch_bounds__(512)
    long_conv_inner_spectra(IN(float2) kernels, IN(float) skip, IN(float2) table, OUT(float2) spectra, int dim,
                            int directions) {
  transform_rows<QUARTER, float2>(kernels, skip, table, spectra, QUARTER, dim, directions, 4);
}
extern "C" __global__ void __launch_bounds__(512, 1)
    long_conv_inner_forward(IN(float2) u, IN(float2) spectra, IN(float2) table, OUT(float2) y, int dim, int directions) {
  forward<QUARTER, float2>(u, spectra, table, y, QUARTER, dim, directions, 4);
}
extern "C" __global__ void __launch_bounds__(512, 1)
    long_conv_inner_backward(IN(float2) u, IN(float2) dy, IN(float2) spectra, IN(float2) table, OUT(float2) du,
                             OUT(float2) sums, int batch, int dim, int directions) {
  backward<QUARTER, float2>(u, dy, spectra, table, du, sums, batch, QUARTER, dim, directions, 4);
}
extern "C" __global__ void __launch_bounds__(512)
    long_conv_inner_gradients(IN(float2) sums, IN(float2) table, OUT(float2) dk, int parts, int dim, int directions) {
  inverse_rows<QUARTER, float2>(sums, table, dk, GlobalOut<float>{}, parts, QUARTER, dim, directions, 4);
}

// long_conv_add_skip: `d_skip[line] += dk[line, 0]` for the `lines` lines of length `length`.
//   grid ceil(lines / 256)    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(256)
    long_conv_add_skip(IN(float) dk, OUT(float) d_skip, int lines, int length) {
  int line = blockIdx.x * blockDim.x + threadIdx.x;
  if (line < lines) d_skip[line] += dk[size_t(line) * length];
}
