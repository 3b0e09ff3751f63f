// The bidirectional long convolution of a block, fused: activations are read once, transformed, multiplied and
// transformed back in shared memory, and written once, where they lie ([batch, length, dim], channels contiguous).
// The twin on the CPU: trainer/src/ops/long_conv.
//
//   y_f[l] = sum_{i <= l} k_f[i] u[l - i] + d_f u[l]     y_b[l] = sum_i k_b[i] u[l + i] + d_b u[l]
//
// The skip weights d are the zeroth samples of kernels, so they are added to the spectra once, and their gradients are the
// zeroth samples of the kernels' gradients. Arithmetic is f32 whatever the activations' type.
//
// A block takes CHANNELS neighbouring channels of one image: as many as shared memory holds with room for a second block
// on the multiprocessor where that is possible, so that rows are read in runs of 16 or 32 bytes; blocks of neighbouring
// channels run together and share sectors in the L2 cache. LINES of them belong to one thread, GROUPS threads lie side by
// side. Sizes N: 64, 256, 1024, 4096 (squares of the grids' sides); length <= N.
//
// Both directions are products with a spectrum: of the forward kernel, and the conjugate one of the backward kernel. Where
// they are added instead of put side by side (directions = 1), so are the spectra, and one transform serves both.
//
// Buffers of all kernels of a size N
//   table    [N / 4 + N / 8] of (re, im): `e^{-2 pi i j / N}`, j < N / 4, then `e^{i pi j / 2N}`, j < N / 8
//   spectra  [directions, dim, 8, N / 8] of (re, im): element 8 j + k of a line's spectrum at [.., k, j]
//   sums     [parts, directions, dim, 8, N / 8] of (re, im): the gradients of the spectra
#pragma once
#include "fft.cuh"

