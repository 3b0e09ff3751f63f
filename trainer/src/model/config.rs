//! The architecture: every choice that the paper makes or leaves open.

use serde::{Deserialize, Serialize};

use super::Error;
use crate::ops::bias_gelu::Gelu;
use crate::ops::ssm_kernel::Discretization;

/// How the condition enters a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Modulation {
    /// Shift and scale of the normalised input.
    #[default]
    Film,
    /// Shift, scale, and a gate on the branch (adaLN-Zero).
    Gate,
    /// The condition is added to the normalised input.
    None,
}

/// What the two scan directions give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bidirectional {
    /// `[forward, backward]`, width 2 D.
    #[default]
    Concat,
    /// Their sum, width D.
    Sum,
}

/// Initial eigenvalues of A (Gu et al. 2022, section 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AInit {
    /// `-1/2 + i pi n`
    #[default]
    Lin,
    /// `-1/2 + i N/pi (N / (2n + 1) - 1)`
    Inv,
    /// The normal part of HiPPO-LegS.
    Legs,
}

/// Fixed position table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PositionEmbedding {
    /// None: the state space model knows where it is.
    #[default]
    None,
    /// DiT's two-dimensional sine-cosine table; only with `downscale = 1`.
    Sincos,
}

/// The `[model]` section. The defaults are DiffuSSM-XL for ImageNet at 256 pixels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Width D.
    #[serde(alias = "dim")]
    pub hidden_size: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Real state size N of each channel; N/2 conjugate pairs are stored.
    #[serde(alias = "state")]
    pub state_size: usize,
    /// Side P of a patch.
    #[serde(alias = "patch")]
    pub patch_size: usize,
    /// M: positions that share one token outside of the state space model.
    pub downscale: usize,
    /// Latent height = width.
    pub input_size: usize,
    /// Latent channels C.
    pub in_channels: usize,
    /// 0: unconditional, no label table.
    pub num_classes: usize,
    /// Above 0 the label table has one more row, the null class.
    #[serde(alias = "class_dropout")]
    pub class_dropout_prob: f64,
    /// Output 2 C channels: noise and variance interpolation.
    pub learn_sigma: bool,
    /// How the condition enters a block.
    pub modulation: Modulation,
    /// What the two scan directions give.
    pub bidir: Bidirectional,
    /// Whether B is trained.
    pub train_b: bool,
    /// Initial eigenvalues.
    pub a_init: AInit,
    /// Discretisation of the state space model.
    pub disc: Discretization,
    /// Smallest initial step size.
    pub dt_min: f64,
    /// Largest initial step size.
    pub dt_max: f64,
    /// Which GELU.
    pub gelu: Gelu,
    /// Fixed position table.
    pub pos_embed: PositionEmbedding,
    /// Whether the last LayerNorm is modulated.
    pub final_adaln: bool,
    /// Width of the sinusoidal timestep features.
    pub freq_dim: usize,
    /// Epsilon of every LayerNorm.
    pub norm_eps: f64,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            hidden_size: 1152,
            depth: 29,
            state_size: 64,
            patch_size: 1,
            downscale: 2,
            input_size: 32,
            in_channels: 4,
            num_classes: 1000,
            class_dropout_prob: 0.1,
            learn_sigma: true,
            modulation: Modulation::Film,
            bidir: Bidirectional::Concat,
            train_b: true,
            a_init: AInit::Lin,
            disc: Discretization::Zoh,
            dt_min: 1e-3,
            dt_max: 1e-1,
            gelu: Gelu::Tanh,
            pos_embed: PositionEmbedding::None,
            final_adaln: true,
            freq_dim: 256,
            norm_eps: 1e-6,
        }
    }
}

impl ModelConfig {
    /// Patches a side.
    pub fn grid(&self) -> usize {
        self.input_size / self.patch_size
    }

