//! DiffuSSM: gated bidirectional state space blocks over the sequence of latent positions (Yan et al. 2023).
//!
//! The model is a chain of layers, each with a forward and a hand-written backward; parameters are views of one flat
//! buffer ([`ParamLayout`]). It knows timesteps only as numbers to embed, never the noise schedule.

mod backward;
mod block;
mod config;
mod embed;
mod error;
mod gradients;
mod inference;
mod init;
mod kernels;
mod params;
mod patch;
#[cfg(test)]
mod tests;
mod tiles;
mod weights;

pub use block::{Block, BlockSaved};
pub use config::{AInit, Bidirectional, ModelConfig, Modulation, PositionEmbedding};
pub use embed::timestep_features;
pub use error::Error;
pub use gradients::Gradients;
pub use inference::Inference;
pub use init::{SsmInit, initial_weights, ssm_init};
pub use kernels::Kernels;
pub use params::{ParamLayout, TensorInfo, is_b};

use block::Linear;
use embed::{EmbedSaved, Embedders};
use weights::Weights;

use crate::ops::bias_gelu::add_bias;
use crate::ops::buffer::{Buffer, Pool};
use crate::ops::long_conv::{LongConv, Spectra};
use crate::ops::norm_modulate::{RowStats, norm_modulate};

/// The model: its configuration, the layout of its parameters, and the plan of every layer. Holds no weights.
pub struct DiffuSsm {
    /// The architecture.
    pub config: ModelConfig,
    layout: ParamLayout,
    embedders: Embedders,
    blocks: Vec<Block>,
    final_mod: Linear,
    last: Linear,
    positions: Vec<f32>,
    keep: Keep,
    pool: Pool,
}

/// What a forward pass keeps of the blocks for the backward. The gradients have the same bits in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Every activation that the backward needs.
    #[default]
    All,
    /// The input of each block, `[B, J, D]`: the backward runs the block's forward again (Chen et al. 2016, "Training
    /// Deep Nets with Sublinear Memory Cost"). The last block, whose backward comes first, keeps everything.
    Inputs,
}

/// What the backward of a batch needs.
pub struct Saved {
    embed: EmbedSaved,
    /// In the order of the blocks.
    blocks: Vec<KeptBlock>,
    condition: Vec<f32>,
    last_input: Buffer,
    modulation: Vec<f32>,
    stats: Vec<RowStats>,
    h: Buffer,
}

/// What is kept of one block.
enum KeptBlock {
    /// All that its backward needs.
    All(Box<BlockSaved>),
    /// Its input, `[B, J, D]`.
    Input(Buffer),
}

impl DiffuSsm {
    /// Plans the model.
    ///
    /// # Errors
    /// [`Error::Config`] when the numbers do not fit together.
    pub fn new(config: ModelConfig) -> Result<Self, Error> {
        config.validate()?;
        let layout = ParamLayout::model(&config);
        let (conv, pool) = (LongConv::new(config.length()), Pool::default());
        let block = |i: usize| {
            let prefix = format!("blocks.{i}.");
            Block::new(&config, &layout, &prefix, conv.clone(), pool.clone())
        };
        let blocks = (0..config.depth).map(block).collect();
        let positions = position_table(&config);
        Ok(Self {
            embedders: Embedders::new(&config, &layout, pool.clone()),
            blocks,
            final_mod: Linear::find(&layout, "final_mod"),
            last: Linear::find(&layout, "final"),
            positions,
            keep: Keep::All,
            pool,
            layout,
            config,
        })
    }

    /// The same model, with `keep` in [`DiffuSsm::forward_train`].
    #[must_use]
    pub fn keeping(mut self, keep: Keep) -> Self {
        self.keep = keep;
        self
    }

    /// Names, shapes and offsets of the parameters.
    pub fn layout(&self) -> &ParamLayout {
        &self.layout
    }

    /// Initial weights.
    ///
    /// # Errors
    /// See [`ssm_init`].
    pub fn init(&self, seed: u64) -> Result<Vec<f32>, Error> {
        initial_weights(&self.config, &self.layout, seed)
    }

    /// The convolution kernels of every block.
    pub(super) fn kernels(&self, params: &[f32]) -> Kernels {
        Kernels::new(self, params)
    }

    /// The convolution kernels for a training step, in the place of those of the step before; `None` where each block's
    /// are to be computed when it is reached, since all of them together take as much memory as [`Keep::Inputs`] saves.
    pub fn step_kernels(&self, params: &[f32], before: Option<Kernels>) -> Option<Kernels> {
        match (self.keep, before) {
            (Keep::Inputs, _) => None,
            (Keep::All, None) => Some(self.kernels(params)),
            (Keep::All, Some(mut kernels)) => {
                kernels.update(self, params);
                Some(kernels)
            }
        }
    }

    /// The model's output `[B, Cout, H, W]`; nothing is kept for a backward.
    ///
    /// # Shapes
    /// `x`: `[B, C, H, W]`; `t`: `[B]`, original timesteps; `y`: `[B]` labels, ignored without a label table.
    ///
    /// # Errors
    /// [`Error::Length`] and [`Error::Label`].
    pub fn forward(&self, params: &[f32], x: &[f32], t: &[f32], y: &[u32]) -> Result<Vec<f32>, Error> {
        self.run(params, None, x, t, y, None).map(|(out, _)| out)
    }

