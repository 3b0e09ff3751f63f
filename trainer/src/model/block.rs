//! One DiffuSSM block, forward and backward (Yan et al. 2023, section 4, figure 2).
//!
//! ```text
//! h    = (1 + scale(c)) LN(I) + shift(c)                                  [B, J, D]
//! U_l  = gelu(W_up_m gelu(W_0 h_j)),  l = jM + m                          [B, L, D]
//! Y    = bidirectional S4D(U)                                             [B, L, 2D]
//! I'_j = concat_m gelu(W_down_m Y_{jM+m})                                 [B, J, 2D]
//! O_j  = W_3 (gelu(W_2 I'_j) * gelu(W_1 h_j))                             [B, J, D]
//! out  = I + O
//! ```

use std::ops::Range;

use super::config::{Bidirectional, ModelConfig, Modulation};
use super::params::ParamLayout;
use crate::ops::bias_gelu::{add_bias, bias_backward, bias_gelu, gelu_backward};
use crate::ops::buffer::{Buffer, Pool};
use crate::ops::gate::{gate, gate_backward};
use crate::ops::long_conv::{LongConv, Spectra};
use crate::ops::matmul::{Mat, linear, linear_backward_input, linear_backward_weight, matmul};
use crate::ops::norm_modulate::{RowStats, norm_modulate, norm_modulate_backward};
use crate::ops::residual::{gated_residual, gated_residual_backward, residual};
use crate::ops::ssm_kernel::{SsmParams, kernels_backward, kernels_into};

/// Weight and bias of a linear layer in the flat buffer.
#[derive(Clone, Debug)]
pub(super) struct Linear {
    pub(super) weight: Range<usize>,
    pub(super) bias: Range<usize>,
}

impl Linear {
    pub(super) fn find(layout: &ParamLayout, name: &str) -> Self {
        Self {
            weight: layout.range(&format!("{name}.weight")),
            bias: layout.range(&format!("{name}.bias")),
        }
    }
}

/// One block: where its parameters lie, the plan of its convolution, and what it works in.
pub struct Block {
    config: ModelConfig,
    conv: LongConv,
    pool: Pool,
    modulation: Linear,
    w0: Linear,
    w_up: Linear,
    log_dt: Range<usize>,
    /// log_a_real, a_imag, b_re, b_im, c_re, c_im
    states: [Range<usize>; 6],
    skip: Range<usize>,
    w_down: Linear,
    w1: Linear,
    w2: Linear,
    w3: Linear,
}

/// Activations that the backward needs.
pub struct BlockSaved {
    input: Buffer,
    condition: Vec<f32>,
    modulation: Vec<f32>,
    stats: Vec<RowStats>,
    h: Buffer,
    pre0: Buffer,
    act0: Buffer,
    pre_up: Buffer,
    /// Input of the state space model, `[B, L, D]`.
    pub u: Buffer,
    /// Output of the state space model, `[B, L, 2D]`.
    pub y: Buffer,
    pre_down: Buffer,
    down: Buffer,
    pre1: Buffer,
    pre2: Buffer,
    product: Buffer,
    /// The branch before its gate, where there is one.
    branch: Option<Buffer>,
}

/// `x * sigmoid(x)`
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

pub(super) fn silu_slope(x: f32) -> f32 {
    let s = 1.0 / (1.0 + (-x).exp());
    s * (1.0 + x * (1.0 - s))
}

impl Block {
    /// The block whose parameters are called `prefix` + name in `layout`; activations come from `pool`.
    pub fn new(config: &ModelConfig, layout: &ParamLayout, prefix: &str, conv: LongConv, pool: Pool) -> Self {
        let linear = |name: &str| Linear::find(layout, &format!("{prefix}{name}"));
        let range = |name: &str| layout.range(&format!("{prefix}{name}"));
        let states = ["log_a_real", "a_imag", "b_re", "b_im", "c_re", "c_im"];
        Self {
            config: config.clone(),
            conv,
            pool,
            modulation: linear("mod"),
            w0: linear("w0"),
            w_up: linear("w_up"),
            log_dt: range("ssm.log_dt"),
            states: states.map(|name| range(&format!("ssm.{name}"))),
            skip: range("ssm.d"),
            w_down: Linear {
                weight: range("w_down"),
                bias: range("b_down"),
            },
            w1: linear("w1"),
            w2: linear("w2"),
            w3: linear("w3"),
        }
    }

