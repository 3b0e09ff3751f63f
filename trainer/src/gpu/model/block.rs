//! A block on the device; its twin is [`Block`](crate::model::Block).

use std::ops::Range;

use super::places::Linear;
use super::ssm::SsmRanges;
use super::{DeviceModel, parts};
use crate::gpu::kernels::column_sums::{Partials, add_column_sums};
use crate::gpu::kernels::elementwise::{bias_gelu, gate, gate_backward, gelu_backward};
use crate::gpu::kernels::norm::{Norm, norm_modulate, norm_modulate_backward};
use crate::gpu::kernels::residual::{gated_residual, gated_residual_backward, residual};
use crate::gpu::launch::Element;
use crate::gpu::program::{Builder, Matrix, Slot};
use crate::model::Modulation;

/// Where a block's parameters lie.
pub(super) struct BlockRanges {
    modulation: Linear,
    w0: Linear,
    w_up: Linear,
    pub(super) ssm: SsmRanges,
    w_down: Linear,
    w1: Linear,
    w2: Linear,
    w3: Linear,
}

/// The condition of a batch, and what becomes of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Condition {
    /// `[B, D]`, f32.
    pub(super) value: Slot,
    /// `silu(value)`, activations.
    pub(super) active: Slot,
}

/// Gradients of the condition, `[B, D]` f32, summed over blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConditionGrads {
    /// Of `silu(value)`.
    pub(super) active: Slot,
    /// Of the value itself, where blocks add it without a layer of their own.
    pub(super) direct: Option<Slot>,
}

