// The sum of a block's input and its branch, with the bias of the branch's last layer, and their backward.
// The twin on the CPU: trainer/src/ops/residual.rs. The residual stream is f32; the branch is of the activations' type.
// A thread owns four columns of 32 rows of one image.
#include "common.cuh"

namespace {

/// What a thread works on: some columns of some rows of one image.
struct ImageStrip {
  int image, part, column, row, end;
};

/// False for a thread beyond the last strip.
template <int V> __device__ __forceinline__ bool strip_of_image(int batch, int rows, int dim, ImageStrip &strip) {
  int packs = dim / V, parts = (rows + ROWS_PER_THREAD - 1) / ROWS_PER_THREAD;
  long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  long long of_all = thread / packs;
  strip.column = int(thread % packs) * V;
  strip.image = int(of_all / parts);
  strip.part = int(of_all % parts);
  strip.row = strip.part * ROWS_PER_THREAD;
  strip.end = min(strip.row + ROWS_PER_THREAD, rows);
  return strip.image < batch;
}

template <int V>
__device__ __forceinline__ void residual_rows(GlobalIn<float> input, GlobalIn<float> bias, GlobalOut<float> out, int batch,
                                              int rows, int dim) {
  ImageStrip strip;
  if (!strip_of_image<V>(batch, rows, dim, strip)) return;
  float b[V];
#pragma unroll
  for (int k = 0; k < V; k++) b[k] = bias[strip.column + k];
#pragma unroll 4
  for (int r = strip.row; r < strip.end; r++) {
    size_t at = (size_t(strip.image) * rows + r) * dim + strip.column;
    Pack<V> x = load_pack<V, float>(input, at);
#pragma unroll
    for (int k = 0; k < V; k++) x.v[k] += b[k];
    store_pack<V, float>(out, at, x);
  }
}

template <class T, int V>
__device__ __forceinline__ void gated_rows(GlobalIn<float> input, GlobalIn<float> modulation, GlobalIn<float> bias,
                                           GlobalOut<T> branch, GlobalOut<float> out, int batch, int rows, int dim) {
  ImageStrip strip;
  if (!strip_of_image<V>(batch, rows, dim, strip)) return;
  float b[V], gate[V];
#pragma unroll
  for (int k = 0; k < V; k++) {
    b[k] = bias[strip.column + k];
    gate[k] = modulation[(size_t(strip.image) * 3 + 2) * dim + strip.column + k];
  }
#pragma unroll 4
  for (int r = strip.row; r < strip.end; r++) {
    size_t at = (size_t(strip.image) * rows + r) * dim + strip.column;
    Pack<V> x = load_pack<V, float>(input, at), y = load_pack<V, T>(branch, at);
#pragma unroll
    for (int k = 0; k < V; k++) {
      y.v[k] += b[k];
      x.v[k] += gate[k] * y.v[k];
    }
    store_pack<V, T>(branch, at, y);
    store_pack<V, float>(out, at, x);
  }
}

template <class T, int V>
__device__ __forceinline__ void gated_backward_rows(GlobalIn<float> d_out, GlobalIn<float> modulation, GlobalIn<T> branch,
                                                    GlobalOut<T> d_branch, GlobalOut<float> partial_gate,
                                                    GlobalOut<float> partial_bias, int batch, int rows, int dim) {
  ImageStrip strip;
  if (!strip_of_image<V>(batch, rows, dim, strip)) return;
  float gate[V];
#pragma unroll
  for (int k = 0; k < V; k++) gate[k] = modulation[(size_t(strip.image) * 3 + 2) * dim + strip.column + k];
  Pack<V> sum_gate = {}, sum_bias = {};
#pragma unroll 4
  for (int r = strip.row; r < strip.end; r++) {
    size_t at = (size_t(strip.image) * rows + r) * dim + strip.column;
    Pack<V> d = load_pack<V, float>(d_out, at), y = load_pack<V, T>(branch, at);
#pragma unroll
    for (int k = 0; k < V; k++) {
      sum_gate.v[k] += d.v[k] * y.v[k];
      d.v[k] *= gate[k];
      sum_bias.v[k] += d.v[k];
    }
    store_pack<V, T>(d_branch, at, d);
  }
  int parts = (rows + ROWS_PER_THREAD - 1) / ROWS_PER_THREAD;
  size_t to = (size_t(strip.image) * parts + strip.part) * dim + strip.column;
#pragma unroll
  for (int k = 0; k < V; k++) {
    partial_gate[to + k] = sum_gate.v[k];
    partial_bias[to + k] = sum_bias.v[k];
  }
}

template <class T>
__device__ __forceinline__ void gated_residual(GlobalIn<float> input, GlobalIn<float> modulation, GlobalIn<float> bias,
                                               GlobalOut<T> branch, GlobalOut<float> out, int batch, int rows, int dim) {
  if (dim % 4 == 0) gated_rows<T, 4>(input, modulation, bias, branch, out, batch, rows, dim);
  else gated_rows<T, 1>(input, modulation, bias, branch, out, batch, rows, dim);
}

template <class T>
__device__ __forceinline__ void gated_residual_backward(GlobalIn<float> d_out, GlobalIn<float> modulation, GlobalIn<T> branch,
                                                        GlobalOut<T> d_branch, GlobalOut<float> partial_gate,
                                                        GlobalOut<float> partial_bias, int batch, int rows, int dim) {
  if (dim % 4 == 0)
    gated_backward_rows<T, 4>(d_out, modulation, branch, d_branch, partial_gate, partial_bias, batch, rows, dim);
  else gated_backward_rows<T, 1>(d_out, modulation, branch, d_branch, partial_gate, partial_bias, batch, rows, dim);
}

}  // namespace

