//! Speed of the convolution on the shapes of the Stable Diffusion autoencoder.
//!
//! `RAYON_NUM_THREADS=1 cargo bench -p preprocess --bench vae`

use std::time::Instant;

use preprocess::nn::{Conv2d, FeatureMap, Output, Padding};

fn main() -> Result<(), preprocess::nn::Error> {
    for (channels, out_channels, size, kernel, stride) in [
        (3, 128, 256, 3, 1),
        (128, 128, 256, 3, 1),
        (128, 128, 256, 3, 2),
        (128, 256, 128, 1, 1),
        (256, 256, 128, 3, 1),
        (512, 512, 64, 3, 1),
        (512, 512, 32, 3, 1),
        (512, 512, 32, 1, 1),
        (128, 3, 256, 3, 1),
    ] {
        conv(channels, out_channels, size, kernel, stride)?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the benchmark's result")]
fn conv(
    channels: usize,
    out_channels: usize,
    size: usize,
    kernel: usize,
    stride: usize,
) -> Result<(), preprocess::nn::Error> {
    let weight = vec![0.01; out_channels * channels * kernel * kernel];
    let shape = [out_channels, channels, kernel, kernel];
    let padding = Padding::same(kernel / 2);
    let conv = Conv2d::new(&weight, shape, vec![0.1; out_channels], stride, padding)?;
    let values = vec![0.5; channels * size * size];
    let input = FeatureMap::from_nchw(&values, [1, channels, size, size], padding)?;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        std::hint::black_box(conv.forward(&input, Output::padded(Padding::ONE))?);
        best = best.min(start.elapsed().as_secs_f64());
    }
    let pixels = (size / stride) * (size / stride);
    let rate = 2e-9 * conv.multiply_adds(pixels) as f64 / best;
    println!(
        "conv {kernel}x{kernel} / {stride}, {channels:>3} -> {out_channels:>3} at {size:>3}: {:8.2} ms {rate:6.1} GFLOP/s",
        1e3 * best
    );
    Ok(())
}
