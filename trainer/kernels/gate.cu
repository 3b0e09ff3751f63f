// The gated product `gelu(a) gelu(b)` of a block and its backward with the gradients of both biases.
// The twin on the CPU: trainer/src/ops/gate.rs. A thread owns V columns of 32 rows, as in bias_gelu.cu.
#include "common.cuh"

namespace {

template <class T, int V>
__device__ __forceinline__ void gate_rows(GlobalOut<T> a, GlobalIn<float> bias_a, GlobalOut<T> b, GlobalIn<float> bias_b,
                                          GlobalOut<T> out, int rows, int cols, int kind) {
  Strip strip;
  if (!strip_of_thread<V>(rows, cols, strip)) return;
  float add_a[V], add_b[V];
#pragma unroll
  for (int k = 0; k < V; k++) {
    add_a[k] = bias_a[strip.column + k];
    add_b[k] = bias_b[strip.column + k];
  }
#pragma unroll 2
  for (int r = strip.row; r < strip.end; r++) {
    size_t at = size_t(r) * cols + strip.column;
    Pack<V> x = load_pack<V, T>(a, at), y = load_pack<V, T>(b, at), product;
#pragma unroll
    for (int k = 0; k < V; k++) {
      x.v[k] += add_a[k];
      y.v[k] += add_b[k];
      product.v[k] = gelu(kind, x.v[k]).value * gelu(kind, y.v[k]).value;
    }
    store_pack<V, T>(a, at, x);
    store_pack<V, T>(b, at, y);
    store_pack<V, T>(out, at, product);
  }
}

template <class T, int V>
__device__ __forceinline__ void gate_backward_rows(GlobalOut<T> a, GlobalOut<T> b, GlobalIn<T> d_out,
                                                   GlobalOut<float> partial_a, GlobalOut<float> partial_b, int rows, int cols,
                                                   int kind) {
  Strip strip;
  if (!strip_of_thread<V>(rows, cols, strip)) return;
  Pack<V> sum_a = {}, sum_b = {};
#pragma unroll 2
  for (int r = strip.row; r < strip.end; r++) {
    size_t at = size_t(r) * cols + strip.column;
    Pack<V> x = load_pack<V, T>(a, at), y = load_pack<V, T>(b, at), d = load_pack<V, T>(d_out, at);
#pragma unroll
    for (int k = 0; k < V; k++) {
      Gelu of_x = gelu(kind, x.v[k]), of_y = gelu(kind, y.v[k]);
      x.v[k] = d.v[k] * of_y.value * of_x.slope;
      y.v[k] = d.v[k] * of_x.value * of_y.slope;
      sum_a.v[k] += x.v[k];
      sum_b.v[k] += y.v[k];
    }
    store_pack<V, T>(a, at, x);
    store_pack<V, T>(b, at, y);
  }
#pragma unroll
  for (int k = 0; k < V; k++) {
    partial_a[strip.part * cols + strip.column + k] = sum_a.v[k];
    partial_b[strip.part * cols + strip.column + k] = sum_b.v[k];
  }
}

template <class T>
__device__ __forceinline__ void gate(GlobalOut<T> a, GlobalIn<float> bias_a, GlobalOut<T> b, GlobalIn<float> bias_b,
                                     GlobalOut<T> out, int rows, int cols, int kind) {
  if (cols % WIDEST<T> == 0) gate_rows<T, WIDEST<T>>(a, bias_a, b, bias_b, out, rows, cols, kind);
  else gate_rows<T, 1>(a, bias_a, b, bias_b, out, rows, cols, kind);
}

template <class T>
__device__ __forceinline__ void gate_backward(GlobalOut<T> a, GlobalOut<T> b, GlobalIn<T> d_out, GlobalOut<float> partial_a,
                                              GlobalOut<float> partial_b, int rows, int cols, int kind) {
  if (cols % WIDEST<T> == 0) gate_backward_rows<T, WIDEST<T>>(a, b, d_out, partial_a, partial_b, rows, cols, kind);
  else gate_backward_rows<T, 1>(a, b, d_out, partial_a, partial_b, rows, cols, kind);
}

}  // namespace

// gate_{f32,bf16}: `a += bias_a`, `b += bias_b` (kept for the backward), `out = gelu(a) gelu(b)`.
//   a, b, out [rows, cols] of the type; bias_a, bias_b [cols] f32; kind: 0 tanh, 1 erf
//   grid  ceil(ceil(rows / 32) * (cols / V) / 256)    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(256)
    gate_f32(OUT(float) a, IN(float) bias_a, OUT(float) b, IN(float) bias_b, OUT(float) out, int rows, int cols, int kind) {
  gate<float>(a, bias_a, b, bias_b, out, rows, cols, kind);
}
extern "C" __global__ void __launch_bounds__(256)
    gate_bf16(OUT(bf16) a, IN(float) bias_a, OUT(bf16) b, IN(float) bias_b, OUT(bf16) out, int rows, int cols, int kind) {
  gate<bf16>(a, bias_a, b, bias_b, out, rows, cols, kind);
}

// gate_backward_{f32,bf16}: turns the pre-activations a, b into their gradients, with partial sums of their columns.
//   a, b, d_out [rows, cols]; partial_a, partial_b [ceil(rows / 32), cols] f32, for add_column_sums
//   grid, block, shared memory as gate
extern "C" __global__ void __launch_bounds__(256)
    gate_backward_f32(OUT(float) a, OUT(float) b, IN(float) d_out, OUT(float) partial_a, OUT(float) partial_b, int rows,
                      int cols, int kind) {
  gate_backward<float>(a, b, d_out, partial_a, partial_b, rows, cols, kind);
}
extern "C" __global__ void __launch_bounds__(256, 3)
    gate_backward_bf16(OUT(bf16) a, OUT(bf16) b, IN(bf16) d_out, OUT(float) partial_a, OUT(float) partial_b, int rows,
                       int cols, int kind) {
  gate_backward<bf16>(a, b, d_out, partial_a, partial_b, rows, cols, kind);
}
