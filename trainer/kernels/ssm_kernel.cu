// The convolution kernels of a diagonal state space model, and the gradients of its parameters.
// The twin on the CPU: trainer/src/ops/ssm_kernel.rs.
//
//   K[l] = 2 Re sum_n C_n Bbar_n exp(z_n l)
//
// With `l = i r + j` the sum factors into an [L/r, states] x [states, r] product. Discretisation and powers are f64 (they
// are few), the products f32. A power is the product of at most log2(L) squares, so that it is exact to a few units of f64.
// A block makes one channel: its factors stay in shared memory.
#include "ssm_state.cuh"

namespace {

/// Squares `step^(2^b)` that are kept of each state: lengths up to 2^18.
constexpr int SQUARES = 18;
/// Rows of the product that a thread sums together.
constexpr int TILE = 4;

__device__ __forceinline__ void write_squares(Shared<double2> squares, Complex64 step) {
  for (int b = 0; b < SQUARES; b++) {
    squares[b] = to_pair(step);
    step = step * step;
  }
}

/// `start step^(k 2^shift)`
__device__ __forceinline__ Complex64 power(Shared<double2> squares, int k, int shift, Complex64 start) {
  for (int b = shift; k != 0; b++, k >>= 1)
    if (k & 1) start = start * from_pair(squares[b]);
  return start;
}

/// The parts of the dynamic shared memory.
struct Memory {
  Shared<double2> squares;   // [states, SQUARES]
  Shared<double2> scale;     // [states], of the forward; moments [states, 2] of the backward
  Shared<float2> far;        // [rows to a multiple of TILE, states]
  Shared<float2> near;       // [states, r], of the forward
  Shared<float> dk;          // [rows, r], of the backward
};

__device__ __forceinline__ Memory parts_of(Shared<double2> shared, int states, int rows) {
  Shared<double2> scale = shared + states * SQUARES;
  Shared<float2> far = shared_as<float2>(scale + 2 * states);
  Shared<float2> near = far + (rows + TILE - 1) / TILE * TILE * states;
  return {shared, scale, far, near, shared_as<float>(near)};
}

}  // namespace

// ssm_kernels_f32: kernels [channels, length] f32.
//   log_dt [channels], the others [channels, states] f32; kind: 0 zero-order hold, 1 bilinear
//   r = 2^log_r: the power of two nearest above the square root of length, 16 <= r (`inner_length` of the twin)
//   grid  channels    block 256    dynamic shared memory, with rows = ceil(length / r):
//     states * 16 * 20 + ceil(rows / 4) * 4 * states * 8 + states * r * 8 bytes (above 48 KiB from length 16,384: opt in)
//   states <= 256, length <= 2^18
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    ssm_kernels_f32(IN(float) log_dt, IN(float) log_a_real, IN(float) a_imag, IN(float) b_re, IN(float) b_im, IN(float) c_re,
                    IN(float) c_im, OUT(float) kernels, int states, int length, int log_r, int kind) {
  DYNAMIC_SHARED(double2, shared);
  Parameters p = {log_dt, log_a_real, a_imag, b_re, b_im, c_re, c_im};
  int r = 1 << log_r, rows = (length + r - 1) >> log_r, padded = (rows + TILE - 1) / TILE * TILE;
  size_t channel = blockIdx.x;
  Memory m = parts_of(shared, states, rows);
  for (int n = threadIdx.x; n < states; n += THREADS) {
    State s = discretise(p, kind, channel, channel * states + n);
    write_squares(m.squares + n * SQUARES, s.step);
    m.scale[n] = to_pair(2.0 * (s.c * s.b * s.phi));
  }
  __syncthreads();
  for (int i = threadIdx.x; i < states * r; i += THREADS) {
    Complex64 v = power(m.squares + (i >> log_r) * SQUARES, i & (r - 1), 0, {1.0, 0.0});
    m.near[i] = make_float2(float(v.re), float(v.im));
  }
  for (int i = threadIdx.x; i < padded * states; i += THREADS) {
    int row = i / states, n = i % states;
    Complex64 v = power(m.squares + n * SQUARES, row, log_r, from_pair(m.scale[n]));
    m.far[i] = make_float2(float(v.re), float(v.im));
  }
  __syncthreads();
  int half = r / 2;
  for (int tile = threadIdx.x; tile < padded / TILE * half; tile += THREADS) {
    int row = tile / half * TILE, column = tile % half;
    float sums[TILE][2] = {};
    for (int n = 0; n < states; n++) {
      float2 left = m.near[n * r + column], right = m.near[n * r + column + half];
#pragma unroll
      for (int q = 0; q < TILE; q++) {
        float2 far = m.far[(row + q) * states + n];
        sums[q][0] += far.x * left.x - far.y * left.y;
        sums[q][1] += far.x * right.x - far.y * right.y;
      }
    }
#pragma unroll
    for (int q = 0; q < TILE; q++) {
      int l = (row + q) * r + column;
      if (l < length) kernels[channel * length + l] = sums[q][0];
      if (l + half < length) kernels[channel * length + l + half] = sums[q][1];
    }
  }
}

