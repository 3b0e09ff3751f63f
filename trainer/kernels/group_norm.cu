// Group normalisation with the activation that follows it, for the autoencoder: sums, then scale and shift of each channel,
// then one pass. The twin on the CPU: preprocess/src/nn/norm.rs. Maps are [batch, pixels, channels], channels contiguous.
#include "common.cuh"

namespace {

/// Pixels whose channels one thread sums.
constexpr int SUM_PIXELS = 128;

template <class T, int V>
__device__ __forceinline__ void group_norm_sums(GlobalIn<T> x, GlobalOut<float> partial, int pixels, int channels) {
  int packs = channels / V;
  long long thread = (long long)blockIdx.x * THREADS + threadIdx.x;
  int part = int(thread / packs), column = int(thread % packs) * V;
  int first = part * SUM_PIXELS, end = min(first + SUM_PIXELS, pixels);
  if (first >= pixels) return;
  GlobalIn<T> image = x + size_t(blockIdx.y) * pixels * channels;
  // About the first pixel, so that a large mean costs no digits.
  Pack<V> pivot = load_pack<V, T>(image, column), sum = {}, square = {};
#pragma unroll 4
  for (int i = first; i < end; i++) {
    Pack<V> v = load_pack<V, T>(image, size_t(i) * channels + column);
#pragma unroll
    for (int k = 0; k < V; k++) {
      float distance = v.v[k] - pivot.v[k];
      sum.v[k] += distance;
      square.v[k] += distance * distance;
    }
  }
  int parts = (pixels + SUM_PIXELS - 1) / SUM_PIXELS;
  size_t to = (size_t(blockIdx.y) * parts + part) * 2 * channels + column;
#pragma unroll
  for (int k = 0; k < V; k++) {
    partial[to + k] = sum.v[k];
    partial[to + channels + k] = square.v[k];
  }
}

template <class T>
__device__ __forceinline__ void group_norm_affine(GlobalIn<T> x, GlobalIn<float> partial, GlobalIn<float> weight,
                                                  GlobalIn<float> bias, GlobalOut<float> affine, int pixels, int channels,
                                                  int groups, double eps) {
  STATIC_SHARED(double, scratch, 2 * 2 * THREADS / WARP);
  DYNAMIC_SHARED(double2, moments);   // of each channel of the group: mean, and squared deviations from it
  int size = channels / groups, first = blockIdx.x * size, parts = (pixels + SUM_PIXELS - 1) / SUM_PIXELS;
  size_t image = blockIdx.y;
  for (int c = 0; c < size; c++) {
    double sums[2] = {0.0, 0.0};
    for (int p = threadIdx.x; p < parts; p += THREADS) {
      size_t from = (image * parts + p) * 2 * channels + first + c;
      sums[0] += partial[from];
      sums[1] += partial[from + channels];
    }
    block_sums<2>(sums, Shared<double>(scratch) + c % 2 * (2 * THREADS / WARP));
    double pivot = to_float(x[image * pixels * channels + first + c]);
    double deviation = sums[1] - sums[0] * sums[0] / pixels;
    if (threadIdx.x == 0) moments[c] = make_double2(pivot + sums[0] / pixels, deviation > 0.0 ? deviation : 0.0);
  }
  __syncthreads();
  double mean = 0.0, deviation = 0.0;
  for (int c = 0; c < size; c++) mean += double2(moments[c]).x / size;
  for (int c = 0; c < size; c++) {
    double2 m = moments[c];
    deviation += m.y + pixels * ((m.x - mean) * (m.x - mean));
  }
  double inverse = 1.0 / sqrt(deviation / (double(pixels) * size) + eps);
  for (int c = threadIdx.x; c < size; c += THREADS) {
    double factor = weight[first + c] * inverse;
    affine[image * 2 * channels + first + c] = float(factor);
    affine[image * 2 * channels + channels + first + c] = float(bias[first + c] - mean * factor);
  }
}

template <class T, int V>
__device__ __forceinline__ void group_norm_apply(GlobalIn<T> x, GlobalIn<float> affine, GlobalOut<T> out, int pixels,
                                                 int channels, int silu) {
  int packs = channels / V;
  long long thread = (long long)blockIdx.x * THREADS + threadIdx.x;
  int part = int(thread / packs), column = int(thread % packs) * V;
  int first = part * ROWS_PER_THREAD, end = min(first + ROWS_PER_THREAD, pixels);
  if (first >= pixels) return;
  size_t image = blockIdx.y;
  float scale[V], shift[V];
#pragma unroll
  for (int k = 0; k < V; k++) {
    scale[k] = affine[image * 2 * channels + column + k];
    shift[k] = affine[image * 2 * channels + channels + column + k];
  }
#pragma unroll 4
  for (int i = first; i < end; i++) {
    size_t at = (image * pixels + i) * channels + column;
    Pack<V> v = load_pack<V, T>(x, at);
#pragma unroll
    for (int k = 0; k < V; k++) {
      float y = v.v[k] * scale[k] + shift[k];
      v.v[k] = silu ? __fdividef(y, 1.f + expf(fminf(-y, 87.f))) : y;
    }
    store_pack<V, T>(out, at, v);
  }
}

}  // namespace

