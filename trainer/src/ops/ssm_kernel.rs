//! The convolution kernel of a diagonal state space model, and the gradients of its parameters.
//!
//! `K[l] = 2 Re sum_n C_n Bbar_n exp(z_n l)` with `z = dt A` (Gu et al. 2022, "On the Parameterization and
//! Initialization of Diagonal State Space Models", section 3). With `l = i r + j` the sum factors into an
//! `[L/r, N] x [N, r]` product, so the `[N, L]` Vandermonde matrix never exists: `N (r + L/r)` powers instead of `N L`.
//! Discretisation and powers are in f64 (they are few), the products in f32.

use num_complex::Complex64;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::profile::{Clock, Op};
use super::vectorised::numbers;

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
    /// `e^z`, one step of the discrete system.
    step: Complex64,
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
    let (step, phi, dz_da, dz_ddt, dphi_da, dphi_ddt);
    match kind {
        Discretization::Zoh => {
            step = x.exp();
            phi = (step - 1.0) / a;
            dz_da = Complex64::from(dt);
            dz_ddt = a;
            dphi_da = (step * dt - phi) / a;
            dphi_ddt = step;
        }
        Discretization::Bilinear => {
            let den = (1.0 - x / 2.0).inv();
            let slope = (1.0 - x * x / 4.0).inv();
            step = (1.0 + x / 2.0) * den;
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
        step,
        phi,
        dz_da,
        dz_ddt,
        dphi_da,
        dphi_ddt,
    }
}

/// Elements of a vector that the compiler keeps in one register.
const LANES: usize = 16;
/// Rows of the factorised sums that go on together: enough independent chains to hide the latency of an addition.
const ROWS: usize = 4;
/// Channels that a task has at least.
const MIN_CHANNELS: usize = 8;

/// The inner length r of the factorisation `l = i r + j`: the power of two nearest above the square root.
pub(crate) fn inner_length(length: usize) -> usize {
    (1 << (length.max(1).ilog2().div_ceil(2))).max(LANES)
}

/// Complex numbers as planes of real and imaginary parts.
type Planes<T> = [Vec<T>; 2];

fn planes<T: Copy + Default>(len: usize) -> Planes<T> {
    [vec![T::default(); len], vec![T::default(); len]]
}

/// What one task works in.
struct Scratch {
    /// `e^{z j}`, j < r.
    inner: Planes<f64>,
    /// `scale e^{z r i}`, i < L/r.
    outer: Planes<f64>,
    /// `inner` of every state, `[states, r]`.
    near: Planes<f32>,
    /// `outer` of every state, `[L/r, states]`.
    far: Planes<f32>,
    /// A channel of `dk`, filled up with zeros to whole rows.
    dk: Vec<f32>,
    /// `re, im, i re, i im` of `outer`, for each i.
    weights: Vec<[f32; 4]>,
    /// `sum_i weights dk[i, j]`, for each j.
    sums: [Vec<f32>; 4],
}

impl Scratch {
    fn new(length: usize, states: usize) -> Self {
        let r = inner_length(length);
        let rows = length.div_ceil(r);
        Self {
            inner: planes(r),
            outer: planes(rows),
            near: planes(states * r),
            far: planes(states * rows.next_multiple_of(ROWS)),
            dk: vec![0.0; rows * r],
            weights: vec![[0.0; 4]; rows],
            sums: std::array::from_fn(|_| vec![0.0; r]),
        }
    }

    /// The powers of one state.
    #[inline(always)]
    fn raise(&mut self, step: Complex64, scale: Complex64) {
        let far = doubled(step, Complex64::from(1.0), &mut self.inner);
        doubled(far, scale, &mut self.outer);
    }
}

/// `scale step^k` for all k of the planes, each half from the one before, so that an element is a product of few
/// factors; returns `step` to the power of their length where that is a power of two.
#[inline(always)]
fn doubled(step: Complex64, scale: Complex64, [re, im]: &mut Planes<f64>) -> Complex64 {
    (re[0], im[0]) = (scale.re, scale.im);
    let (mut known, mut factor) = (1, step);
    while known < re.len() {
        let (re, next_re) = re.split_at_mut(known);
        let (im, next_im) = im.split_at_mut(known);
        let next = next_re.iter_mut().zip(next_im);
        for ((next_re, next_im), (re, im)) in next.zip(re.iter().zip(im.iter())) {
            *next_re = re * factor.re - im * factor.im;
            *next_im = re * factor.im + im * factor.re;
        }
        factor *= factor;
        known *= 2;
    }
    factor
}