/// Activations that the backward needs. All but `input` are the block's to give back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    /// `[B, J, D]`, f32.
    pub(super) input: Slot,
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
    pub(super) fn block_ranges(&self, index: usize) -> BlockRanges {
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

    /// The shape of a block's LayerNorm.
    fn norm(&self, batch: usize) -> Norm {
        let c = &self.config;
        Norm {
            batch,
            rows: c.tokens(),
            dim: c.hidden_size,
            width: c.modulation_chunks().max(1) * c.hidden_size,
            with_scale: c.modulation != Modulation::None,
        }
    }

    /// `gelu(x + bias)` of `[rows, cols]`.
    fn activated(&self, b: &mut Builder, shape: [usize; 2], pre: Slot, bias: &Range<usize>) -> Slot {
        let out = self.rows(b, shape[0], shape[1]);
        let bias = self.params.value(bias);
        b.launch(bias_gelu(self.element, shape, self.config.gelu, pre, bias, out));
        out
    }

    /// `input` `[B, J, D]` -> output; everything that is kept stays taken.
    pub(super) fn block_forward(
        &self,
        b: &mut Builder,
        ranges: &BlockRanges,
        batch: usize,
        spectra: Slot,
        input: Slot,
        condition: Condition,
    ) -> (Slot, Kept) {
        let c = &self.config;
        let (e, d, m, ssm) = (self.element, c.hidden_size, c.downscale, c.ssm_width());
        let rows = batch * c.tokens();
        let part = 2 * d / m;

        let modulation = match c.modulation {
            Modulation::None => condition.value,
            _ => self.linear_f32(b, batch, &ranges.modulation, self.matrix(condition.active, d)),
        };
        let (h, stats) = (self.rows(b, rows, d), b.take(rows, 8));
        b.launch(norm_modulate(
            e,
            self.norm(batch),
            c.norm_eps as f32,
            input,
            modulation,
            h,
            stats,
        ));

        let pre0 = self.rows(b, rows, d);
        let of_h = self.matrix(h, d);
        self.linear(b, rows, &ranges.w0.weight, of_h, self.matrix(pre0, d), 0.0);
        let act0 = self.activated(b, [rows, d], pre0, &ranges.w0.bias);
        let pre_up = self.rows(b, rows, m * d);
        let (x, out) = (self.matrix(act0, d), self.matrix(pre_up, m * d));
        self.linear(b, rows, &ranges.w_up.weight, x, out, 0.0);
        let u = self.activated(b, [rows, m * d], pre_up, &ranges.w_up.bias); // [B, L, D]

        let y = self.rows(b, rows, m * ssm); // [B, L, 2D]
        self.ssm.forward(b, &self.constants, batch, [u, y], spectra);

        let pre_down = self.rows(b, rows, 2 * d);
        for k in 0..m {
            let weight = self.params.weight(&self.part_of_down(ranges, k), ssm);
            let of_y = self.matrix(y, m * ssm).columns(k * ssm, ssm);
            let out = self.matrix(pre_down, 2 * d).columns(k * part, part);
            b.product([rows, ssm, part], of_y, weight.t(), out, 0.0);
        }
        let down = self.activated(b, [rows, 2 * d], pre_down, &ranges.w_down.bias);
        let (pre1, pre2) = (self.rows(b, rows, 2 * d), self.rows(b, rows, 2 * d));
        self.linear(b, rows, &ranges.w1.weight, of_h, self.matrix(pre1, 2 * d), 0.0);
        let of_down = self.matrix(down, 2 * d);
        self.linear(b, rows, &ranges.w2.weight, of_down, self.matrix(pre2, 2 * d), 0.0);
        let product = self.rows(b, rows, 2 * d);
        let bias = |layer: &Linear| self.params.value(&layer.bias);
        let (a, other) = ([pre2, bias(&ranges.w2)], [pre1, bias(&ranges.w1)]);
        b.launch(gate(e, [rows, 2 * d], c.gelu, a, other, product));

        let shape = [batch, c.tokens(), d];
        let out = b.floats(rows * d);
        let (x, bias) = (self.matrix(product, 2 * d), bias(&ranges.w3));
        let branch = if c.modulation == Modulation::Gate {
            let branch = self.rows(b, rows, d);
            self.linear(b, rows, &ranges.w3.weight, x, self.matrix(branch, d), 0.0);
            b.launch(gated_residual(e, shape, input, modulation, bias, branch, out));
            Some(branch)
        } else {
            b.launch(residual(shape, input, bias, out));
            let out = Matrix::new(out, Element::F32, d);
            self.linear(b, rows, &ranges.w3.weight, x, out, 1.0);
            None
        };
        let kept = Kept {
            input,
            modulation,
            stats,
            h,
            pre0,
            act0,
            pre_up,
            u,
            y,
            pre_down,
            down,
            pre1,
            pre2,
            product,
            branch,
        };
        (out, kept)
    }

    /// Gives back all that is kept but the input.
    pub(super) fn give_kept(&self, b: &mut Builder, kept: &Kept) {
        b.give_all([
            kept.stats,
            kept.h,
            kept.pre0,
            kept.act0,
            kept.pre_up,
            kept.u,
            kept.y,
        ]);
        b.give_all([kept.pre_down, kept.down, kept.pre1, kept.pre2, kept.product]);
        b.give_all(kept.branch);
        self.give_modulation(b, kept);
    }

    fn give_modulation(&self, b: &mut Builder, kept: &Kept) {
        if self.config.modulation != Modulation::None {
            b.give(kept.modulation);
        }
    }

    /// The weight of `W_down` for position `k` of a token, `[2D / M, ssm width]`.
    fn part_of_down(&self, ranges: &BlockRanges, k: usize) -> Range<usize> {
        let len = ranges.w_down.weight.len() / self.config.downscale;
        let start = ranges.w_down.weight.start + k * len;
        start..start + len
    }

    /// Turns `d_out` `[B, J, D]`, f32, into the gradient of the input, adds all others, and gives back what was kept but the
    /// input.
    pub(super) fn block_backward(
        &self,
        b: &mut Builder,
        ranges: &BlockRanges,
        batch: usize,
        spectra: Slot,
        kept: &Kept,
        d_out: Slot,
        condition: Condition,
        d_condition: ConditionGrads,
    ) {
        let c = &self.config;
        let (e, d, m, kind) = (self.element, c.hidden_size, c.downscale, c.gelu);
        let (rows, ssm, width) = (batch * c.tokens(), c.ssm_width(), self.norm(batch).width);
        let d_modulation = match c.modulation {
            Modulation::None => None,
            _ => {
                let room = b.floats(batch * width);
                b.zero(room);
                Some(room)
            }
        };

        // The branch's gradient: gated, or the output's own.
        let (d_branch, copy) = self.branch_backward(b, ranges, batch, kept, d_out, d_modulation);
        let of_product = self.matrix(kept.product, 2 * d);
        self.weight_backward(b, rows, &ranges.w3.weight, d_branch, of_product);
        b.give(kept.product);
        let d_product = self.rows(b, rows, 2 * d);
        let to = self.matrix(d_product, 2 * d);
        self.input_backward(b, rows, &ranges.w3.weight, d_branch, to, 0.0);
        b.give_all(copy);

        let [partial1, partial2] = [(); 2].map(|()| Self::partials(b, rows, 2 * d));
        let (pre, partials) = ([kept.pre2, kept.pre1], [partial2, partial1]);
        b.launch(gate_backward(e, [rows, 2 * d], kind, pre, d_product, partials));
        b.give(d_product);
        self.bias_backward(b, rows, &ranges.w1.bias, partial1);
        self.bias_backward(b, rows, &ranges.w2.bias, partial2);
        let (d_pre1, d_pre2) = (self.matrix(kept.pre1, 2 * d), self.matrix(kept.pre2, 2 * d));
        let of_h = self.matrix(kept.h, d);
        self.weight_backward(b, rows, &ranges.w1.weight, d_pre1, of_h);
        let of_down = self.matrix(kept.down, 2 * d);
        self.weight_backward(b, rows, &ranges.w2.weight, d_pre2, of_down);
        b.give(kept.down);
        let dh = self.rows(b, rows, d);
        self.input_backward(b, rows, &ranges.w1.weight, d_pre1, self.matrix(dh, d), 0.0);
        b.give(kept.pre1);
        let d_down = self.rows(b, rows, 2 * d);
        let to = self.matrix(d_down, 2 * d);
        self.input_backward(b, rows, &ranges.w2.weight, d_pre2, to, 0.0);
        b.give(kept.pre2);

        self.gelu_backward(b, [rows, 2 * d], kept.pre_down, d_down, &ranges.w_down.bias);
        let dy = self.rows(b, rows, m * ssm);
        let part = 2 * d / m;
        for k in 0..m {
            let range = self.part_of_down(ranges, k);
            let of_d = self.matrix(d_down, 2 * d).columns(k * part, part);
            let of_y = self.matrix(kept.y, m * ssm).columns(k * ssm, ssm);
            let dw = self.params.weight_grad(&range, ssm);
            b.product([part, rows, ssm], of_d.t(), of_y, dw, 1.0);
            let to = self.matrix(dy, m * ssm).columns(k * ssm, ssm);
            let weight = self.params.weight(&range, ssm);
            b.product([rows, part, ssm], of_d, weight, to, 0.0);
        }
        b.give_all([d_down, kept.y]);

        let du = self.rows(b, rows, m * d);
        let (ssm, places) = (&ranges.ssm, [kept.u, dy, du]);
        self.ssm
            .backward(b, &self.params, &self.constants, ssm, batch, places, spectra);
        b.give_all([dy, kept.u]);

        self.gelu_backward(b, [rows, m * d], kept.pre_up, du, &ranges.w_up.bias);
        let (d_up, of_act0) = (self.matrix(du, m * d), self.matrix(kept.act0, d));
        self.weight_backward(b, rows, &ranges.w_up.weight, d_up, of_act0);
        b.give(kept.act0);
        let d_act0 = self.rows(b, rows, d);
        let to = self.matrix(d_act0, d);
        self.input_backward(b, rows, &ranges.w_up.weight, d_up, to, 0.0);
        b.give(du);
        self.gelu_backward(b, [rows, d], kept.pre0, d_act0, &ranges.w0.bias);
        self.weight_backward(b, rows, &ranges.w0.weight, to, of_h);
        self.input_backward(b, rows, &ranges.w0.weight, to, self.matrix(dh, d), 1.0);
        b.give_all([d_act0, kept.h]);

        self.norm_backward(b, batch, kept, dh, d_out, d_modulation, d_condition);
        b.give_all([dh, kept.stats]);
        self.give_modulation(b, kept);
        if let Some(d_modulation) = d_modulation {
            self.modulation_backward(b, batch, &ranges.modulation, d_modulation, condition, d_condition);
        }
        b.give_all(kept.branch);
    }

    /// The gradient of the branch as a factor of products, and the copy to give back.
    fn branch_backward(
        &self,
        b: &mut Builder,
        ranges: &BlockRanges,
        batch: usize,
        kept: &Kept,
        d_out: Slot,
        d_modulation: Option<Slot>,
    ) -> (Matrix, Option<Slot>) {
        let c = &self.config;
        let (d, rows) = (c.hidden_size, batch * c.tokens());
        let (Some(branch), Some(d_modulation)) = (kept.branch, d_modulation) else {
            let factor = self.factor(b, rows, &ranges.w3.bias, d_out);
            return (factor.matrix, factor.copy);
        };
        let of_image = parts(c.tokens());
        let d_branch = self.rows(b, rows, d);
        let partials = [(); 2].map(|()| b.floats(batch * of_image * d));
        b.launch(gated_residual_backward(
            self.element,
            [batch, c.tokens(), d],
            d_out,
            kept.modulation,
            branch,
            d_branch,
            partials,
        ));
        let of_gate = Partials {
            groups: batch,
            ..Partials::of(of_image, d)
        };
        let whole = 3 * d;
        let gates = d_modulation.part(2 * d, (batch - 1) * whole + d);
        b.launch(add_column_sums(of_gate, partials[0], gates, whole));
        let of_bias = Partials::of(batch * of_image, d);
        let bias = self.params.grad(&ranges.w3.bias);
        b.launch(add_column_sums(of_bias, partials[1], bias, d));
        b.give_all(partials);
        (self.matrix(d_branch, d), Some(d_branch))
    }

    /// `d *= gelu'(pre)`, the sums of its columns to the gradient of `bias`; gives `pre` back.
    fn gelu_backward(&self, b: &mut Builder, shape: [usize; 2], pre: Slot, d: Slot, bias: &Range<usize>) {
        let partial = Self::partials(b, shape[0], shape[1]);
        b.launch(gelu_backward(
            self.element,
            shape,
            self.config.gelu,
            pre,
            d,
            partial,
        ));
        self.bias_backward(b, shape[0], bias, partial);
        b.give(pre);
    }

    fn norm_backward(
        &self,
        b: &mut Builder,
        batch: usize,
        kept: &Kept,
        dh: Slot,
        d_out: Slot,
        d_modulation: Option<Slot>,
        d_condition: ConditionGrads,
    ) {
        let (norm, d) = (self.norm(batch), self.config.hidden_size);
        let partial = b.floats(batch * norm.parts() * 2 * d);
        let saved = [kept.input, kept.modulation, kept.stats];
        b.launch(norm_modulate_backward(
            self.element,
            norm,
            saved,
            dh,
            d_out,
            partial,
        ));
        let sums = Partials {
            groups: batch,
            parts: norm.parts(),
            width: 2 * d,
            cols: if norm.with_scale { 2 * d } else { d },
        };
        if let Some(to) = d_modulation.or(d_condition.direct) {
            // Of the modulation's chunks, shift and scale come first.
            let to = to.part(0, (batch - 1) * norm.width + sums.cols);
            b.launch(add_column_sums(sums, partial, to, norm.width));
        }
        b.give(partial);
    }

    /// The backward of `linear(silu(condition))`, for blocks and the last layer; gives `d_modulation` back.
    pub(super) fn modulation_backward(
        &self,
        b: &mut Builder,
        batch: usize,
        layer: &Linear,
        d_modulation: Slot,
        condition: Condition,
        d_condition: ConditionGrads,
    ) {
        let d = self.config.hidden_size;
        let factor = self.factor(b, batch, &layer.bias, d_modulation);
        let active = self.matrix(condition.active, d);
        self.weight_backward(b, batch, &layer.weight, factor.matrix, active);
        let to = Matrix::new(d_condition.active, Element::F32, d);
        self.input_backward(b, batch, &layer.weight, factor.matrix, to, 1.0);
        b.give_all(factor.copy);
        b.give(d_modulation);
    }
}
