//! Speed of the convolution on the shapes of the Stable Diffusion autoencoder, or of encoding with a whole one.
//!
//! `RAYON_NUM_THREADS=1 cargo bench --workspace --bench vae [-- --vae FOLDER] [--size 256] [--images 2] [--repeats 3]`. See
//! `benches/vae_diffusers.py`.

mod clock;

use std::time::Instant;

use candle_core::{Device, Tensor};
use clock::cpu_seconds;
use preprocess::nn::{Conv2d, FeatureMap, Output, Padding};
use preprocess::vae::AutoencoderKl;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let (mut vae, mut size, mut images, mut repeats) = (None, 256, 2, 3);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number =
            || -> Result<usize, Failure> { Ok(args.next().ok_or("a number is missing")?.parse()?) };
        match arg.as_str() {
            "--size" => size = number()?,
            "--images" => images = number()?,
            "--repeats" => repeats = number()?,
            "--vae" => vae = args.next(),
            _ => {}
        }
    }
    if let Some(vae) = vae {
        return encode(&vae, size, images, repeats);
    }
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

/// Encodes a batch a few times; a line of JSON each.
#[expect(clippy::print_stdout, reason = "the benchmark's result")]
fn encode(vae: &str, size: usize, images: usize, repeats: usize) -> Result<(), Failure> {
    let vae = AutoencoderKl::load(&vae.parse()?, &Device::Cpu)?;
    let values: Vec<f32> = (0..images * 3 * size * size)
        .map(|i| (i as f32 * 0.37).sin())
        .collect();
    let batch = Tensor::from_vec(values, (images, 3, size, size), &Device::Cpu)?;
    for _ in 0..repeats {
        let (cpu, start) = (cpu_seconds(), Instant::now());
        std::hint::black_box(vae.encode(&batch)?);
        let (cpu, seconds) = (cpu_seconds() - cpu, start.elapsed().as_secs_f64());
        println!("{{\"images\": {images}, \"seconds\": {seconds}, \"cpu_seconds\": {cpu}}}");
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
    let conv = Conv2d::new(&weight, shape, vec![0.1; out_channels], stride, padding)?.with_fewer_products();
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
