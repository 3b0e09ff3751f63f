//! LayerNorm without affine, then `h = (1 + scale) * x_hat + shift` with one (shift, scale) pair an image; fused.

use rayon::prelude::*;

use super::profile::{Clock, Op};
use super::vectorised::vectorised;

/// Lanes of the partial sums, so that a row's sum vectorises and has one fixed order.
const LANES: usize = 16;

/// The statistics of one row: mean and reciprocal standard deviation.
pub type RowStats = (f32, f32);

#[inline(always)]
fn sum_of(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().map(|&v| f(v)).sum();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(v);
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// `h = (1 + scale) * LN(x) + shift` (without `scale`: `h = LN(x) + shift`).
///
/// # Shapes
/// `x`, `h`: `[B, J, D]`; `shift`, `scale`: of image `b` at `modulation[b][..D]` and `[D..2D]`, rows of width
/// `modulation.len() / B`; `stats`: `[B * J]`, kept for the backward.
pub fn norm_modulate(
    x: &[f32],
    modulation: &[f32],
    batch: usize,
    with_scale: bool,
    eps: f32,
    h: &mut [f32],
    stats: &mut [RowStats],
) {
    let _clock = Clock::start(Op::Norm);
    let rows = stats.len();
    let dim = x.len() / rows;
    let per_image = rows / batch;
    let width = modulation.len() / batch;
    h.par_chunks_mut(dim)
        .zip(x.par_chunks(dim))
        .zip(stats.par_iter_mut())
        .enumerate()
        .with_min_len(16)
        .for_each(|(row, ((h, x), stats))| {
            let modulation = &modulation[row / per_image * width..][..width];
            let (shift, rest) = modulation.split_at(dim);
            let scale = with_scale.then(|| &rest[..dim]);
            norm_row(x, shift, scale, eps, h, stats);
        });
}

vectorised! {
    fn norm_row<'a>(
        x: &'a [f32],
        shift: &'a [f32],
        scale: Option<&'a [f32]>,
        eps: f32,
        h: &'a mut [f32],
        stats: &'a mut RowStats,
    ) {
        let dim = x.len() as f32;
        let mean = sum_of(x, |v| v) / dim;
        let variance = sum_of(x, |v| (v - mean) * (v - mean)) / dim;
        let rstd = 1.0 / (variance + eps).sqrt();
        *stats = (mean, rstd);
        match scale {
            Some(scale) => {
                for (((h, x), shift), scale) in h.iter_mut().zip(x).zip(shift).zip(scale) {
                    *h = (1.0 + scale) * ((x - mean) * rstd) + shift;
                }
            }
            None => {
                for ((h, x), shift) in h.iter_mut().zip(x).zip(shift) {
                    *h = (x - mean) * rstd + shift;
                }
            }
        }
    }
}

/// The backward of [`norm_modulate`]: `dx += ..`, `d_modulation += ..` in the layout of `modulation`.
pub fn norm_modulate_backward(
    x: &[f32],
    modulation: &[f32],
    batch: usize,
    with_scale: bool,
    stats: &[RowStats],
    dh: &[f32],
    dx: &mut [f32],
    d_modulation: &mut [f32],
) {
    let _clock = Clock::start(Op::Norm);
    const ROWS_PER_TASK: usize = 32;
    let dim = x.len() / stats.len();
    let per_image = stats.len() / batch;
    let width = modulation.len() / batch;
    let image = per_image * dim;
    dx.par_chunks_mut(image)
        .zip(d_modulation.par_chunks_mut(width))
        .enumerate()
        .for_each(|(b, (dx, d_mod))| {
            let modulation = &modulation[b * width..][..width];
            let task = ROWS_PER_TASK * dim;
            let partial: Vec<Vec<f32>> = dx
                .par_chunks_mut(task)
                .enumerate()
                .map(|(part, dx)| {
                    let mut sums = vec![0f32; 2 * dim];
                    let first = b * per_image + part * ROWS_PER_TASK;
                    let rows = first..first + dx.len() / dim;
                    let span = rows.start * dim..rows.end * dim;
                    let scale = with_scale.then(|| &modulation[dim..2 * dim]);
                    norm_rows_backward(&x[span.clone()], &stats[rows], scale, &dh[span], dx, &mut sums);
                    sums
                })
                .collect();
            let used = if with_scale { 2 * dim } else { dim };
            for sums in partial {
                for (d, s) in d_mod[..used].iter_mut().zip(sums) {
                    *d += s;
                }
            }
        });
}

vectorised! {
    /// The backward of some rows of one image; `sums`: d shift, then d scale.
    fn norm_rows_backward<'a>(
        x: &'a [f32],
        stats: &'a [RowStats],
        scale: Option<&'a [f32]>,
        dh: &'a [f32],
        dx: &'a mut [f32],
        sums: &'a mut [f32],
    ) {
        let dim = sums.len() / 2;
        let (d_shift, d_scale) = sums.split_at_mut(dim);
        let mut x_hat = vec![0f32; dim];
        let mut d_hat = vec![0f32; dim];
        let rows = x.chunks_exact(dim).zip(dh.chunks_exact(dim)).zip(dx.chunks_exact_mut(dim));
        for (((x, dh), dx), &(mean, rstd)) in rows.zip(stats) {
            for ((x_hat, x), (d_shift, dh)) in x_hat.iter_mut().zip(x).zip(d_shift.iter_mut().zip(dh)) {
                *x_hat = (x - mean) * rstd;
                *d_shift += dh;
            }
            match scale {
                Some(scale) => {
                    for ((d_scale, dh), x_hat) in d_scale.iter_mut().zip(dh).zip(&x_hat) {
                        *d_scale += dh * x_hat;
                    }
                    for ((d_hat, dh), scale) in d_hat.iter_mut().zip(dh).zip(scale) {
                        *d_hat = dh * (1.0 + scale);
                    }
                }
                None => d_hat.copy_from_slice(dh),
            }
            let mean_d = sum_of(&d_hat, |v| v) / dim as f32;
            let mut lanes = [0f32; LANES];
            for (d, h) in d_hat.chunks_mut(LANES).zip(x_hat.chunks(LANES)) {
                for ((lane, d), h) in lanes.iter_mut().zip(d).zip(h) {
                    *d -= mean_d;
                    *lane += *d * h;
                }
            }
            let along = lanes.iter().sum::<f32>() / dim as f32;
            for ((dx, d), h) in dx.iter_mut().zip(&d_hat).zip(&x_hat) {
                *dx += rstd * (d - h * along);
            }
        }
    }
}
