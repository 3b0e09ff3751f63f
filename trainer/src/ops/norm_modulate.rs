//! LayerNorm without affine, then `h = (1 + scale) * x_hat + shift` with one (shift, scale) pair an image; fused.

use rayon::prelude::*;

use super::vectorised::dispatch;

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
            dispatch(|| {
                let mean = sum_of(x, |v| v) / dim as f32;
                let variance = sum_of(x, |v| (v - mean) * (v - mean)) / dim as f32;
                let rstd = 1.0 / (variance + eps).sqrt();
                *stats = (mean, rstd);
                if with_scale {
                    for i in 0..dim {
                        h[i] = (1.0 + rest[i]) * ((x[i] - mean) * rstd) + shift[i];
                    }
                } else {
                    for i in 0..dim {
                        h[i] = (x[i] - mean) * rstd + shift[i];
                    }
                }
            });
        });
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
                    let (d_shift, d_scale) = sums.split_at_mut(dim);
                    let mut x_hat = vec![0f32; dim];
                    let mut d_hat = vec![0f32; dim];
                    dispatch(|| {
                        for (r, dx) in dx.chunks_exact_mut(dim).enumerate() {
                            let row = b * per_image + part * ROWS_PER_TASK + r;
                            let (mean, rstd) = stats[row];
                            let (x, dh) = (&x[row * dim..][..dim], &dh[row * dim..][..dim]);
                            for i in 0..dim {
                                x_hat[i] = (x[i] - mean) * rstd;
                                d_shift[i] += dh[i];
                                d_hat[i] = dh[i];
                            }
                            if with_scale {
                                for i in 0..dim {
                                    d_scale[i] += dh[i] * x_hat[i];
                                    d_hat[i] *= 1.0 + modulation[dim + i];
                                }
                            }
                            let mean_d = sum_of(&d_hat, |v| v) / dim as f32;
                            for d in &mut d_hat {
                                *d -= mean_d;
                            }
                            let mut lanes = [0f32; LANES];
                            for (i, (d, h)) in d_hat.iter().zip(&x_hat).enumerate() {
                                lanes[i % LANES] += d * h;
                            }
                            let along = lanes.iter().sum::<f32>() / dim as f32;
                            for i in 0..dim {
                                dx[i] += rstd * (d_hat[i] - x_hat[i] * along);
                            }
                        }
                    });
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
