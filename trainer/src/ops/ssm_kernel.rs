//! The convolution kernel of a diagonal state space model, and the gradients of its parameters.
//!
//! `K[l] = 2 Re sum_n C_n Bbar_n exp(z_n l)` with `z = dt A` (Gu et al. 2022, "On the Parameterization and
//! Initialization of Diagonal State Space Models", section 3). With `l = i r + j` the sum factors into an
//! `[L/r, N] x [N, r]` product, so the `[N, L]` Vandermonde matrix never exists: `N (r + L/r)` powers instead of `N L`.
//! Discretisation and powers are in f64 (they are few), the products in f32.

use rayon::prelude::*;
use realfft::num_complex::Complex64;

use super::vectorised::vectorised;

/// How the continuous system is turned into steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discretization {
    /// Zero-order hold: `z = dt A`, `Bbar = (exp(z) - 1) / A B`.
    #[default]
    Zoh,
    /// `exp(z) = (1 + dt A / 2) / (1 - dt A / 2)`, `Bbar = dt / (1 - dt A / 2) B`.
    Bilinear,
}

/// The parameters of a bank of channels: `log_dt` `[channels]`, the others `[channels, N/2]`.
/// `A = -exp(log_a_real) + i a_imag`.
#[derive(Clone, Copy)]
pub struct SsmParams<'a> {
    /// Logarithm of the step size.
    pub log_dt: &'a [f32],
    /// Logarithm of the negated real part of A.
    pub log_a_real: &'a [f32],
    /// Imaginary part of A.
    pub a_imag: &'a [f32],
    /// Real part of B.
    pub b_re: &'a [f32],
    /// Imaginary part of B.
    pub b_im: &'a [f32],
    /// Real part of C.
    pub c_re: &'a [f32],
    /// Imaginary part of C.
    pub c_im: &'a [f32],
}

/// The gradients of one channel, to be added to the parameters' gradients.
pub struct ChannelGrads {
    /// d log_dt.
    pub log_dt: f32,
    /// One entry a state: d log_a_real, a_imag, b_re, b_im, c_re, c_im.
    pub states: Vec<[f32; 6]>,
}

/// One discretised state and what its gradient needs.
struct State {
    a: Complex64,
    b: Complex64,
    c: Complex64,
    /// Exponent of a step.
    z: Complex64,
    /// `Bbar / B`.
    phi: Complex64,
    dz_da: Complex64,
    dz_ddt: Complex64,
    dphi_da: Complex64,
    dphi_ddt: Complex64,
}

fn discretise(p: &SsmParams<'_>, channel: usize, n: usize, states: usize, kind: Discretization) -> State {
    let at = channel * states + n;
    let complex = |re: &[f32], im: &[f32]| Complex64::new(f64::from(re[at]), f64::from(im[at]));
    let dt = f64::from(p.log_dt[channel]).exp();
    let a = Complex64::new(-f64::from(p.log_a_real[at]).exp(), f64::from(p.a_imag[at]));
    let x = a * dt;
    let (z, phi, dz_da, dz_ddt, dphi_da, dphi_ddt);
    match kind {
        Discretization::Zoh => {
            let ez = x.exp();
            z = x;
            phi = (ez - 1.0) / a;
            dz_da = Complex64::from(dt);
            dz_ddt = a;
            dphi_da = (ez * dt - phi) / a;
            dphi_ddt = ez;
        }
        Discretization::Bilinear => {
            let den = (1.0 - x / 2.0).inv();
            let slope = (1.0 - x * x / 4.0).inv();
            z = ((1.0 + x / 2.0) * den).ln();
            phi = den * dt;
            dz_da = slope * dt;
            dz_ddt = slope * a;
            dphi_da = den * den * (dt * dt / 2.0);
            dphi_ddt = den * den;
        }
    }
    let (b, c) = (complex(p.b_re, p.b_im), complex(p.c_re, p.c_im));
    State {
        a,
        b,
        c,
        z,
        phi,
        dz_da,
        dz_ddt,
        dphi_da,
        dphi_ddt,
    }
}

/// The inner length r of the factorisation `l = i r + j`: the power of two nearest above the square root.
fn inner_length(length: usize) -> usize {
    1 << (length.max(1).ilog2().div_ceil(2))
}

/// Powers `e^{z k stride}`, k = 0..count, re and im planes appended to `re`, `im`.
fn powers(z: Complex64, stride: usize, count: usize, scale: Complex64, re: &mut Vec<f32>, im: &mut Vec<f32>) {
    /// How often the running product is anchored to a fresh exponential, to keep 1e-13.
    const ANCHOR: usize = 64;
    let step = (z * stride as f64).exp();
    let mut value = scale;
    for k in 0..count {
        if k % ANCHOR == 0 {
            value = scale * (z * (k * stride) as f64).exp();
        }
        re.push(value.re as f32);
        im.push(value.im as f32);
        value *= step;
    }
}

/// Kernels `[channels, length]` of all channels.
pub fn kernels(p: &SsmParams<'_>, kind: Discretization, length: usize) -> Vec<f32> {
    let channels = p.log_dt.len();
    let states = p.a_imag.len() / channels;
    let r = inner_length(length);
    let rows = length.div_ceil(r);
    let mut out = vec![0f32; channels * length];
    out.par_chunks_mut(length)
        .enumerate()
        .for_each(|(channel, kernel)| {
            let (mut e_re, mut e_im) = (Vec::with_capacity(states * r), Vec::with_capacity(states * r));
            let (mut g_re, mut g_im) = (
                Vec::with_capacity(states * rows),
                Vec::with_capacity(states * rows),
            );
            for n in 0..states {
                let s = discretise(p, channel, n, states, kind);
                powers(s.z, 1, r, Complex64::from(1.0), &mut e_re, &mut e_im);
                powers(s.z, r, rows, 2.0 * s.c * s.b * s.phi, &mut g_re, &mut g_im);
            }
            factored_product(r, rows, [&g_re, &g_im], [&e_re, &e_im], kernel);
        });
    out
}