    fn ssm_params<'a>(&self, params: &'a [f32]) -> SsmParams<'a> {
        let state = |i: usize| &params[self.states[i].clone()];
        SsmParams {
            log_dt: &params[self.log_dt.clone()],
            log_a_real: state(0),
            a_imag: state(1),
            b_re: state(2),
            b_im: state(3),
            c_re: state(4),
            c_im: state(5),
        }
    }

    /// The spectra of the convolution kernels: they depend on the weights alone.
    pub fn spectra(&self, params: &[f32]) -> Spectra {
        self.conv.spectra(&self.kernels(params))
    }

    /// Writes [`Block::spectra`] over those of a block of the same size.
    pub fn update_spectra(&self, params: &[f32], spectra: &mut Spectra) {
        self.conv.transform(&self.kernels(params), spectra);
    }

    /// The convolution kernels `[2, D, L]`.
    fn kernels(&self, params: &[f32]) -> Buffer {
        let mut kernels = self.kernel_buffer();
        let (disc, length) = (self.config.disc, self.config.length());
        kernels_into(&self.ssm_params(params), disc, length, &mut kernels);
        kernels
    }

    /// Room for kernels `[2, D, L]` or their gradient.
    pub(super) fn kernel_buffer(&self) -> Buffer {
        self.pool.take(2 * self.config.hidden_size * self.config.length())
    }

    /// Shift, scale and gate of every image, `[B, chunks D]`; the condition itself without modulation.
    fn modulate(&self, params: &[f32], condition: &[f32]) -> Vec<f32> {
        if self.config.modulation == Modulation::None {
            return condition.to_vec();
        }
        let d = self.config.hidden_size;
        let width = self.config.modulation_chunks() * d;
        let active: Vec<f32> = condition.iter().map(|&c| silu(c)).collect();
        let mut out = vec![0.0; condition.len() / d * width];
        linear(
            &mut out,
            &active,
            &params[self.modulation.weight.clone()],
            d,
            width,
        );
        add_bias(&mut out, &params[self.modulation.bias.clone()]);
        out
    }

    /// `input` `[B, J, D]`, `condition` `[B, D]`, `spectra` from [`Block::spectra`] -> output `[B, J, D]`.
    pub fn forward(
        &self,
        params: &[f32],
        spectra: &Spectra,
        input: Buffer,
        condition: &[f32],
    ) -> (Buffer, BlockSaved) {
        let c = &self.config;
        let (d, m, ssm_width, kind) = (c.hidden_size, c.downscale, c.ssm_width(), c.gelu);
        let rows = input.len() / d;
        let batch = condition.len() / d;
        let at = |range: &Range<usize>| &params[range.clone()];
        let take = |width: usize| self.pool.take(rows * width);

        let modulation = self.modulate(params, condition);
        let mut h = take(d);
        let mut stats = vec![(0.0, 0.0); rows];
        let with_scale = c.modulation != Modulation::None;
        norm_modulate(
            &input,
            &modulation,
            batch,
            with_scale,
            c.norm_eps as f32,
            &mut h,
            &mut stats,
        );

        let mut pre0 = take(d); // [B, J, D]
        let mut act0 = take(d);
        linear(&mut pre0, &h, at(&self.w0.weight), d, d);
        bias_gelu(kind, &mut pre0, at(&self.w0.bias), &mut act0);
        let mut pre_up = take(m * d); // [B, J, M D] = [B, L, D]
        let mut u = take(m * d);
        linear(&mut pre_up, &act0, at(&self.w_up.weight), d, m * d);
        bias_gelu(kind, &mut pre_up, at(&self.w_up.bias), &mut u);

        let mut y = take(m * ssm_width); // [B, L, 2D]
        let sum = c.bidir == Bidirectional::Sum;
        self.conv.forward(&u, spectra, at(&self.skip), sum, &mut y);

        let mut pre_down = take(2 * d); // [B, J, 2D]
        let mut down = take(2 * d);
        let part = 2 * d / m;
        for k in 0..m {
            let weight = Mat::new(&at(&self.w_down.weight)[k * part * ssm_width..], part, ssm_width);
            let y = Mat::strided(&y[k * ssm_width..], rows, ssm_width, m * ssm_width);
            matmul(&mut pre_down[k * part..], 2 * d, 0.0, y, weight.t());
        }
        bias_gelu(kind, &mut pre_down, at(&self.w_down.bias), &mut down);

        let mut pre1 = take(2 * d);
        let mut pre2 = take(2 * d);
        let mut product = take(2 * d);
        linear(&mut pre1, &h, at(&self.w1.weight), d, 2 * d);
        linear(&mut pre2, &down, at(&self.w2.weight), 2 * d, 2 * d);
        gate(
            kind,
            &mut pre2,
            at(&self.w2.bias),
            &mut pre1,
            at(&self.w1.bias),
            &mut product,
        );

        let mut out = take(d);
        let mut branch = None;
        let w3 = Mat::new(at(&self.w3.weight), d, 2 * d).t();
        let bias = at(&self.w3.bias);
        if c.modulation == Modulation::Gate {
            let branch = branch.insert(take(d));
            matmul(branch, d, 0.0, Mat::new(&product, rows, 2 * d), w3);
            gated_residual(&input, &modulation, bias, branch, batch, &mut out);
        } else {
            residual(&input, bias, &mut out);
            matmul(&mut out, d, 1.0, Mat::new(&product, rows, 2 * d), w3);
        }
        let saved = BlockSaved {
            input,
            condition: condition.to_vec(),
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
        (out, saved)
    }

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
pub(super) fn modulation_backward(
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