    /// Sequence length L.
    pub fn length(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Tokens J = L / M.
    pub fn tokens(&self) -> usize {
        self.length() / self.downscale
    }

    /// Output channels: 2 C with learned variance, else C.
    pub fn out_channels(&self) -> usize {
        self.in_channels * if self.learn_sigma { 2 } else { 1 }
    }

    /// Numbers of a latent, C H W.
    pub fn latent_numbers(&self) -> usize {
        self.in_channels * self.input_size * self.input_size
    }

    /// Numbers of the output for one, Cout H W.
    pub fn output_numbers(&self) -> usize {
        self.out_channels() * self.input_size * self.input_size
    }

    /// Features of one input token: M patches of C P P.
    pub fn token_width(&self) -> usize {
        self.downscale * self.patch_size * self.patch_size * self.in_channels
    }

    /// Features of one output token.
    pub fn out_token_width(&self) -> usize {
        self.downscale * self.patch_size * self.patch_size * self.out_channels()
    }

    /// Width of the state space model's output.
    pub fn ssm_width(&self) -> usize {
        match self.bidir {
            Bidirectional::Concat => 2 * self.hidden_size,
            Bidirectional::Sum => self.hidden_size,
        }
    }

    /// Chunks of the modulation: shift, scale, gate.
    pub fn modulation_chunks(&self) -> usize {
        match self.modulation {
            Modulation::Film => 2,
            Modulation::Gate => 3,
            Modulation::None => 0,
        }
    }

    /// Rows of the label table, the null class included.
    pub fn label_rows(&self) -> usize {
        match self.num_classes {
            0 => 0,
            n => n + usize::from(self.class_dropout_prob > 0.0),
        }
    }

    /// The label that stands for no label, where there is one.
    pub fn null_label(&self) -> Option<u32> {
        (self.label_rows() > self.num_classes).then_some(self.num_classes as u32)
    }

    /// Checks that the numbers fit together.
    ///
    /// # Errors
    /// [`Error::Config`] says which key is wrong and what it must be.
    pub fn validate(&self) -> Result<(), Error> {
        let fail = |key: &'static str, why: String| Err(Error::Config { key, why });
        for (key, value) in [
            ("hidden_size", self.hidden_size),
            ("depth", self.depth),
            ("patch_size", self.patch_size),
            ("downscale", self.downscale),
            ("input_size", self.input_size),
            ("in_channels", self.in_channels),
        ] {
            if value == 0 {
                return fail(key, "it must be at least 1".into());
            }
        }
        if self.state_size < 2 || !self.state_size.is_multiple_of(2) {
            return fail(
                "state_size",
                format!("{} is not an even number of at least 2", self.state_size),
            );
        }
        if self.freq_dim < 2 || !self.freq_dim.is_multiple_of(2) {
            return fail(
                "freq_dim",
                format!("{} is not an even number of at least 2", self.freq_dim),
            );
        }
        if !self.input_size.is_multiple_of(self.patch_size) {
            let (input, patch) = (self.input_size, self.patch_size);
            return fail(
                "patch_size",
                format!("input_size {input} is not a multiple of it ({patch})"),
            );
        }
        if !self.length().is_multiple_of(self.downscale) {
            let (length, ratio) = (self.length(), self.downscale);
            return fail(
                "downscale",
                format!("the sequence length {length} is not a multiple of it ({ratio})"),
            );
        }
        if !(2 * self.hidden_size).is_multiple_of(self.downscale) {
            let why = format!(
                "2 x hidden_size = {} is not a multiple of it",
                2 * self.hidden_size
            );
            return fail("downscale", why);
        }
        if !(0.0..1.0).contains(&self.class_dropout_prob) {
            return fail(
                "class_dropout_prob",
                format!("{} is not in [0, 1)", self.class_dropout_prob),
            );
        }
        if !(self.dt_min > 0.0 && self.dt_min <= self.dt_max && self.dt_max.is_finite()) {
            return fail(
                "dt_min",
                format!("0 < {} <= dt_max = {} does not hold", self.dt_min, self.dt_max),
            );
        }
        if self.pos_embed == PositionEmbedding::Sincos
            && (self.downscale != 1 || !self.hidden_size.is_multiple_of(4))
        {
            return fail(
                "pos_embed",
                "sincos needs downscale = 1 and hidden_size a multiple of 4".into(),
            );
        }
        Ok(())
    }

    /// Multiply-adds of one image's forward pass, in units of 10^9, counted as the paper does: linear layers at one
    /// a multiply-add, and no more. DiffuSSM-XL: 295.7 at L = 1024, 1182.4 at L = 4096.
    pub fn gflops_per_image(&self) -> f64 {
        let (d, tokens) = (self.hidden_size as f64, self.tokens() as f64);
        let ratio = self.downscale as f64;
        let per_token = d * d * (1.0 + ratio) + 2.0 * d * self.ssm_width() as f64 + d * d * (2.0 + 4.0 + 2.0);
        let per_image = d * d * self.modulation_chunks() as f64;
        let ends = tokens * d * (self.token_width() + self.out_token_width()) as f64
            + (self.freq_dim as f64) * d
            + d * d * (1.0 + if self.final_adaln { 2.0 } else { 0.0 });
        (self.depth as f64 * (tokens * per_token + per_image) + ends) / 1e9
    }
}
