// The gradients of the state space models' parameters through the chunked convolution; chunked_conv.cuh tells how it goes.
//
// They need of dk[l] = sum dy[i] u[i - l] no more than the first samples, and for each state
//
//   sum_l w_n^l dk[l]  and  sum_l l w_n^l dk[l]
//
// Lags within a chunk are the diagonals of a [CHUNK, CHUNK] product. A longer lag is the way from a sample to the end of its
// chunk, whole chunks, and the way into another one, so that the sums are over chunks, of products of two numbers a state:
//
//   sum_c D_n[c] H_n[c]  and  sum_c D'_n[c] H_n[c] + D_n[c] H'_n[c]
//   D_n = sum_t w_n^{t+1} dy[t]    D'_n = sum_t (t + 1) w_n^{t+1} dy[t]    H'_n[c]: each sample of H_n[c] times its lag
//
// So dk is never made, at any length. A block has CHANNELS neighbouring channels in one direction, two warps each: one makes
// the contributions of u to H and H', and sums; the other makes D and D' of dy, and the diagonals.
#include "chunked_conv.cuh"
#include "ssm_state.cuh"

namespace chunked {

/// What two warps work in: a tile's contributions to H and H', then D and D'; and what each lane keeps of its state: both
/// sums, H and H', and `w_n^CHUNK`.
constexpr int AREA = ROWS * STATES, AREAS = 4 * AREA + 5 * STATES;

/// A warp's sums over the images of a block.
template <class T> struct Sums;

template <> struct Sums<bf16> {
  /// Of the [CHUNK, CHUNK] product, sums of the blocks of 8 columns along each diagonal of blocks, on and below the main one.
  /// A lane has of a block the row lane / 4, and two columns.
  float diagonals[4][2];
  uint32_t values[32], slopes[32];

  __device__ __forceinline__ void load(GlobalIn<uint32_t> values_from, GlobalIn<uint32_t> slopes_from,
                                       GlobalIn<float4> powers, bool is_output, Shared<float2> areas) {
    load_fragments(values_from, values);
    load_fragments(slopes_from, slopes);
#pragma unroll
    for (int i = 0; i < 4; i++) diagonals[i][0] = diagonals[i][1] = 0.f;
    if (is_output) return;
    int lane = threadIdx.x % WARP;
    float4 all = powers[lane];
    kept(areas, 0)[lane] = kept(areas, 1)[lane] = make_float2(0.f, 0.f);
    kept(areas, 4)[lane] = make_float2(all.x, all.y);
  }

  static __device__ __forceinline__ Shared<float2> kept(Shared<float2> areas, int i) {
    return areas + (4 * AREA + i * STATES);
  }

  __device__ __forceinline__ void start_image(bool is_output, Shared<float2> areas) {
    int lane = fresh_lane();
    if (!is_output) kept(areas, 2)[lane] = kept(areas, 3)[lane] = make_float2(0.f, 0.f);
  }

  __device__ __forceinline__ float4 moments(Shared<float2> areas) const {
    int lane = threadIdx.x % WARP;
    float2 zeroth = kept(areas, 0)[lane], first = kept(areas, 1)[lane];
    return make_float4(zeroth.x, zeroth.y, first.x, first.y);
  }

  /// Adds `sum over chunks of dy u^T`; chunks may come in any order.
  __device__ __forceinline__ void add_diagonals(Shared<uint32_t> u, Shared<uint32_t> dy, Way way) {
    auto two = [&](Shared<uint32_t> channel, int chunk, int t) {
      Shared<uint16_t> samples = shared_as<uint16_t>(channel);
      int at = chunk * 2 * CHUNK_STRIDE + (way.is_reversed ? CHUNK - 1 - t : t);
      return uint32_t(uint16_t(samples[at])) | uint32_t(uint16_t(samples[at + 2 * CHUNK_STRIDE])) << 16;
    };
    int lane = fresh_lane(), group = lane / 4, pair = lane % 4;
#pragma unroll
    for (int m = 0; m < 2; m++) {
      uint32_t left[4];
#pragma unroll
      for (int i = 0; i < 4; i++) left[i] = two(dy, i / 2 * 8 + 2 * pair, m * 16 + i % 2 * 8 + group);
#pragma unroll
      for (int n = 0; n < 2 + 2 * m; n++) {
        uint32_t right[2] = {two(u, 2 * pair, n * 8 + group), two(u, 8 + 2 * pair, n * 8 + group)};
        // The upper block may lie above the main diagonal, where no lags are.
        int upper = 2 * m - n;
        float none[2] = {};
        float(&high)[2] = upper < 0 ? none : diagonals[max(upper, 0)], (&low)[2] = diagonals[upper + 1];
        float sums[4] = {high[0], high[1], low[0], low[1]};
        MULTIPLY_ADD(sums, left, right);
        high[0] = sums[0], high[1] = sums[1], low[0] = sums[2], low[1] = sums[3];
      }
    }
  }

  /// The sums of a tile, and the states behind it: a lane has a state.
  __device__ __forceinline__ void add_moments(Shared<float2> areas) const {
    int lane = fresh_lane();
    float2 zeroth = kept(areas, 0)[lane], first = kept(areas, 1)[lane];
    float2 state = kept(areas, 2)[lane], slope = kept(areas, 3)[lane], w = kept(areas, 4)[lane];
#pragma unroll 2
    for (int row = 0; row < ROWS; row++) {
      int at = state_at(row, lane);
      float2 d = areas[2 * AREA + at], d_slope = areas[3 * AREA + at];
      zeroth = times_plus(d, state, zeroth);
      first = times_plus(d_slope, state, times_plus(d, slope, first));
      slope = make_float2(slope.x + CHUNK * state.x, slope.y + CHUNK * state.y);
      slope = times_plus(w, slope, areas[AREA + at]);
      state = times_plus(w, state, areas[at]);
    }
    kept(areas, 0)[lane] = zeroth;
    kept(areas, 1)[lane] = first;
    kept(areas, 2)[lane] = state;
    kept(areas, 3)[lane] = slope;
  }

  /// With one barrier of the block, and `read_next` where registers are left for the rows of the next tile.
  template <class Read>
  __device__ __forceinline__ void add_tile(Shared<uint32_t> u, Shared<uint32_t> dy, Way way, bool is_output,
                                           Shared<float2> areas, Read read_next) {
    {
      ChunkFragments chunks = read_chunks(is_output ? dy : u, way);
      Shared<float2> own = areas + (is_output ? 2 * AREA : 0);
      write_products(chunks, values, own);
      write_products(chunks, slopes, own + AREA);
    }
    read_next();
    if (is_output) add_diagonals(u, dy, way);
    __syncthreads();
    if (!is_output) add_moments(areas);
  }

  /// The first samples of dk, each by the lane with its number.
  __device__ __forceinline__ float near_sum(Shared<float2> areas, bool is_output) const {
    int lane = threadIdx.x % WARP;
    Shared<float> all = shared_as<float>(areas);
    // The other warp still reads what it needs of the last tile.
    __syncthreads();
    if (!is_output) return 0.f;
#pragma unroll
    for (int i = 0; i < 8; i++) all[i * WARP + lane] = diagonals[i / 2][i % 2];
    __syncwarp();
    float sum = 0.f;
    for (int i = 0; i < 8; i++) {
      for (int pair = 0; pair < 4; pair++) {
        int row = lane - (i / 2 * 8 - 2 * pair - i % 2);
        if (row >= 0 && row < 8) sum += all[i * WARP + row * 4 + pair];
      }
    }
    return sum;
  }
};

template <> struct Sums<float> {
  /// Pairs of (re, im): both sums, then H and H'. Of lags within a chunk only lag zero is summed apart.
  float v[8];
  float2 step;

  __device__ __forceinline__ void load(GlobalIn<float4> powers) {
    float4 all = powers[threadIdx.x % WARP];
    step = make_float2(all.z, all.w);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = 0.f;
  }

  __device__ __forceinline__ void start_image(bool is_output, Shared<float2> /*areas*/) {
    if (!is_output) v[4] = v[5] = v[6] = v[7] = 0.f;
  }

  __device__ __forceinline__ float4 moments(Shared<float2> /*areas*/) const { return make_float4(v[0], v[1], v[2], v[3]); }

  template <class Read>
  __device__ __forceinline__ void add_tile(Shared<float2> u, Shared<float2> dy, Way way, bool is_output,
                                           Shared<float2> /*areas*/, Read read_next) {
    read_next();
    if (is_output) {
      int lane = fresh_lane();
      for (int i = lane; i < TILE / 2; i += WARP) {
        float2 of_u = u[way.at(i / ROWS, i % ROWS)], of_dy = dy[way.at(i / ROWS, i % ROWS)];
        v[0] += of_u.x * of_dy.x + of_u.y * of_dy.y;
      }
    } else {
      float2 zeroth = make_float2(v[0], v[1]), first = make_float2(v[2], v[3]);
      float2 state = make_float2(v[4], v[5]), slope = make_float2(v[6], v[7]), zero = make_float2(0.f, 0.f);
#pragma unroll 4
      for (int i = 0; i < TILE / 2; i++) {
        float2 of_u = way.read(u, i / ROWS, i % ROWS), of_dy = way.read(dy, i / ROWS, i % ROWS);
#pragma unroll
        for (int s = 0; s < 2; s++) {
          float d = s == 0 ? of_dy.x : of_dy.y;
          slope = times_plus(step, make_float2(slope.x + state.x, slope.y + state.y), zero);
          state = times_plus(step, state, zero);
          zeroth = make_float2(zeroth.x + d * state.x, zeroth.y + d * state.y);
          first = make_float2(first.x + d * slope.x, first.y + d * slope.y);
          state.x += s == 0 ? of_u.x : of_u.y;
        }
      }
      v[0] = zeroth.x, v[1] = zeroth.y, v[2] = first.x, v[3] = first.y;
      v[4] = state.x, v[5] = state.y, v[6] = slope.x, v[7] = slope.y;
    }
    __syncthreads();
  }

  __device__ __forceinline__ float near_sum(Shared<float2> /*areas*/, bool is_output) const {
    float sum = warp_sum(v[0]);
    return is_output && threadIdx.x % WARP == 0 ? sum : 0.f;
  }
};

template <class T>
__device__ __forceinline__ void add_moments(Sums<T> &sums, Shared<float2> areas, Shared<Pair<T>> tiles, GlobalIn<T> u,
                                            GlobalIn<T> dy, GlobalOut<float4> moments, GlobalOut<float> near, int batch,
                                            int length, int dim, int directions) {
  int direction = blockIdx.x % 2;
  int first_channel = blockIdx.y * CHANNELS, part = blockIdx.x / 2, parts = gridDim.x / 2;
  Way way = {direction == 1};
  int count = (length + TILE - 1) / TILE;
  Columns of_u = {dim, length, first_channel, dim - first_channel};
  Columns of_dy = {directions * dim, length, (directions - 1) * direction * dim + first_channel, dim - first_channel};
  Rows<T> rows_of_u, rows_of_dy;
  auto read = [&](int image, int step) {
    int tile = way.is_reversed ? count - 1 - step : step;
    rows_of_u = load_rows<T>(u + size_t(image) * length * of_u.width, of_u, tile);
    rows_of_dy = load_rows<T>(dy + size_t(image) * length * of_dy.width, of_dy, tile);
  };
  if (part < batch) read(part, 0);
#pragma unroll 1
  for (int image = part; image < batch; image += parts) {
    int warp = fresh_thread() / WARP;
    sums.start_image(warp >= CHANNELS, areas + warp % CHANNELS * AREAS);
#pragma unroll 1
    for (int step = 0; step < count; step++) {
      keep_rows<T>(tiles, rows_of_u);
      keep_rows<T>(tiles + TILE_PAIRS, rows_of_dy);
      __syncthreads();
      int warp = fresh_thread() / WARP, own = warp % CHANNELS;
      Shared<Pair<T>> channel = tiles + own * CHANNEL_STRIDE;
      sums.add_tile(channel, channel + TILE_PAIRS, way, warp >= CHANNELS, areas + own * AREAS, [&] {
        if (step + 1 < count)
          read(image, step + 1);
        else if (image + parts < batch)
          read(image + parts, 0);
      });
    }
  }
  int warp = threadIdx.x / WARP, own = warp % CHANNELS;
  bool is_output = warp >= CHANNELS;
  float near_sum = sums.near_sum(areas + own * AREAS, is_output);
  int channel = first_channel + own;
  if (channel >= dim) return;
  size_t at = ((size_t(part) * 2 + direction) * dim + channel) * STATES + threadIdx.x % WARP;
  if (is_output)
    near[at] = near_sum;
  else
    moments[at] = sums.moments(areas + own * AREAS);
}

/// The line of a warp; of a channel beyond the last one, that of the last.
__device__ __forceinline__ size_t line_of_warp(int dim) {
  int channel = blockIdx.y * CHANNELS + threadIdx.x / WARP % CHANNELS;
  return size_t(blockIdx.x % 2 * dim) + min(channel, dim - 1);
}

}  // namespace chunked

