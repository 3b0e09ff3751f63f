//! What enters the chain of blocks: tokens, the timestep and the label, as vectors of width D.

use super::block::{Linear, silu, silu_slope};
use super::config::ModelConfig;
use super::params::ParamLayout;
use super::patch;
use super::weights::Weights;
use crate::ops::bias_gelu::{add_bias, bias_backward};
use crate::ops::buffer::{Buffer, Pool};
use crate::ops::matmul::{linear_backward_input, linear_backward_weight};

/// `[cos(t f_0).., sin(t f_0)..]` with `f_k = 10000^(-k / half)` (Ho et al. 2020, as ADM orders it), `[B, width]`.
pub fn timestep_features(t: &[f32], width: usize) -> Vec<f32> {
    let half = width / 2;
    let frequency = |k: usize| (-(10_000f64.ln()) * k as f64 / half as f64).exp();
    let mut out = Vec::with_capacity(t.len() * width);
    for &t in t {
        let angle = |k: usize| f64::from(t) * frequency(k);
        out.extend((0..half).map(|k| angle(k).cos() as f32));
        out.extend((0..half).map(|k| angle(k).sin() as f32));
    }
    out
}

/// The three embedders.
pub(super) struct Embedders {
    config: ModelConfig,
    patches: Linear,
    time1: Linear,
    time2: Linear,
    labels: std::ops::Range<usize>,
    pool: Pool,
}

/// What their backward needs.
pub(super) struct EmbedSaved {
    tokens: Vec<f32>,
    features: Vec<f32>,
    hidden: Vec<f32>,
    labels: Vec<u32>,
}

impl Embedders {
    pub(super) fn new(config: &ModelConfig, layout: &ParamLayout, pool: Pool) -> Self {
        Self {
            config: config.clone(),
            patches: Linear::find(layout, "x_embed"),
            time1: Linear::find(layout, "t_mlp1"),
            time2: Linear::find(layout, "t_mlp2"),
            labels: layout.range("y_embed.weight"),
            pool,
        }
    }

    /// The condition `[B, D]` and the embedded tokens `[B, J, D]`.
    pub(super) fn forward(
        &self,
        weights: Weights<'_>,
        x: &[f32],
        t: &[f32],
        y: &[u32],
    ) -> (Vec<f32>, EmbedSaved, Buffer) {
        let (condition, features, hidden) = self.condition(weights, t, y);
        let tokens = patch::tokens(&self.config, x);
        let (width, d) = (self.config.token_width(), self.config.hidden_size);
        let mut embedded = self.pool.take(tokens.len() / width * d);
        self.embed(weights, &tokens, &mut embedded);
        let saved = EmbedSaved {
            tokens,
            features,
            hidden,
            labels: y.to_vec(),
        };
        (condition, saved, embedded)
    }

    /// What tells the blocks of timestep and label, `[B, D]`; and the layers before it, for the backward.
    pub(super) fn condition(
        &self,
        weights: Weights<'_>,
        t: &[f32],
        y: &[u32],
    ) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let (d, freq) = (self.config.hidden_size, self.config.freq_dim);
        let features = timestep_features(t, freq);
        let hidden = self.time1.apply(weights, &features, freq);
        let active: Vec<f32> = hidden.iter().map(|&v| silu(v)).collect();
        let mut condition = self.time2.apply(weights, &active, d);
        let table = weights.at(&self.labels);
        if !table.is_empty() {
            for (row, &label) in condition.chunks_exact_mut(d).zip(y) {
                for (c, e) in row.iter_mut().zip(&table[label as usize * d..]) {
                    *c += e;
                }
            }
        }
        (condition, features, hidden)
    }

    /// Embeds some rows of tokens: `[rows, M C P P]` -> `[rows, D]`.
    pub(super) fn embed(&self, weights: Weights<'_>, tokens: &[f32], embedded: &mut [f32]) {
        weights.linear(embedded, tokens, self.config.token_width(), &self.patches.weight);
        add_bias(embedded, weights.at(&self.patches.bias));
    }

    /// The gradient of `x`; adds to `grads`.
    pub(super) fn backward(
        &self,
        params: &[f32],
        saved: EmbedSaved,
        d_tokens: &[f32],
        d_condition: &[f32],
        grads: &mut [f32],
    ) -> Vec<f32> {
        let (d, freq, width) = (
            self.config.hidden_size,
            self.config.freq_dim,
            self.config.token_width(),
        );
        bias_backward(d_tokens, &mut grads[self.patches.bias.clone()]);
        linear_backward_weight(
            &mut grads[self.patches.weight.clone()],
            d_tokens,
            &saved.tokens,
            width,
            d,
        );
        let mut d_x = saved.tokens;
        linear_backward_input(
            &mut d_x,
            0.0,
            d_tokens,
            &params[self.patches.weight.clone()],
            width,
            d,
        );

        let table = &mut grads[self.labels.clone()];
        if !table.is_empty() {
            for (row, &label) in d_condition.chunks_exact(d).zip(&saved.labels) {
                for (g, dc) in table[label as usize * d..].iter_mut().zip(row) {
                    *g += dc;
                }
            }
        }
        let active: Vec<f32> = saved.hidden.iter().map(|&v| silu(v)).collect();
        bias_backward(d_condition, &mut grads[self.time2.bias.clone()]);
        linear_backward_weight(&mut grads[self.time2.weight.clone()], d_condition, &active, d, d);
        let mut d_hidden = active;
        linear_backward_input(
            &mut d_hidden,
            0.0,
            d_condition,
            &params[self.time2.weight.clone()],
            d,
            d,
        );
        for (dh, &h) in d_hidden.iter_mut().zip(&saved.hidden) {
            *dh *= silu_slope(h);
        }
        bias_backward(&d_hidden, &mut grads[self.time1.bias.clone()]);
        linear_backward_weight(
            &mut grads[self.time1.weight.clone()],
            &d_hidden,
            &saved.features,
            freq,
            d,
        );
        patch::tokens_backward(&self.config, &d_x)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn timestep_features_match_the_golden_values() {
        let indices = [0, 1, 64, 127, 128, 129, 192, 255];
        let cases = [
            (
                1.0,
                [
                    0.540_302_306,
                    0.597_375_325,
                    0.999_95,
                    0.999_999_994,
                    0.841_470_985,
                    0.801_961_795,
                    0.009_999_833,
                    0.000_107_461,
                ],
            ),
            (
                999.0,
                [
                    0.999_649_853,
                    0.963_782_479,
                    -0.844_469_696,
                    0.994_243_164,
                    -0.026_460_753,
                    -0.266_689_584,
                    -0.535_603_335,
                    0.107_147_238,
                ],
            ),
        ];
        for (t, golden) in cases {
            let features = super::timestep_features(&[t], 256);
            for (index, want) in indices.into_iter().zip(golden) {
                assert!(
                    (f64::from(features[index]) - want).abs() < 1e-6,
                    "t {t} index {index}"
                );
            }
        }
    }
}
