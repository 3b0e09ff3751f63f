//! Three ways to compute the forward of the bidirectional convolution, one thread, CPU time:
//! `cargo bench --workspace --bench conv_forms -- [D B]`, for L 256 to 16,384.
//!
//! - `lanes`: what the trainer does, an FFT of sixteen channels at a time where they lie.
//! - `realfft`: channels transposed to rows, one FFT a row.
//! - `chunks`: channels transposed to rows, cut into chunks; a Toeplitz product inside of them, the states of the model
//!   from chunk to chunk (the form of Mamba-2 and of linear attention): matrix products only, cost linear in L.
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a benchmark prints, and stops where it cannot measure"
)]

mod clock;

use clock::milliseconds;
use num_complex::{Complex32, Complex64};
use realfft::RealFftPlanner;
use trainer::ops::long_conv::LongConv;
use trainer::ops::matmul::{Mat, matmul};

/// Complex states of a channel and direction: N / 2.
const STATES: usize = 32;
/// Samples of a chunk.
const CHUNK: usize = 64;
const LENGTHS: [usize; 4] = [256, 1024, 4096, 16_384];

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let [dim, tokens] = numbers[..].try_into().unwrap_or([384, 4096]);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("a thread");
    println!("D {dim}, about {tokens} tokens, milliseconds of one thread\n");
    println!("| L | batch | lanes | realfft | chunks |\n|---|---|---|---|---|");
    pool.install(|| {
        for length in LENGTHS {
            row(dim, length, (tokens / length).max(1));
        }
    });
}

fn row(dim: usize, length: usize, batch: usize) {
    let problem = Problem::new(dim, length, batch);
    let conv = LongConv::new(length);
    let spectra = conv.spectra(&problem.kernels);
    let skip = vec![0.0; 2 * dim];
    let mut y = vec![0.0; batch * length * 2 * dim];
    let lanes = milliseconds(|| conv.forward(&problem.u, &spectra, &skip, false, &mut y));
    let by_row = RowFft::new(&problem);
    let mut y_fft = vec![0.0; y.len()];
    let realfft = milliseconds(|| by_row.forward(&problem, &mut y_fft));
    let by_chunk = Chunks::new(&problem);
    let mut y_chunks = vec![0.0; y.len()];
    let chunks = milliseconds(|| by_chunk.forward(&problem, &mut y_chunks));
    for (name, other) in [("realfft", &y_fft), ("chunks", &y_chunks)] {
        let error = y
            .iter()
            .zip(other)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        let largest = y.iter().map(|v| v.abs()).fold(0.0, f32::max);
        assert!(error < 1e-3 * largest, "{name} is off by {error} of {largest}");
    }
    println!("| {length} | {batch} | {lanes:.1} | {realfft:.1} | {chunks:.1} |");
}

/// An input and the state space models of all channels.
struct Problem {
    dim: usize,
    length: usize,
    batch: usize,
    /// `[B, L, D]`
    u: Vec<f32>,
    /// Step and gain of every state, `[2, D, N / 2]`.
    states: Vec<(Complex64, Complex64)>,
    /// `[2, D, L]`
    kernels: Vec<f32>,
}

impl Problem {
    fn new(dim: usize, length: usize, batch: usize) -> Self {
        let u = (0..batch * length * dim)
            .map(|i| (0.37 * i as f32).sin())
            .collect();
        let state = |i: usize| {
            let (channel, n) = (i / STATES, i % STATES);
            let dt = 10f64.powf(-3.0 + 2.0 * (channel % dim) as f64 / dim as f64);
            let z = Complex64::new(-0.5, std::f64::consts::PI * n as f64) * dt;
            (z.exp(), Complex64::new((i as f64).cos(), (i as f64).sin()) * dt)
        };
        let states: Vec<_> = (0..2 * dim * STATES).map(state).collect();
        let mut kernels = vec![0f32; 2 * dim * length];
        for (kernel, states) in kernels.chunks_exact_mut(length).zip(states.chunks_exact(STATES)) {
            for &(step, gain) in states {
                let mut term = 2.0 * gain;
                for k in kernel.iter_mut() {
                    *k += term.re as f32;
                    term *= step;
                }
            }
        }
        Self {
            dim,
            length,
            batch,
            u,
            states,
            kernels,
        }
    }

