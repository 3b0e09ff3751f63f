// The long convolution of a diagonal state space model by chunks: within a chunk by the kernel's first samples, from chunk
// to chunk through the states. Both directions, any length; no kernel of the whole length is made, and no transform.
// The twins on the CPU: trainer/src/ops/ssm_kernel.rs and trainer/src/ops/long_conv.
//
// With w_n = exp(z_n), c a chunk of T = CHUNK samples and H[c] what the samples before it left in the states:
//
//   y[c T + t] = sum_{i <= t} k[i] u[c T + t - i] + 2 Re sum_n C_n Bbar_n w_n^{t+1} H_n[c]
//   H_n[c + 1] = w_n^T H_n[c] + V_n[c]        V_n[c] = sum_j w_n^{T-1-j} u[c T + j]
//
// So a channel has three small matrices, [T, T], [T, 2 STATES] and [2 STATES, T], and everything is their products with
// chunks. The other direction is the same on reversed samples: chunks, rows and pairs are read from the end.
//
// A warp has one channel and direction, and keeps its matrices in registers. It takes ROWS chunks at a time (a tile): their
// V in one product, then the states from chunk to chunk in f32, one state a lane, then the outputs in two more products.
// In bf16 these are products of tensor cores, and H is rounded to bf16 for them; in f32 they are sums of multiply-adds.
// A block has CHANNELS neighbouring channels in both directions, so that a row is read in runs of 16 or 32 bytes.
#pragma once
#include "tensor.cuh"

