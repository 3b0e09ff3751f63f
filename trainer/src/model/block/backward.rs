//! The backward of a block.

use std::ops::Range;

use super::{Block, BlockSaved, Linear, silu, silu_slope};
use crate::model::config::{Bidirectional, Modulation};
use crate::ops::bias_gelu::{bias_backward, gelu_backward};
use crate::ops::buffer::Buffer;
use crate::ops::gate::gate_backward;
use crate::ops::long_conv::Spectra;
use crate::ops::matmul::{Mat, linear_backward_input, linear_backward_weight, matmul};
use crate::ops::norm_modulate::norm_modulate_backward;
use crate::ops::residual::gated_residual_backward;
use crate::ops::ssm_kernel::kernels_backward;

impl Block {
    /// Turns `d_out` `[B, J, D]` into the gradient of the input; adds to `d_condition` `[B, D]` and to `grads`.
    ///
    /// Returns the gradient of the kernels `[2, D, L]`, which [`Block::kernels_backward`] adds to `grads`.
    pub fn backward(
        &self,
        params: &[f32],
        spectra: &Spectra,
        saved: BlockSaved,
        d_out: &mut [f32],
        d_condition: &mut [f32],
        grads: &mut [f32],
    ) -> Buffer {
        let c = &self.config;
        let (d, m, ssm_width, kind) = (c.hidden_size, c.downscale, c.ssm_width(), c.gelu);
        let rows = d_out.len() / d;
        let batch = d_condition.len() / d;
        let at = |range: &Range<usize>| &params[range.clone()];
        let mut d_modulation = vec![0.0; saved.modulation.len()];

        // The branch's gradient: gated, or the output's own.
        let gated = saved.branch.map(|branch| {
            let mut gated = self.pool.take(d_out.len());
            gated_residual_backward(
                d_out,
                &saved.modulation,
                &branch,
                batch,
                &mut gated,
                &mut d_modulation,
            );
            gated
        });
        let d_branch: &[f32] = gated.as_deref().unwrap_or(d_out);
        bias_backward(d_branch, &mut grads[self.w3.bias.clone()]);
        linear_backward_weight(
            &mut grads[self.w3.weight.clone()],
            d_branch,
            &saved.product,
            2 * d,
            d,
        );
        let mut d_product = saved.product;
        linear_backward_input(&mut d_product, 0.0, d_branch, at(&self.w3.weight), 2 * d, d);

        let (mut d_pre1, mut d_pre2) = (saved.pre1, saved.pre2);
        gate_backward(kind, &mut d_pre2, &mut d_pre1, &d_product);
        bias_backward(&d_pre1, &mut grads[self.w1.bias.clone()]);
        bias_backward(&d_pre2, &mut grads[self.w2.bias.clone()]);
        linear_backward_weight(&mut grads[self.w1.weight.clone()], &d_pre1, &saved.h, d, 2 * d);
        linear_backward_weight(
            &mut grads[self.w2.weight.clone()],
            &d_pre2,
            &saved.down,
            2 * d,
            2 * d,
        );
        let mut dh = self.pool.take(rows * d);
        linear_backward_input(&mut dh, 0.0, &d_pre1, at(&self.w1.weight), d, 2 * d);
        let mut d_down = saved.down;
        linear_backward_input(&mut d_down, 0.0, &d_pre2, at(&self.w2.weight), 2 * d, 2 * d);

        gelu_backward(kind, &saved.pre_down, &mut d_down);
        bias_backward(&d_down, &mut grads[self.w_down.bias.clone()]);
        let mut dy = self.pool.take(saved.y.len());
        let part = 2 * d / m;
        for k in 0..m {
            let span = k * part * ssm_width..(k + 1) * part * ssm_width;
            let d_down = Mat::strided(&d_down[k * part..], rows, part, 2 * d);
            let y = Mat::strided(&saved.y[k * ssm_width..], rows, ssm_width, m * ssm_width);
            matmul(
                &mut grads[self.w_down.weight.clone()][span.clone()],
                ssm_width,
                1.0,
                d_down.t(),
                y,
            );
            let weight = Mat::new(&at(&self.w_down.weight)[span], part, ssm_width);
            matmul(&mut dy[k * ssm_width..], m * ssm_width, 0.0, d_down, weight);
        }

        let sum = c.bidir == Bidirectional::Sum;
        let mut du = self.pool.take(saved.u.len());
        let mut dk = self.kernel_buffer();
        let d_skip = &mut grads[self.skip.clone()];
        self.conv.backward(
            &saved.u,
            spectra,
            at(&self.skip),
            sum,
            &dy,
            &mut du,
            &mut dk,
            d_skip,
        );

        gelu_backward(kind, &saved.pre_up, &mut du);
        bias_backward(&du, &mut grads[self.w_up.bias.clone()]);
        linear_backward_weight(&mut grads[self.w_up.weight.clone()], &du, &saved.act0, d, m * d);
        let mut d_act0 = saved.act0;
        linear_backward_input(&mut d_act0, 0.0, &du, at(&self.w_up.weight), d, m * d);
        gelu_backward(kind, &saved.pre0, &mut d_act0);
        bias_backward(&d_act0, &mut grads[self.w0.bias.clone()]);
        linear_backward_weight(&mut grads[self.w0.weight.clone()], &d_act0, &saved.h, d, d);
        linear_backward_input(&mut dh, 1.0, &d_act0, at(&self.w0.weight), d, d);

        let with_scale = c.modulation != Modulation::None;
        norm_modulate_backward(
            &saved.input,
            &saved.modulation,
            batch,
            with_scale,
            &saved.stats,
            &dh,
            d_out,
            &mut d_modulation,
        );
        self.modulate_backward(params, &saved.condition, &d_modulation, d_condition, grads);
        dk
    }