    /// Reads a channel as rows `[B, L]`.
    fn read(&self, channel: usize, rows: &mut [f32]) {
        for (row, value) in rows.iter_mut().enumerate() {
            *value = self.u[row * self.dim + channel];
        }
    }

    /// Writes rows `[B, L]` as a column of `y` `[B, L, 2 D]`.
    fn write(&self, column: usize, rows: &[f32], y: &mut [f32]) {
        for (row, value) in rows.iter().enumerate() {
            y[row * 2 * self.dim + column] = *value;
        }
    }
}

struct RowFft {
    forward: std::sync::Arc<dyn realfft::RealToComplex<f32>>,
    inverse: std::sync::Arc<dyn realfft::ComplexToReal<f32>>,
    /// `[2, D, L + 1]`
    spectra: Vec<Vec<Complex32>>,
}

impl RowFft {
    fn new(problem: &Problem) -> Self {
        let mut planner = RealFftPlanner::new();
        let size = 2 * problem.length;
        let (forward, inverse) = (planner.plan_fft_forward(size), planner.plan_fft_inverse(size));
        let spectra = problem
            .kernels
            .chunks_exact(problem.length)
            .map(|kernel| {
                let mut padded = vec![0.0; size];
                padded[..problem.length].copy_from_slice(kernel);
                let mut spectrum = forward.make_output_vec();
                forward
                    .process(&mut padded, &mut spectrum)
                    .expect("sizes of the plan");
                spectrum
            })
            .collect();
        Self {
            forward,
            inverse,
            spectra,
        }
    }

    fn forward(&self, problem: &Problem, y: &mut [f32]) {
        let (dim, length, scale) = (problem.dim, problem.length, 0.5 / problem.length as f32);
        let mut rows = vec![0.0; problem.batch * length];
        let mut out = [rows.clone(), rows.clone()];
        let mut padded = self.forward.make_input_vec();
        let mut spectrum = self.forward.make_output_vec();
        let mut product = spectrum.clone();
        let mut scratch = self.forward.make_scratch_vec();
        let mut inverse_scratch = self.inverse.make_scratch_vec();
        for channel in 0..dim {
            problem.read(channel, &mut rows);
            for (image, row) in rows.chunks_exact(length).enumerate() {
                padded[..length].copy_from_slice(row);
                padded[length..].fill(0.0);
                self.forward
                    .process_with_scratch(&mut padded, &mut spectrum, &mut scratch)
                    .expect("sizes of the plan");
                for (direction, out) in out.iter_mut().enumerate() {
                    let kernel = &self.spectra[direction * dim + channel];
                    for ((p, u), k) in product.iter_mut().zip(&spectrum).zip(kernel) {
                        *p = u * if direction == 0 { *k } else { k.conj() } * scale;
                    }
                    self.inverse
                        .process_with_scratch(&mut product, &mut padded, &mut inverse_scratch)
                        .expect("sizes of the plan");
                    out[image * length..][..length].copy_from_slice(&padded[..length]);
                }
            }
            for (direction, out) in out.iter().enumerate() {
                problem.write(direction * dim + channel, out, y);
            }
        }
    }
}

/// The matrices of one channel and direction.
struct Chunked {
    /// `[T, T]`: the kernel inside of a chunk.
    inside: Vec<f32>,
    /// `[N, T]`: from the samples of a chunk to its states, real parts before imaginary ones.
    enter: Vec<f32>,
    /// `[T, N]`: from the states before a chunk to its outputs.
    leave: Vec<f32>,
    /// What a state is multiplied by from chunk to chunk.
    steps: Vec<Complex32>,
}