vectorised! {
    /// `kernel[i r + j] = Re sum_n g[n, i] e[n, j]`; `g` `[states, rows]` and `e` `[states, r]` as re and im planes.
    fn factored_product<'a>(
        r: usize,
        rows: usize,
        g: [&'a [f32]; 2],
        e: [&'a [f32]; 2],
        kernel: &'a mut [f32],
    ) {
        for (i, row) in kernel.chunks_mut(r).enumerate() {
            for (n, (e_re, e_im)) in e[0].chunks_exact(r).zip(e[1].chunks_exact(r)).enumerate() {
                let (g_re, g_im) = (g[0][n * rows + i], g[1][n * rows + i]);
                for ((k, re), im) in row.iter_mut().zip(e_re).zip(e_im) {
                    *k += g_re * re - g_im * im;
                }
            }
        }
    }
}

/// Gradients of every channel's parameters, given `dk` `[channels, length]`.
///
/// With complex gradients written as `d/dRe + i d/dIm`, the rule through a holomorphic `f` is `conj(f')`.
pub fn kernels_backward(
    p: &SsmParams<'_>,
    kind: Discretization,
    length: usize,
    dk: &[f32],
) -> Vec<ChannelGrads> {
    let channels = p.log_dt.len();
    let states = p.a_imag.len() / channels;
    let r = inner_length(length);
    let rows = length.div_ceil(r);
    dk.par_chunks(length)
        .enumerate()
        .map(|(channel, dk)| {
            let dt = f64::from(p.log_dt[channel]).exp();
            let (mut e_re, mut e_im) = (Vec::with_capacity(r), Vec::with_capacity(r));
            let mut d_dt = 0f64;
            let states = (0..states)
                .map(|n| {
                    let s = discretise(p, channel, n, states, kind);
                    e_re.clear();
                    e_im.clear();
                    powers(s.z, 1, r, Complex64::from(1.0), &mut e_re, &mut e_im);
                    // m0 = sum_l conj(e^{zl}) dk_l and m1 = sum_l l conj(e^{zl}) dk_l
                    let (m0, m1) = moments(s.z, r, rows, &e_re, &e_im, dk);
                    let d_gain = 2.0 * m0;
                    let gain = s.c * s.b * s.phi;
                    let d_z = 2.0 * gain.conj() * m1;
                    let d_c = d_gain * (s.b * s.phi).conj();
                    let d_b = d_gain * (s.c * s.phi).conj();
                    let d_phi = d_gain * (s.c * s.b).conj();
                    let d_a = s.dz_da.conj() * d_z + s.dphi_da.conj() * d_phi;
                    d_dt += (s.dz_ddt.conj() * d_z + s.dphi_ddt.conj() * d_phi).re;
                    [d_a.re * s.a.re, d_a.im, d_b.re, d_b.im, d_c.re, d_c.im].map(|v| v as f32)
                })
                .collect();
            ChannelGrads {
                log_dt: (d_dt * dt) as f32,
                states,
            }
        })
        .collect()
}

/// Lanes of the partial sums of [`moments`].
const LANES: usize = 16;

vectorised! {
    /// Adds `e dk` and `j e dk`, real and imaginary parts, in lanes of j.
    fn add_moments<'a>(dk: &'a [f32], e_re: &'a [f32], e_im: &'a [f32], sums: &'a mut [[f32; LANES]; 4]) {
        let chunks = dk.chunks(LANES).zip(e_re.chunks(LANES)).zip(e_im.chunks(LANES));
        for (k, ((dk, e_re), e_im)) in chunks.enumerate() {
            for (lane, ((d, re), im)) in dk.iter().zip(e_re).zip(e_im).enumerate() {
                let (re, im, j) = (re * d, im * d, (k * LANES + lane) as f32);
                sums[0][lane] += re;
                sums[1][lane] += im;
                sums[2][lane] += re * j;
                sums[3][lane] += im * j;
            }
        }
    }
}

/// The two transposed Vandermonde products of one state, inner sums over j in f32, outer ones in f64.
fn moments(
    z: Complex64,
    r: usize,
    rows: usize,
    e_re: &[f32],
    e_im: &[f32],
    dk: &[f32],
) -> (Complex64, Complex64) {
    let step = (z * r as f64).exp().conj();
    let mut anchor = Complex64::from(1.0);
    let (mut m0, mut m1) = (Complex64::default(), Complex64::default());
    for (i, dk) in dk.chunks(r).enumerate().take(rows) {
        let mut sums = [[0f32; LANES]; 4];
        add_moments(dk, e_re, e_im, &mut sums);
        let [re, im, j_re, j_im] = sums.map(|lanes| lanes.iter().map(|&v| f64::from(v)).sum::<f64>());
        let (plain, weighted) = (Complex64::new(re, -im), Complex64::new(j_re, -j_im));
        m0 += anchor * plain;
        m1 += anchor * (plain * (i * r) as f64 + weighted);
        anchor *= step;
    }
    (m0, m1)
}