namespace chunked {

/// Samples of a chunk.
constexpr int CHUNK = 32;
/// Chunks of a tile.
constexpr int ROWS = 16;
constexpr int TILE = ROWS * CHUNK;
/// Complex states of a channel, at most; the missing ones are zero.
constexpr int STATES = 32;
constexpr int CHANNELS = 8;
/// Threads of a block: in products a warp for each channel and direction, in copies one for two samples of four channels.
constexpr int BLOCK = 2 * CHANNELS * WARP;
static_assert(BLOCK == TILE / 2 * CHANNELS / 4 && CHUNK == WARP && STATES == WARP, "lanes are samples, or states");

/// Neighbouring samples lie in pairs: distances of chunks and channels in pairs, without conflicts of banks.
constexpr int CHUNK_STRIDE = CHUNK / 2 + 4, CHANNEL_STRIDE = ROWS * CHUNK_STRIDE + 4;
/// Pairs of a tile of all channels.
constexpr int TILE_PAIRS = CHANNELS * CHANNEL_STRIDE;

/// A pair of samples.
template <class T> struct PairOf;
template <> struct PairOf<float> { using Type = float2; };
template <> struct PairOf<bf16> { using Type = uint32_t; };
template <class T> using Pair = typename PairOf<T>::Type;

/// Neighbouring channels of one sample.
template <class T> struct Four;
template <> struct Four<float> {
  float v[4] = {};
  __device__ __forceinline__ void load(GlobalIn<float> x, size_t at) {
    float4 all = global_as<const float4>(x + at)[0];
    v[0] = all.x, v[1] = all.y, v[2] = all.z, v[3] = all.w;
  }
  __device__ __forceinline__ void load_one(GlobalIn<float> x, size_t at, int c) { v[c] = x[at]; }
};
template <> struct Four<bf16> {
  uint32_t v[2] = {};
  __device__ __forceinline__ void load(GlobalIn<bf16> x, size_t at) {
    Word<8> all = global_as<const Word<8>>(x + at)[0];
    v[0] = all.v[0], v[1] = all.v[1];
  }
  __device__ __forceinline__ void load_one(GlobalIn<bf16> x, size_t at, int c) {
    v[c / 2] |= uint32_t(uint16_t(global_as<const uint16_t>(x + at)[0])) << 16 * (c % 2);
  }
};
__device__ __forceinline__ float2 pair_of(const Four<float> &first, const Four<float> &second, int c) {
  return make_float2(first.v[c], second.v[c]);
}
__device__ __forceinline__ uint32_t pair_of(const Four<bf16> &first, const Four<bf16> &second, int c) {
  uint32_t a = first.v[c / 2], b = second.v[c / 2];
  return c % 2 == 0 ? (a & 0xffff) | b << 16 : a >> 16 | (b & 0xffff0000);
}

/// A block's channels in one image's matrix [length, width].
struct Columns {
  int width, length;
  /// The block's first column, and the channels from it on that exist.
  int column, count;
  /// Whether four channels from the block's `channel` on can be moved at once.
  __device__ __forceinline__ bool is_whole(int channel) const {
    return count >= channel + 4 && width % 4 == 0 && column % 4 == 0;
  }
};

/// What a thread copies of a tile: two samples of four channels.
template <class T> struct Rows {
  Four<T> sample[2];
};

/// The thread, by a number whose addresses are computed anew every time: registers are for matrices.
__device__ __forceinline__ int fresh_thread() {
  int thread = threadIdx.x;
  OPAQUE(thread);
  return thread;
}
__device__ __forceinline__ int fresh_lane() { return fresh_thread() % WARP; }

/// What a thread copies: the first of its channels, its pair of samples.
struct Copied {
  int channel, chunk, pair;
  __device__ __forceinline__ int sample() const { return chunk * CHUNK + 2 * pair; }
  __device__ __forceinline__ int at() const { return chunk * CHUNK_STRIDE + pair; }
};
__device__ __forceinline__ Copied copied() {
  int thread = fresh_thread();
  return {thread % 2 * 4, thread / CHUNK, thread % CHUNK / 2};
}

template <class T> __device__ __forceinline__ Rows<T> load_rows(GlobalIn<T> image, const Columns &columns, int tile) {
  Rows<T> rows;
  Copied own = copied();
#pragma unroll
  for (int s = 0; s < 2; s++) {
    int l = tile * TILE + own.sample() + s;
    if (l >= columns.length) continue;
    size_t at = size_t(l) * columns.width + columns.column + own.channel;
    if (columns.is_whole(own.channel)) {
      rows.sample[s].load(image, at);
    } else {
#pragma unroll
      for (int c = 0; c < 4; c++)
        if (own.channel + c < columns.count) rows.sample[s].load_one(image, at + c, c);
    }
  }
  return rows;
}

template <class T> __device__ __forceinline__ void keep_rows(Shared<Pair<T>> tile, const Rows<T> &rows) {
  Copied own = copied();
#pragma unroll
  for (int c = 0; c < 4; c++)
    tile[(own.channel + c) * CHANNEL_STRIDE + own.at()] = pair_of(rows.sample[0], rows.sample[1], c);
}

/// One channel of a tile, in a direction: row r is the r-th chunk on the way, pair p of it the p-th.
struct Way {
  bool is_reversed;
  __device__ __forceinline__ int at(int row, int pair) const {
    return is_reversed ? (ROWS - 1 - row) * CHUNK_STRIDE + CHUNK / 2 - 1 - pair : row * CHUNK_STRIDE + pair;
  }
  __device__ __forceinline__ uint32_t read(Shared<uint32_t> channel, int row, int pair) const {
    uint32_t v = channel[at(row, pair)];
    return is_reversed ? exchanged(v) : v;
  }
  __device__ __forceinline__ float2 read(Shared<float2> channel, int row, int pair) const {
    float2 v = channel[at(row, pair)];
    return is_reversed ? make_float2(v.y, v.x) : v;
  }
};

/// Where a row of the tile has a state, so that neither fragments nor whole rows meet conflicts of banks.
__device__ __forceinline__ int state_at(int row, int state) { return row * STATES + (state ^ row % 8 * 4); }

/// `a b + c`
__device__ __forceinline__ float2 times_plus(float2 a, float2 b, float2 c) {
  return make_float2(c.x + a.x * b.x - a.y * b.y, c.y + a.x * b.y + a.y * b.x);
}

/// The fragments of a tile's chunks as the left factor of a product.
struct ChunkFragments {
  uint32_t v[2][4];
};

__device__ __forceinline__ ChunkFragments read_chunks(Shared<uint32_t> channel, Way way) {
  ChunkFragments chunks;
  int lane = fresh_lane(), group = lane / 4, pair = lane % 4;
#pragma unroll
  for (int k = 0; k < 2; k++) {
#pragma unroll
    for (int i = 0; i < 4; i++) chunks.v[k][i] = way.read(channel, group + i % 2 * 8, k * 8 + i / 2 * 4 + pair);
  }
  return chunks;
}

/// Words of a matrix between samples and states, of all lanes of a warp.
constexpr int MATRIX_WORDS = 32 * WARP;

/// Words of a line's fragments: in bf16 those of both matrices of the states, then of the kernel's first samples; in f32
/// the matrix from states to samples [2 STATES, CHUNK], then the samples.
template <class T> constexpr int FRAGMENT_WORDS = sizeof(T) == 2 ? 2 * MATRIX_WORDS + 4 * WARP : 2 * STATES * CHUNK + CHUNK;

/// Word `word` of lane `lane` lies at [word / 4, lane, word % 4].
__device__ __forceinline__ void load_fragments(GlobalIn<uint32_t> from, uint32_t (&words)[32]) {
#pragma unroll
  for (int i = 0; i < 8; i++) {
    Word<16> four = global_as<const Word<16>>(from + (i * WARP + threadIdx.x % WARP) * 4)[0];
#pragma unroll
    for (int k = 0; k < 4; k++) words[4 * i + k] = four.v[k];
  }
}

/// The product of a tile's chunks with a matrix, into [ROWS, STATES] complex numbers at `to`.
__device__ __forceinline__ void write_products(const ChunkFragments &chunks, const uint32_t (&matrix)[32],
                                               Shared<float2> to) {
  int lane = fresh_lane(), group = lane / 4, pair = lane % 4;
#pragma unroll
  for (int n = 0; n < 8; n++) {
    float sums[4] = {};
#pragma unroll
    for (int k = 0; k < 2; k++) {
      uint32_t right[2] = {matrix[n * 4 + k * 2], matrix[n * 4 + k * 2 + 1]};
      MULTIPLY_ADD(sums, chunks.v[k], right);
    }
    to[state_at(group, n * 4 + pair)] = make_float2(sums[0], sums[1]);
    to[state_at(group + 8, n * 4 + pair)] = make_float2(sums[2], sums[3]);
  }
}

}  // namespace chunked