struct Chunks(Vec<Chunked>);

impl Chunks {
    fn new(problem: &Problem) -> Self {
        let dim = problem.dim;
        Self(
            (0..2 * dim)
                .map(|at| {
                    let kernel = &problem.kernels[at * problem.length..];
                    let states = &problem.states[at * STATES..][..STATES];
                    // The backward direction is the forward one in mirrored time.
                    let time = |i: usize| if at < dim { i } else { CHUNK - 1 - i };
                    let mut chunked = Chunked {
                        inside: vec![0.0; CHUNK * CHUNK],
                        enter: vec![0.0; 2 * STATES * CHUNK],
                        leave: vec![0.0; CHUNK * 2 * STATES],
                        steps: Vec::new(),
                    };
                    for i in 0..CHUNK {
                        for j in 0..=i {
                            chunked.inside[time(i) * CHUNK + time(j)] = kernel[i - j];
                        }
                        for (n, &(step, gain)) in states.iter().enumerate() {
                            let enter = step.powu((CHUNK - 1 - i) as u32);
                            chunked.enter[n * CHUNK + time(i)] = enter.re as f32;
                            chunked.enter[(STATES + n) * CHUNK + time(i)] = enter.im as f32;
                            let leave = 2.0 * gain * step.powu(i as u32 + 1);
                            chunked.leave[time(i) * 2 * STATES + n] = leave.re as f32;
                            chunked.leave[time(i) * 2 * STATES + STATES + n] = -leave.im as f32;
                        }
                    }
                    let steps = states.iter().map(|(step, _)| step.powu(CHUNK as u32));
                    chunked.steps = steps
                        .map(|step| Complex32::new(step.re as f32, step.im as f32))
                        .collect();
                    chunked
                })
                .collect(),
        )
    }

    fn forward(&self, problem: &Problem, y: &mut [f32]) {
        let (dim, count) = (problem.dim, problem.length / CHUNK);
        let chunks = problem.batch * count;
        let mut rows = vec![0.0; chunks * CHUNK];
        let mut out = rows.clone();
        let mut states = vec![0.0; chunks * 2 * STATES];
        for channel in 0..dim {
            problem.read(channel, &mut rows);
            let u = Mat::new(&rows, chunks, CHUNK);
            for direction in 0..2 {
                let form = &self.0[direction * dim + channel];
                let enter = Mat::new(&form.enter, 2 * STATES, CHUNK);
                matmul(&mut states, 2 * STATES, 0.0, u, enter.t());
                for image in states.chunks_exact_mut(count * 2 * STATES) {
                    pass_on(image, count, direction == 1, &form.steps);
                }
                matmul(&mut out, CHUNK, 0.0, u, Mat::new(&form.inside, CHUNK, CHUNK).t());
                let leave = Mat::new(&form.leave, CHUNK, 2 * STATES);
                matmul(
                    &mut out,
                    CHUNK,
                    1.0,
                    Mat::new(&states, chunks, 2 * STATES),
                    leave.t(),
                );
                problem.write(direction * dim + channel, &out, y);
            }
        }
    }
}

/// Turns what each chunk adds to the states into the states before each chunk.
fn pass_on(image: &mut [f32], count: usize, is_backward: bool, steps: &[Complex32]) {
    let mut now = [[0f32; STATES]; 2];
    for k in 0..count {
        let at = if is_backward { count - 1 - k } else { k };
        let (re, im) = image[at * 2 * STATES..][..2 * STATES].split_at_mut(STATES);
        for n in 0..STATES {
            let (step, before) = (steps[n], Complex32::new(now[0][n], now[1][n]));
            let after = before * step + Complex32::new(re[n], im[n]);
            (re[n], im[n]) = (before.re, before.im);
            (now[0][n], now[1][n]) = (after.re, after.im);
        }
    }
}
