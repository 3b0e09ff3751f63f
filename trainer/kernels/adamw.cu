// AdamW and the moving average of the weights in one pass over flat buffers, and the norm of the gradients.
// The twin on the CPU: trainer/src/optim/adamw.rs. The decision to skip a step and the factor of clipping stay on the device:
// the host never waits for the norm.
#include "common.cuh"

namespace {

/// Elements of a block.
constexpr int CHUNK = 4096;
/// Elements of a block of the norm.
constexpr int NORM_CHUNK = 1 << 16;

/// The constants of one step; of dt, A and B of the state space models rate and keep are others.
struct Factors {
  float rise1, rise2, rate, root, eps, keep, ema_rate, scale;
};

struct Element {
  float p, m, v, e;
};

__device__ __forceinline__ Element updated(Element x, float g, const Factors &f, float rate, float keep) {
  g *= f.scale;
  x.m += f.rise1 * (g - x.m);
  x.v += f.rise2 * (g * g - x.v);
  x.p = x.p * keep - rate * x.m / (sqrtf(x.v) * f.root + f.eps);
  x.e += f.ema_rate * (x.p - x.e);
  return x;
}

template <bool COPY>
__device__ __forceinline__ void adamw(GlobalOut<float> params, GlobalOut<float> first, GlobalOut<float> second,
                                      GlobalOut<float> ema, GlobalIn<float> grads, GlobalOut<bf16> copy,
                                      GlobalIn<long long> ssm, GlobalIn<float> grad_scale, GlobalIn<float> rates,
                                      long long count, int ranges) {
  STATIC_SHARED(int, of_chunk, 1);
  Factors f = {rates[0], rates[1], rates[2], rates[3], rates[4], rates[5], rates[6], grad_scale[0]};
  float ssm_rate = rates[7];
  if (!(f.scale == f.scale)) return;   // not a number: this step is skipped
  long long start = (long long)blockIdx.x * CHUNK, end = min(start + CHUNK, count);
  if (threadIdx.x == 0) {
    // The first range that ends behind the chunk's start.
    int low = 0, high = ranges;
    while (low < high) {
      int middle = (low + high) / 2;
      if (ssm[2 * middle + 1] <= start) low = middle + 1;
      else high = middle;
    }
    of_chunk[0] = low;
  }
  __syncthreads();
  int range = of_chunk[0];
  long long begin = range < ranges ? (long long)ssm[2 * range] : count, stop = range < ranges ? (long long)ssm[2 * range + 1] : count;
  for (long long at = start + threadIdx.x * 4; at < end; at += THREADS * 4) {
    bool is_whole = at + 4 <= count;
    Pack<4> p = {}, m = {}, v = {}, e = {}, g = {};
    if (is_whole) {
      p = load_pack<4, float>(params, at);
      m = load_pack<4, float>(first, at);
      v = load_pack<4, float>(second, at);
      e = load_pack<4, float>(ema, at);
      g = load_pack<4, float>(grads, at);
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
      if (at + k >= count) break;
      while (at + k >= stop) {
        range++;
        begin = range < ranges ? (long long)ssm[2 * range] : count;
        stop = range < ranges ? (long long)ssm[2 * range + 1] : count;
      }
      bool is_ssm = at + k >= begin;
      Element x = {p.v[k], m.v[k], v.v[k], e.v[k]};
      if (!is_whole) x = {params[at + k], first[at + k], second[at + k], ema[at + k]};
      float gradient = is_whole ? g.v[k] : float(grads[at + k]);
      x = updated(x, gradient, f, is_ssm ? ssm_rate : f.rate, is_ssm ? 1.f : f.keep);
      p.v[k] = x.p;
      m.v[k] = x.m;
      v.v[k] = x.v;
      e.v[k] = x.e;
      if (!is_whole) {
        params[at + k] = x.p;
        first[at + k] = x.m;
        second[at + k] = x.v;
        ema[at + k] = x.e;
        if (COPY) copy[at + k] = from_float<bf16>(x.p);
      }
    }
    if (is_whole) {
      store_pack<4, float>(params, at, p);
      store_pack<4, float>(first, at, m);
      store_pack<4, float>(second, at, v);
      store_pack<4, float>(ema, at, e);
      if (COPY) store_pack<4, bf16>(copy, at, p);
    }
  }
}

}  // namespace

