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

mod backward;
mod forward;

use std::ops::Range;

use super::config::ModelConfig;
use super::params::ParamLayout;
use super::weights::Weights;
use crate::ops::bias_gelu::add_bias;
use crate::ops::buffer::{Buffer, Pool};
use crate::ops::long_conv::{LongConv, Spectra};
use crate::ops::norm_modulate::RowStats;
use crate::ops::ssm_kernel::{SsmParams, kernels_into};

pub(super) use backward::modulation_backward;

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

    /// `linear(x)`: `x` `[rows, inputs]`.
    pub(super) fn apply(&self, weights: Weights<'_>, x: &[f32], inputs: usize) -> Vec<f32> {
        let mut out = vec![0.0; x.len() / inputs * self.bias.len()];
        weights.linear(&mut out, x, inputs, &self.weight);
        add_bias(&mut out, weights.at(&self.bias));
        out
    }

    /// `linear(silu(condition))`: shift and scale, and gate, of every row of `condition` `[rows, D]`.
    pub(super) fn modulation(&self, weights: Weights<'_>, condition: &[f32], dim: usize) -> Vec<f32> {
        let active: Vec<f32> = condition.iter().map(|&c| silu(c)).collect();
        self.apply(weights, &active, dim)
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
}
