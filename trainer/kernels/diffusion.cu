// The random parts of training and sampling on the device: noise, timesteps, label dropping, posterior samples, and the
// steps of the samplers. The twins on the CPU: `noised` in trainer/src/fit/learner, trainer/src/diffusion/gaussian.rs,
// trainer/src/sampler, shards/src/posterior.rs. Numbers are keyed by (seed, record, epoch) as there, so a run on the device
// sees the timesteps, labels and noise of a run on the CPU.
//
// A thread draws one block of four numbers; a block of threads belongs to one image. Arithmetic f64, as on the CPU.
#include "philox.cuh"

namespace {


__device__ __forceinline__ int number_of_thread() { return blockIdx.x * THREADS + threadIdx.x; }

/// The tables of a process of `steps` steps: [5, steps] f64.
struct Tables {
  GlobalIn<double> at;
  int steps;
  __device__ double alphas_cumprod(int t) const { return at[t]; }
  __device__ double log_variance(int t) const { return at[steps + t]; }
  __device__ double log_beta(int t) const { return at[2 * steps + t]; }
  __device__ double coef1(int t) const { return at[3 * steps + t]; }
  __device__ double coef2(int t) const { return at[4 * steps + t]; }
};

}  // namespace

// noised_f32: what a training step starts from.
//   latents [batch, count] f32, unscaled; ids [batch] i64 (record ids); labels [batch], epoch_now [1] i32;
//   alphas_cumprod [steps] f64
//   x_start = scaling latents, noise, x_t [batch, count] f32; timesteps, out_labels [batch] i32
//   null_label: what a dropped label becomes, with probability `dropout`; -1 drops none
//   grid  (ceil(ceil(count / 4) / 256), batch)    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(THREADS)
    noised_f32(IN(float) latents, IN(long long) ids, IN(int) labels, IN(int) epoch_now, IN(double) alphas_cumprod,
               OUT(float) x_start, OUT(float) noise, OUT(float) x_t, OUT(int) timesteps, OUT(int) out_labels, long long seed,
               int count, int steps, int null_label, float scaling, double dropout) {
  int number = number_of_thread(), b = blockIdx.y, epoch = epoch_now[0];
  long long id = ids[b];
  int t = philox::below(philox::block(seed, philox::TIMESTEP, id, epoch, 0).v[0], steps);
  if (number == 0) {
    timesteps[b] = t;
    double draw = philox::uniform(philox::block(seed, philox::LABEL_DROP, id, epoch, 0).v[0]);
    out_labels[b] = null_label >= 0 && draw < dropout ? null_label : int(labels[b]);
  }
  if (number * 4 >= count) return;
  philox::Normals z = philox::normals(philox::block(seed, philox::TRAINING_NOISE, id, epoch, number));
  double now = alphas_cumprod[t], signal = sqrt(now), spread = sqrt(1.0 - now);
#pragma unroll
  for (int k = 0; k < 4; k++) {
    int i = number * 4 + k;
    if (i < count) {
      size_t at = size_t(b) * count + i;
      float x = __fmul_rn(latents[at], scaling);
      x_start[at] = x;
      noise[at] = z.v[k];
      x_t[at] = float(__dadd_rn(__dmul_rn(signal, x), __dmul_rn(spread, z.v[k])));
    }
  }
}

// normals_f32: standard normals of a stream (1 initial noise, ...), one sample an image.
//   ids [batch] i64; out [batch, count] f32; grid, block as noised_f32
extern "C" __global__ void __launch_bounds__(THREADS)
    normals_f32(IN(long long) ids, OUT(float) out, long long seed, int stream, int step, int count) {
  int number = number_of_thread(), b = blockIdx.y;
  if (number * 4 >= count) return;
  philox::Normals z = philox::normals(philox::block(seed, stream, ids[b], step, number));
#pragma unroll
  for (int k = 0; k < 4; k++)
    if (number * 4 + k < count) out[size_t(b) * count + number * 4 + k] = z.v[k];
}

// posterior_sample_f32: `mean += exp(log_variance / 2) noise`, a sample of an autoencoder's posterior.
//   mean, log_variance [batch, count] f32; ids [batch] i64; mirrored [batch] i32, 1 for the mirrored view
//   grid, block as noised_f32
extern "C" __global__ void __launch_bounds__(THREADS)
    posterior_sample_f32(OUT(float) mean, IN(float) log_variance, IN(long long) ids, IN(int) mirrored, long long seed,
                         int epoch, int count) {
  int number = number_of_thread(), b = blockIdx.y;
  if (number * 4 >= count) return;
  unsigned step = unsigned(epoch) | unsigned(mirrored[b]) << 31;
  philox::Normals z = philox::normals(philox::block(seed, philox::POSTERIOR_NOISE, ids[b], step, number));
#pragma unroll
  for (int k = 0; k < 4; k++) {
    int i = number * 4 + k;
    if (i < count) {
      size_t at = size_t(b) * count + i;
      mean[at] = __fadd_rn(mean[at], __fmul_rn(expf(0.5f * log_variance[at]), z.v[k]));
    }
  }
}