    /// Adds the gradients of the state space model's parameters to `grads`, given that of the kernels `[2, D, L]`.
    pub fn kernels_backward(&self, params: &[f32], dk: &[f32], grads: &mut [f32]) {
        let config = &self.config;
        let half = config.state_size / 2;
        let channels = kernels_backward(&self.ssm_params(params), config.disc, config.length(), dk);
        for (channel, channel_grads) in channels.iter().enumerate() {
            grads[self.log_dt.start + channel] += channel_grads.log_dt;
            for (n, state) in channel_grads.states.iter().enumerate() {
                for (i, (range, value)) in self.states.iter().zip(state).enumerate() {
                    let is_b = i == 2 || i == 3;
                    if config.train_b || !is_b {
                        grads[range.start + channel * half + n] += value;
                    }
                }
            }
        }
    }

    fn modulate_backward(
        &self,
        params: &[f32],
        condition: &[f32],
        d_modulation: &[f32],
        d_condition: &mut [f32],
        grads: &mut [f32],
    ) {
        if self.config.modulation == Modulation::None {
            for (c, d) in d_condition.iter_mut().zip(d_modulation) {
                *c += d;
            }
            return;
        }
        let d = self.config.hidden_size;
        modulation_backward(
            &self.modulation,
            params,
            condition,
            d_modulation,
            d,
            d_condition,
            grads,
        );
    }
}

/// The backward of `linear(silu(condition))`, shared with the final layer.
pub(in crate::model) fn modulation_backward(
    layer: &Linear,
    params: &[f32],
    condition: &[f32],
    d_modulation: &[f32],
    d: usize,
    d_condition: &mut [f32],
    grads: &mut [f32],
) {
    let width = layer.bias.len();
    let active: Vec<f32> = condition.iter().map(|&c| silu(c)).collect();
    bias_backward(d_modulation, &mut grads[layer.bias.clone()]);
    linear_backward_weight(&mut grads[layer.weight.clone()], d_modulation, &active, d, width);
    let mut d_active = active;
    linear_backward_input(
        &mut d_active,
        0.0,
        d_modulation,
        &params[layer.weight.clone()],
        d,
        width,
    );
    for ((dc, da), &c) in d_condition.iter_mut().zip(d_active).zip(condition) {
        *dc += da * silu_slope(c);
    }
}