// ssm_kernels_backward_f32: adds the gradients of the parameters, given dk [channels, length] f32.
//   parameters as above, and their gradients in the same layouts; train_b = 0 leaves those of B alone
//   grid  channels    block 256    dynamic shared memory, with rows = ceil(length / r):
//     states * 16 * 20 + ceil(rows / 4) * 4 * states * 8 + rows * r * 4 bytes (above 48 KiB from length 16,384: opt in)
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    ssm_kernels_backward_f32(IN(float) log_dt, IN(float) log_a_real, IN(float) a_imag, IN(float) b_re, IN(float) b_im,
                             IN(float) c_re, IN(float) c_im, IN(float) dk, OUT(float) d_log_dt, OUT(float) d_log_a_real,
                             OUT(float) d_a_imag, OUT(float) d_b_re, OUT(float) d_b_im, OUT(float) d_c_re,
                             OUT(float) d_c_im, int states, int length, int log_r, int kind, int train_b) {
  DYNAMIC_SHARED(double2, shared);
  constexpr int GROUP = 4;   // states of a warp at a time
  Parameters p = {log_dt, log_a_real, a_imag, b_re, b_im, c_re, c_im};
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  int r = 1 << log_r, rows = (length + r - 1) >> log_r;
  size_t channel = blockIdx.x;
  Memory m = parts_of(shared, states, rows);
  Shared<double2> moments = m.scale;
  for (int n = threadIdx.x; n < states; n += THREADS)
    write_squares(m.squares + n * SQUARES, discretise(p, kind, channel, channel * states + n).step);
  for (int l = threadIdx.x; l < rows * r; l += THREADS) m.dk[l] = l < length ? float(dk[channel * length + l]) : 0.f;
  __syncthreads();
  for (int i = threadIdx.x; i < rows * states; i += THREADS) {
    Complex64 v = power(m.squares + i % states * SQUARES, i / states, log_r, {1.0, 0.0});
    m.far[i] = make_float2(float(v.re), float(v.im));
  }
  __syncthreads();
  // `sum_l conj(e^{zl}) dk_l` and `sum_l l conj(e^{zl}) dk_l`: first over i in f32, then over j in f64.
  for (int first = warp * GROUP; first < states; first += THREADS / WARP * GROUP) {
    double totals[GROUP][4] = {};
    for (int j = lane; j < r; j += WARP) {
      float sums[GROUP][4] = {};
      for (int i = 0; i < rows; i++) {
        float d = m.dk[i * r + j], weighted = float(i) * d;
#pragma unroll
        for (int q = 0; q < GROUP; q++) {
          float2 w = m.far[i * states + min(first + q, states - 1)];
          sums[q][0] += w.x * d;
          sums[q][1] += w.y * d;
          sums[q][2] += w.x * weighted;
          sums[q][3] += w.y * weighted;
        }
      }
#pragma unroll
      for (int q = 0; q < GROUP; q++) {
        Complex64 e = power(m.squares + min(first + q, states - 1) * SQUARES, j, 0, {1.0, 0.0});
        double l_re = r * double(sums[q][2]) + j * double(sums[q][0]);
        double l_im = r * double(sums[q][3]) + j * double(sums[q][1]);
        totals[q][0] += e.re * sums[q][0] - e.im * sums[q][1];
        totals[q][1] -= e.re * sums[q][1] + e.im * sums[q][0];
        totals[q][2] += e.re * l_re - e.im * l_im;
        totals[q][3] -= e.re * l_im + e.im * l_re;
      }
    }
#pragma unroll
    for (int q = 0; q < GROUP; q++) {
#pragma unroll
      for (int k = 0; k < 4; k++) totals[q][k] = warp_sum(totals[q][k]);
      if (lane == q && first + q < states) {
        moments[2 * (first + q)] = make_double2(totals[q][0], totals[q][1]);
        moments[2 * (first + q) + 1] = make_double2(totals[q][2], totals[q][3]);
      }
    }
  }
  __syncthreads();
  StateGradients gradients = {d_log_a_real, d_a_imag, d_b_re, d_b_im, d_c_re, d_c_im};
  for (int n = threadIdx.x; n < states; n += THREADS) {
    Complex64 zeroth = from_pair(moments[2 * n]), first = from_pair(moments[2 * n + 1]);
    double d_log = add_state_gradients(p, gradients, kind, channel, channel * states + n, zeroth, first, train_b != 0);
    moments[2 * n] = make_double2(d_log, 0.0);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    double sum = 0.0;
    for (int n = 0; n < states; n++) sum += double2(moments[2 * n]).x;
    d_log_dt[channel] += float(sum);
  }
}
