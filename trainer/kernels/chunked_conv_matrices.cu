// The matrices of the chunked convolution, from the parameters of the state space models. chunked_conv.cuh tells what they
// are for. Powers are f64, each the one before times the step; a block makes those of one channel and direction (a line).
#include "chunked_conv.cuh"
#include "ssm_state.cuh"

namespace chunked {

/// What a block makes the matrices of a line from.
struct Line {
  /// `w_n^e` at [e, n], e <= CHUNK.
  Shared<double2> powers;
  /// `2 C_n Bbar_n`
  Shared<double2> gains;
  /// The first samples of the kernel, the skip weight added to the zeroth.
  Shared<float> near;

  __device__ __forceinline__ Complex64 power(int exponent, int state) const {
    return from_pair(powers[exponent * STATES + state]);
  }
  /// The matrix from samples to states at row `t` and column `column`, a state's real or imaginary part.
  __device__ __forceinline__ float into(int t, int column) const {
    Complex64 v = power(CHUNK - 1 - t, column / 2);
    return float(column % 2 == 0 ? v.re : v.im);
  }
  /// The same of its derivative, `(CHUNK - 1 - t) w^{CHUNK - 1 - t}`.
  __device__ __forceinline__ float into_slope(int t, int column) const {
    return float(CHUNK - 1 - t) * into(t, column);
  }
  /// The matrix from states to samples at row `row`, a state's part, and column `t`.
  __device__ __forceinline__ float out_of(int row, int t) const {
    Complex64 v = from_pair(gains[row / 2]) * power(t + 1, row / 2);
    return float(row % 2 == 0 ? v.re : -v.im);
  }
  /// `w^{t + 1}`, as the matrix from samples to states, and `(t + 1) w^{t + 1}`.
  __device__ __forceinline__ float back(int t, int column) const {
    Complex64 v = power(t + 1, column / 2);
    return float(column % 2 == 0 ? v.re : v.im);
  }
  __device__ __forceinline__ float back_slope(int t, int column) const { return float(t + 1) * back(t, column); }
  __device__ __forceinline__ float near_or_zero(int lag) const { return lag >= 0 ? float(near[lag]) : 0.f; }
};

/// Row and column of the first number of word `word` of a lane, in a right factor with `depth` fragments along its rows.
struct Place {
  int row, column;
};
__device__ __forceinline__ Place place_of(int i, int depth) {
  int lane = i / 4 % WARP, word = i / (4 * WARP) * 4 + i % 4;
  return {word / 2 % depth * 16 + word % 2 * 8 + lane % 4 * 2, word / 2 / depth * 8 + lane / 4};
}

/// Everything of a line but its fragments. A sample of the kernel is for the thread that has its number, up to the next
/// barrier.
__device__ __forceinline__ Line make_line(const Parameters &p, GlobalIn<float> skip, GlobalOut<float4> powers, int states,
                                          int kind) {
  DYNAMIC_SHARED(double2, shared);
  size_t line = blockIdx.x;
  Line made = {shared, shared + (CHUNK + 1) * STATES, shared_as<float>(shared + (CHUNK + 2) * STATES)};
  if (threadIdx.x < STATES) {
    int n = threadIdx.x;
    Complex64 step = {0.0, 0.0}, gain = {0.0, 0.0}, power = {n < states ? 1.0 : 0.0, 0.0};
    if (n < states) {
      State s = discretise(p, kind, line, line * states + n);
      step = s.step;
      gain = 2.0 * (s.c * s.b * s.phi);
    }
    made.gains[n] = to_pair(gain);
    for (int e = 0; e <= CHUNK; e++) {
      made.powers[e * STATES + n] = to_pair(power);
      if (e < CHUNK) power = power * step;
    }
    powers[line * STATES + n] = make_float4(float(power.re), float(power.im), float(step.re), float(step.im));
  }
  __syncthreads();
  if (threadIdx.x < CHUNK) {
    int lag = threadIdx.x;
    double sum = lag == 0 ? double(skip[line]) : 0.0;
    for (int n = 0; n < states; n++) sum += (from_pair(made.gains[n]) * made.power(lag, n)).re;
    made.near[lag] = float(sum);
  }
  return made;
}

/// The fragments of a line, and those of its slopes where they are wanted.
__device__ __forceinline__ void write_fragments(const Line &line, GlobalOut<float> own) {
  for (int i = threadIdx.x; i < 2 * STATES * CHUNK; i += THREADS) own[i] = line.out_of(i / CHUNK, i % CHUNK);
  for (int i = threadIdx.x; i < CHUNK; i += THREADS) own[2 * STATES * CHUNK + i] = line.near[i];
}
__device__ __forceinline__ void write_fragments(const Line &line, GlobalOut<uint32_t> own, GlobalOut<uint32_t> slopes,
                                                bool with_slopes) {
  for (int i = threadIdx.x; i < MATRIX_WORDS; i += THREADS) {
    Place into = place_of(i, 2), out_of = place_of(i, 4);
    int t = into.row, column = into.column;
    own[i] = pack_bf16(line.into(t, column), line.into(t + 1, column));
    own[MATRIX_WORDS + i] =
        pack_bf16(line.out_of(out_of.row, out_of.column), line.out_of(out_of.row + 1, out_of.column));
    if (with_slopes) {
      slopes[i] = pack_bf16(line.into_slope(t, column), line.into_slope(t + 1, column));
      slopes[MATRIX_WORDS + i] = pack_bf16(line.back(t, column), line.back(t + 1, column));
      slopes[2 * MATRIX_WORDS + i] = pack_bf16(line.back_slope(t, column), line.back_slope(t + 1, column));
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 4 * WARP; i += THREADS) {
    int lag = i / WARP * 8 + i % WARP / 4 - i % 4 * 2;
    own[2 * MATRIX_WORDS + i] = pack_bf16(line.near_or_zero(lag), line.near_or_zero(lag - 1));
  }
}

}  // namespace chunked

// chunked_conv_matrices_{f32,bf16}: the matrices of all channels and directions (lines), the forward direction first.
//   log_dt [2 dim], the other parameters [2 dim, states] f32; skip [2 dim] f32; kind: 0 zero-order hold, 1 bilinear
//   fragments [2 dim, 2080] f32 or [2 dim, 2176] words; powers [2 dim, 32, 4] f32: `w^32`, then `w`
//   slopes [2 dim, 3072] words, what chunked_conv_moments_bf16 needs; with_slopes = 0 leaves them alone
//   grid  2 dim    block 256    dynamic shared memory 17,536 bytes    states <= 32
extern "C" __global__ void __launch_bounds__(THREADS)
    chunked_conv_matrices_f32(IN(float) log_dt, IN(float) log_a_real, IN(float) a_imag, IN(float) b_re, IN(float) b_im,
                              IN(float) c_re, IN(float) c_im, IN(float) skip, OUT(float) fragments, OUT(float4) powers,
                              int states, int kind) {
  Parameters p = {log_dt, log_a_real, a_imag, b_re, b_im, c_re, c_im};
  chunked::Line line = chunked::make_line(p, skip, powers, states, kind);
  chunked::write_fragments(line, fragments + size_t(blockIdx.x) * chunked::FRAGMENT_WORDS<float>);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    chunked_conv_matrices_bf16(IN(float) log_dt, IN(float) log_a_real, IN(float) a_imag, IN(float) b_re, IN(float) b_im,
                               IN(float) c_re, IN(float) c_im, IN(float) skip, OUT(uint32_t) fragments, OUT(float4) powers,
                               OUT(uint32_t) slopes, int states, int kind, int with_slopes) {
  Parameters p = {log_dt, log_a_real, a_imag, b_re, b_im, c_re, c_im};
  chunked::Line line = chunked::make_line(p, skip, powers, states, kind);
  chunked::write_fragments(line, fragments + size_t(blockIdx.x) * chunked::FRAGMENT_WORDS<bf16>,
                           slopes + size_t(blockIdx.x) * 3 * chunked::MATRIX_WORDS, with_slopes != 0);
}