/// Kernels `[channels, length]` of all channels.
pub fn kernels(p: &SsmParams<'_>, kind: Discretization, length: usize) -> Vec<f32> {
    let mut out = vec![0f32; p.log_dt.len() * length];
    kernels_into(p, kind, length, &mut out);
    out
}

/// Writes [`kernels`] to `out`.
pub fn kernels_into(p: &SsmParams<'_>, kind: Discretization, length: usize, out: &mut [f32]) {
    let _clock = Clock::start(Op::SsmKernel);
    let states = p.a_imag.len() / p.log_dt.len();
    out.par_chunks_mut(length)
        .enumerate()
        .with_min_len(MIN_CHANNELS)
        .for_each_init(
            || Scratch::new(length, states),
            |scratch, (channel, kernel)| {
                Arch::new().dispatch(KernelOf {
                    p,
                    kind,
                    channel,
                    scratch,
                    kernel,
                });
            },
        );
}

/// `kernel[i r + j] = Re sum_n far[i, n] near[n, j]`.
struct KernelOf<'a> {
    p: &'a SsmParams<'a>,
    kind: Discretization,
    channel: usize,
    scratch: &'a mut Scratch,
    kernel: &'a mut [f32],
}

impl WithSimd for KernelOf<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            p,
            kind,
            channel,
            scratch,
            kernel,
        } = self;
        let states = p.a_imag.len() / p.log_dt.len();
        let r = scratch.inner[0].len();
        for n in 0..states {
            let s = discretise(p, channel, n, states, kind);
            scratch.raise(s.step, 2.0 * s.c * s.b * s.phi);
            for plane in 0..2 {
                for (near, v) in scratch.near[plane][n * r..].iter_mut().zip(&scratch.inner[plane]) {
                    *near = *v as f32;
                }
                for (far, v) in scratch.far[plane]
                    .chunks_exact_mut(states)
                    .zip(&scratch.outer[plane])
                {
                    far[n] = *v as f32;
                }
            }
        }
        for (rows, kernel) in kernel.chunks_mut(ROWS * r).enumerate() {
            let far = scratch
                .far
                .each_ref()
                .map(|far| &far[rows * ROWS * states..][..ROWS * states]);
            for column in (0..r).step_by(S::F32_LANES) {
                let sums = kernel_rows(simd, far, &scratch.near, states, r, column);
                for (kernel, sum) in kernel.chunks_mut(r).zip(&sums) {
                    for (k, s) in kernel.iter_mut().skip(column).zip(numbers::<S>(sum)) {
                        *k = *s;
                    }
                }
            }
        }
    }
}

/// A vector of columns of four rows of the product.
#[inline(always)]
fn kernel_rows<S: Simd>(
    simd: S,
    [far_re, far_im]: [&[f32]; 2],
    [near_re, near_im]: &Planes<f32>,
    states: usize,
    r: usize,
    column: usize,
) -> [S::f32s; ROWS] {
    let mut sums = [simd.splat_f32s(0.0); ROWS];
    for n in 0..states {
        let re = vector::<S>(near_re, n * r + column);
        let im = vector::<S>(near_im, n * r + column);
        let add = |sum, row: usize| {
            let (far_re, far_im) = (far_re[row * states + n], far_im[row * states + n]);
            let sum = simd.mul_add_e_f32s(simd.splat_f32s(far_re), re, sum);
            simd.negate_mul_add_e_f32s(simd.splat_f32s(far_im), im, sum)
        };
        sums = [add(sums[0], 0), add(sums[1], 1), add(sums[2], 2), add(sums[3], 3)];
    }
    sums
}

#[inline(always)]
fn vector<S: Simd>(values: &[f32], at: usize) -> S::f32s {
    S::as_simd_f32s(&values[at..][..S::F32_LANES]).0[0]
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
    let _clock = Clock::start(Op::SsmKernel);
    let channels = p.log_dt.len();
    let states = p.a_imag.len() / channels;
    dk.par_chunks(length)
        .enumerate()
        .with_min_len(MIN_CHANNELS)
        .map_init(
            || Scratch::new(length, states),
            |scratch, (channel, dk)| {
                scratch.dk[..length].copy_from_slice(dk);
                Arch::new().dispatch(ChannelBackward {
                    p,
                    kind,
                    channel,
                    scratch,
                })
            },
        )
        .collect()
}

/// The gradients of a channel, whose `dk` lies in the scratch.
struct ChannelBackward<'a> {
    p: &'a SsmParams<'a>,
    kind: Discretization,
    channel: usize,
    scratch: &'a mut Scratch,
}

