//! `diffusion.cu` and `loss.cu`.

use super::{THREADS, named};
use crate::gpu::launch::{Arg, Element, Launch};
use crate::ops::profile::Op;
use crate::roofline::{Work, work};

/// A launch whose threads draw four numbers each of `count` of every image.
pub(super) fn draws<B>(name: String, [batch, count]: [usize; 2], work: Work) -> Launch<B> {
    let grid = (count.div_ceil(4).div_ceil(THREADS), batch);
    Launch::new(Op::Diffusion, name, grid, THREADS, work)
}

/// How training noises a batch.
#[derive(Clone, Copy, Debug)]
pub struct Noising {
    /// Seed of the run.
    pub seed: u64,
    /// Steps of the process.
    pub steps: usize,
    /// What a dropped label becomes, if there is such a label.
    pub null_label: Option<u32>,
    /// Factor of the latents.
    pub scaling: f32,
    /// Probability of dropping a label.
    pub dropout: f64,
}

/// What it is drawn for: `latents` `[batch, count]` f32, `ids` `[batch]` i64, `labels` `[batch]` i32, `epoch` `[1]` i32,
/// `alphas_cumprod` `[steps]` f64.
#[derive(Clone, Copy, Debug)]
pub struct NoisedFrom<B> {
    /// Unscaled.
    pub latents: B,
    /// Of the records.
    pub ids: B,
    /// Before dropping.
    pub labels: B,
    /// The pass over the data.
    pub epoch: B,
    /// Of the process.
    pub alphas_cumprod: B,
}

/// What a training step starts from: `x_start`, `noise`, `x_t` `[batch, count]` f32, `timesteps`, `labels` `[batch]` i32.
#[derive(Clone, Copy, Debug)]
pub struct Noised<B> {
    /// Scaled latents.
    pub x_start: B,
    /// The noise.
    pub noise: B,
    /// Both together.
    pub x_t: B,
    /// Of every image.
    pub timesteps: B,
    /// After dropping.
    pub labels: B,
}

/// Draws timesteps, noise and the dropping of labels.
pub fn noised<B>(shape: [usize; 2], how: Noising, from: NoisedFrom<B>, to: Noised<B>) -> Launch<B> {
    let [batch, count] = shape;
    draws("noised_f32".to_owned(), shape, work::noised(batch, count))
        .buffers([
            from.latents,
            from.ids,
            from.labels,
            from.epoch,
            from.alphas_cumprod,
        ])
        .buffers([to.x_start, to.noise, to.x_t, to.timesteps, to.labels])
        .arg(Arg::I64(how.seed as i64))
        .ints([count, how.steps])
        .arg(Arg::I32(how.null_label.map_or(-1, |label| label as i32)))
        .arg(Arg::F32(how.scaling))
        .arg(Arg::F64(how.dropout))
}

/// The loss of `[batch, count]` latents: `losses` `[batch, 2]` f64 of (mse, vb) and `d_output`, `weight` times the gradient.
///
/// `output` and `d_output` are `[batch, 2 count]`, without learned variance `[batch, count]`; `tables` `[5, steps]` f64.
pub fn training_loss<B>(
    element: Element,
    [batch, count]: [usize; 2],
    steps: usize,
    is_learned: bool,
    weight: f64,
    noised: [B; 2],
    output: B,
    timesteps_and_tables: [B; 2],
    [d_output, losses]: [B; 2],
) -> Launch<B> {
    let work = work::training_loss(batch, count, element.bytes());
    let name = named("training_loss", element);
    Launch::new(Op::Diffusion, name, (batch, 1), THREADS, work)
        .buffers(noised)
        .buffers([output])
        .buffers(timesteps_and_tables)
        .buffers([d_output, losses])
        .ints([count, steps, usize::from(is_learned)])
        .arg(Arg::F64(weight))
}