// Three launches normalise a map. V = 4 (f32) or 8 (bf16) where it divides channels, else 1; P = ceil(pixels / 128).
//
// group_norm_sums_{f32,bf16}: sums and squares of each channel about the image's first pixel.
//   x [batch, pixels, channels]; partial [batch, P, 2, channels] f32
//   grid  (ceil(P (channels / V) / 256), batch)    block 256    dynamic shared memory 0
#define GROUP_NORM_SUMS(T, x)                                                                       \
  if (channels % WIDEST<T> == 0) group_norm_sums<T, WIDEST<T>>(x, partial, pixels, channels);       \
  else group_norm_sums<T, 1>(x, partial, pixels, channels);
extern "C" __global__ void __launch_bounds__(THREADS)
    group_norm_sums_f32(IN(float) x, OUT(float) partial, int pixels, int channels) {
  GROUP_NORM_SUMS(float, x)
}
extern "C" __global__ void __launch_bounds__(THREADS)
    group_norm_sums_bf16(IN(bf16) x, OUT(float) partial, int pixels, int channels) {
  GROUP_NORM_SUMS(bf16, x)
}

// group_norm_affine_{f32,bf16}: what normalises each image.
//   weight, bias [channels] f32; affine [batch, 2, channels] f32 (scale, shift); groups divides channels
//   grid  (groups, batch)    block 256    dynamic shared memory 16 channels / groups bytes
extern "C" __global__ void __launch_bounds__(THREADS)
    group_norm_affine_f32(IN(float) x, IN(float) partial, IN(float) weight, IN(float) bias, OUT(float) affine, int pixels,
                          int channels, int groups, double eps) {
  group_norm_affine<float>(x, partial, weight, bias, affine, pixels, channels, groups, eps);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    group_norm_affine_bf16(IN(bf16) x, IN(float) partial, IN(float) weight, IN(float) bias, OUT(float) affine, int pixels,
                           int channels, int groups, double eps) {
  group_norm_affine<bf16>(x, partial, weight, bias, affine, pixels, channels, groups, eps);
}

// group_norm_apply_{f32,bf16}: `out = scale x + shift`, with silu != 0 through `y / (1 + e^-y)`.
//   grid  (ceil(ceil(pixels / 32) (channels / V) / 256), batch)    block 256    dynamic shared memory 0
#define GROUP_NORM_APPLY(T)                                                                               \
  if (channels % WIDEST<T> == 0) group_norm_apply<T, WIDEST<T>>(x, affine, out, pixels, channels, silu);  \
  else group_norm_apply<T, 1>(x, affine, out, pixels, channels, silu);
extern "C" __global__ void __launch_bounds__(THREADS)
    group_norm_apply_f32(IN(float) x, IN(float) affine, OUT(float) out, int pixels, int channels, int silu) {
  GROUP_NORM_APPLY(float)
}
extern "C" __global__ void __launch_bounds__(THREADS)
    group_norm_apply_bf16(IN(bf16) x, IN(float) affine, OUT(bf16) out, int pixels, int channels, int silu) {
  GROUP_NORM_APPLY(bf16)
}

// group_norm_planes_f32: the same of maps whose channels lie one after the other, as cuDNN has them, in one launch: a block takes
// one group of one image, which lies in one piece. Sums are f64, about the group's first number.
//   x, out [batch, channels, area]; weight, bias [channels] f32; groups divides channels
//   grid  (groups, batch)    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(THREADS)
    group_norm_planes_f32(IN(float) x, IN(float) weight, IN(float) bias, OUT(float) out, int channels, int groups, int area,
                          double eps, int silu) {
  STATIC_SHARED(double, scratch, 2 * THREADS / WARP);
  int per_group = channels / groups, first = blockIdx.x * per_group;
  long long count = (long long)per_group * area;
  size_t base = (size_t(blockIdx.y) * channels + first) * area;
  float origin = x[base];
  double sums[2] = {0.0, 0.0};
#pragma unroll 4
  for (long long i = threadIdx.x; i < count; i += THREADS) {
    double d = double(float(x[base + i]) - origin);
    sums[0] += d;
    sums[1] += d * d;
  }
  block_sums<2>(sums, Shared<double>(scratch));
  double mean = sums[0] / count, variance = sums[1] / count - mean * mean;
  float shift = float(mean), rstd = float(1.0 / sqrt(fmax(variance, 0.0) + eps));
#pragma unroll 4
  for (long long i = threadIdx.x; i < count; i += THREADS) {
    int channel = first + int(i / area);
    float y = ((float(x[base + i]) - origin) - shift) * rstd * weight[channel] + bias[channel];
    out[base + i] = silu ? __fdividef(y, 1.f + expf(fminf(-y, 87.f))) : y;
  }
}
