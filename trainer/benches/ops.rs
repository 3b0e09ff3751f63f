//! Times of the operations of a training step, CPU seconds of one thread:
//! `cargo bench --workspace --bench ops -- [D L B]`.
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a benchmark prints, and stops where it cannot measure"
)]

mod clock;

use std::hint::black_box;

use clock::milliseconds;
use trainer::ops::long_conv::LongConv;
use trainer::ops::ssm_kernel::{Discretization, SsmParams, kernels, kernels_backward};
use trainer::optim::{AdamW, AdamWConfig, Rates};

/// Parameters of the optimiser's row: far more than fit into a cache.
const PARAMETERS: usize = 1 << 25;

/// [`milliseconds`], told.
fn time(name: &str, work: impl FnMut()) -> f64 {
    let mean = milliseconds(work);
    println!("{name:<24} {mean:>9.3} ms");
    mean
}

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let [dim, length, batch] = numbers[..].try_into().unwrap_or([384, 1024, 4]);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("a thread");
    println!("D {dim}, L {length}, batch {batch}, one thread");
    pool.install(|| {
        ops(dim, length, batch);
        optimizer();
    });
}

fn optimizer() {
    let mut adamw = AdamW::new(AdamWConfig::default(), PARAMETERS, Vec::new());
    let (mut params, mut ema) = (vec![0.5; PARAMETERS], vec![0.5; PARAMETERS]);
    let grads: Vec<f32> = (0..PARAMETERS).map(|i| (0.37 * i as f32).sin()).collect();
    let rates = Rates {
        lr: 1e-4,
        ssm_lr: 1e-4,
        grad_scale: 1.0,
    };
    let mut step = 0;
    let milliseconds = time("AdamW, EMA", || {
        step += 1;
        adamw.step(step, rates, black_box(&mut params), &grads, &mut ema);
    });
    println!("{:>33.2} ns a parameter", 1e6 * milliseconds / PARAMETERS as f64);
}

fn ops(dim: usize, length: usize, batch: usize) {
    let wave = |len: usize| -> Vec<f32> { (0..len).map(|i| (0.37 * i as f32).sin()).collect() };
    let states = 32;
    let log_dt: Vec<f32> = (0..2 * dim)
        .map(|i| -6.0 + 4.0 * i as f32 / (2 * dim) as f32)
        .collect();
    let log_a_real = vec![0.5f32.ln(); 2 * dim * states];
    let a_imag: Vec<f32> = (0..2 * dim * states)
        .map(|i| std::f32::consts::PI * (i % states) as f32)
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
    time("kernels", || {
        drop(black_box(kernels(&p, Discretization::Zoh, length)));
    });
    let dk = wave(k.len());
    time("kernels backward", || {
        drop(black_box(kernels_backward(&p, Discretization::Zoh, length, &dk)));
    });
    let conv = LongConv::new(length);
    let (u, skip) = (wave(batch * length * dim), wave(2 * dim));
    let mut y = vec![0.0; batch * length * 2 * dim];
    let mut spectra = conv.spectra(&k);
    time("spectra of the kernels", || {
        conv.transform(black_box(&k), &mut spectra);
    });
    time("convolution", || {
        conv.forward(black_box(&u), &spectra, &skip, false, &mut y);
    });
    let dy = wave(y.len());
    let (mut du, mut dk, mut d_skip) = (vec![0.0; u.len()], vec![0.0; k.len()], vec![0.0; skip.len()]);
    time("convolution backward", || {
        conv.backward(
            black_box(&u),
            &spectra,
            &skip,
            false,
            &dy,
            &mut du,
            &mut dk,
            &mut d_skip,
        );
    });
}