impl WithSimd for ChannelBackward<'_> {
    type Output = ChannelGrads;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> ChannelGrads {
        let Self {
            p,
            kind,
            channel,
            scratch,
        } = self;
        let count = p.a_imag.len() / p.log_dt.len();
        let mut states = Vec::with_capacity(count);
        let mut d_dt = 0f64;
        for n in 0..count {
            let s = discretise(p, channel, n, count, kind);
            scratch.raise(s.step, Complex64::from(1.0));
            let (m0, m1) = moments(simd, scratch);
            let d_gain = 2.0 * m0;
            let gain = s.c * s.b * s.phi;
            let d_z = 2.0 * gain.conj() * m1;
            let d_c = d_gain * (s.b * s.phi).conj();
            let d_b = d_gain * (s.c * s.phi).conj();
            let d_phi = d_gain * (s.c * s.b).conj();
            let d_a = s.dz_da.conj() * d_z + s.dphi_da.conj() * d_phi;
            d_dt += (s.dz_ddt.conj() * d_z + s.dphi_ddt.conj() * d_phi).re;
            states.push([d_a.re * s.a.re, d_a.im, d_b.re, d_b.im, d_c.re, d_c.im].map(|v| v as f32));
        }
        ChannelGrads {
            log_dt: (d_dt * f64::from(p.log_dt[channel]).exp()) as f32,
            states,
        }
    }
}

/// `sum_l conj(e^{zl}) dk_l` and `sum_l l conj(e^{zl}) dk_l`: with `l = i r + j` first over i, in f32, for a vector of
/// j at a time, then over j in f64.
#[inline(always)]
fn moments<S: Simd>(simd: S, scratch: &mut Scratch) -> (Complex64, Complex64) {
    let Scratch {
        inner,
        outer: [outer_re, outer_im],
        dk,
        weights,
        sums,
        ..
    } = scratch;
    let r = inner[0].len();
    for (i, (weights, (re, im))) in weights
        .iter_mut()
        .zip(outer_re.iter().zip(outer_im.iter()))
        .enumerate()
    {
        *weights = [*re, *im, i as f64 * re, i as f64 * im].map(|v| v as f32);
    }
    for column in (0..r).step_by(S::F32_LANES) {
        let zero = simd.splat_f32s(0.0);
        let (mut re, mut im, mut i_re, mut i_im) = (zero, zero, zero, zero);
        for (weights, dk) in weights.iter().zip(dk.chunks_exact(r)) {
            let dk = vector::<S>(dk, column);
            re = simd.mul_add_e_f32s(simd.splat_f32s(weights[0]), dk, re);
            im = simd.mul_add_e_f32s(simd.splat_f32s(weights[1]), dk, im);
            i_re = simd.mul_add_e_f32s(simd.splat_f32s(weights[2]), dk, i_re);
            i_im = simd.mul_add_e_f32s(simd.splat_f32s(weights[3]), dk, i_im);
        }
        for (plane, sum) in sums.iter_mut().zip([re, im, i_re, i_im]) {
            plane[column..][..S::F32_LANES].copy_from_slice(numbers::<S>(&sum));
        }
    }
    // Eight independent sums each.
    let mut totals = [[0f64; 8]; 4];
    let [re, im, i_re, i_im] = sums.each_ref().map(|plane| plane.as_chunks::<8>().0);
    let [e_re, e_im] = inner.each_ref().map(|plane| plane.as_chunks::<8>().0);
    let [total_re, total_im, total_l_re, total_l_im] = &mut totals;
    for block in 0..e_re.len() {
        for lane in 0..8 {
            let j = (8 * block + lane) as f64;
            let (re, im) = (f64::from(re[block][lane]), f64::from(im[block][lane]));
            let l_re = r as f64 * f64::from(i_re[block][lane]) + j * re;
            let l_im = r as f64 * f64::from(i_im[block][lane]) + j * im;
            let (e_re, e_im) = (e_re[block][lane], e_im[block][lane]);
            total_re[lane] += e_re * re - e_im * im;
            total_im[lane] -= e_re * im + e_im * re;
            total_l_re[lane] += e_re * l_re - e_im * l_im;
            total_l_im[lane] -= e_re * l_im + e_im * l_re;
        }
    }
    let [re, im, l_re, l_im] = totals.map(|lanes| lanes.iter().sum());
    (Complex64::new(re, im), Complex64::new(l_re, l_im))
}
