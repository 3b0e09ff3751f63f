//! The forward of a block, in two stages around the state space model, each for any number of rows.
//!
//! Training runs them for all rows and keeps every activation. Inference takes a tile of rows through all layers of a
//! stage, in buffers that it uses again for the next tile: what it reads was written just before.

use std::ops::Range;

use super::{Block, BlockSaved};
use crate::model::config::{Bidirectional, Modulation};
use crate::model::tiles::Tiles;
use crate::model::weights::Weights;
use crate::ops::bias_gelu::{add_bias, bias_gelu, bias_gelu_in_place};
use crate::ops::buffer::Buffer;
use crate::ops::gate::{gate, gate_in_place};
use crate::ops::long_conv::Spectra;
use crate::ops::matmul::Mat;
use crate::ops::norm_modulate::{RowStats, norm_modulate};
use crate::ops::residual::{gated_residual, residual};

/// Where the output of a linear layer lies: before its activation function, which only training keeps, and after it.
struct Activation<'a> {
    pre: &'a mut [f32],
    /// In the place of `pre` if none.
    value: Option<&'a mut [f32]>,
}

impl<'a> Activation<'a> {
    fn kept(pre: &'a mut [f32], value: &'a mut [f32]) -> Self {
        let value = Some(value);
        Self { pre, value }
    }

    fn in_place(pre: &'a mut [f32]) -> Self {
        Self { pre, value: None }
    }
}

/// Where the activations behind the state space model lie.
struct Behind<'a> {
    /// `[rows, 2D]`
    down: Activation<'a>,
    /// `[rows, 2D]`
    pre1: &'a mut [f32],
    /// The product of the gate, `[rows, 2D]`; before it, the other factor.
    product: Activation<'a>,
}

impl Block {
    /// Shift, scale and gate of every image, `[B, chunks D]`; the condition itself without modulation.
    pub(in crate::model) fn modulate(&self, weights: Weights<'_>, condition: &[f32]) -> Vec<f32> {
        if self.config.modulation == Modulation::None {
            return condition.to_vec();
        }
        self.modulation
            .modulation(weights, condition, self.config.hidden_size)
    }

