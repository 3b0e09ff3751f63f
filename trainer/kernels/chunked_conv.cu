// Both directions of the chunked convolution of a batch. chunked_conv.cuh tells how it goes.
//
// The gradient with respect to u is the same convolution of dy, each direction with the matrices of the other.
//
// What one direction leaves at the end of a tile the other needs at once, so the way from the end to the start is gone
// twice: first for the states alone, which wait in `carries` at the borders of tiles, then together with the outputs on the
// way from the start to the end.
#include "chunked_conv.cuh"

namespace chunked {

/// The matrices of a channel and direction, as a warp keeps them.
template <class T> struct Matrices;

/// What a warp works in: contributions to a tile's states, then its outputs; the states (f32: the other way round); and what
/// each lane keeps for itself.
constexpr int WORK = ROWS * STATES + ROWS * CHUNK_STRIDE + 2 * STATES;

/// `w_n^CHUNK` of each lane's state.
__device__ __forceinline__ Shared<float2> chunk_step(Shared<float2> work) { return work + (WORK - 2 * STATES); }
/// What goes on from tile to tile in each lane's state.
__device__ __forceinline__ Shared<float2> carry_of(Shared<float2> work) { return work + (WORK - STATES); }

template <> struct Matrices<bf16> {
  uint32_t into[32], out_of[32];

  /// Of the [CHUNK, CHUNK] matrix, the four fragments on and below the diagonal that differ: they wait behind the states.
  static __device__ __forceinline__ Shared<uint32_t> near(Shared<float2> work) {
    return shared_as<uint32_t>(work + ROWS * STATES) + ROWS * STATES;
  }

  __device__ __forceinline__ void load(GlobalIn<uint32_t> line, GlobalIn<float4> powers, Shared<float2> work) {
    int lane = threadIdx.x % WARP;
    load_fragments(line, into);
    load_fragments(line + MATRIX_WORDS, out_of);
#pragma unroll
    for (int i = 0; i < 4; i++) near(work)[i * WARP + lane] = line[2 * MATRIX_WORDS + i * WARP + lane];
    float4 all = powers[lane];
    chunk_step(work)[lane] = make_float2(all.x, all.y);
  }

  /// The states before each chunk, kept where the caller wants them.
  __device__ __forceinline__ void advance(Shared<uint32_t> channel, Way way, Shared<float2> work, bool is_kept) const {
    int lane = fresh_lane();
    write_products(read_chunks(channel, way), into, work);
    __syncwarp();
    Shared<uint32_t> states = shared_as<uint32_t>(work + ROWS * STATES);
    float2 w = chunk_step(work)[lane], carry = carry_of(work)[lane];
#pragma unroll 4
    for (int row = 0; row < ROWS; row++) {
      if (is_kept) states[state_at(row, lane)] = pack_bf16(carry.x, carry.y);
      carry = times_plus(w, carry, work[state_at(row, lane)]);
    }
    carry_of(work)[lane] = carry;
  }

  /// The outputs, in pairs at `outputs()`.
  __device__ __forceinline__ void write_outputs(Shared<uint32_t> channel, Way way, Shared<float2> work) const {
    int lane = fresh_lane(), group = lane / 4, pair = lane % 4;
    float sums[4][4] = {};
    ChunkFragments chunks = read_chunks(channel, way);
    uint32_t diagonals[4];
#pragma unroll
    for (int i = 0; i < 4; i++) diagonals[i] = near(work)[i * WARP + lane];
#pragma unroll
    for (int n = 0; n < 4; n++) {
#pragma unroll
      for (int k = 0; k < 2; k++) {
        if (n < 2 * k) continue;
        uint32_t right[2] = {diagonals[n - 2 * k], n > 2 * k ? diagonals[n - 2 * k - (n > 2 * k)] : 0};
        MULTIPLY_ADD(sums[n], chunks.v[k], right);
      }
    }
    Shared<uint32_t> states = shared_as<uint32_t>(work + ROWS * STATES);
#pragma unroll
    for (int k = 0; k < 4; k++) {
      uint32_t left[4];
#pragma unroll
      for (int i = 0; i < 4; i++) left[i] = states[state_at(group + i % 2 * 8, k * 8 + i / 2 * 4 + pair)];
#pragma unroll
      for (int n = 0; n < 4; n++) {
        uint32_t right[2] = {out_of[n * 8 + k * 2], out_of[n * 8 + k * 2 + 1]};
        MULTIPLY_ADD(sums[n], left, right);
      }
    }
#pragma unroll
    for (int n = 0; n < 4; n++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float first = sums[n][2 * half], second = sums[n][2 * half + 1];
        outputs(work)[way.at(group + 8 * half, n * 4 + pair)] =
            way.is_reversed ? make_float2(second, first) : make_float2(first, second);
      }
    }
  }

