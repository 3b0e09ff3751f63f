//! Times of the operations of a training step, CPU seconds of one thread:
//! `cargo bench --workspace --bench ops -- [D L B]`.

use std::hint::black_box;
use std::time::Instant;

use trainer::ops::long_conv::LongConv;
use trainer::ops::ssm_kernel::{Discretization, SsmParams, kernels, kernels_backward};

/// The best of several runs, in milliseconds.
fn best(name: &str, mut work: impl FnMut()) {
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < 1.0 {
        let start = Instant::now();
        work();
        best = best.min(1e3 * start.elapsed().as_secs_f64());
    }
    println!("{name:<24} {best:>9.3} ms");
}

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let [dim, length, batch] = numbers[..].try_into().unwrap_or([384, 1024, 4]);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("a thread");
    println!("D {dim}, L {length}, batch {batch}, one thread");
    pool.install(|| ops(dim, length, batch));
}

fn ops(dim: usize, length: usize, batch: usize) {
    let wave = |len: usize| -> Vec<f32> { (0..len).map(|i| (0.37 * i as f32).sin()).collect() };
    let states = 32;
    let log_dt: Vec<f32> = (0..2 * dim)
        .map(|i| -6.0 + 4.0 * i as f32 / (2 * dim) as f32)
        .collect();
    let log_a_real = vec![0.5f32.ln(); 2 * dim * states];
    let a_imag: Vec<f32> = (0..2 * dim * states)
        .map(|i| 3.14 * (i % states) as f32)
        .collect();
    let c = wave(2 * dim * states);
    let p = SsmParams {
        log_dt: &log_dt,
        log_a_real: &log_a_real,
        a_imag: &a_imag,
        b_re: &vec![1.0; c.len()],
        b_im: &vec![0.0; c.len()],
        c_re: &c,
        c_im: &c,
    };
    let k = kernels(&p, Discretization::Zoh, length);
    best("kernels", || {
        drop(black_box(kernels(&p, Discretization::Zoh, length)))
    });
    best("kernels backward", || {
        drop(black_box(kernels_backward(&p, Discretization::Zoh, length, &k)))
    });
    let conv = LongConv::new(length);
    let (u, skip) = (wave(batch * length * dim), wave(2 * dim));
    let mut y = vec![0.0; batch * length * 2 * dim];
    let spectra = conv.forward(&u, &k, &skip, false, &mut y);
    best("convolution", || {
        drop(black_box(conv.forward(&u, &k, &skip, false, &mut y)))
    });
    let dy = wave(y.len());
    let (mut du, mut d_skip) = (vec![0.0; u.len()], vec![0.0; skip.len()]);
    best("convolution backward", || {
        black_box(conv.backward(&u, &spectra, &skip, false, &dy, &mut du, &mut d_skip));
    });
}