// residual_f32: `out = input + bias`; the branch's product is added to it afterwards (beta = 1, f32 output).
//   input, out [batch, rows, dim] f32; bias [dim] f32; V = 4 where it divides dim, else 1
//   grid  ceil(batch * ceil(rows / 32) * (dim / V) / 256)    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(256)
    residual_f32(IN(float) input, IN(float) bias, OUT(float) out, int batch, int rows, int dim) {
  if (dim % 4 == 0) residual_rows<4>(input, bias, out, batch, rows, dim);
  else residual_rows<1>(input, bias, out, batch, rows, dim);
}

// gated_residual_{f32,bf16}: `branch += bias` (kept for the backward), `out = input + gate branch`.
//   input, out [batch, rows, dim] f32; branch the same of the type; modulation [batch, 3 dim] f32, the gate in its last third
//   grid, block, shared memory as residual_f32
extern "C" __global__ void __launch_bounds__(256)
    gated_residual_f32(IN(float) input, IN(float) modulation, IN(float) bias, OUT(float) branch, OUT(float) out, int batch,
                       int rows, int dim) {
  gated_residual<float>(input, modulation, bias, branch, out, batch, rows, dim);
}
extern "C" __global__ void __launch_bounds__(256)
    gated_residual_bf16(IN(float) input, IN(float) modulation, IN(float) bias, OUT(bf16) branch, OUT(float) out, int batch,
                        int rows, int dim) {
  gated_residual<bf16>(input, modulation, bias, branch, out, batch, rows, dim);
}

// gated_residual_backward_{f32,bf16}: `d_branch = gate d_out`, partial sums for the gate's gradient and the bias's.
//   d_out f32, branch and d_branch of the type, all [batch, rows, dim]
//   partial_gate, partial_bias [batch, ceil(rows / 32), dim] f32: add_column_sums adds the first to d_modulation + 2 dim
//   (groups = batch, stride 3 dim), the second to the bias's gradient (groups = 1, parts = batch * ceil(rows / 32))
//   grid, block, shared memory as residual_f32
extern "C" __global__ void __launch_bounds__(256)
    gated_residual_backward_f32(IN(float) d_out, IN(float) modulation, IN(float) branch, OUT(float) d_branch,
                                OUT(float) partial_gate, OUT(float) partial_bias, int batch, int rows, int dim) {
  gated_residual_backward<float>(d_out, modulation, branch, d_branch, partial_gate, partial_bias, batch, rows, dim);
}
extern "C" __global__ void __launch_bounds__(256)
    gated_residual_backward_bf16(IN(float) d_out, IN(float) modulation, IN(bf16) branch, OUT(bf16) d_branch,
                                 OUT(float) partial_gate, OUT(float) partial_bias, int batch, int rows, int dim) {
  gated_residual_backward<bf16>(d_out, modulation, branch, d_branch, partial_gate, partial_bias, batch, rows, dim);
}
