// Sums of the columns of a matrix, for gradients of biases and of modulation: partial sums, then their sum.
// The twin on the CPU: bias_backward in trainer/src/ops/bias_gelu.rs. The order of summation depends on the shape alone.
#include "common.cuh"

namespace {

/// With ROUND, `rounded` becomes a copy of d in bf16 on the way.
template <class T, int V, bool ROUND>
__device__ __forceinline__ void column_partials_rows(GlobalIn<T> d, GlobalOut<bf16> rounded, GlobalOut<float> partial,
                                                     int rows, int cols) {
  Strip strip;
  if (!strip_of_thread<V>(rows, cols, strip)) return;
  Pack<V> sum = {};
#pragma unroll 8
  for (int r = strip.row; r < strip.end; r++) {
    Pack<V> x = load_pack<V, T>(d, size_t(r) * cols + strip.column);
    if (ROUND) store_pack<V, bf16>(rounded, size_t(r) * cols + strip.column, x);
#pragma unroll
    for (int k = 0; k < V; k++) sum.v[k] += x.v[k];
  }
#pragma unroll
  for (int k = 0; k < V; k++) partial[strip.part * cols + strip.column + k] = sum.v[k];
}

template <class T, bool ROUND = false>
__device__ __forceinline__ void column_partials(GlobalIn<T> d, GlobalOut<bf16> rounded, GlobalOut<float> partial, int rows,
                                                int cols) {
  if (cols % WIDEST<T> == 0) column_partials_rows<T, WIDEST<T>, ROUND>(d, rounded, partial, rows, cols);
  else column_partials_rows<T, 1, ROUND>(d, rounded, partial, rows, cols);
}

}  // namespace

// column_partials_{f32,bf16}: `partial[p] = sum of rows 32 p .. 32 p + 31`, for gradients that no other kernel has in hand.
//   d [rows, cols] of the type; partial [ceil(rows / 32), cols] f32
//   grid  ceil(ceil(rows / 32) * (cols / V) / 256)    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(256) column_partials_f32(IN(float) d, OUT(float) partial, int rows, int cols) {
  column_partials<float>(d, GlobalOut<bf16>{}, partial, rows, cols);
}
extern "C" __global__ void __launch_bounds__(256) column_partials_bf16(IN(bf16) d, OUT(float) partial, int rows, int cols) {
  column_partials<bf16>(d, GlobalOut<bf16>{}, partial, rows, cols);
}

// rounded_column_partials_f32: the same, and a copy of d in bf16: the gradient of the residual stream for the products of the
// branch's last layer.
//   d [rows, cols] f32; rounded [rows, cols] bf16; the rest as column_partials_f32
extern "C" __global__ void __launch_bounds__(256)
    rounded_column_partials_f32(IN(float) d, OUT(bf16) rounded, OUT(float) partial, int rows, int cols) {
  column_partials<float, true>(d, rounded, partial, rows, cols);
}

// add_column_sums_f32: `out[g stride + c] += sum over p of partial[g, p, c]` for c < cols.
//   partial [groups, parts, width] f32, cols <= width; out f32
//   grid  (ceil(cols / 32), groups)    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(256)
    add_column_sums_f32(IN(float) partial, OUT(float) out, int parts, int width, int cols, long long stride) {
  STATIC_SHARED(float, sums, 8 * WARP);
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  int column = blockIdx.x * WARP + lane;
  float sum = 0.f;
  if (column < cols) {
#pragma unroll 4
    for (int p = warp; p < parts; p += 8) sum += partial[(size_t(blockIdx.y) * parts + p) * width + column];
  }
  sums[warp * WARP + lane] = sum;
  __syncthreads();
  if (warp == 0 && column < cols) {
    for (int w = 1; w < 8; w++) sum += sums[w * WARP + lane];
    out[blockIdx.y * stride + column] += sum;
  }
}