namespace {

template <class T>
__device__ __forceinline__ void sampler_step(GlobalOut<float> x, GlobalIn<T> output, GlobalIn<long long> ids,
                                             Tables tables, long long seed, int index, int timestep, int count,
                                             int is_learned, int is_ddim, double now_before, double eta) {
  int number = number_of_thread(), b = blockIdx.y;
  if (number * 4 >= count) return;
  double now = tables.alphas_cumprod(index), recip = sqrt(1.0 / now), recipm1 = sqrt(1.0 / now - 1.0);
  double sigma = 0.0, direction = 0.0;
  if (is_ddim) {
    sigma = eta * sqrt((1.0 - now_before) / (1.0 - now)) * sqrt(1.0 - now / now_before);
    direction = sqrt(fmax(1.0 - now_before - sigma * sigma, 0.0));
  }
  bool is_noisy = index > 0 && !(is_ddim && eta == 0.0);
  philox::Normals z = {};
  if (is_noisy) z = philox::normals(philox::block(seed, philox::SAMPLER_NOISE, ids[b], timestep, number));
  size_t width = is_learned ? 2 * size_t(count) : count;
#pragma unroll
  for (int k = 0; k < 4; k++) {
    int i = number * 4 + k;
    if (i >= count) continue;
    size_t at = size_t(b) * count + i;
    double x_t = x[at], x_start = recip * x_t - recipm1 * to_float(output[b * width + i]), next;
    if (is_ddim) {
      next = sqrt(now_before) * x_start + direction * (recip * x_t - x_start) / recipm1;
      if (is_noisy) next += sigma * z.v[k];
    } else {
      double fraction = is_learned ? (to_float(output[b * width + count + i]) + 1.0) / 2.0 : 0.0;
      double log_variance = fraction * tables.log_beta(index) + (1.0 - fraction) * tables.log_variance(index);
      next = tables.coef1(index) * x_start + tables.coef2(index) * x_t;
      if (is_noisy) next += exp(0.5 * log_variance) * z.v[k];
    }
    x[at] = float(next);
  }
}

template <class T>
__device__ __forceinline__ void guided(GlobalOut<T> output, int batch, int width, int count, double scale) {
  long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
  if (i >= (long long)batch * count) return;
  size_t conditional = size_t(i / count) * width + i % count, unconditional = conditional + size_t(batch) * width;
  double u = to_float(output[unconditional]), c = to_float(output[conditional]);
  output[conditional] = from_float<T>(float(__dadd_rn(u, __dmul_rn(scale, c - u))));
}

}  // namespace

// sampler_step_{f32,bf16}: x_t to x_{t-1} in place, by DDPM or DDIM.
//   x [batch, count] f32; output [batch, 2 count] (noise, v), or [batch, count] with is_learned = 0; ids [batch] i64
//   tables [5, steps] f64: alphas_cumprod, posterior_log_variance_clipped, log_betas, posterior_mean_coef1, coef2
//   index: of the kept step, timestep: the original one; before: alphas_cumprod_prev[index]; eta: of DDIM
//   grid, block as noised_f32
extern "C" __global__ void __launch_bounds__(THREADS)
    sampler_step_f32(OUT(float) x, IN(float) output, IN(long long) ids, IN(double) tables, long long seed, int steps,
                     int index, int timestep, int count, int is_learned, int is_ddim, double before, double eta) {
  sampler_step<float>(x, output, ids, {tables, steps}, seed, index, timestep, count, is_learned, is_ddim, before, eta);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    sampler_step_bf16(OUT(float) x, IN(bf16) output, IN(long long) ids, IN(double) tables, long long seed, int steps,
                      int index, int timestep, int count, int is_learned, int is_ddim, double before, double eta) {
  sampler_step<bf16>(x, output, ids, {tables, steps}, seed, index, timestep, count, is_learned, is_ddim, before, eta);
}

// guided_{f32,bf16}: classifier-free guidance, in place: `c = u + scale (c - u)` for the first `count` numbers of each image.
//   output [2 batch, width]: the conditional half, then the unconditional one
//   grid  ceil(batch count / 256)    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(THREADS)
    guided_f32(OUT(float) output, int batch, int width, int count, double scale) {
  guided<float>(output, batch, width, count, scale);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    guided_bf16(OUT(bf16) output, int batch, int width, int count, double scale) {
  guided<bf16>(output, batch, width, count, scale);
}
