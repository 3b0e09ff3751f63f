//! `embed.cu` and `patch.cu`: what lies around the chain of blocks.

use super::{THREADS, named};
use crate::gpu::launch::{Arg, Element, Launch};
use crate::ops::profile::Op;
use crate::roofline::{Work, work};

/// A launch of one thread an element.
fn each<B>(name: impl Into<String>, count: usize, work: Work) -> Launch<B> {
    let grid = (count.div_ceil(THREADS), 1);
    Launch::new(Op::Activation, name, grid, THREADS, work)
}

/// `out[r] = bias + positions[r % period]`: `out` `[rows, cols]`, `positions` `[period, cols]`, all f32. With a period of 0
/// there are no positions, and any buffer will do.
pub fn broadcast_rows<B>([rows, period, cols]: [usize; 3], bias: B, positions: B, out: B) -> Launch<B> {
    let work = work::broadcast_rows(rows, period, cols);
    each("broadcast_rows_f32", rows * cols, work)
        .buffers([bias, positions, out])
        .ints([rows, period, cols])
}

/// `out` `[batch, width]`, the features of `map[timesteps]`: `timesteps` `[batch]` i32, `map` `[steps]` f32.
pub fn timestep_features<B>(
    element: Element,
    [batch, width]: [usize; 2],
    timesteps: B,
    map: B,
    out: B,
) -> Launch<B> {
    let work = work::timestep_features(batch, width, element.bytes());
    each(named("timestep_features", element), batch * width, work)
        .buffers([timesteps, map, out])
        .ints([batch, width])
}

/// `pre += bias + table[labels]`, `out = silu(pre)`: `pre` `[rows, cols]` f32; `table` `[.., cols]` f32 with `labels`
/// `[rows]` i32, if any.
pub fn silu<B: Clone>(
    element: Element,
    [rows, cols]: [usize; 2],
    pre: B,
    bias: B,
    table: Option<[B; 2]>,
    out: B,
) -> Launch<B> {
    let work = work::silu(rows, cols, table.is_some(), element.bytes());
    let with_table = usize::from(table.is_some());
    each(named("silu", element), rows * cols, work)
        .buffers([pre, bias.clone()])
        .buffers(table.unwrap_or_else(|| [bias.clone(), bias]))
        .buffers([out])
        .ints([rows, cols, with_table])
}

/// `d = d silu'(pre) + direct`: `[count]` f32; `direct` if any.
pub fn silu_backward<B: Clone>(count: usize, pre: B, d: B, direct: Option<B>) -> Launch<B> {
    let work = work::silu_backward(count, direct.is_some());
    let with_direct = usize::from(direct.is_some());
    each("silu_backward_f32", count, work)
        .buffers([pre.clone(), d, direct.unwrap_or(pre)])
        .ints([count, with_direct])
}

/// `table[labels[b]] += d[b]`, image after image: `d` `[batch, cols]`, `table` `[.., cols]` f32, `labels` `[batch]` i32.
pub fn add_label_rows<B>([batch, cols]: [usize; 2], d: B, labels: B, table: B) -> Launch<B> {
    let work = work::add_label_rows(batch, cols);
    each("add_label_rows_f32", cols, work)
        .buffers([d, labels, table])
        .ints([batch, cols])
}

/// How images are cut into patches.
#[derive(Clone, Copy, Debug)]
pub struct Patches {
    /// Channels.
    pub channels: usize,
    /// Height = width of an image.
    pub side: usize,
    /// Height = width of a patch.
    pub patch: usize,
    /// Whether a patch is (C, P, P) and not (P, P, C).
    pub channels_first: bool,
}

impl Patches {
    fn ints(&self) -> [usize; 4] {
        [
            self.channels,
            self.side,
            self.patch,
            usize::from(self.channels_first),
        ]
    }

    /// `x` `[batch, C, side, side]` f32 -> tokens, of `batch` images.
    pub fn tokens_of_images<B>(&self, element: Element, batch: usize, x: B, tokens: B) -> Launch<B> {
        let count = batch * self.channels * self.side * self.side;
        let work = work::tokens_of_images(count, element.bytes());
        each(named("tokens_of_images", element), count, work)
            .buffers([x, tokens])
            .ints(self.ints())
            .arg(Arg::I64(count as i64))
    }

    /// Tokens, f32 -> `x` `[batch, C, side, side]`.
    pub fn images_of_tokens<B>(&self, batch: usize, tokens: B, x: B) -> Launch<B> {
        let count = batch * self.channels * self.side * self.side;
        each("images_of_tokens_f32", count, work::images_of_tokens(count))
            .buffers([tokens, x])
            .ints(self.ints())
            .arg(Arg::I64(count as i64))
    }
}
