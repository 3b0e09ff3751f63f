// LayerNorm without affine, then `h = (1 + scale) x_hat + shift` with one (shift, scale) pair an image, and its backward.
// The twin on the CPU: trainer/src/ops/norm_modulate.rs. x and its gradient are the residual stream, f32; h is of the
// activations' type.
#include "common.cuh"

namespace {

/// Rows of a block of the forward, one a warp at a time.
constexpr int FORWARD_ROWS = 32;
/// Rows of a block of the backward, one after the other.
constexpr int BACKWARD_ROWS = 32;
constexpr int MAX_WARPS = 32;

template <class T, int V>
__device__ __forceinline__ void norm_rows(GlobalIn<float> x, GlobalIn<float> modulation, GlobalOut<T> h,
                                          GlobalOut<float2> stats, int rows, int dim, int width, int with_scale, float eps) {
  DYNAMIC_SHARED(float, shared);
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP, packs = dim / V;
  size_t image = blockIdx.y;
  Shared<float> shift = shared, factor = shared + dim;
  // The row of a warp; element k of pack p at k packs + p, so that lanes lie side by side. Each lane reads its own only.
  Shared<float> row = shared + size_t(2 + warp) * dim;
  for (int c = threadIdx.x; c < dim; c += blockDim.x) {
    shift[c] = modulation[image * width + c];
    factor[c] = with_scale ? 1.f + modulation[image * width + dim + c] : 1.f;
  }
  __syncthreads();
  for (int r = warp; r < FORWARD_ROWS; r += warps) {
    int of_image = blockIdx.x * FORWARD_ROWS + r;
    if (of_image >= rows) break;
    size_t index = image * rows + of_image;
    float sum = 0.f;
    for (int p = lane; p < packs; p += WARP) {
      Pack<V> v = load_pack<V, float>(x, index * dim + p * V);
#pragma unroll
      for (int k = 0; k < V; k++) {
        row[k * packs + p] = v.v[k];
        sum += v.v[k];
      }
    }
    float mean = warp_sum(sum) / dim, square = 0.f;
    for (int p = lane; p < packs; p += WARP) {
#pragma unroll
      for (int k = 0; k < V; k++) {
        float d = row[k * packs + p] - mean;
        square += d * d;
      }
    }
    float rstd = 1.f / sqrtf(warp_sum(square) / dim + eps);
    for (int p = lane; p < packs; p += WARP) {
      Pack<V> out;
#pragma unroll
      for (int k = 0; k < V; k++) {
        int c = p * V + k;
        out.v[k] = factor[c] * ((row[k * packs + p] - mean) * rstd) + shift[c];
      }
      store_pack<V, T>(h, index * dim + p * V, out);
    }
    if (lane == 0) stats[index] = make_float2(mean, rstd);
  }
}

template <class T, int V>
__device__ __forceinline__ void norm_rows_backward(GlobalIn<float> x, GlobalIn<float> modulation, GlobalIn<float2> stats,
                                                   GlobalIn<T> dh, GlobalOut<float> dx, GlobalOut<float> partial, int rows,
                                                   int dim, int width, int with_scale) {
  DYNAMIC_SHARED(float, shared);
  STATIC_SHARED(float, scratch, 2 * 3 * MAX_WARPS);
  int packs = dim / V;
  size_t image = blockIdx.y;
  // Every thread reads and writes its own columns only, element k of pack p at k packs + p: no barrier.
  Shared<float> factor = shared, d_shift = shared + dim, d_scale = shared + 2 * size_t(dim);
  Shared<float> x_hat = shared + 3 * size_t(dim), d_hat = shared + 4 * size_t(dim);
  for (int p = threadIdx.x; p < packs; p += blockDim.x) {
#pragma unroll
    for (int k = 0; k < V; k++) {
      int at = k * packs + p;
      factor[at] = with_scale ? 1.f + modulation[image * width + dim + p * V + k] : 1.f;
      d_shift[at] = 0.f;
      d_scale[at] = 0.f;
    }
  }
  int first = blockIdx.x * BACKWARD_ROWS, end = min(first + BACKWARD_ROWS, rows);
  for (int r = first; r < end; r++) {
    size_t index = image * rows + r;
    float2 stat = stats[index];
    float sums[3] = {0.f, 0.f, 0.f};   // of d_hat, d_hat x_hat, x_hat
    for (int p = threadIdx.x; p < packs; p += blockDim.x) {
      Pack<V> v = load_pack<V, float>(x, index * dim + p * V), g = load_pack<V, T>(dh, index * dim + p * V);
#pragma unroll
      for (int k = 0; k < V; k++) {
        int at = k * packs + p;
        float normal = (v.v[k] - stat.x) * stat.y, d = g.v[k] * factor[at];
        d_shift[at] += g.v[k];
        d_scale[at] += g.v[k] * normal;
        x_hat[at] = normal;
        d_hat[at] = d;
        sums[0] += d;
        sums[1] += d * normal;
        sums[2] += normal;
      }
    }
    block_sums<3>(sums, Shared<float>(scratch) + (r % 2) * 3 * MAX_WARPS);
    float mean = sums[0] / dim, along = (sums[1] - mean * sums[2]) / dim;
    for (int p = threadIdx.x; p < packs; p += blockDim.x) {
      Pack<V> d = load_pack<V, float>(dx, index * dim + p * V);
#pragma unroll
      for (int k = 0; k < V; k++) {
        int at = k * packs + p;
        d.v[k] += stat.y * (d_hat[at] - mean - x_hat[at] * along);
      }
      store_pack<V, float>(dx, index * dim + p * V, d);
    }
  }
  size_t to = (image * gridDim.x + blockIdx.x) * 2 * dim;
  for (int p = threadIdx.x; p < packs; p += blockDim.x) {
    Pack<V> shift, scale;
#pragma unroll
    for (int k = 0; k < V; k++) {
      shift.v[k] = d_shift[k * packs + p];
      scale.v[k] = d_scale[k * packs + p];
    }
    store_pack<V, float>(partial, to + p * V, shift);
    store_pack<V, float>(partial, to + dim + p * V, scale);
  }
}

template <class T>
__device__ __forceinline__ void norm_modulate(GlobalIn<float> x, GlobalIn<float> modulation, GlobalOut<T> h,
                                              GlobalOut<float2> stats, int rows, int dim, int width, int with_scale,
                                              float eps) {
  if (dim % 4 == 0) norm_rows<T, 4>(x, modulation, h, stats, rows, dim, width, with_scale, eps);
  else norm_rows<T, 1>(x, modulation, h, stats, rows, dim, width, with_scale, eps);
}

template <class T>
__device__ __forceinline__ void norm_modulate_backward(GlobalIn<float> x, GlobalIn<float> modulation, GlobalIn<float2> stats,
                                                       GlobalIn<T> dh, GlobalOut<float> dx, GlobalOut<float> partial,
                                                       int rows, int dim, int width, int with_scale) {
  if (dim % 4 == 0) norm_rows_backward<T, 4>(x, modulation, stats, dh, dx, partial, rows, dim, width, with_scale);
  else norm_rows_backward<T, 1>(x, modulation, stats, dh, dx, partial, rows, dim, width, with_scale);
}

}  // namespace

