//! The backward of a block on the device.

use std::ops::Range;

use super::{BlockRanges, Condition, ConditionGrads, Kept};
use crate::gpu::kernels::column_sums::{Partials, add_column_sums};
use crate::gpu::kernels::elementwise::{gate_backward, gelu_backward};
use crate::gpu::kernels::norm::norm_modulate_backward;
use crate::gpu::kernels::parts;
use crate::gpu::kernels::residual::gated_residual_backward;
use crate::gpu::launch::Element;
use crate::gpu::model::DeviceModel;
use crate::gpu::model::places::Linear;
use crate::gpu::program::{Builder, Matrix, Slot};
use crate::model::Modulation;

impl DeviceModel {
    /// Turns `d_out` `[B, J, D]`, f32, into the gradient of the input, adds all others, and gives back what was kept but the
    /// input.
    pub(in crate::gpu::model) fn block_backward(
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
    pub(in crate::gpu::model) fn modulation_backward(
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
