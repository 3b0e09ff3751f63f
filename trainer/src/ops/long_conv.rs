//! The bidirectional long convolution of a block, by FFT, with its exact backward.
//!
//! `y_f[l] = sum_{i <= l} k_f[i] u[l - i] + d_f u[l]` and `y_b[l] = sum_i k_b[i] u[l + i] + d_b u[l]`, per channel.
//! Both directions share the transform of `u`; the backward direction multiplies by the conjugate spectrum of its
//! kernel. O(L log L) time; the spectra of `u` and of the kernels are kept for the backward, where the gradient of the
//! kernels is summed over the batch before it leaves the frequency domain.

use std::sync::Arc;

use rayon::prelude::*;
use realfft::num_complex::Complex32;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};

use super::columns::Columns;

/// Channels that one task gathers and scatters together: one cache line of f32.
const CHANNELS: usize = 16;

/// The transforms for one sequence length.
#[derive(Clone)]
pub struct LongConv {
    length: usize,
    forward: Arc<dyn RealToComplex<f32>>,
    inverse: Arc<dyn ComplexToReal<f32>>,
}

/// Spectra kept for the backward.
pub struct Spectra {
    /// `[D, B, L + 1]`
    u: Vec<Complex32>,
    /// `[D, 2, L + 1]`
    k: Vec<Complex32>,
}

impl Spectra {
    /// Memory held.
    pub fn bytes(&self) -> usize {
        (self.u.len() + self.k.len()) * size_of::<Complex32>()
    }
}

/// Buffers of one task.
struct Scratch {
    time: Vec<f32>,
    product: Vec<Complex32>,
    forward: Vec<Complex32>,
    inverse: Vec<Complex32>,
}

impl LongConv {
    /// Plans the transforms of length `2 L`.
    pub fn new(length: usize) -> Self {
        let mut planner = RealFftPlanner::new();
        let forward = planner.plan_fft_forward(2 * length);
        let inverse = planner.plan_fft_inverse(2 * length);
        Self {
            length,
            forward,
            inverse,
        }
    }

    fn bins(&self) -> usize {
        self.length + 1
    }

    fn scratch(&self) -> Scratch {
        Scratch {
            time: vec![0.0; 2 * self.length],
            product: vec![Complex32::default(); self.bins()],
            forward: self.forward.make_scratch_vec(),
            inverse: self.inverse.make_scratch_vec(),
        }
    }

    /// The spectrum of `x` (`[L]`), zero-padded.
    fn transform(&self, x: &[f32], out: &mut [Complex32], s: &mut Scratch) {
        s.time[..self.length].copy_from_slice(x);
        s.time[self.length..].fill(0.0);
        let done = self
            .forward
            .process_with_scratch(&mut s.time, out, &mut s.forward);
        debug_assert!(done.is_ok());
    }

    /// The first L samples of the inverse transform of `s.product`, into `out`.
    fn invert(&self, out: &mut [f32], s: &mut Scratch) {
        // The imaginary parts of these two are zero but for rounding, and realfft insists.
        s.product[0].im = 0.0;
        s.product[self.length].im = 0.0;
        let done = self
            .inverse
            .process_with_scratch(&mut s.product, &mut s.time, &mut s.inverse);
        debug_assert!(done.is_ok());
        let scale = 1.0 / (2 * self.length) as f32;
        for (o, t) in out.iter_mut().zip(&s.time) {
            *o = t * scale;
        }
    }

    /// The convolution of a batch.
    ///
    /// # Shapes
    /// `u`: `[B, L, D]`; `kernels`: `[2, D, L]`; `skip`: `[2, D]`; `y`: `[B, L, 2 D]` (forward half first), or with
    /// `sum` `[B, L, D]`, the two directions added.
    pub fn forward(&self, u: &[f32], kernels: &[f32], skip: &[f32], sum: bool, y: &mut [f32]) -> Spectra {
        let (length, bins, dim) = (self.length, self.bins(), skip.len() / 2);
        let batch = u.len() / (length * dim);
        let mut u_spectra = vec![Complex32::default(); dim * batch * bins];
        let mut k_spectra = vec![Complex32::default(); dim * 2 * bins];
        let width = if sum { dim } else { 2 * dim };
        let columns = Columns::new(y, width);
        u_spectra
            .par_chunks_mut(CHANNELS * batch * bins)
            .zip(k_spectra.par_chunks_mut(CHANNELS * 2 * bins))
            .enumerate()
            .for_each(|(block, (u_spectra, k_spectra))| {
                let first = block * CHANNELS;
                let count = CHANNELS.min(dim - first);
                let mut s = self.scratch();
                for (c, k) in k_spectra.chunks_exact_mut(2 * bins).enumerate() {
                    for (direction, k) in k.chunks_exact_mut(bins).enumerate() {
                        self.transform(
                            &kernels[(direction * dim + first + c) * length..][..length],
                            k,
                            &mut s,
                        );
                    }
                }
                let mut x = vec![0f32; count * length];
                let mut out = vec![0f32; 2 * count * length];
                for b in 0..batch {
                    gather(&u[b * length * dim..], dim, first, count, length, &mut x);
                    for c in 0..count {
                        let x = &x[c * length..][..length];
                        let u_spectrum = &mut u_spectra[(c * batch + b) * bins..][..bins];
                        self.transform(x, u_spectrum, &mut s);
                        for direction in 0..2 {
                            let k = &k_spectra[(c * 2 + direction) * bins..][..bins];
                            multiply(u_spectrum, k, direction == 1, &mut s.product);
                            let out = &mut out[(direction * count + c) * length..][..length];
                            self.invert(out, &mut s);
                            let skip = skip[direction * dim + first + c];
                            for (o, x) in out.iter_mut().zip(x) {
                                *o += skip * x;
                            }
                        }
                    }
                    let (forward, backward) = out.split_at_mut(count * length);
                    if sum {
                        for (f, b) in forward.iter_mut().zip(backward.iter()) {
                            *f += b;
                        }
                        scatter(&columns, b * length, first, count, length, forward);
                    } else {
                        scatter(&columns, b * length, first, count, length, forward);
                        scatter(&columns, b * length, dim + first, count, length, backward);
                    }
                }
            });
        Spectra {
            u: u_spectra,
            k: k_spectra,
        }
    }

