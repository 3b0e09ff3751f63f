//! How each kernel of `trainer/kernels` is launched: one function a kernel, one file a source. The comment above a kernel
//! says what its arguments hold; the order here is the same. `B` is a place in the device's memory.

pub mod chunked;
pub mod column_sums;
pub mod diffusion;
pub mod elementwise;
pub mod embed;
pub mod long_conv;
pub mod norm;
pub mod optimizer;
pub mod residual;
pub mod sampler;
pub mod ssm_kernel;

use super::launch::{Element, Launch};
use crate::ops::bias_gelu::Gelu;
use crate::ops::profile::Op;
use crate::roofline::Work;
use crate::roofline::work::ROWS_PER_PART;

/// Threads of a block of most kernels.
const THREADS: usize = 256;

/// Rows of partial sums of the columns of `rows` rows.
pub fn parts(rows: usize) -> usize {
    rows.div_ceil(ROWS_PER_PART)
}

/// The number by which kernels know a GELU.
fn gelu_kind(gelu: Gelu) -> usize {
    match gelu {
        Gelu::Tanh => 0,
        Gelu::Erf => 1,
    }
}

/// The launch of a kernel whose threads own packs of columns of strips of rows.
fn strips<B>(op: Op, name: String, strips: usize, cols: usize, pack: usize, work: Work) -> Launch<B> {
    let threads = strips * (cols / pack);
    Launch::new(op, name, (threads.div_ceil(THREADS), 1), THREADS, work)
}

/// `name_f32` or `name_bf16`
fn named(name: &str, element: Element) -> String {
    format!("{name}_{}", element.suffix())
}
