//! A model that only infers: weights turned and convolution kernels computed once for all passes, nothing kept for a
//! backward, what depends on timestep and label alone computed once for images that share them.
//!
//! The bits are those of [`DiffuSsm::forward`], whatever the batch.

use std::collections::HashMap;

use super::tiles::Tiles;
use super::weights::{Weights, turn, turn_back};
use super::{DiffuSsm, Error, Kernels, patch};
use crate::ops::bias_gelu::add_bias;
use crate::ops::buffer::Buffer;

/// A model and its weights, ready for many forward passes.
pub struct Inference {
    model: DiffuSsm,
    /// Turned.
    weights: Vec<f32>,
    kernels: Kernels,
}

impl Inference {
    /// Prepares a model with weights in its layout.
    ///
    /// # Errors
    /// [`Error::Length`] when the weights are none of the model's.
    pub fn new(model: DiffuSsm, mut weights: Vec<f32>) -> Result<Self, Error> {
        super::check_length("weights", weights.len(), model.layout().total())?;
        let kernels = model.kernels(&weights);
        turn(model.layout(), &mut weights);
        Ok(Self {
            model,
            weights,
            kernels,
        })
    }

    /// A copy of the weights in the model's layout.
    pub fn weights(&self) -> Vec<f32> {
        let mut weights = self.weights.clone();
        turn_back(self.model.layout(), &mut weights);
        weights
    }

    /// The model's output `[B, Cout, H, W]`.
    ///
    /// # Shapes
    /// `x`: `[B / n, C, H, W]`, where n is 1, or how often the images come, one after the other, with other labels or
    /// timesteps; `t`: `[B]`, original timesteps; `y`: `[B]` labels, ignored without a label table.
    ///
    /// # Errors
    /// [`Error::Length`] and [`Error::Label`].
    pub fn forward(&self, x: &[f32], t: &[f32], y: &[u32]) -> Result<Vec<f32>, Error> {
        let model = &self.model;
        let c = &model.config;
        let (d, batch) = (c.hidden_size, t.len());
        let image = c.latent_numbers();
        let images = x.len() / image;
        let times = if images > 0 && batch.is_multiple_of(images) {
            batch / images
        } else {
            1
        };
        super::check_length("x", x.len(), batch / times * image)?;
        model.check_labels(t, y)?;
        if batch == 0 {
            return Ok(Vec::new());
        }
        let weights = Weights::turned(&self.weights);
        let (of_image, t, y) = distinct(t, if c.label_rows() > 0 { y } else { &[] });
        let (condition, _, _) = model.embedders.condition(weights, &t, &y);
        let for_images = |rows: &[f32]| -> Vec<f32> {
            let width = rows.len() / t.len();
            let row = |&row: &usize| &rows[row * width..(row + 1) * width];
            of_image.iter().flat_map(row).copied().collect()
        };

        let mut tokens = self.embed(weights, x, batch); // [B, J, D]
        for (block, spectra) in model.blocks.iter().zip(&self.kernels.spectra) {
            let modulation = for_images(&block.modulate(weights, &condition));
            block.infer(weights, spectra, &modulation, &mut tokens);
        }
        let modulation = for_images(&model.final_modulation(weights, &condition));
        let tiles = Tiles::new(batch, c.tokens());
        let mut out = model.pool.take(batch * c.tokens() * c.out_token_width());
        tiles.write(&mut out, |rows, out| {
            let tokens = &tokens[rows.start * d..rows.end * d];
            let images = tiles.images(rows);
            let modulation = &modulation[images.start * 2 * d..images.end * 2 * d];
            let mut h = model.pool.take(tokens.len());
            let mut stats = vec![(0.0, 0.0); rows.len()];
            model.last_layer(weights, tokens, modulation, images.len(), &mut h, &mut stats, out);
        });
        Ok(patch::images(c, &out))
    }

    /// The tokens `[B, J, D]` of the images `x`, over and over.
    fn embed(&self, weights: Weights<'_>, x: &[f32], batch: usize) -> Buffer {
        let model = &self.model;
        let c = &model.config;
        let patches = patch::tokens(c, x);
        let rows = patches.len() / c.token_width();
        let mut tokens = model.pool.take(batch * c.tokens() * c.hidden_size);
        let (first, again) = tokens.split_at_mut(rows * c.hidden_size);
        Tiles::new(rows / c.tokens(), c.tokens()).write(first, |rows, tokens| {
            let width = c.token_width();
            let patches = &patches[rows.start * width..rows.end * width];
            model.embedders.embed(weights, patches, tokens);
        });
        for again in again.chunks_exact_mut(first.len()) {
            again.copy_from_slice(first);
        }
        if !model.positions.is_empty() {
            add_bias(&mut tokens, &model.positions);
        }
        tokens
    }
}

/// Of every image, which of the different pairs of timestep and label it has; and these. Without labels `y` is empty.
fn distinct(t: &[f32], y: &[u32]) -> (Vec<usize>, Vec<f32>, Vec<u32>) {
    let mut seen = HashMap::new();
    let (mut times, mut labels) = (Vec::new(), Vec::new());
    let of_image = t.iter().enumerate().map(|(image, &t)| {
        let label = y.get(image).copied();
        *seen.entry((t.to_bits(), label)).or_insert_with(|| {
            times.push(t);
            labels.extend(label);
            times.len() - 1
        })
    });
    let of_image = of_image.collect();
    (of_image, times, labels)
}