  static __device__ __forceinline__ Shared<float2> outputs(Shared<float2> work) { return work; }
};

template <> struct Matrices<float> {
  /// The lane's column of the matrix from states to samples, and its sample of the kernel.
  float out_of[2 * STATES], near;
  float2 step;

  __device__ __forceinline__ void load(GlobalIn<float> line, GlobalIn<float4> powers, Shared<float2> work) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int n = 0; n < 2 * STATES; n++) out_of[n] = line[n * CHUNK + lane];
    near = line[2 * STATES * CHUNK + lane];
    float4 all = powers[lane];
    chunk_step(work)[lane] = make_float2(all.x, all.y);
    step = make_float2(all.z, all.w);
  }

  /// As that of bf16; a lane has a state, and sums by Horner's rule.
  __device__ __forceinline__ void advance(Shared<float2> channel, Way way, Shared<float2> work, bool is_kept) const {
    constexpr int AT_ONCE = 4;
    int lane = fresh_lane();
    float2 w = chunk_step(work)[lane], carry = carry_of(work)[lane];
#pragma unroll 1
    for (int first = 0; first < ROWS; first += AT_ONCE) {
      float2 sums[AT_ONCE] = {};
#pragma unroll 4
      for (int pair = 0; pair < CHUNK / 2; pair++) {
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
          float2 u = way.read(channel, first + i, pair);
          sums[i] = times_plus(step, sums[i], make_float2(u.x, 0.f));
          sums[i] = times_plus(step, sums[i], make_float2(u.y, 0.f));
        }
      }
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++) {
        if (is_kept) work[state_at(first + i, lane)] = carry;
        carry = times_plus(w, carry, sums[i]);
      }
    }
    carry_of(work)[lane] = carry;
  }

  /// A lane has a sample of each chunk.
  __device__ __forceinline__ void write_outputs(Shared<float2> channel, Way way, Shared<float2> work) const {
    constexpr int AT_ONCE = 8;
    int lane = fresh_lane();
#pragma unroll 1
    for (int first = 0; first < ROWS; first += AT_ONCE) {
      float sums[AT_ONCE] = {};
#pragma unroll
      for (int n = 0; n < STATES; n++) {
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
          float2 state = work[state_at(first + i, n)];
          sums[i] += out_of[2 * n] * state.x + out_of[2 * n + 1] * state.y;
        }
      }
#pragma unroll 4
      for (int pair = 0; pair < CHUNK / 2; pair++) {
        int lag = lane - 2 * pair;
        float k = __shfl_sync(WHOLE_WARP, near, max(lag, 0)), after = __shfl_sync(WHOLE_WARP, near, max(lag - 1, 0));
        k = lag >= 0 ? k : 0.f, after = lag >= 1 ? after : 0.f;
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
          float2 u = way.read(channel, first + i, pair);
          sums[i] += k * u.x + after * u.y;
        }
      }
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++) {
        int at = 2 * way.at(first + i, lane / 2) + (lane % 2 != int(way.is_reversed));
        shared_as<float>(outputs(work))[at] = sums[i];
      }
    }
  }

  static __device__ __forceinline__ Shared<float2> outputs(Shared<float2> work) { return work + ROWS * STATES; }
};

