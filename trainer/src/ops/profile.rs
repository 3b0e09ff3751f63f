//! Where the time of a training step goes: a table of wall-clock time by kind of operation.
//!
//! Operations are called one after the other from the training thread and are parallel inside, so that the time of a
//! call is the time that the step spends there. Two reads of the clock a call: it stays on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Matrix products.
    MatMul,
    /// The long convolution, both directions.
    Conv,
    /// The convolution kernels and their gradient.
    SsmKernel,
    /// Bias and GELU, gate product, bias gradients.
    Activation,
    /// LayerNorm with shift and scale.
    Norm,
    /// Noise, q_sample and loss.
    Diffusion,
    /// Gradient norm, AdamW, EMA.
    Optimizer,
}

impl Op {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::MatMul,
        Self::Conv,
        Self::SsmKernel,
        Self::Activation,
        Self::Norm,
        Self::Diffusion,
        Self::Optimizer,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::MatMul => "matrix products",
            Self::Conv => "long convolution",
            Self::SsmKernel => "convolution kernels",
            Self::Activation => "bias, GELU, gate",
            Self::Norm => "LayerNorm, modulation",
            Self::Diffusion => "noise and loss",
            Self::Optimizer => "AdamW, EMA",
        }
    }
}

static NANOSECONDS: [AtomicU64; Op::ALL.len()] = [const { AtomicU64::new(0) }; Op::ALL.len()];

/// Counts the time from its making to its end for one kind of operation.
#[must_use]
pub(crate) struct Clock {
    op: Op,
    start: Instant,
}

impl Clock {
    pub(crate) fn start(op: Op) -> Self {
        Self {
            op,
            start: Instant::now(),
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        NANOSECONDS[self.op as usize].fetch_add(self.start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }
}

/// The time of every kind of operation since the last call, in the order of [`Op::ALL`], and forgets it.
pub fn take() -> [Duration; Op::ALL.len()] {
    std::array::from_fn(|op| Duration::from_nanos(NANOSECONDS[op].swap(0, Ordering::Relaxed)))
}