// chunked_conv_moments_{f32,bf16}: sums over `parts` shares of the batch.
//   u [batch, length, dim]; dy [batch, length, directions dim]; fragments (bf16), slopes (bf16), powers: of
//     chunked_conv_matrices
//   moments [parts, 2, dim, 32, 4] f32: `sum_l w^l dk[l]` (re, im), `sum_l l w^l dk[l]` (re, im), over lags of other chunks
//   near [parts, 2, dim, 32] f32: dk[l] of lags within a chunk (in f32, of lag zero alone: the others are in moments)
//   grid  (2 parts, ceil(dim / 8)), 1 <= parts <= batch    block 512
//   dynamic shared memory 41,472 bytes in f32, 162,048 in bf16 (opt in)
extern "C" __global__ void __launch_bounds__(chunked::BLOCK, 1)
    chunked_conv_moments_f32(IN(float) u, IN(float) dy, IN(float4) powers, OUT(float4) moments, OUT(float) near, int batch,
                             int length, int dim, int directions) {
  DYNAMIC_SHARED(float2, tiles);
  chunked::Sums<float> sums;
  sums.load(powers + chunked::line_of_warp(dim) * chunked::STATES);
  chunked::add_moments<float>(sums, tiles, tiles, u, dy, moments, near, batch, length, dim, directions);
}
extern "C" __global__ void __launch_bounds__(chunked::BLOCK, 1)
    chunked_conv_moments_bf16(IN(bf16) u, IN(bf16) dy, IN(uint32_t) fragments, IN(uint32_t) slopes, IN(float4) powers,
                              OUT(float4) moments, OUT(float) near, int batch, int length, int dim, int directions) {
  DYNAMIC_SHARED(float2, areas);
  size_t line = chunked::line_of_warp(dim);
  bool is_output = threadIdx.x / WARP >= chunked::CHANNELS;
  GlobalIn<uint32_t> own_slopes = slopes + line * 3 * chunked::MATRIX_WORDS;
  chunked::Sums<bf16> sums;
  sums.load(is_output ? own_slopes + chunked::MATRIX_WORDS : fragments + line * chunked::FRAGMENT_WORDS<bf16>,
            is_output ? own_slopes + 2 * chunked::MATRIX_WORDS : own_slopes, powers + line * chunked::STATES, is_output,
            areas + threadIdx.x / WARP % chunked::CHANNELS * chunked::AREAS);
  chunked::add_moments<bf16>(sums, areas, shared_as<uint32_t>(areas + chunked::CHANNELS * chunked::AREAS), u, dy, moments,
                             near, batch, length, dim, directions);
}

