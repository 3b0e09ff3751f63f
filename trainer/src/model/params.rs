//! The parameters: one flat f32 buffer and the names, shapes and offsets of the tensors in it.
//!
//! The same layout serves weights, gradients, EMA and both moments of the optimiser.

use std::collections::HashMap;
use std::ops::Range;

use super::config::{ModelConfig, Modulation};

/// One tensor of the flat buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Its name, e.g. `blocks.0.ssm.log_dt`.
    pub name: String,
    /// Its shape, row-major.
    pub shape: Vec<usize>,
    /// Its first element in the flat buffer.
    pub offset: usize,
}

impl TensorInfo {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its place in the flat buffer.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// Names, shapes and offsets of all parameters, in order of execution.
#[derive(Clone, Debug, Default)]
pub struct ParamLayout {
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    /// Where the blocks begin, and at last where the last of them ends.
    borders: Vec<usize>,
    total: usize,
}

impl ParamLayout {
    /// The layout of a whole model.
    pub fn model(config: &ModelConfig) -> Self {
        let mut layout = Self::default();
        let d = config.hidden_size;
        layout.linear("x_embed", d, config.token_width());
        layout.linear("t_mlp1", d, config.freq_dim);
        layout.linear("t_mlp2", d, d);
        if config.label_rows() > 0 {
            layout.push("y_embed.weight", &[config.label_rows(), d]);
        }
        layout.borders.push(layout.total);
        for block in 0..config.depth {
            layout.block(&format!("blocks.{block}."), config);
            layout.borders.push(layout.total);
        }
        if config.final_adaln {
            layout.linear("final_mod", 2 * d, d);
        }
        layout.linear("final", config.out_token_width(), d);
        layout
    }

    /// The layout of one block under `prefix`.
    pub fn block(&mut self, prefix: &str, config: &ModelConfig) {
        let (d, m, half) = (config.hidden_size, config.downscale, config.state_size / 2);
        if config.modulation != Modulation::None {
            self.linear(&format!("{prefix}mod"), config.modulation_chunks() * d, d);
        }
        self.linear(&format!("{prefix}w0"), d, d);
        self.linear(&format!("{prefix}w_up"), m * d, d);
        self.push(&format!("{prefix}ssm.log_dt"), &[2, d]);
        for name in ["log_a_real", "a_imag", "b_re", "b_im", "c_re", "c_im"] {
            self.push(&format!("{prefix}ssm.{name}"), &[2, d, half]);
        }
        self.push(&format!("{prefix}ssm.d"), &[2, d]);
        self.push(&format!("{prefix}w_down"), &[m, 2 * d / m, config.ssm_width()]);
        self.push(&format!("{prefix}b_down"), &[m, 2 * d / m]);
        self.linear(&format!("{prefix}w1"), 2 * d, d);
        self.linear(&format!("{prefix}w2"), 2 * d, 2 * d);
        self.linear(&format!("{prefix}w3"), d, 2 * d);
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.push(&format!("{name}.weight"), &[outputs, inputs]);
        self.push(&format!("{name}.bias"), &[outputs]);
    }

    fn push(&mut self, name: &str, shape: &[usize]) {
        let info = TensorInfo {
            name: name.to_owned(),
            shape: shape.to_vec(),
            offset: self.total,
        };
        self.total += info.len();
        self.by_name.insert(name.to_owned(), self.tensors.len());
        self.tensors.push(info);
    }

    /// Every tensor, in order of execution.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }

    /// Length of the flat buffer.
    pub fn total(&self) -> usize {
        self.total
    }

    /// The first element of block `index`; those before it are all that enters the block.
    pub(crate) fn start_of_block(&self, index: usize) -> usize {
        self.borders.get(index).copied().unwrap_or(self.total)
    }

    /// The first element behind all blocks: that of the last layer.
    pub(crate) fn end_of_blocks(&self) -> usize {
        self.borders.last().copied().unwrap_or(self.total)
    }

    /// Where `name` lies; an empty range when the model has no such tensor.
    pub(super) fn range(&self, name: &str) -> Range<usize> {
        self.get(name).map_or(0..0, TensorInfo::range)
    }

    /// Where dt, A and B of the state space models lie, in ascending order: they have a learning rate of their own and no
    /// weight decay (Gu et al. 2022).
    pub fn ssm_ranges(&self) -> Vec<Range<usize>> {
        const LEAVES: [&str; 5] = [
            "ssm.log_dt",
            "ssm.log_a_real",
            "ssm.a_imag",
            "ssm.b_re",
            "ssm.b_im",
        ];
        let ssm = self
            .tensors
            .iter()
            .filter(|t| LEAVES.iter().any(|leaf| t.name.ends_with(leaf)));
        ssm.map(TensorInfo::range).collect()
    }

    /// Number of trained parameters: B is left out when it is fixed.
    pub fn trained(&self, config: &ModelConfig) -> usize {
        let fixed = |t: &&TensorInfo| config.train_b || !is_b(&t.name);
        self.tensors.iter().filter(fixed).map(TensorInfo::len).sum()
    }
}

/// Whether this is one of the two planes of B.
pub fn is_b(name: &str) -> bool {
    name.ends_with("ssm.b_re") || name.ends_with("ssm.b_im")
}
