// The training loss: squared error on the noise and the variational bound for the learned variance, with the gradient.
// The twin on the CPU: trainer/src/diffusion/loss.rs. A block takes one image; arithmetic f64, as on the CPU: the numbers are
// few (an image's latents), and the bound has differences of nearly equal exponentials.
#include "common.cuh"

namespace {


struct Likelihood {
  double log_probability, slope;
};

/// The tanh form of the normal distribution function, and its derivative.
__device__ __forceinline__ double2 approx_cdf(double z) {
  constexpr double C = 0.7978845608028654;
  double t = tanh(C * (z + 0.044715 * z * z * z));
  return make_double2(0.5 * (1.0 + t), 0.5 * (1.0 - t * t) * C * (1.0 + 3.0 * 0.044715 * z * z));
}

/// Log-probability of the 2/255-wide bin around x, and its derivative with respect to log_scale.
__device__ __forceinline__ Likelihood discretized_log_likelihood(double x, double mean, double log_scale) {
  constexpr double FLOOR = 1e-12;
  double centered = x - mean, inverse = exp(-log_scale);
  double z_plus = inverse * (centered + 1.0 / 255.0), z_minus = inverse * (centered - 1.0 / 255.0);
  double2 plus = approx_cdf(z_plus), minus = approx_cdf(z_minus);
  double probability, slope;
  if (x < -0.999) {
    probability = plus.x;
    slope = -z_plus * plus.y;
  } else if (x > 0.999) {
    probability = 1.0 - minus.x;
    slope = z_minus * minus.y;
  } else {
    probability = plus.x - minus.x;
    slope = z_minus * minus.y - z_plus * plus.y;
  }
  if (probability > FLOOR) return {log(probability), slope / probability};
  return {log(FLOOR), 0.0};
}

template <class T>
__device__ __forceinline__ void training_loss(GlobalIn<float> x_start, GlobalIn<float> noise, GlobalIn<T> output,
                                              GlobalIn<int> timesteps, GlobalIn<double> tables, GlobalOut<T> d_output,
                                              GlobalOut<double2> losses, int count, int steps, int is_learned,
                                              double weight) {
  STATIC_SHARED(double, scratch, 2 * THREADS / WARP);
  constexpr double LN_2 = 0.6931471805599453;
  int b = blockIdx.x, t = timesteps[b];
  double now = tables[t], low = tables[steps + t], high = tables[2 * steps + t];
  double coef1 = tables[3 * steps + t], coef2 = tables[4 * steps + t];
  double signal = sqrt(now), spread = sqrt(1.0 - now), recip = sqrt(1.0 / now), recipm1 = sqrt(1.0 / now - 1.0);
  double each = 1.0 / count, sums[2] = {0.0, 0.0};
  size_t width = is_learned ? 2 * size_t(count) : count;
  for (int i = threadIdx.x; i < count; i += THREADS) {
    size_t at = size_t(b) * count + i, of_eps = b * width + i, of_v = of_eps + count;
    double x0 = x_start[at], n = noise[at], e = to_float(output[of_eps]);
    sums[0] += (n - e) * (n - e);
    d_output[of_eps] = from_float<T>(float(weight * each * 2.0 * (e - n)));
    if (!is_learned) continue;
    double x_t = signal * x0 + spread * n, mean = coef1 * (recip * x_t - recipm1 * e) + coef2 * x_t;
    double fraction = (double(to_float(output[of_v])) + 1.0) / 2.0;
    double log_variance = fraction * high + (1.0 - fraction) * low, nats, slope;
    if (t == 0) {
      Likelihood found = discretized_log_likelihood(x0, mean, 0.5 * log_variance);
      nats = -found.log_probability;
      slope = -0.5 * found.slope;
    } else {
      double distance = coef1 * x0 + coef2 * x_t - mean;
      double ratio = exp(low - log_variance), square = distance * distance * exp(-log_variance);
      nats = 0.5 * (-1.0 + log_variance - low + ratio + square);
      slope = 0.5 * (1.0 - ratio - square);
    }
    sums[1] += nats;
    d_output[of_v] = from_float<T>(float(weight * each * slope * 0.5 * (high - low) / LN_2));
  }
  block_sums<2>(sums, Shared<double>(scratch));
  if (threadIdx.x == 0) losses[b] = make_double2(sums[0] * each, sums[1] * each / LN_2);
}

}  // namespace

// training_loss_{f32,bf16}: losses [batch] of (mse, vb), means over an image, and d_output = weight times the gradient.
//   x_start, noise [batch, count] f32; output, d_output [batch, 2 count] (noise, v), or [batch, count] with is_learned = 0
//   timesteps [batch] i32; tables [5, steps] f64 as in diffusion.cu
//   grid  batch    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(THREADS)
    training_loss_f32(IN(float) x_start, IN(float) noise, IN(float) output, IN(int) timesteps, IN(double) tables,
                      OUT(float) d_output, OUT(double2) losses, int count, int steps, int is_learned, double weight) {
  training_loss<float>(x_start, noise, output, timesteps, tables, d_output, losses, count, steps, is_learned, weight);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    training_loss_bf16(IN(float) x_start, IN(float) noise, IN(bf16) output, IN(int) timesteps, IN(double) tables,
                       OUT(bf16) d_output, OUT(double2) losses, int count, int steps, int is_learned, double weight) {
  training_loss<bf16>(x_start, noise, output, timesteps, tables, d_output, losses, count, steps, is_learned, weight);
}
