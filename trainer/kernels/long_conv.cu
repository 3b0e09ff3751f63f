// The entries of the long convolution for lengths up to 4096; long_conv.cuh tells how it goes.
#include "long_conv.cuh"

// long_conv_spectra_N: the spectra of the kernels, with the skip weights added.
//   kernels [2, dim, length] f32, skip [2, dim] f32, table, spectra: see above; directions 2, or 1 where they are added
//   grid  ceil(dim / R)    block R N / 8    dynamic shared memory R 9 N bytes, R = max(1, 1024 / N)
//
// long_conv_forward_N_{f32,bf16}: the convolution of a batch.
//   u [batch, length, dim]; y [batch, length, directions dim] (forward half first)
//   grid  (batch, ceil(dim / C))    block, C and dynamic shared memory (above 48 KiB: opt in):
//     N     C   block  bytes
//     64    16  32     9,344
//     256   16  128    36,992
//     1024  8   256    73,856
//     4096  4   512    163,840
//
// long_conv_backward_N_{f32,bf16}: writes du [batch, length, dim] and the sums of `parts` shares of the batch.
//   dy in the layout of y; grid (parts, ceil(dim / C)), 1 <= parts <= batch: each sums batch / parts images, so choose the
//   fewest that fill the device; block, C and dynamic shared memory:
//     64    16  64     17,536
//     256   16  256    69,760
//     1024  8   512    139,392
//     4096  2   512    139,264
//
// long_conv_gradients_N: from the sums, `dk =` [2, dim, length] f32 and `d_skip +=` [2, dim] f32.
//   grid  ceil(2 dim / R)    block and shared memory as long_conv_spectra_N
#define LONG_CONV(N)                                                                                                          \
  extern "C" __global__ void __launch_bounds__(N >= 1024 ? N / 8 : 128)                                                       \
      long_conv_spectra_##N(IN(float) kernels, IN(float) skip, IN(float2) table, OUT(float2) spectra, int length, int dim,    \
                            int directions) {                                                                                 \
    transform_rows<N, float>(kernels, skip, table, spectra, length, dim, directions, 1);                                      \
  }                                                                                                                           \
  extern "C" __global__ void __launch_bounds__(Shape<N, 4>::THREADS, 512 / Shape<N, 4>::THREADS)                              \
      long_conv_forward_##N##_f32(IN(float) u, IN(float2) spectra, IN(float2) table, OUT(float) y, int length, int dim,       \
                                  int directions) {                                                                           \
    forward<N, float>(u, spectra, table, y, length, dim, directions, 1);                                                      \
  }                                                                                                                           \
  extern "C" __global__ void __launch_bounds__(Shape<N, 4>::THREADS, 512 / Shape<N, 4>::THREADS)                              \
      long_conv_forward_##N##_bf16(IN(bf16) u, IN(float2) spectra, IN(float2) table, OUT(bf16) y, int length, int dim,        \
                                   int directions) {                                                                          \
    forward<N, bf16>(u, spectra, table, y, length, dim, directions, 1);                                                       \
  }                                                                                                                           \
  extern "C" __global__ void __launch_bounds__(Shape<N, 2>::THREADS, 512 / Shape<N, 2>::THREADS)                              \
      long_conv_backward_##N##_f32(IN(float) u, IN(float) dy, IN(float2) spectra, IN(float2) table, OUT(float) du,            \
                                   OUT(float2) sums, int batch, int length, int dim, int directions) {                        \
    backward<N, float>(u, dy, spectra, table, du, sums, batch, length, dim, directions, 1);                                   \
  }                                                                                                                           \
  extern "C" __global__ void __launch_bounds__(Shape<N, 2>::THREADS, 512 / Shape<N, 2>::THREADS)                              \
      long_conv_backward_##N##_bf16(IN(bf16) u, IN(bf16) dy, IN(float2) spectra, IN(float2) table, OUT(bf16) du,              \
                                    OUT(float2) sums, int batch, int length, int dim, int directions) {                       \
    backward<N, bf16>(u, dy, spectra, table, du, sums, batch, length, dim, directions, 1);                                    \
  }                                                                                                                           \
  extern "C" __global__ void __launch_bounds__(N >= 1024 ? N / 8 : 128)                                                       \
      long_conv_gradients_##N(IN(float2) sums, IN(float2) table, OUT(float) dk, OUT(float) d_skip, int parts, int length,     \
                              int dim, int directions) {                                                                      \
    inverse_rows<N, float>(sums, table, dk, d_skip, parts, length, dim, directions, 1);                                       \
  }

LONG_CONV(64)
LONG_CONV(256)
LONG_CONV(1024)
LONG_CONV(4096)
