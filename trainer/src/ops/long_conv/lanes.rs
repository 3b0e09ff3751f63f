//! What goes into the transforms of the convolution and what comes out: columns of activations, products of spectra.

use pulp::Simd;

use super::Group;
use super::columns::Columns;
use super::fft::{Cell, Complex, GROUP, Sink, Source, Spectrum, load, store, vector, zero};
use crate::ops::vectorised::numbers;

/// The channels of a group as columns of one image's `[L, width]` matrix.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    data: &'a [f32],
    width: usize,
    column: usize,
    count: usize,
    length: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn new(data: &'a [f32], width: usize, column: usize, group: Group) -> Self {
        Self {
            data,
            width,
            column,
            count: group.count,
            length: group.length,
        }
    }

    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, l: usize, lane: usize) -> S::f32s {
        let start = l * self.width + self.column;
        if self.count == GROUP
            && let Some(row) = self.data[start..].first_chunk()
        {
            vector(simd, row, lane)
        } else {
            vector(simd, &self.part_of_row(start), lane)
        }
    }

    /// A row of a group that is not full.
    #[cold]
    #[inline(never)]
    fn part_of_row(&self, start: usize) -> [f32; GROUP] {
        let mut lanes = [0.0; GROUP];
        lanes[..self.count].copy_from_slice(&self.data[start..][..self.count]);
        lanes
    }
}

impl<S: Simd> Source<S> for Rows<'_> {
    #[inline(always)]
    fn sample(&self, simd: S, l: usize, lane: usize) -> S::f32s {
        if l < self.length {
            self.row(simd, l, lane)
        } else {
            simd.splat_f32s(0.0)
        }
    }
}

/// The first samples of the real parts of some cells.
pub(super) struct Lanes<'a>(pub(super) &'a [Cell]);

impl<S: Simd> Source<S> for Lanes<'_> {
    #[inline(always)]
    fn sample(&self, simd: S, l: usize, lane: usize) -> S::f32s {
        match self.0.get(l) {
            Some(cell) => vector(simd, &cell.re, lane),
            None => simd.splat_f32s(0.0),
        }
    }
}

/// Signals one after the other, each of `length` samples, into the real parts of cells.
pub(super) fn gather(signals: &[f32], length: usize, cells: &mut [Cell]) {
    for cell in &mut *cells {
        cell.re = [0.0; GROUP];
    }
    for (lane, signal) in signals.chunks_exact(length).enumerate() {
        for (cell, sample) in cells.iter_mut().zip(signal) {
            cell.re[lane] = *sample;
        }
    }
}

/// The reverse of [`gather`].
pub(super) fn scatter(cells: &[Cell], length: usize, signals: &mut [f32]) {
    for (lane, signal) in signals.chunks_exact_mut(length).enumerate() {
        for (cell, sample) in cells.iter().zip(signal) {
            *sample = cell.re[lane];
        }
    }
}

/// `add + a b` or, with `CONJUGATE`, `add + a conj(b)`.
#[inline(always)]
fn times<S: Simd, const CONJUGATE: bool>(
    simd: S,
    a: Complex<S::f32s>,
    b: Complex<S::f32s>,
    add: Complex<S::f32s>,
) -> Complex<S::f32s> {
    let re = simd.mul_add_e_f32s(a.re, b.re, add.re);
    let im = simd.mul_add_e_f32s(a.im, b.re, add.im);
    if CONJUGATE {
        Complex {
            re: simd.mul_add_e_f32s(a.im, b.im, re),
            im: simd.negate_mul_add_e_f32s(a.re, b.im, im),
        }
    } else {
        Complex {
            re: simd.negate_mul_add_e_f32s(a.im, b.im, re),
            im: simd.mul_add_e_f32s(a.re, b.im, im),
        }
    }
}

/// `U K`, the convolution; with `CONJUGATE` `U conj(K)`, the correlation.
pub(super) struct Product<'a, const CONJUGATE: bool> {
    pub(super) u: &'a [Cell],
    pub(super) kernel: &'a [Cell],
}

impl<S: Simd, const CONJUGATE: bool> Spectrum<S> for Product<'_, CONJUGATE> {
    #[inline(always)]
    fn element(&mut self, simd: S, at: usize, lane: usize, _: Complex<S::f32s>) -> Complex<S::f32s> {
        let (u, k) = (load(simd, &self.u[at], lane), load(simd, &self.kernel[at], lane));
        times::<S, CONJUGATE>(simd, u, k, zero(simd))
    }
}

/// `U (K_f + conj(K_b))`: both directions added.
pub(super) struct Both<'a> {
    pub(super) u: &'a [Cell],
    pub(super) kernels: [&'a [Cell]; 2],
}

impl<S: Simd> Spectrum<S> for Both<'_> {
    #[inline(always)]
    fn element(&mut self, simd: S, at: usize, lane: usize, _: Complex<S::f32s>) -> Complex<S::f32s> {
        let u = load(simd, &self.u[at], lane);
        let [f, b] = [&self.kernels[0][at], &self.kernels[1][at]];
        let one = times::<S, false>(simd, u, load(simd, f, lane), zero(simd));
        times::<S, true>(simd, u, load(simd, b, lane), one)
    }
}