    /// `input` `[B, J, D]`, `condition` `[B, D]`, `spectra` from [`Block::spectra`] -> output `[B, J, D]`.
    pub fn forward(
        &self,
        params: &[f32],
        spectra: &Spectra,
        input: Buffer,
        condition: &[f32],
    ) -> (Buffer, BlockSaved) {
        let (d, m) = (self.config.hidden_size, self.config.downscale);
        let (rows, batch) = (input.len() / d, condition.len() / d);
        let weights = Weights::stored(params);
        let take = |width: usize| self.pool.take(rows * width);

        let modulation = self.modulate(weights, condition);
        let (mut h, mut stats) = (take(d), vec![(0.0, 0.0); rows]); // [B, J, D]
        self.normalise(&input, &modulation, batch, &mut h, &mut stats);

        let (mut pre0, mut act0) = (take(d), take(d)); // [B, J, D]
        let (mut pre_up, mut u) = (take(m * d), take(m * d)); // [B, J, M D] = [B, L, D]
        let hidden = Activation::kept(&mut pre0, &mut act0);
        self.expand(weights, &h, hidden, Activation::kept(&mut pre_up, &mut u));

        let mut y = take(m * self.config.ssm_width()); // [B, L, 2D]
        self.convolve(weights, spectra, &u, &mut y);

        let (mut pre_down, mut down) = (take(2 * d), take(2 * d)); // [B, J, 2D]
        let (mut pre1, mut pre2, mut product) = (take(2 * d), take(2 * d), take(2 * d));
        let behind = Behind {
            down: Activation::kept(&mut pre_down, &mut down),
            pre1: &mut pre1,
            product: Activation::kept(&mut pre2, &mut product),
        };
        self.contract(weights, &h, &y, behind);

        let mut out = take(d);
        let mut branch = (self.config.modulation == Modulation::Gate).then(|| take(d));
        self.add(
            weights,
            &input,
            &modulation,
            batch,
            &product,
            branch.as_deref_mut(),
            &mut out,
        );
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

    /// Turns the input `tokens` `[B, J, D]` into the output, keeping nothing, with the bits of [`Block::forward`].
    ///
    /// `modulation` is [`Block::modulate`] of every image.
    pub(in crate::model) fn infer(
        &self,
        weights: Weights<'_>,
        spectra: &Spectra,
        modulation: &[f32],
        tokens: &mut [f32],
    ) {
        let (d, m) = (self.config.hidden_size, self.config.downscale);
        let rows = tokens.len() / d;
        let images = rows / self.config.tokens();
        let (y_width, width) = (m * self.config.ssm_width(), modulation.len() / images);
        let tiles = Tiles::new(images, self.config.tokens());
        let of_images = |rows: &Range<usize>| {
            let images = tiles.images(rows);
            (
                &modulation[images.start * width..images.end * width],
                images.len(),
            )
        };
        let normalise = |rows: &Range<usize>, input: &[f32]| {
            let mut h = self.pool.take(input.len());
            let (modulation, images) = of_images(rows);
            self.normalise(
                input,
                modulation,
                images,
                &mut h,
                &mut vec![(0.0, 0.0); rows.len()],
            );
            h
        };

        let mut u = self.pool.take(rows * m * d);
        tiles.write(&mut u, |rows, u| {
            let h = normalise(rows, &tokens[rows.start * d..rows.end * d]);
            let mut hidden = self.pool.take(rows.len() * d);
            let hidden = Activation::in_place(&mut hidden);
            self.expand(weights, &h, hidden, Activation::in_place(u));
        });
        let mut y = self.pool.take(rows * y_width);
        self.convolve(weights, spectra, &u, &mut y);
        drop(u);
        tiles.write(tokens, |rows, tokens| {
            let take = |width: usize| self.pool.take(rows.len() * width);
            let h = normalise(rows, tokens);
            let (mut down, mut pre1, mut product) = (take(2 * d), take(2 * d), take(2 * d));
            let behind = Behind {
                down: Activation::in_place(&mut down),
                pre1: &mut pre1,
                product: Activation::in_place(&mut product),
            };
            self.contract(weights, &h, &y[rows.start * y_width..rows.end * y_width], behind);
            let (modulation, images) = of_images(rows);
            self.add_in_place(weights, modulation, images, &product, tokens);
        });
    }

    /// `h = (1 + scale) LN(input) + shift`
    fn normalise(
        &self,
        input: &[f32],
        modulation: &[f32],
        images: usize,
        h: &mut [f32],
        stats: &mut [RowStats],
    ) {
        let with_scale = self.config.modulation != Modulation::None;
        let eps = self.config.norm_eps as f32;
        norm_modulate(input, modulation, images, with_scale, eps, h, stats);
    }

    /// `u = gelu(W_up gelu(W_0 h))`: `h`, `hidden` `[rows, D]`, `u` `[rows, M D]`.
    fn expand(&self, weights: Weights<'_>, h: &[f32], hidden: Activation<'_>, u: Activation<'_>) {
        let d = self.config.hidden_size;
        weights.linear(hidden.pre, h, d, &self.w0.weight);
        let hidden = self.activate(weights, hidden, &self.w0.bias);
        weights.linear(u.pre, hidden, d, &self.w_up.weight);
        self.activate(weights, u, &self.w_up.bias);
    }

    /// Both directions of the state space model: `u` `[B, L, D]`, `y` `[B, L, 2D]`.
    fn convolve(&self, weights: Weights<'_>, spectra: &Spectra, u: &[f32], y: &mut [f32]) {
        let sum = self.config.bidir == Bidirectional::Sum;
        self.conv.forward(u, spectra, weights.at(&self.skip), sum, y);
    }

    /// `gelu(W_2 gelu(W_down y)) * gelu(W_1 h)`: `h` `[rows, D]`, `y` `[rows, M 2D]`.
    fn contract(&self, weights: Weights<'_>, h: &[f32], y: &[f32], behind: Behind<'_>) {
        let c = &self.config;
        let (d, m, ssm_width) = (c.hidden_size, c.downscale, c.ssm_width());
        let (rows, part) = (h.len() / d, 2 * d / m);
        let Behind { down, pre1, product } = behind;
        for k in 0..m {
            let start = self.w_down.weight.start + k * part * ssm_width;
            let y = Mat::strided(&y[k * ssm_width..], rows, ssm_width, m * ssm_width);
            let weight = start..start + part * ssm_width;
            weights.product(&mut down.pre[k * part..], 2 * d, 0.0, y, &weight);
        }
        let down = self.activate(weights, down, &self.w_down.bias);
        weights.linear(pre1, h, d, &self.w1.weight);
        weights.linear(product.pre, down, 2 * d, &self.w2.weight);
        let (bias1, bias2) = (weights.at(&self.w1.bias), weights.at(&self.w2.bias));
        match product.value {
            Some(value) => gate(c.gelu, product.pre, bias2, pre1, bias1, value),
            None => gate_in_place(c.gelu, product.pre, bias2, pre1, bias1),
        }
    }

    /// `out = input + gate W_3 product`, all `[rows, D]` but for `product` `[rows, 2D]`; `branch`, before its gate, where
    /// there is one.
    fn add(
        &self,
        weights: Weights<'_>,
        input: &[f32],
        modulation: &[f32],
        images: usize,
        product: &[f32],
        branch: Option<&mut [f32]>,
        out: &mut [f32],
    ) {
        let d = self.config.hidden_size;
        let product = Mat::new(product, out.len() / d, 2 * d);
        let bias = weights.at(&self.w3.bias);
        if let Some(branch) = branch {
            weights.product(branch, d, 0.0, product, &self.w3.weight);
            gated_residual(input, modulation, bias, branch, images, out);
        } else {
            residual(input, bias, out);
            weights.product(out, d, 1.0, product, &self.w3.weight);
        }
    }

    /// [`Block::add`] to `tokens`, keeping nothing.
    fn add_in_place(
        &self,
        weights: Weights<'_>,
        modulation: &[f32],
        images: usize,
        product: &[f32],
        tokens: &mut [f32],
    ) {
        let d = self.config.hidden_size;
        if self.config.modulation == Modulation::Gate {
            let (mut branch, mut out) = (self.pool.take(tokens.len()), self.pool.take(tokens.len()));
            let branch = Some(&mut *branch);
            self.add(weights, tokens, modulation, images, product, branch, &mut out);
            tokens.copy_from_slice(&out);
        } else {
            add_bias(tokens, weights.at(&self.w3.bias));
            let product = Mat::new(product, tokens.len() / d, 2 * d);
            weights.product(tokens, d, 1.0, product, &self.w3.weight);
        }
    }

    /// `gelu(pre + bias)`
    fn activate<'a>(&self, weights: Weights<'_>, layer: Activation<'a>, bias: &Range<usize>) -> &'a [f32] {
        let (kind, bias) = (self.config.gelu, weights.at(bias));
        match layer.value {
            Some(value) => {
                bias_gelu(kind, layer.pre, bias, value);
                value
            }
            None => {
                bias_gelu_in_place(kind, layer.pre, bias);
                layer.pre
            }
        }
    }
}