    /// [`DiffuSsm::forward`], keeping what the backward needs; `kernels` from [`DiffuSsm::step_kernels`].
    ///
    /// # Errors
    /// [`Error::Length`] and [`Error::Label`].
    pub fn forward_train(
        &self,
        params: &[f32],
        kernels: Option<&Kernels>,
        x: &[f32],
        t: &[f32],
        y: &[u32],
    ) -> Result<(Vec<f32>, Saved), Error> {
        let mut kept = Vec::with_capacity(self.blocks.len());
        let (out, mut saved) = self.run(params, kernels, x, t, y, Some(&mut kept))?;
        saved.blocks = kept;
        Ok((out, saved))
    }

    /// Without `kernels`, each block's are computed when it is reached.
    fn run(
        &self,
        params: &[f32],
        kernels: Option<&Kernels>,
        x: &[f32],
        t: &[f32],
        y: &[u32],
        mut kept: Option<&mut Vec<KeptBlock>>,
    ) -> Result<(Vec<f32>, Saved), Error> {
        let c = &self.config;
        self.check(params, x, t, y)?;
        let (d, batch) = (c.hidden_size, t.len());
        let weights = Weights::stored(params);
        let (condition, embed, mut tokens) = self.embedders.forward(weights, x, t, y); // [B, D], _, [B, J, D]
        if !self.positions.is_empty() {
            add_bias(&mut tokens, &self.positions);
        }
        let mut own = None;
        for (index, block) in self.blocks.iter().enumerate() {
            let is_run_again = self.keep == Keep::Inputs && index + 1 < self.blocks.len();
            if let Some(kept) = kept.as_mut()
                && is_run_again
            {
                kept.push(KeptBlock::Input(self.pool.copy(&tokens)));
            }
            let spectra = match kernels {
                Some(kernels) => &kernels.spectra[index],
                None => spectra_of(block, params, &mut own),
            };
            let (out, saved) = block.forward(params, spectra, tokens, &condition);
            tokens = out;
            if let Some(kept) = kept.as_mut()
                && !is_run_again
            {
                kept.push(KeptBlock::All(Box::new(saved)));
            }
        }
        let modulation = self.final_modulation(weights, &condition);
        let rows = tokens.len() / d;
        let mut h = self.pool.take(tokens.len());
        let mut stats = vec![(0.0, 0.0); rows];
        let mut out = self.pool.take(rows * c.out_token_width());
        self.last_layer(weights, &tokens, &modulation, batch, &mut h, &mut stats, &mut out);
        let out = patch::images(c, &out);
        let saved = Saved {
            embed,
            blocks: Vec::new(),
            condition,
            last_input: tokens,
            modulation,
            stats,
            h,
        };
        Ok((out, saved))
    }

    /// Shift and scale of the last layer; zeros without `final_adaln`.
    fn final_modulation(&self, weights: Weights<'_>, condition: &[f32]) -> Vec<f32> {
        if self.config.final_adaln {
            self.final_mod
                .modulation(weights, condition, self.config.hidden_size)
        } else {
            vec![0.0; condition.len() * 2]
        }
    }

    /// `out = linear(h)`, `h = (1 + scale) LN(tokens) + shift`, for some rows `[rows, D]` of `images` images.
    fn last_layer(
        &self,
        weights: Weights<'_>,
        tokens: &[f32],
        modulation: &[f32],
        images: usize,
        h: &mut [f32],
        stats: &mut [RowStats],
        out: &mut [f32],
    ) {
        let eps = self.config.norm_eps as f32;
        norm_modulate(tokens, modulation, images, true, eps, h, stats);
        weights.linear(out, h, self.config.hidden_size, &self.last.weight);
        add_bias(out, weights.at(&self.last.bias));
    }

    fn check(&self, params: &[f32], x: &[f32], t: &[f32], y: &[u32]) -> Result<(), Error> {
        let c = &self.config;
        check_length("params", params.len(), self.layout.total())?;
        check_length("x", x.len(), t.len() * c.latent_numbers())?;
        self.check_labels(t, y)
    }

    fn check_labels(&self, t: &[f32], y: &[u32]) -> Result<(), Error> {
        let rows = self.config.label_rows();
        if rows > 0 {
            check_length("labels", y.len(), t.len())?;
            if let Some(index) = y.iter().position(|&label| label as usize >= rows) {
                return Err(Error::Label {
                    index,
                    label: y[index],
                    rows,
                });
            }
        }
        Ok(())
    }
}

/// The fixed positions `[J, D]` that are added to the tokens; empty where there are none.
pub(crate) fn position_table(config: &ModelConfig) -> Vec<f32> {
    match config.pos_embed {
        PositionEmbedding::None => Vec::new(),
        PositionEmbedding::Sincos => patch::sincos_table(config.hidden_size, config.grid()),
    }
}

/// The spectra of one block's kernels, in the place of another block's.
fn spectra_of<'a>(block: &Block, params: &[f32], place: &'a mut Option<Spectra>) -> &'a Spectra {
    match place {
        Some(spectra) => {
            block.update_spectra(params, spectra);
            spectra
        }
        None => place.insert(block.spectra(params)),
    }
}

fn check_length(what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::Length {
            what,
            found,
            expected,
        })
    }
}
