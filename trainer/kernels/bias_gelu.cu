// Bias and GELU in one pass over the output of a linear layer, and its backward with the bias's gradient.
// The twin on the CPU: trainer/src/ops/bias_gelu.rs.
//
// A thread owns V neighbouring columns (16 bytes) and walks down ROWS_PER_THREAD = 32 rows, so that biases and partial
// sums of columns stay in registers: no shared memory, no barrier.
#include "common.cuh"

namespace {

template <class T, int V>
__device__ __forceinline__ void bias_gelu_rows(GlobalOut<T> pre, GlobalIn<float> bias, GlobalOut<T> out, int rows, int cols,
                                               int kind) {
  Strip strip;
  if (!strip_of_thread<V>(rows, cols, strip)) return;
  float b[V];
#pragma unroll
  for (int k = 0; k < V; k++) b[k] = bias[strip.column + k];
#pragma unroll 4
  for (int r = strip.row; r < strip.end; r++) {
    size_t at = size_t(r) * cols + strip.column;
    Pack<V> x = load_pack<V, T>(pre, at), y;
#pragma unroll
    for (int k = 0; k < V; k++) {
      x.v[k] += b[k];
      y.v[k] = gelu(kind, x.v[k]).value;
    }
    store_pack<V, T>(pre, at, x);
    store_pack<V, T>(out, at, y);
  }
}

template <class T, int V>
__device__ __forceinline__ void gelu_backward_rows(GlobalIn<T> pre, GlobalOut<T> d, GlobalOut<float> partial, int rows,
                                                   int cols, int kind) {
  Strip strip;
  if (!strip_of_thread<V>(rows, cols, strip)) return;
  Pack<V> sum = {};
#pragma unroll 4
  for (int r = strip.row; r < strip.end; r++) {
    size_t at = size_t(r) * cols + strip.column;
    Pack<V> x = load_pack<V, T>(pre, at), g = load_pack<V, T>(d, at);
#pragma unroll
    for (int k = 0; k < V; k++) {
      g.v[k] *= gelu(kind, x.v[k]).slope;
      sum.v[k] += g.v[k];
    }
    store_pack<V, T>(d, at, g);
  }
#pragma unroll
  for (int k = 0; k < V; k++) partial[strip.part * cols + strip.column + k] = sum.v[k];
}

template <class T>
__device__ __forceinline__ void bias_gelu(GlobalOut<T> pre, GlobalIn<float> bias, GlobalOut<T> out, int rows, int cols,
                                          int kind) {
  if (cols % WIDEST<T> == 0) bias_gelu_rows<T, WIDEST<T>>(pre, bias, out, rows, cols, kind);
  else bias_gelu_rows<T, 1>(pre, bias, out, rows, cols, kind);
}

template <class T>
__device__ __forceinline__ void gelu_backward(GlobalIn<T> pre, GlobalOut<T> d, GlobalOut<float> partial, int rows, int cols,
                                              int kind) {
  if (cols % WIDEST<T> == 0) gelu_backward_rows<T, WIDEST<T>>(pre, d, partial, rows, cols, kind);
  else gelu_backward_rows<T, 1>(pre, d, partial, rows, cols, kind);
}

}  // namespace

// bias_gelu_{f32,bf16}: `pre += bias` (kept for the backward), `out = gelu(pre)`.
//   pre, out [rows, cols] of the type; bias [cols] f32; kind: 0 tanh, 1 erf
//   V = 4 (f32) or 8 (bf16) where it divides cols, else 1
//   grid  ceil(ceil(rows / 32) * (cols / V) / 256)    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(256)
    bias_gelu_f32(OUT(float) pre, IN(float) bias, OUT(float) out, int rows, int cols, int kind) {
  bias_gelu<float>(pre, bias, out, rows, cols, kind);
}
extern "C" __global__ void __launch_bounds__(256)
    bias_gelu_bf16(OUT(bf16) pre, IN(float) bias, OUT(bf16) out, int rows, int cols, int kind) {
  bias_gelu<bf16>(pre, bias, out, rows, cols, kind);
}

// gelu_backward_{f32,bf16}: `d *= gelu'(pre)` in place, and the partial sums of its columns.
//   pre, d [rows, cols]; partial [ceil(rows / 32), cols] f32: then add_column_sums adds it to the bias's gradient
//   grid, block, shared memory as bias_gelu
extern "C" __global__ void __launch_bounds__(256)
    gelu_backward_f32(IN(float) pre, OUT(float) d, OUT(float) partial, int rows, int cols, int kind) {
  gelu_backward<float>(pre, d, partial, rows, cols, kind);
}
extern "C" __global__ void __launch_bounds__(256)
    gelu_backward_bf16(IN(bf16) pre, OUT(bf16) d, OUT(float) partial, int rows, int cols, int kind) {
  gelu_backward<bf16>(pre, d, partial, rows, cols, kind);
}
