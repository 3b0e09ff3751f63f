//! `diffusion.cu`: noise of a stream, samples of a posterior, the samplers' steps, guidance.

use shards::rng::Stream;

use super::diffusion::draws;
use super::{THREADS, named};
use crate::gpu::launch::{Arg, Element, Launch};
use crate::ops::profile::Op;
use crate::roofline::work;

/// Standard normals `out` `[batch, count]` f32 of `stream`, keyed by `ids` `[batch]` i64.
pub fn normals<B>(shape: [usize; 2], seed: u64, stream: Stream, step: u32, ids: B, out: B) -> Launch<B> {
    let work = work::normals(shape[0], shape[1]);
    draws("normals_f32".to_owned(), shape, work)
        .buffers([ids, out])
        .arg(Arg::I64(seed as i64))
        .ints([stream as usize, step as usize, shape[1]])
}

/// `mean += exp(log_variance / 2) noise`: `[batch, count]` f32; `ids` `[batch]` i64, `mirrored` `[batch]` i32.
pub fn posterior_sample<B>(
    shape: [usize; 2],
    seed: u64,
    epoch: u32,
    moments: [B; 2],
    ids: B,
    mirrored: B,
) -> Launch<B> {
    let work = work::posterior_sample(shape[0], shape[1]);
    draws("posterior_sample_f32".to_owned(), shape, work)
        .buffers(moments)
        .buffers([ids, mirrored])
        .arg(Arg::I64(seed as i64))
        .ints([epoch as usize, shape[1]])
}

/// A step of a sampler.
#[derive(Clone, Copy, Debug)]
pub struct SamplerStep {
    /// Seed of all noise.
    pub seed: u64,
    /// Kept steps.
    pub steps: usize,
    /// Index of this one among them.
    pub index: usize,
    /// Its original timestep.
    pub timestep: u32,
    /// Whether the model gives a variance, too.
    pub is_learned: bool,
    /// `abar` of the step after, and eta, of DDIM; without it DDPM.
    pub ddim: Option<(f64, f64)>,
}

/// `x_t` to `x_{t-1}` in place: `x` `[batch, count]` f32; `output` `[batch, 2 count]`, without learned variance
/// `[batch, count]`; `ids` `[batch]` i64, `tables` `[5, steps]` f64.
pub fn sampler_step<B>(
    element: Element,
    shape: [usize; 2],
    step: SamplerStep,
    x: B,
    output: B,
    ids: B,
    tables: B,
) -> Launch<B> {
    let work = work::sampler_step(shape[0], shape[1], element.bytes());
    let (before, eta) = step.ddim.unwrap_or((1.0, 0.0));
    draws(named("sampler_step", element), shape, work)
        .buffers([x, output, ids, tables])
        .arg(Arg::I64(step.seed as i64))
        .ints([step.steps, step.index, step.timestep as usize, shape[1]])
        .ints([usize::from(step.is_learned), usize::from(step.ddim.is_some())])
        .arg(Arg::F64(before))
        .arg(Arg::F64(eta))
}

/// Classifier-free guidance in place, of the first `count` numbers of each image: `output` `[2 batch, width]`, first with
/// labels, then without.
pub fn guided<B>(element: Element, [batch, width, count]: [usize; 3], scale: f64, output: B) -> Launch<B> {
    let work = work::guided(batch, count, element.bytes());
    let grid = ((batch * count).div_ceil(THREADS), 1);
    Launch::new(Op::Diffusion, named("guided", element), grid, THREADS, work)
        .buffers([output])
        .ints([batch, width, count])
        .arg(Arg::F64(scale))
}