/// Writes a tile, of the directions side by side or of their sum.
template <class T>
__device__ __forceinline__ void write_tile(Shared<float2> works, GlobalOut<T> image, const Columns &columns, int tile,
                                           int outputs, int dim) {
  Copied own = copied();
#pragma unroll 1
  for (int output = 0; output < outputs; output++) {
    Pack<4> sample[2];
#pragma unroll
    for (int c = 0; c < 4; c++) {
      int warp = output * CHANNELS + own.channel + c;
      float2 v = Matrices<T>::outputs(works + warp * WORK)[own.at()];
      if (outputs == 1) {
        float2 other = Matrices<T>::outputs(works + (warp + CHANNELS) * WORK)[own.at()];
        v = make_float2(v.x + other.x, v.y + other.y);
      }
      sample[0].v[c] = v.x, sample[1].v[c] = v.y;
    }
    Columns to = {columns.width, columns.length, columns.column + output * dim, columns.count};
#pragma unroll
    for (int s = 0; s < 2; s++) {
      int l = tile * TILE + own.sample() + s;
      if (l >= to.length) continue;
      size_t at = size_t(l) * to.width + to.column + own.channel;
      if (to.is_whole(own.channel)) {
        store_pack<4, T>(image, at, sample[s]);
      } else {
#pragma unroll
        for (int c = 0; c < 4; c++)
          if (own.channel + c < to.count) image[at + c] = from_float<T>(sample[s].v[c]);
      }
    }
  }
}

/// A tile on the way through an image: first the tiles behind the first one, from the end, for the states of the direction
/// that comes from there; then all from the start.
struct Step {
  int tile;
  bool has_outputs;
};
__device__ __forceinline__ Step step_of(int step, int tiles) {
  return step < tiles - 1 ? Step{tiles - 1 - step, false} : Step{step - (tiles - 1), true};
}

/// INPUTS: 1, or 2 where the directions have inputs of their own, that of the way back first.
template <class T, int INPUTS, class M>
__device__ __forceinline__ void convolve(GlobalIn<T> x, GlobalIn<M> fragments, GlobalIn<float4> powers,
                                         GlobalOut<float2> carries, GlobalOut<T> y, int batch, int length, int dim,
                                         int outputs, bool is_adjoint) {
  DYNAMIC_SHARED(float2, shared);
  int warp = threadIdx.x / WARP, own = warp % CHANNELS;
  int first_channel = blockIdx.y * CHANNELS, channel = first_channel + own;
  Way way = {warp >= CHANNELS};
  int tiles = (length + TILE - 1) / TILE, steps = 2 * tiles - 1;
  Shared<float2> work = shared + warp * WORK;
  Shared<Pair<T>> inputs = shared_as<Pair<T>>(shared + 2 * CHANNELS * WORK);
  Shared<Pair<T>> input = inputs + (INPUTS == 2 && !way.is_reversed ? TILE_PAIRS : 0) + own * CHANNEL_STRIDE;
  Columns from = {INPUTS * dim, length, first_channel, dim - first_channel};
  Columns to = {outputs * dim, length, from.column, from.count};
  size_t line = size_t(way.is_reversed != is_adjoint ? dim : 0) + min(channel, dim - 1);
  Matrices<T> matrices;
  matrices.load(fragments + line * FRAGMENT_WORDS<T>, powers + line * STATES, work);
  auto carry_at = [&](int tile) {
    return ((size_t(blockIdx.x) * (tiles - 1) + tile) * dim + channel) * STATES + fresh_lane();
  };

  Rows<T> rows[INPUTS];
  auto read = [&](int image, int step) {
#pragma unroll
    for (int i = 0; i < INPUTS; i++) {
      Columns of_input = {from.width, length, from.column + i * dim, from.count};
      Step next = step_of(step, tiles);
      if (i == 0 || next.has_outputs)
        rows[i] = load_rows<T>(x + size_t(image) * length * from.width, of_input, next.tile);
    }
  };
  // The next rows are on their way while the warps work on a tile, where registers are left for them.
  constexpr bool IS_AHEAD = sizeof(T) == 2;
  if (IS_AHEAD && int(blockIdx.x) < batch) read(blockIdx.x, 0);
#pragma unroll 1
  for (int image = blockIdx.x; image < batch; image += gridDim.x) {
    carry_of(work)[threadIdx.x % WARP] = make_float2(0.f, 0.f);
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
      Step now = step_of(step, tiles);
      if (!IS_AHEAD) read(image, step);
#pragma unroll
      for (int i = 0; i < INPUTS; i++)
        if (i == 0 || now.has_outputs) keep_rows<T>(inputs + i * TILE_PAIRS, rows[i]);
      __syncthreads();
      if (IS_AHEAD && step + 1 < steps)
        read(image, step + 1);
      else if (IS_AHEAD && image + int(gridDim.x) < batch)
        read(image + gridDim.x, 0);
      if (now.has_outputs || way.is_reversed) {
        if (now.has_outputs && way.is_reversed) {
          bool is_known = channel < dim && now.tile < tiles - 1;
          carry_of(work)[fresh_lane()] = is_known ? float2(carries[carry_at(now.tile)]) : make_float2(0.f, 0.f);
        }
        matrices.advance(input, way, work, now.has_outputs);
        if (now.has_outputs) {
          __syncwarp();
          matrices.write_outputs(input, way, work);
        } else if (channel < dim) {
          carries[carry_at(now.tile - 1)] = float2(carry_of(work)[fresh_lane()]);
        }
      }
      __syncthreads();
      if (now.has_outputs)
        write_tile<T>(shared, y + size_t(image) * length * to.width, to, now.tile, outputs, dim);
    }
  }
}

}  // namespace chunked