/// `D_f conj(K_f) + D_b K_b`, the gradient of the input, where D_b lies in the memory of the inverse transform; on the
/// way the gradients of the kernels, `D_f conj(U)` and `U conj(D_b)`, are added to `sums`.
pub(super) struct Gradient<'a> {
    pub(super) u: &'a [Cell],
    pub(super) forward: &'a [Cell],
    pub(super) kernels: [&'a [Cell]; 2],
    pub(super) sums: [&'a mut [Cell]; 2],
}

impl<S: Simd> Spectrum<S> for Gradient<'_> {
    #[inline(always)]
    fn element(&mut self, simd: S, at: usize, lane: usize, backward: Complex<S::f32s>) -> Complex<S::f32s> {
        let (u, forward) = (load(simd, &self.u[at], lane), load(simd, &self.forward[at], lane));
        let [sum_f, sum_b] = &mut self.sums;
        let (sum_f, sum_b) = (&mut sum_f[at], &mut sum_b[at]);
        let new_f = times::<S, true>(simd, forward, u, load(simd, sum_f, lane));
        store(simd, sum_f, lane, new_f);
        let new_b = times::<S, true>(simd, u, backward, load(simd, sum_b, lane));
        store(simd, sum_b, lane, new_b);
        let [f, b] = [&self.kernels[0][at], &self.kernels[1][at]];
        let one = times::<S, true>(simd, forward, load(simd, f, lane), zero(simd));
        times::<S, false>(simd, backward, load(simd, b, lane), one)
    }
}

/// The spectrum that lies in the memory of the inverse transform.
pub(super) struct Itself;

impl<S: Simd> Spectrum<S> for Itself {
    #[inline(always)]
    fn element(&mut self, _: S, _: usize, _: usize, before: Complex<S::f32s>) -> Complex<S::f32s> {
        before
    }
}

/// Writes the lanes from `lane` on into their columns.
#[inline(always)]
#[expect(unsafe_code, reason = "tasks write disjoint columns")]
fn write<S: Simd>(
    columns: &Columns<'_>,
    row: usize,
    column: usize,
    count: usize,
    lane: usize,
    values: S::f32s,
) {
    let values = numbers::<S>(&values);
    if count == GROUP {
        // SAFETY: each task owns the columns of its own group of channels, in each half of the matrix.
        unsafe { columns.write(row, column + lane, &values[..S::F32_LANES]) };
    } else {
        write_part(columns, row, column, count, lane, values);
    }
}

/// [`write`] for a group that is not full.
#[cold]
#[inline(never)]
#[expect(unsafe_code, reason = "tasks write disjoint columns")]
fn write_part(columns: &Columns<'_>, row: usize, column: usize, count: usize, lane: usize, values: &[f32]) {
    let used = values.len().min(count.saturating_sub(lane));
    // SAFETY: each task owns the columns of its own group of channels, in each half of the matrix.
    unsafe { columns.write(row, column + lane, &values[..used]) };
}

/// `y = sample + skip u`
pub(super) struct Output<'a> {
    pub(super) y: &'a Columns<'a>,
    pub(super) row: usize,
    pub(super) column: usize,
    pub(super) u: Rows<'a>,
    pub(super) skip: [f32; GROUP],
}

impl<S: Simd> Sink<S> for Output<'_> {
    #[inline(always)]
    fn put(&mut self, simd: S, l: usize, lane: usize, sample: S::f32s) {
        if l < self.u.length {
            let skip = vector(simd, &self.skip, lane);
            let value = simd.mul_add_e_f32s(skip, self.u.row(simd, l, lane), sample);
            write::<S>(self.y, self.row + l, self.column, self.u.count, lane, value);
        }
    }
}

/// `du = sample + skip_f dy_f + skip_b dy_b`
pub(super) struct InputGradient<'a> {
    pub(super) du: &'a Columns<'a>,
    pub(super) row: usize,
    pub(super) column: usize,
    pub(super) dy: [Rows<'a>; 2],
    pub(super) skips: [[f32; GROUP]; 2],
}

impl<S: Simd> Sink<S> for InputGradient<'_> {
    #[inline(always)]
    fn put(&mut self, simd: S, l: usize, lane: usize, sample: S::f32s) {
        let [forward, backward] = &self.dy;
        if l < forward.length {
            let [skip_f, skip_b] = [
                vector(simd, &self.skips[0], lane),
                vector(simd, &self.skips[1], lane),
            ];
            let value = simd.mul_add_e_f32s(skip_f, forward.row(simd, l, lane), sample);
            let value = simd.mul_add_e_f32s(skip_b, backward.row(simd, l, lane), value);
            write::<S>(self.du, self.row + l, self.column, forward.count, lane, value);
        }
    }
}

/// Samples into the real parts of cells.
pub(super) struct LaneSink<'a>(pub(super) &'a mut [Cell]);

impl<S: Simd> Sink<S> for LaneSink<'_> {
    #[inline(always)]
    fn put(&mut self, _: S, l: usize, lane: usize, sample: S::f32s) {
        S::as_mut_simd_f32s(&mut self.0[l].re).0[lane / S::F32_LANES] = sample;
    }
}

/// Adds `sum_l dy[l] u[l]` of both directions: short sums in f32, their sum in f64.
#[inline(always)]
pub(super) fn add_products<S: Simd>(simd: S, u: &Rows<'_>, dy: &[Rows<'_>; 2], sums: &mut [[f64; GROUP]; 2]) {
    const SHORT: usize = 64;
    for lane in (0..GROUP).step_by(S::F32_LANES) {
        for start in (0..u.length).step_by(SHORT) {
            let (mut forward, mut backward) = (simd.splat_f32s(0.0), simd.splat_f32s(0.0));
            for l in start..(start + SHORT).min(u.length) {
                let u = u.row(simd, l, lane);
                forward = simd.mul_add_e_f32s(u, dy[0].row(simd, l, lane), forward);
                backward = simd.mul_add_e_f32s(u, dy[1].row(simd, l, lane), backward);
            }
            for (sums, short) in sums.iter_mut().zip([forward, backward]) {
                for (sum, short) in sums[lane..].iter_mut().zip(numbers::<S>(&short)) {
                    *sum += f64::from(*short);
                }
            }
        }
    }
}
