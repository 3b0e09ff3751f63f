//! `column_sums.cu`.

use super::{named, parts, strips};
use crate::gpu::launch::{Arg, Element, Launch};
use crate::ops::profile::Op;
use crate::roofline::work;

/// `partial` `[parts(rows), cols]` of `d` `[rows, cols]`.
pub fn column_partials<B>(element: Element, [rows, cols]: [usize; 2], d: B, partial: B) -> Launch<B> {
    let work = work::column_partials(rows, cols, element.bytes());
    let name = named("column_partials", element);
    strips(Op::Activation, name, parts(rows), cols, element.pack(cols), work)
        .buffers([d, partial])
        .ints([rows, cols])
}

/// [`column_partials`] of `d` in f32, and its copy `rounded` in bf16.
pub fn rounded_column_partials<B>([rows, cols]: [usize; 2], d: B, rounded: B, partial: B) -> Launch<B> {
    let work = work::rounded_column_partials(rows, cols);
    let (name, pack) = ("rounded_column_partials_f32".to_owned(), Element::F32.pack(cols));
    strips(Op::Activation, name, parts(rows), cols, pack, work)
        .buffers([d, rounded, partial])
        .ints([rows, cols])
}

/// Partial sums `[groups, parts, width]`, of whose columns the first `cols` are meant.
#[derive(Clone, Copy, Debug)]
pub struct Partials {
    /// Groups, each with sums of its own.
    pub groups: usize,
    /// Partial sums of a group.
    pub parts: usize,
    /// Columns that lie side by side.
    pub width: usize,
    /// Columns that are summed.
    pub cols: usize,
}

impl Partials {
    /// Of one group, all columns.
    pub fn of(parts: usize, cols: usize) -> Self {
        Self {
            groups: 1,
            parts,
            width: cols,
            cols,
        }
    }
}

/// Adds the sums to `out`, where groups lie `stride` numbers apart.
pub fn add_column_sums<B>(of: Partials, partial: B, out: B, stride: usize) -> Launch<B> {
    let work = work::add_column_sums(of.groups, of.parts, of.cols);
    let grid = (of.cols.div_ceil(32), of.groups);
    Launch::new(Op::Activation, "add_column_sums_f32", grid, 256, work)
        .buffers([partial, out])
        .ints([of.parts, of.width, of.cols])
        .arg(Arg::I64(stride as i64))
}