// adamw_f32, adamw_bf16: one step; the second also writes a copy of the weights in bf16, for the matrix products.
//   params, first, second, ema, grads [count] f32; copy [count] bf16
//   ssm [ranges, 2] i64: begin and end of dt, A and B of the state space models, ascending, begin < end
//   grad_scale [1] f32: every gradient's factor; not a number: nothing is changed
//   rates [8] f32: rise1, rise2, rate, root, eps, keep, ema_rate, ssm_rate, in memory since they change from step to step
//   rise1 = 1 - beta1, rise2 = 1 - beta2, rate = lr / (1 - beta1^k), root = sqrt(1 / (1 - beta2^k)), keep = 1 - lr decay,
//   ema_rate = 1 - ema_decay; ssm_rate as rate with the rate of the state space models; they are not decayed
//   grid  ceil(count / 4096)    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(THREADS)
    adamw_f32(OUT(float) params, OUT(float) first, OUT(float) second, OUT(float) ema, IN(float) grads, IN(long long) ssm,
              IN(float) grad_scale, IN(float) rates, long long count, int ranges) {
  adamw<false>(params, first, second, ema, grads, GlobalOut<bf16>{}, ssm, grad_scale, rates, count, ranges);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    adamw_bf16(OUT(float) params, OUT(float) first, OUT(float) second, OUT(float) ema, IN(float) grads, OUT(bf16) copy,
               IN(long long) ssm, IN(float) grad_scale, IN(float) rates, long long count, int ranges) {
  adamw<true>(params, first, second, ema, grads, copy, ssm, grad_scale, rates, count, ranges);
}

// sum_of_squares_f32: `partial[b]` = the sum of the squares of elements 65536 b .. in f64.
//   grads [count] f32; partial [ceil(count / 65536)] f64
//   grid  ceil(count / 65536)    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(THREADS)
    sum_of_squares_f32(IN(float) grads, OUT(double) partial, long long count) {
  STATIC_SHARED(double, scratch, THREADS / WARP);
  long long start = (long long)blockIdx.x * NORM_CHUNK, end = min(start + NORM_CHUNK, count);
  double sums[1] = {0.0};
#pragma unroll 4
  for (long long at = start + threadIdx.x * 4; at < end; at += THREADS * 4) {
    if (at + 4 <= count) {
      Pack<4> g = load_pack<4, float>(grads, at);
#pragma unroll
      for (int k = 0; k < 4; k++) sums[0] += double(g.v[k]) * double(g.v[k]);
    } else {
      for (long long i = at; i < count; i++) sums[0] += double(grads[i]) * double(grads[i]);
    }
  }
  block_sums<1>(sums, Shared<double>(scratch));
  if (threadIdx.x == 0) partial[blockIdx.x] = sums[0];
}

// grad_scale_f32: the norm of all gradients, and the factor of the step.
//   partial [parts] f64; losses [values] f64: any that is not finite skips the step (0 values: none are looked at)
//   norm [1] f64; scale [1] f32: max_norm / norm where that clips (max_norm 0: never), else 1; not a number to skip the step
//   grid  1    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(THREADS)
    grad_scale_f32(IN(double) partial, IN(double) losses, OUT(double) norm, OUT(float) scale, int parts, int values,
                   double max_norm) {
  STATIC_SHARED(double, scratch, 2 * THREADS / WARP);
  double sums[2] = {0.0, 0.0};
  for (int i = threadIdx.x; i < parts; i += THREADS) sums[0] += partial[i];
  for (int i = threadIdx.x; i < values; i += THREADS) sums[1] += double(losses[i]) * 0.0;   // zero, or not a number
  block_sums<2>(sums, Shared<double>(scratch));
  if (threadIdx.x == 0) {
    double found = sqrt(sums[0]);
    bool is_finite = found * 0.0 + sums[1] == 0.0;
    norm[0] = found;
    scale[0] = !is_finite ? float(nan("")) : max_norm > 0.0 && found > max_norm ? float(max_norm / found) : 1.f;
  }
}