// chunked_conv_{f32,bf16}: the convolution of a batch, and its gradient with respect to u where directions are added.
//   x [batch, length, dim]; y [batch, length, outputs dim]: outputs 2, the forward direction first, or 1, their sum
//   is_adjoint = 0: x is u; 1: x is dy, y is du, outputs is 1
//   carries [parts, tiles - 1, dim, 32] of (re, im) to work in, tiles = ceil(length / 512)
//   grid  (parts, ceil(dim / 8)), 1 <= parts <= batch: a block goes through batch / parts images, so choose the fewest that
//     fill the device    block 512    dynamic shared memory (opt in) 135,424 bytes in f32, 125,056 in bf16
//
// chunked_conv_adjoint_{f32,bf16}: du [batch, length, dim] of dy [batch, length, 2 dim], where directions lie side by side.
//   grid and block as above    dynamic shared memory (opt in) 156,160 bytes in f32, 135,424 in bf16
extern "C" __global__ void __launch_bounds__(chunked::BLOCK, 1)
    chunked_conv_f32(IN(float) x, IN(float) fragments, IN(float4) powers, OUT(float2) carries, OUT(float) y, int batch,
                     int length, int dim, int outputs, int is_adjoint) {
  chunked::convolve<float, 1>(x, fragments, powers, carries, y, batch, length, dim, outputs, is_adjoint != 0);
}
extern "C" __global__ void __launch_bounds__(chunked::BLOCK, 1)
    chunked_conv_bf16(IN(bf16) x, IN(uint32_t) fragments, IN(float4) powers, OUT(float2) carries, OUT(bf16) y, int batch,
                      int length, int dim, int outputs, int is_adjoint) {
  chunked::convolve<bf16, 1>(x, fragments, powers, carries, y, batch, length, dim, outputs, is_adjoint != 0);
}
extern "C" __global__ void __launch_bounds__(chunked::BLOCK, 1)
    chunked_conv_adjoint_f32(IN(float) dy, IN(float) fragments, IN(float4) powers, OUT(float2) carries, OUT(float) du,
                             int batch, int length, int dim) {
  chunked::convolve<float, 2>(dy, fragments, powers, carries, du, batch, length, dim, 1, true);
}
extern "C" __global__ void __launch_bounds__(chunked::BLOCK, 1)
    chunked_conv_adjoint_bf16(IN(bf16) dy, IN(uint32_t) fragments, IN(float4) powers, OUT(float2) carries, OUT(bf16) du,
                              int batch, int length, int dim) {
  chunked::convolve<bf16, 2>(dy, fragments, powers, carries, du, batch, length, dim, 1, true);
}