// chunked_conv_gradients_f32: adds the gradients of the parameters and skip weights, given moments and near.
//   parameters as for chunked_conv_matrices, and their gradients in the same layouts; d_skip [2 dim] f32
//   train_b = 0 leaves the gradients of B alone; kind: 0 zero-order hold, 1 bilinear
//   grid  2 dim    block 32    dynamic shared memory 0    states <= 32
extern "C" __global__ void __launch_bounds__(WARP)
    chunked_conv_gradients_f32(IN(float) log_dt, IN(float) log_a_real, IN(float) a_imag, IN(float) b_re, IN(float) b_im,
                               IN(float) c_re, IN(float) c_im, IN(float4) moments, IN(float) near, OUT(float) d_log_dt,
                               OUT(float) d_log_a_real, OUT(float) d_a_imag, OUT(float) d_b_re, OUT(float) d_b_im,
                               OUT(float) d_c_re, OUT(float) d_c_im, OUT(float) d_skip, int parts, int states, int kind,
                               int train_b) {
  using chunked::CHUNK;
  using chunked::STATES;
  Parameters p = {log_dt, log_a_real, a_imag, b_re, b_im, c_re, c_im};
  StateGradients gradients = {d_log_a_real, d_a_imag, d_b_re, d_b_im, d_c_re, d_c_im};
  size_t line = blockIdx.x, lines = gridDim.x;
  int lane = threadIdx.x;
  Complex64 zeroth = {0.0, 0.0}, first = {0.0, 0.0};
  double sample = 0.0;
  for (int part = 0; part < parts; part++) {
    size_t at = (part * lines + line) * STATES + lane;
    float4 sums = moments[at];
    zeroth = zeroth + Complex64{sums.x, sums.y};
    first = first + Complex64{sums.z, sums.w};
    sample += near[at];
  }
  bool has_state = lane < states;
  size_t at = line * states + (has_state ? lane : 0);
  Complex64 step = discretise(p, kind, line, at).step, power = {1.0, 0.0};
  for (int lag = 0; lag < CHUNK; lag++) {
    double dk = __shfl_sync(WHOLE_WARP, sample, lag);
    zeroth = zeroth + dk * power;
    first = first + (lag * dk) * power;
    power = power * step;
  }
  double d_log = 0.0;
  if (has_state)
    d_log = add_state_gradients(p, gradients, kind, line, at, conj(zeroth), conj(first), train_b != 0);
  d_log = warp_sum(d_log);
  if (lane == 0) {
    d_log_dt[line] += float(d_log);
    d_skip[line] += float(sample);
  }
}
