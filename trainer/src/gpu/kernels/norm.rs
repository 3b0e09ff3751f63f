//! `norm_modulate.cu`.

use super::{THREADS, named, parts};
use crate::gpu::launch::{Arg, Element, Launch};
use crate::ops::profile::Op;
use crate::roofline::work;

/// Rows of a block, forward and backward.
const ROWS: usize = 32;
const WARP: usize = 32;

/// The shape of a LayerNorm with modulation.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Images.
    pub batch: usize,
    /// Rows of an image.
    pub rows: usize,
    /// Columns.
    pub dim: usize,
    /// Numbers of an image's modulation.
    pub width: usize,
    /// Whether it has a scale beside the shift.
    pub with_scale: bool,
}

impl Norm {
    fn grid(&self) -> (usize, usize) {
        (self.rows.div_ceil(ROWS), self.batch)
    }

    /// Partial sums of an image, as the backward writes them.
    pub fn parts(&self) -> usize {
        parts(self.rows)
    }
}

/// `h = (1 + scale) LN(x) + shift`: `[batch, rows, dim]`; `modulation` `[batch, width]`, `stats` `[batch, rows, 2]`.
pub fn norm_modulate<B>(
    element: Element,
    shape: Norm,
    eps: f32,
    x: B,
    modulation: B,
    h: B,
    stats: B,
) -> Launch<B> {
    let Norm { batch, rows, dim, .. } = shape;
    let work = work::norm_modulate(batch, rows, dim, element.bytes());
    Launch::new(
        Op::Norm,
        named("norm_modulate", element),
        shape.grid(),
        THREADS,
        work,
    )
    .shared(4 * dim * (2 + THREADS / WARP))
    .buffers([x, modulation, h, stats])
    .ints([rows, dim, shape.width, usize::from(shape.with_scale)])
    .arg(Arg::F32(eps))
}

/// `dx += ..`: `[batch, rows, dim]`, f32; `partial` `[batch, parts(rows), 2 dim]` of shift and scale.
pub fn norm_modulate_backward<B>(
    element: Element,
    shape: Norm,
    [x, modulation, stats]: [B; 3],
    dh: B,
    dx: B,
    partial: B,
) -> Launch<B> {
    let Norm { batch, rows, dim, .. } = shape;
    let work = work::norm_modulate_backward(batch, rows, dim, element.bytes());
    let packs = dim / Element::F32.pack(dim);
    let threads = (packs.div_ceil(WARP) * WARP).min(1024);
    Launch::new(
        Op::Norm,
        named("norm_modulate_backward", element),
        shape.grid(),
        threads,
        work,
    )
    .shared(4 * 5 * dim)
    .buffers([x, modulation, stats, dh, dx, partial])
    .ints([rows, dim, shape.width, usize::from(shape.with_scale)])
}
