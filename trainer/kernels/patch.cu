// Images to tokens and back. A token is M neighbouring patches of the raster sequence, side by side: in memory, patch after patch.
// The twin on the CPU: trainer/src/model/patch.rs.
#include "common.cuh"

namespace {

/// Where the element `i` of the tokens lies among the pixels [.., channels, side, side].
__device__ __forceinline__ long long pixel_of(long long i, int channels, int side, int patch, int channels_first) {
  int grid = side / patch, area = patch * patch, inside = int(i % (channels * area));
  long long position = i / (channels * area);
  int place = int(position % (grid * grid));
  long long image = position / (grid * grid);
  int c = channels_first ? inside / area : inside % channels;
  int within = channels_first ? inside % area : inside / channels;
  int row = place / grid * patch + within / patch, column = place % grid * patch + within % patch;
  return ((image * channels + c) * side + row) * side + column;
}

template <class T>
__device__ __forceinline__ void tokens_of_images(GlobalIn<float> x, GlobalOut<T> tokens, int channels, int side, int patch,
                                                 int channels_first, long long count) {
  long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
  if (i < count) tokens[i] = from_float<T>(x[pixel_of(i, channels, side, patch, channels_first)]);
}

}  // namespace

// tokens_of_images_{f32,bf16}: each patch flattened as (C, P, P), or with channels_first = 0 as (P, P, C).
//   x [batch, channels, side, side] f32; tokens [batch, side^2 / patch^2, channels patch^2] of the type; count of both
//   grid  ceil(count / 256)    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(THREADS)
    tokens_of_images_f32(IN(float) x, OUT(float) tokens, int channels, int side, int patch, int channels_first,
                         long long count) {
  tokens_of_images<float>(x, tokens, channels, side, patch, channels_first, count);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    tokens_of_images_bf16(IN(float) x, OUT(bf16) tokens, int channels, int side, int patch, int channels_first,
                          long long count) {
  tokens_of_images<bf16>(x, tokens, channels, side, patch, channels_first, count);
}

// images_of_tokens_f32: the same in the other direction, f32; shapes and grid as above.
extern "C" __global__ void __launch_bounds__(THREADS)
    images_of_tokens_f32(IN(float) tokens, OUT(float) x, int channels, int side, int patch, int channels_first,
                         long long count) {
  long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
  if (i < count) x[pixel_of(i, channels, side, patch, channels_first)] = tokens[i];
}