// norm_modulate_{f32,bf16}: `h = (1 + scale) LN(x) + shift` (with_scale = 0: `LN(x) + shift`).
//   x [batch, rows, dim] f32; h the same of the type; modulation [batch, width] f32, shift at 0, scale at dim;
//   stats [batch, rows] of (mean, 1 / std), kept for the backward
//   grid  (ceil(rows / 32), batch)    block 256    dynamic shared memory 10 dim * 4 bytes (2 dim + one row a warp)
extern "C" __global__ void __launch_bounds__(256)
    norm_modulate_f32(IN(float) x, IN(float) modulation, OUT(float) h, OUT(float2) stats, int rows, int dim, int width,
                      int with_scale, float eps) {
  norm_modulate<float>(x, modulation, h, stats, rows, dim, width, with_scale, eps);
}
extern "C" __global__ void __launch_bounds__(256)
    norm_modulate_bf16(IN(float) x, IN(float) modulation, OUT(bf16) h, OUT(float2) stats, int rows, int dim, int width,
                       int with_scale, float eps) {
  norm_modulate<bf16>(x, modulation, h, stats, rows, dim, width, with_scale, eps);
}

// norm_modulate_backward_{f32,bf16}: `dx += ..`, and partial sums of the gradients of shift and scale.
//   x, dx [batch, rows, dim] f32; dh the same of the type; partial [batch, ceil(rows / 32), 2 dim] f32 (shift, scale):
//   add_column_sums with groups = batch, width 2 dim, cols 2 dim (without scale dim), stride = width of the modulation
//   V = 4 where it divides dim, else 1
//   grid  (ceil(rows / 32), batch)    block min(1024, 32 ceil(dim / V / 32))    dynamic shared memory 5 dim * 4 bytes
extern "C" __global__ void __launch_bounds__(1024, 1)
    norm_modulate_backward_f32(IN(float) x, IN(float) modulation, IN(float2) stats, IN(float) dh, OUT(float) dx,
                               OUT(float) partial, int rows, int dim, int width, int with_scale) {
  norm_modulate_backward<float>(x, modulation, stats, dh, dx, partial, rows, dim, width, with_scale);
}
extern "C" __global__ void __launch_bounds__(1024, 1)
    norm_modulate_backward_bf16(IN(float) x, IN(float) modulation, IN(float2) stats, IN(bf16) dh, OUT(float) dx,
                                OUT(float) partial, int rows, int dim, int width, int with_scale) {
  norm_modulate_backward<bf16>(x, modulation, stats, dh, dx, partial, rows, dim, width, with_scale);
}