namespace {

using fft::add;
using fft::times;
using fft::times_conj;

/// How a transform of N is shared among threads.
template <int N, int LINES_> struct Shape {
  static constexpr int LINES = LINES_;
  /// Threads of a line.
  static constexpr int LINE_THREADS = N / 8;
  static constexpr int CHANNELS = N == 4096 ? LINES : N == 1024 ? 8 : 16;
  static constexpr int GROUPS = CHANNELS / LINES;
  static constexpr int THREADS = LINE_THREADS * GROUPS;
  static constexpr int STRIDE = fft::line_length(N, LINES, GROUPS);
  /// Elements of the spectrum that a thread of the forward keeps in shared memory.
  static constexpr int IN_SHARED = N == 4096 ? 4 : 0;
};

/// Some channels of one image's matrix.
struct Columns {
  /// The width of the matrix, and the first column.
  int width, column;
  /// Channels that are left of the matrix, and rows.
  int count, length;
};

template <class T> constexpr bool is_real = sizeof(T) < sizeof(float2);

/// The first pass over columns of the matrix at `x`. Each thread puts eight rows of its channels into the lines and takes
/// them from there, so that it need not hold all of them at a time.
template <int N, int LINES, class T>
__device__ __forceinline__ void read_columns(GlobalIn<T> x, const Columns &columns, Shared<float2> lines, int stride,
                                             GlobalIn<float2> table, unsigned j) {
  constexpr int STEP = N / 8;
  OPAQUE(j);
  bool is_whole = columns.count >= LINES && columns.width % LINES == 0 && columns.column % LINES == 0;
  unsigned at = j * columns.width + columns.column;
  // Complex numbers take twice the registers: not all rows at a time.
#pragma unroll(is_real<T> ? 8 : 1)
  for (int k = 0; k < 8; k++) {
    int to = fft::place(j) + fft::step<STEP>(k);
    if constexpr (is_real<T>) {
      Pack<LINES> row = {};
      if (int(j) + k * STEP < columns.length) {
        if (is_whole) {
          row = load_pack<LINES, T>(x, at);
        } else {
#pragma unroll
          for (int c = 0; c < LINES; c++)
            if (c < columns.count) row.v[c] = to_float(x[at + c]);
        }
      }
#pragma unroll
      for (int c = 0; c < LINES; c++) shared_as<float>(lines + c * stride)[2 * to] = row.v[c];
    } else if (LINES % 2 == 0 && is_whole) {
#pragma unroll
      for (int c = 0; c < LINES; c += 2) {
        float4 two = global_as<const float4>(x + at + c)[0];
        (lines + c * stride)[to] = make_float2(two.x, two.y);
        (lines + (c + 1) * stride)[to] = make_float2(two.z, two.w);
      }
    } else {
#pragma unroll
      for (int c = 0; c < LINES; c++)
        (lines + c * stride)[to] = c < columns.count ? float2(x[at + c]) : make_float2(0.f, 0.f);
    }
    at += STEP * columns.width;
  }
  float2 t[8];
  fft::outer_twiddles<N, is_real<T>>(table, j, t);
#pragma unroll 1
  for (int c = 0; c < LINES; c++) fft::first_forward<N, is_real<T>>(lines + c * stride, j, t);
}

/// The last pass of an inverse transform, into columns of the matrix at `x`.
template <int N, int LINES, class T>
__device__ __forceinline__ void write_columns(GlobalOut<T> x, const Columns &columns, Shared<float2> lines, int stride,
                                              GlobalIn<float2> table, unsigned j) {
  constexpr int STEP = N / 8;
  OPAQUE(j);
  {
    float2 t[8];
    fft::outer_twiddles<N, is_real<T>>(table, j, t);
#pragma unroll 1
    for (int c = 0; c < LINES; c++) fft::last_inverse<N, is_real<T>>(lines + c * stride, j, t);
  }
  bool is_whole = columns.count >= LINES && columns.width % LINES == 0 && columns.column % LINES == 0;
  unsigned at = j * columns.width + columns.column;
#pragma unroll(is_real<T> ? 8 : 2)
  for (int k = 0; k < 8; k++) {
    int from = fft::place(j) + fft::step<STEP>(k);
    if constexpr (is_real<T>) {
      if (int(j) + k * STEP < columns.length) {
        Pack<LINES> row;
#pragma unroll
        for (int c = 0; c < LINES; c++) row.v[c] = shared_as<float>(lines + c * stride)[2 * from];
        if (is_whole) {
          store_pack<LINES, T>(x, at, row);
        } else {
#pragma unroll
          for (int c = 0; c < LINES; c++)
            if (c < columns.count) x[at + c] = from_float<T>(row.v[c]);
        }
      }
    } else if (LINES % 2 == 0 && is_whole) {
#pragma unroll
      for (int c = 0; c < LINES; c += 2) {
        float2 left = (lines + c * stride)[from], right = (lines + (c + 1) * stride)[from];
        global_as<float4>(x + at + c)[0] = make_float4(left.x, left.y, right.x, right.y);
      }
    } else {
#pragma unroll
      for (int c = 0; c < LINES; c++)
        if (c < columns.count) x[at + c] = float2((lines + c * stride)[from]);
    }
    at += STEP * columns.width;
  }
}

/// Where element 8 j + k of the spectrum of a line lies.
template <int N> __device__ __forceinline__ size_t spectrum_at(size_t line, int k, int j) {
  return (line * 8 + k) * (N / 8) + j;
}

// --- forward ---------------------------------------------------------------------------------------------------------

template <int N, class T>
__device__ __forceinline__ void forward(GlobalIn<T> u, GlobalIn<float2> spectra, GlobalIn<float2> table, GlobalOut<T> y,
                                        int length, int dim, int directions, int quarters) {
  using S = Shape<N, 4>;
  DYNAMIC_SHARED(float2, shared);
  unsigned group = threadIdx.x % S::GROUPS, j = threadIdx.x / S::GROUPS;
  int channel = blockIdx.y * S::CHANNELS + group * S::LINES;
  size_t image = blockIdx.x;
  int count = dim - channel, width = directions * dim;
  Shared<float2> lines = shared + group * S::LINES * S::STRIDE;

  read_columns<N, S::LINES, T>(u + image * length * dim, {dim, channel, count, length}, lines, S::STRIDE, table, j);
  __syncthreads();
  fft::forward_middle<N, N / 8, S::LINES>(lines, S::STRIDE, table, j);
  // The spectrum of u waits in registers for both directions, but for what does not fit there.
  float2 spectrum[S::LINES][8];
  Shared<float2> rest = shared + S::CHANNELS * S::STRIDE + threadIdx.x;
#pragma unroll
  for (int c = 0; c < S::LINES; c++) fft::last_forward<N>(lines + c * S::STRIDE, j, spectrum[c]);
#pragma unroll
  for (int k = 0; k < S::IN_SHARED; k++) rest[k * S::THREADS] = spectrum[0][k];
#pragma unroll 1
  for (int direction = 0; direction < directions; direction++) {
    if (direction > 0) __syncthreads();
    size_t line = (image % quarters * directions + direction) * dim + channel;
    GlobalIn<float2> factors = spectra + spectrum_at<N>(line, 0, j);
#pragma unroll
    for (int c = 0; c < S::LINES; c++) {
      float2 a[8];
#pragma unroll
      for (int k = 0; k < 8; k++) {
        a[k] = make_float2(0.f, 0.f);
        float2 own = c == 0 && k < S::IN_SHARED ? float2(rest[k * S::THREADS]) : spectrum[c][k];
        if (c < count) a[k] = times(own, factors[spectrum_at<N>(c, k, 0)]);
      }
      fft::first_inverse<N>(a, lines + c * S::STRIDE, j);
    }
    fft::inverse_middle<N, N / 8, S::LINES>(lines, S::STRIDE, table, j);
    __syncthreads();
    Columns columns = {width, direction * dim + channel, count, length};
    write_columns<N, S::LINES, T>(y + image * length * width, columns, lines, S::STRIDE, table, j);
  }
}

// --- backward --------------------------------------------------------------------------------------------------------

template <int N, class T>
__device__ __forceinline__ void backward(GlobalIn<T> u, GlobalIn<T> dy, GlobalIn<float2> spectra, GlobalIn<float2> table,
                                         GlobalOut<T> du, GlobalOut<float2> sums, int batch, int length, int dim,
                                         int directions, int quarters) {
  using S = Shape<N, 2>;
  DYNAMIC_SHARED(float2, shared);
  unsigned group = threadIdx.x % S::GROUPS, j = threadIdx.x / S::GROUPS;
  int channel = blockIdx.y * S::CHANNELS + group * S::LINES;
  int count = dim - channel, width = directions * dim;
  Shared<float2> lines = shared + group * S::LINES * S::STRIDE;
  // Every thread's elements of the spectrum of u.
  Shared<float2> of_u = shared + S::CHANNELS * S::STRIDE + threadIdx.x;
  // All parts of one quarter are of one kernel; without a split there is one quarter.
  int quarter = blockIdx.x % quarters, parts = gridDim.x / quarters;

#pragma unroll 1
  for (int b = blockIdx.x / quarters; b < batch; b += parts) {
    size_t image = size_t(b) * quarters + quarter;
    bool is_first = b < parts;
    // No barrier: what the image before left in the lines, each thread read and overwrites at places of its own.
    read_columns<N, S::LINES, T>(u + image * length * dim, {dim, channel, count, length}, lines, S::STRIDE, table, j);
    __syncthreads();
    fft::forward_middle<N, N / 8, S::LINES>(lines, S::STRIDE, table, j);
    float2 of_du[S::LINES][8];
#pragma unroll
    for (int c = 0; c < S::LINES; c++) {
      float2 a[8];
      fft::last_forward<N>(lines + c * S::STRIDE, j, a);
#pragma unroll
      for (int k = 0; k < 8; k++) {
        of_u[(c * 8 + k) * S::THREADS] = a[k];
        of_du[c][k] = make_float2(0.f, 0.f);
      }
    }
#pragma unroll 1
    for (int direction = 0; direction < directions; direction++) {
      __syncthreads();
      Columns columns = {width, direction * dim + channel, count, length};
      read_columns<N, S::LINES, T>(dy + image * length * width, columns, lines, S::STRIDE, table, j);
      __syncthreads();
      fft::forward_middle<N, N / 8, S::LINES>(lines, S::STRIDE, table, j);
      size_t line = size_t(direction) * dim + channel;
      GlobalIn<float2> factors = spectra + spectrum_at<N>(size_t(quarter) * directions * dim + line, 0, j);
      GlobalOut<float2> own_sums = sums + spectrum_at<N>(size_t(blockIdx.x) * directions * dim + line, 0, j);
#pragma unroll
      for (int c = 0; c < S::LINES; c++) {
        float2 a[8];
        fft::last_forward<N>(lines + c * S::STRIDE, j, a);
        if (c < count) {
#pragma unroll
          for (int k = 0; k < 8; k++) {
            of_du[c][k] = add(of_du[c][k], times_conj(a[k], factors[spectrum_at<N>(c, k, 0)]));
            float2 d = times_conj(a[k], of_u[(c * 8 + k) * S::THREADS]);
            if (!is_first) d = add(d, own_sums[spectrum_at<N>(c, k, 0)]);
            own_sums[spectrum_at<N>(c, k, 0)] = d;
          }
        }
      }
    }
#pragma unroll
    for (int c = 0; c < S::LINES; c++) fft::first_inverse<N>(of_du[c], lines + c * S::STRIDE, j);
    fft::inverse_middle<N, N / 8, S::LINES>(lines, S::STRIDE, table, j);
    __syncthreads();
    write_columns<N, S::LINES, T>(du + image * length * dim, {dim, channel, count, length}, lines, S::STRIDE, table, j);
  }
}

// --- kernels and their gradients ---------------------------------------------------------------------------------------

/// Lines of a block: one a thread group.
template <int N> struct Rows {
  static constexpr int COUNT = N >= 1024 ? 1 : 1024 / N;
  static constexpr int STRIDE = N + N / 8;
};

template <int N, class T>
__device__ __forceinline__ void transform_rows(GlobalIn<T> kernels, GlobalIn<float> skip, GlobalIn<float2> table,
                                               GlobalOut<float2> spectra, int length, int dim, int directions,
                                               int quarters) {
  DYNAMIC_SHARED(float2, shared);
  unsigned j = threadIdx.x % (N / 8), row = threadIdx.x / (N / 8);
  int channel = blockIdx.x * Rows<N>::COUNT + row, quarter = blockIdx.y;
  bool is_in = channel < dim;
  Shared<float2> own = shared + row * Rows<N>::STRIDE;
  float2 before[8];
#pragma unroll 1
  for (int direction = 0; direction < 2; direction++) {
    if (direction > 0) __syncthreads();
    size_t line = size_t(direction) * dim + channel;
    // A split kernel's quarters lie side by side, its spectra a quarter at a time.
    GlobalIn<T> from = kernels + (is_in ? (line * quarters + quarter) * length : 0);
    read_columns<N, 1, T>(from, {1, 0, is_in ? 1 : 0, is_in ? length : 0}, own, 0, table, j);
    __syncthreads();
    fft::forward_middle<N, N / 8, 1>(own, 0, table, j);
    float2 a[8];
    fft::last_forward<N>(own, j, a);
    if (!is_in) continue;
    float add_skip = skip[line], sign = direction > 0 ? -1.f : 1.f;
    size_t to = (size_t(quarter) * directions + (directions - 1) * direction) * dim + channel;
#pragma unroll
    for (int k = 0; k < 8; k++) {
      a[k] = make_float2(a[k].x + add_skip, sign * a[k].y);
      if (directions == 1) {
        if (direction > 0) a[k] = add(a[k], before[k]);
        before[k] = a[k];
      }
      if (directions == 2 || direction > 0) spectra[spectrum_at<N>(to, k, j)] = a[k];
    }
  }
}

template <int N, class T>
__device__ __forceinline__ void inverse_rows(GlobalIn<float2> sums, GlobalIn<float2> table, GlobalOut<T> dk,
                                             GlobalOut<float> d_skip, int parts, int length, int dim, int directions,
                                             int quarters) {
  DYNAMIC_SHARED(float2, shared);
  unsigned j = threadIdx.x % (N / 8), row = threadIdx.x / (N / 8);
  int line = blockIdx.x * Rows<N>::COUNT + row, quarter = blockIdx.y;
  bool is_in = line < 2 * dim, is_backward = line >= dim;
  Shared<float2> own = shared + row * Rows<N>::STRIDE;
  int from = directions == 2 ? line : line % dim;
  float2 a[8];
#pragma unroll
  for (int k = 0; k < 8; k++) a[k] = make_float2(0.f, 0.f);
  for (int p = 0; is_in && p < parts; p++) {
    GlobalIn<float2> part = sums + spectrum_at<N>((size_t(p) * quarters + quarter) * directions * dim + from, 0, j);
#pragma unroll
    for (int k = 0; k < 8; k++) a[k] = add(a[k], part[spectrum_at<N>(0, k, 0)]);
  }
#pragma unroll
  for (int k = 0; k < 8; k++)
    if (is_backward) a[k].y = -a[k].y;
  fft::first_inverse<N>(a, own, j);
  fft::inverse_middle<N, N / 8, 1>(own, 0, table, j);
  __syncthreads();
  GlobalOut<T> to = dk + (is_in ? (size_t(line) * quarters + quarter) * length : 0);
  write_columns<N, 1, T>(to, {1, 0, is_in ? 1 : 0, is_in ? length : 0}, own, 0, table, j);
  if constexpr (is_real<T>) {
    // The thread that has the zeroth sample.
    if (is_in && j == 0) d_skip[line] += float(shared_as<float>(own)[0]);
  }
}

}  // namespace
