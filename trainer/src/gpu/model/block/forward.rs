//! The forward of a block on the device.

use std::ops::Range;

use super::{BlockRanges, Condition, Kept};
use crate::gpu::kernels::elementwise::{bias_gelu, gate};
use crate::gpu::kernels::norm::{Norm, norm_modulate};
use crate::gpu::kernels::residual::{gated_residual, residual};
use crate::gpu::launch::Element;
use crate::gpu::model::DeviceModel;
use crate::gpu::model::places::Linear;
use crate::gpu::program::{Builder, Matrix, Slot};
use crate::model::Modulation;

impl DeviceModel {
    /// The shape of a block's LayerNorm.
    pub(super) fn norm(&self, batch: usize) -> Norm {
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
    pub(in crate::gpu::model) fn block_forward(
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
    pub(in crate::gpu::model) fn give_kept(&self, b: &mut Builder, kept: &Kept) {
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

    pub(super) fn give_modulation(&self, b: &mut Builder, kept: &Kept) {
        if self.config.modulation != Modulation::None {
            b.give(kept.modulation);
        }
    }

    /// The weight of `W_down` for position `k` of a token, `[2D / M, ssm width]`.
    pub(super) fn part_of_down(&self, ranges: &BlockRanges, k: usize) -> Range<usize> {
        let len = ranges.w_down.weight.len() / self.config.downscale;
        let start = ranges.w_down.weight.start + k * len;
        start..start + len
    }
}
