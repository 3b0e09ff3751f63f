// What lies around the chain of blocks: biases and positions of rows, timestep features, SiLU, label rows.
// The twins on the CPU: trainer/src/model/embed.rs. The numbers are few beside those of a block, but for broadcast_rows.
#include "common.cuh"

namespace {

__device__ __forceinline__ long long thread_number() { return (long long)blockIdx.x * THREADS + threadIdx.x; }

__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

template <class T>
__device__ __forceinline__ void features(GlobalIn<int> timesteps, GlobalIn<float> map, GlobalOut<T> out, int batch, int width) {
  long long i = thread_number();
  if (i >= (long long)batch * width) return;
  int half = width / 2, column = int(i % width), k = column % half;
  double t = map[timesteps[i / width]], angle = t * exp(-9.210340371976184 * k / half);
  out[i] = from_float<T>(float(column < half ? cos(angle) : sin(angle)));
}

template <class T>
__device__ __forceinline__ void silu(GlobalOut<float> pre, GlobalIn<float> bias, GlobalIn<float> table, GlobalIn<int> labels,
                                     GlobalOut<T> out, int rows, int cols, int with_table) {
  long long i = thread_number();
  if (i >= (long long)rows * cols) return;
  int row = int(i / cols), column = int(i % cols);
  float x = pre[i] + bias[column];
  if (with_table) x += table[size_t(labels[row]) * cols + column];
  pre[i] = x;
  out[i] = from_float<T>(x * sigmoid(x));
}

}  // namespace

// broadcast_rows_f32: `out[r] = bias + positions[r % period]`; with period = 0 there are no positions.
//   out [rows, cols], bias [cols], positions [period, cols] f32
//   grid  ceil(rows cols / 256)    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(THREADS)
    broadcast_rows_f32(IN(float) bias, IN(float) positions, OUT(float) out, int rows, int period, int cols) {
  long long i = thread_number();
  if (i >= (long long)rows * cols) return;
  int column = int(i % cols);
  float value = bias[column];
  if (period > 0) value += positions[size_t(i / cols % period) * cols + column];
  out[i] = value;
}

// timestep_features_{f32,bf16}: `[cos(t f_k).., sin(t f_k)..]` of t = map[timesteps], `f_k = 10000^(-k / half)`, in f64.
//   timesteps [batch] i32; map [steps] f32; out [batch, width] of the type
//   grid  ceil(batch width / 256)    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(THREADS)
    timestep_features_f32(IN(int) timesteps, IN(float) map, OUT(float) out, int batch, int width) {
  features<float>(timesteps, map, out, batch, width);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    timestep_features_bf16(IN(int) timesteps, IN(float) map, OUT(bf16) out, int batch, int width) {
  features<bf16>(timesteps, map, out, batch, width);
}

// silu_{f32,bf16}: `pre += bias (+ table[labels])`, `out = silu(pre)`.
//   pre [rows, cols], bias [cols] f32; with_table: table [.., cols] f32, labels [rows] i32; out of the type
//   grid  ceil(rows cols / 256)    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(THREADS)
    silu_f32(OUT(float) pre, IN(float) bias, IN(float) table, IN(int) labels, OUT(float) out, int rows, int cols,
             int with_table) {
  silu<float>(pre, bias, table, labels, out, rows, cols, with_table);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    silu_bf16(OUT(float) pre, IN(float) bias, IN(float) table, IN(int) labels, OUT(bf16) out, int rows, int cols,
              int with_table) {
  silu<bf16>(pre, bias, table, labels, out, rows, cols, with_table);
}

// silu_backward_f32: `d = d silu'(pre) (+ direct)`.
//   pre, d, direct [count] f32
//   grid  ceil(count / 256)    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(THREADS)
    silu_backward_f32(IN(float) pre, OUT(float) d, IN(float) direct, int count, int with_direct) {
  long long i = thread_number();
  if (i >= count) return;
  float x = pre[i], s = sigmoid(x), value = d[i] * (s * (1.f + x * (1.f - s)));
  d[i] = with_direct ? value + direct[i] : value;
}

// add_label_rows_f32: `table[labels[b]] += d[b]`, one image after the other: a thread owns a column, so that the order of the
// sums is that of the images.
//   d [batch, cols], table [.., cols] f32; labels [batch] i32
//   grid  ceil(cols / 256)    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(THREADS)
    add_label_rows_f32(IN(float) d, IN(int) labels, OUT(float) table, int batch, int cols) {
  int column = int(thread_number());
  if (column >= cols) return;
  for (int b = 0; b < batch; b++) table[size_t(labels[b]) * cols + column] += d[size_t(b) * cols + column];
}
