//! A block on the device; its twin is [`Block`](crate::model::Block).

mod backward;
mod forward;

use super::DeviceModel;
use super::places::Linear;
use super::ssm::SsmRanges;
use crate::gpu::program::Slot;

/// Where a block's parameters lie.
pub(in crate::gpu::model) struct BlockRanges {
    modulation: Linear,
    w0: Linear,
    w_up: Linear,
    pub(in crate::gpu::model) ssm: SsmRanges,
    w_down: Linear,
    w1: Linear,
    w2: Linear,
    w3: Linear,
}

/// The condition of a batch, and what becomes of it.
#[derive(Clone, Copy, Debug)]
pub(in crate::gpu::model) struct Condition {
    /// `[B, D]`, f32.
    pub(in crate::gpu::model) value: Slot,
    /// `silu(value)`, activations.
    pub(in crate::gpu::model) active: Slot,
}

/// Gradients of the condition, `[B, D]` f32, summed over blocks.
#[derive(Clone, Copy, Debug)]
pub(in crate::gpu::model) struct ConditionGrads {
    /// Of `silu(value)`.
    pub(in crate::gpu::model) active: Slot,
    /// Of the value itself, where blocks add it without a layer of their own.
    pub(in crate::gpu::model) direct: Option<Slot>,
}

/// Activations that the backward needs. All but `input` are the block's to give back.
#[derive(Clone, Copy, Debug)]
pub(in crate::gpu::model) struct Kept {
    /// `[B, J, D]`, f32.
    pub(in crate::gpu::model) input: Slot,
    /// `[B, chunks D]`, f32; the condition itself without modulation.
    modulation: Slot,
    stats: Slot,
    h: Slot,
    pre0: Slot,
    act0: Slot,
    pre_up: Slot,
    u: Slot,
    y: Slot,
    pre_down: Slot,
    down: Slot,
    pre1: Slot,
    pre2: Slot,
    product: Slot,
    branch: Option<Slot>,
}

impl DeviceModel {
    pub(in crate::gpu::model) fn block_ranges(&self, index: usize) -> BlockRanges {
        let name = |name: &str| format!("blocks.{index}.{name}");
        let linear = |of: &str| self.params.linear(&name(of));
        BlockRanges {
            modulation: linear("mod"),
            w0: linear("w0"),
            w_up: linear("w_up"),
            ssm: SsmRanges::find(&self.params, index),
            w_down: Linear {
                weight: self.params.range(&name("w_down")),
                bias: self.params.range(&name("b_down")),
            },
            w1: linear("w1"),
            w2: linear("w2"),
            w3: linear("w3"),
        }
    }
}