    /// The backward: writes `du`, returns the gradient of the kernels `[2, D, L]`, adds to that of the skip `[2, D]`.
    pub fn backward(
        &self,
        u: &[f32],
        spectra: &Spectra,
        skip: &[f32],
        sum: bool,
        dy: &[f32],
        du: &mut [f32],
        d_skip: &mut [f32],
    ) -> Vec<f32> {
        let (length, bins, dim) = (self.length, self.bins(), skip.len() / 2);
        let batch = u.len() / (length * dim);
        let width = if sum { dim } else { 2 * dim };
        let columns = Columns::new(du, dim);
        let blocks: Vec<(Vec<f32>, Vec<f32>)> = (0..dim.div_ceil(CHANNELS))
            .into_par_iter()
            .map(|block| {
                let first = block * CHANNELS;
                let count = CHANNELS.min(dim - first);
                let mut s = self.scratch();
                let mut x = vec![0f32; count * length];
                let mut d = [vec![0f32; count * length], vec![0f32; count * length]];
                let mut out = vec![0f32; count * length];
                let mut d_spectra = [vec![Complex32::default(); bins], vec![Complex32::default(); bins]];
                let mut dk_spectra = vec![Complex32::default(); count * 2 * bins];
                let mut d_skip = vec![0f32; 2 * count];
                for b in 0..batch {
                    gather(&u[b * length * dim..], dim, first, count, length, &mut x);
                    for (direction, d) in d.iter_mut().enumerate() {
                        let column = if sum { first } else { direction * dim + first };
                        gather(&dy[b * length * width..], width, column, count, length, d);
                    }
                    for c in 0..count {
                        let span = c * length..(c + 1) * length;
                        let u_spectrum = &spectra.u[((first + c) * batch + b) * bins..][..bins];
                        let k = &spectra.k[(first + c) * 2 * bins..][..2 * bins];
                        self.transform(&d[0][span.clone()], &mut d_spectra[0], &mut s);
                        self.transform(&d[1][span.clone()], &mut d_spectra[1], &mut s);
                        let dk = &mut dk_spectra[c * 2 * bins..][..2 * bins];
                        for i in 0..bins {
                            let (f, b) = (d_spectra[0][i], d_spectra[1][i]);
                            s.product[i] = f * k[i].conj() + b * k[bins + i];
                            dk[i] += f * u_spectrum[i].conj();
                            dk[bins + i] += b.conj() * u_spectrum[i];
                        }
                        self.invert(&mut out[span.clone()], &mut s);
                        let (skip_f, skip_b) = (skip[first + c], skip[dim + first + c]);
                        let (mut sum_f, mut sum_b) = (0f64, 0f64);
                        for i in span {
                            out[i] += skip_f * d[0][i] + skip_b * d[1][i];
                            sum_f += f64::from(d[0][i] * x[i]);
                            sum_b += f64::from(d[1][i] * x[i]);
                        }
                        d_skip[c] += sum_f as f32;
                        d_skip[count + c] += sum_b as f32;
                    }
                    scatter(&columns, b * length, first, count, length, &out);
                }
                let mut dk = vec![0f32; 2 * count * length];
                for (spectrum, dk) in dk_spectra.chunks_exact(bins).zip(dk.chunks_exact_mut(length)) {
                    s.product.copy_from_slice(spectrum);
                    self.invert(dk, &mut s);
                }
                (dk, d_skip)
            })
            .collect();
        let mut dk = vec![0f32; 2 * dim * length];
        for (block, (block_dk, block_skip)) in blocks.into_iter().enumerate() {
            let first = block * CHANNELS;
            let count = block_skip.len() / 2;
            for c in 0..count {
                for direction in 0..2 {
                    d_skip[direction * dim + first + c] += block_skip[direction * count + c];
                    dk[(direction * dim + first + c) * length..][..length]
                        .copy_from_slice(&block_dk[(c * 2 + direction) * length..][..length]);
                }
            }
        }
        dk
    }
}

/// `out = a b`, or `a conj(b)`.
fn multiply(a: &[Complex32], b: &[Complex32], conjugate: bool, out: &mut [Complex32]) {
    if conjugate {
        for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
            *o = a * b.conj();
        }
    } else {
        for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
            *o = a * b;
        }
    }
}

/// Columns `first..first + count` of a `[length, width]` matrix, transposed into `out` `[count, length]`.
fn gather(x: &[f32], width: usize, first: usize, count: usize, length: usize, out: &mut [f32]) {
    for l in 0..length {
        for (c, value) in x[l * width + first..][..count].iter().enumerate() {
            out[c * length + l] = *value;
        }
    }
}

/// The reverse of [`gather`], into rows `row..row + length` of the shared matrix.
#[expect(unsafe_code, reason = "tasks write disjoint columns")]
fn scatter(columns: &Columns<'_>, row: usize, first: usize, count: usize, length: usize, x: &[f32]) {
    let mut line = [0f32; CHANNELS];
    for l in 0..length {
        for (c, value) in line[..count].iter_mut().enumerate() {
            *value = x[c * length + l];
        }
        // SAFETY: each task owns the columns of its own channel block, in each half of the matrix.
        unsafe { columns.write(row + l, first, &line[..count]) };
    }
}
