// Images between bytes and numbers in -1 .. 1. The twin on the CPU: preprocess/src/image/tensor.rs.
// A thread takes four pixels of one image.
#include "common.cuh"

namespace {

constexpr int PIXELS = 4;

/// DiT's rule: `trunc(clip(127.5 v + 128, 0, 255))`; not a number becomes 0.
__device__ __forceinline__ uint32_t to_byte(float v) {
  return uint32_t(fminf(fmaxf(__fadd_rn(__fmul_rn(127.5f, v), 128.f), 0.f), 255.f));
}

template <class T>
__device__ __forceinline__ void to_bytes(GlobalIn<T> planes, GlobalOut<uint8_t> pixels, int area) {
  int first = (blockIdx.x * THREADS + threadIdx.x) * PIXELS;
  if (first >= area) return;
  GlobalIn<T> image = planes + size_t(blockIdx.y) * 3 * area;
  GlobalOut<uint8_t> out = pixels + size_t(blockIdx.y) * 3 * area + size_t(first) * 3;
  if (area % PIXELS == 0) {
    Pack<PIXELS> r = load_pack<PIXELS, T>(image, first), g = load_pack<PIXELS, T>(image, area + first);
    Pack<PIXELS> b = load_pack<PIXELS, T>(image, 2 * size_t(area) + first);
    uint32_t words[3] = {};
#pragma unroll
    for (int i = 0; i < PIXELS; i++) {
      float colours[3] = {r.v[i], g.v[i], b.v[i]};
#pragma unroll
      for (int c = 0; c < 3; c++) words[(3 * i + c) / 4] |= to_byte(colours[c]) << (3 * i + c) % 4 * 8;
    }
#pragma unroll
    for (int w = 0; w < 3; w++) global_as<uint32_t>(out)[w] = words[w];
  } else {
    for (int i = first; i < min(first + PIXELS, area); i++)
      for (int c = 0; c < 3; c++) out[3 * (i - first) + c] = uint8_t(to_byte(to_float(image[size_t(c) * area + i])));
  }
}

}  // namespace

// to_bytes_{f32,bf16}: planes [batch, 3, area] to pixels [batch, area, 3] u8.
//   grid  (ceil(ceil(area / 4) / 256), batch)    block 256    dynamic shared memory 0
extern "C" __global__ void __launch_bounds__(THREADS) to_bytes_f32(IN(float) planes, OUT(uint8_t) pixels, int area) {
  to_bytes<float>(planes, pixels, area);
}
extern "C" __global__ void __launch_bounds__(THREADS) to_bytes_bf16(IN(bf16) planes, OUT(uint8_t) pixels, int area) {
  to_bytes<bf16>(planes, pixels, area);
}

// from_bytes_f32: pixels [batch, area, 3] u8 to planes [batch, 3, area] f32, `u8 / 127.5 - 1`; grid and block as to_bytes.
extern "C" __global__ void __launch_bounds__(THREADS) from_bytes_f32(IN(uint8_t) pixels, OUT(float) planes, int area) {
  int first = (blockIdx.x * THREADS + threadIdx.x) * PIXELS;
  if (first >= area) return;
  GlobalIn<uint8_t> in = pixels + size_t(blockIdx.y) * 3 * area + size_t(first) * 3;
  GlobalOut<float> image = planes + size_t(blockIdx.y) * 3 * area;
  if (area % PIXELS == 0) {
    uint32_t words[3];
#pragma unroll
    for (int w = 0; w < 3; w++) words[w] = global_as<const uint32_t>(in)[w];
#pragma unroll
    for (int c = 0; c < 3; c++) {
      Pack<PIXELS> out;
#pragma unroll
      for (int i = 0; i < PIXELS; i++)
        out.v[i] = __fadd_rn(float(words[(3 * i + c) / 4] >> (3 * i + c) % 4 * 8 & 255) / 127.5f, -1.f);
      store_pack<PIXELS, float>(image, size_t(c) * area + first, out);
    }
  } else {
    for (int i = first; i < min(first + PIXELS, area); i++)
      for (int c = 0; c < 3; c++)
        image[size_t(c) * area + i] = __fadd_rn(float(in[3 * (i - first) + c]) / 127.5f, -1.f);
  }
}
