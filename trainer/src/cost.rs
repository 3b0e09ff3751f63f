//! Multiply-adds and parameters of DiffuSSM and of DiT, from first principles, and what the papers print.
//!
//! The convention is that of both papers: one multiply-add of a linear layer or of an attention product is one FLOP,
//! and nothing else counts (no norms, activations, softmax, and no FFT). In this convention DiT-XL/2 takes 118.6 GFLOPs
//! an image at 256 pixels and 524.6 at 512 (Peebles and Xie 2023, table 4).

use crate::model::ModelConfig;

/// Width of the sinusoidal timestep features of DiT.
const DIT_FREQ_DIM: f64 = 256.0;
/// Latent channels of Stable Diffusion's autoencoder.
const LATENT_CHANNELS: f64 = 4.0;
/// Rows of DiT's label table: ImageNet's classes and the null class.
const LABEL_ROWS: u64 = 1001;

/// Multiply-adds of a training step over those of its forward pass: the backward takes two more.
pub const TRAINING_PASSES: f64 = 3.0;

/// A diffusion transformer (Peebles and Xie 2023).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dit {
    /// Width D.
    pub hidden_size: usize,
    /// Blocks.
    pub depth: usize,
    /// Side P of a patch.
    pub patch_size: usize,
    /// M: 1 is DiT. Above it, an hourglass as in DiffuSSM: the MLP works on L / M tokens, attention on all L positions.
    pub downscale: usize,
}

impl Dit {
    /// DiT-XL/2.
    pub const XL_2: Self = Self {
        hidden_size: 1152,
        depth: 28,
        patch_size: 2,
        downscale: 1,
    };

    /// Parameters; of DiT alone (`downscale = 1`).
    ///
    /// A block has `18 D^2 + 15 D` (QKV 3, projection 1, MLP 8, modulation 6); around the blocks are the patch and
    /// timestep embeddings, the label table and the last layer. The published 675 M of DiT-XL/2 are these or, with the
    /// fixed position table of 256 x D that its checkpoint holds, 675,129,632.
    pub fn parameters(&self) -> u64 {
        let (d, patch) = (
            self.hidden_size as u64,
            (self.patch_size * self.patch_size) as u64,
        );
        let channels = LATENT_CHANNELS as u64;
        let block = 18 * d * d + 15 * d;
        let embedders =
            (patch * channels + 1) * d + (DIT_FREQ_DIM as u64 + 1) * d + (d + 1) * d + LABEL_ROWS * d;
        let last = 2 * d * d + 2 * d + (d + 1) * patch * 2 * channels;
        self.depth as u64 * block + embedders + last
    }

    /// 10^9 multiply-adds of one image's forward pass, for latents of `side` x `side`.
    ///
    /// With `L = (side / P)^2` and `J = L / M` tokens, a block takes `4 L D^2` (QKV and projection), `2 L^2 D` (scores,
    /// values), `8 J D^2` (MLP), `6 D^2` (modulation) and, for `M > 1`, the hourglass of DiffuSSM around attention:
    /// `L D^2` up (M matrices D x D a token) and `L D^2 / M` down (M matrices D x D/M).
    pub fn gflops_per_image(&self, side: usize) -> f64 {
        let (d, m, patch) = (self.hidden_size as f64, self.downscale as f64, self.patch_size);
        let length = ((side / patch) * (side / patch)) as f64;
        let hourglass = if self.downscale == 1 {
            0.0
        } else {
            length * d * d * (1.0 + 1.0 / m)
        };
        let attention = 4.0 * length * d * d + 2.0 * length * length * d;
        let block = attention + 8.0 * length / m * d * d + 6.0 * d * d + hourglass;
        let ends =
            length * (patch * patch) as f64 * 3.0 * LATENT_CHANNELS * d + DIT_FREQ_DIM * d + 3.0 * d * d;
        (self.depth as f64 * block + ends) / 1e9
    }
}

/// Real operations of the FFTs of one image's forward pass, in units of 10^9: three transforms of 2 L real numbers a
/// channel and block (input, forward and backward output), at `2.5 n log2 n` each. Outside of the papers' convention.
pub fn fft_gflops_per_image(model: &ModelConfig) -> f64 {
    let n = 2.0 * model.length() as f64;
    (model.depth * model.hidden_size) as f64 * 3.0 * 2.5 * n * n.log2() / 1e9
}

/// A row of the papers' tables: what training took.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Published {
    /// The model.
    pub name: &'static str,
    /// Side of the images, in pixels.
    pub image_size: usize,
    /// Images seen in training, in units of 10^6.
    pub million_images: f64,
    /// GFLOPs of training as the paper counts them: images times those of one forward pass.
    pub total_gflops: f64,
}

/// Yan, Gu, Rush 2023, tables of ImageNet at 256 and 512 pixels.
pub const PUBLISHED: [Published; 4] = [
    Published {
        name: "DiffuSSM-XL",
        image_size: 256,
        million_images: 660.0,
        total_gflops: 1.85e11,
    },
    Published {
        name: "DiT-XL/2",
        image_size: 256,
        million_images: 1792.0,
        total_gflops: 2.13e11,
    },
    Published {
        name: "DiffuSSM-XL",
        image_size: 512,
        million_images: 302.0,
        total_gflops: 3.22e11,
    },
    Published {
        name: "DiT-XL/2",
        image_size: 512,
        million_images: 768.0,
        total_gflops: 4.03e11,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dit_has_its_published_size_and_cost() {
        assert_eq!(Dit::XL_2.parameters() + 256 * 1152, 675_129_632);
        for (side, published) in [(32, 118.6), (64, 524.6)] {
            let gflops = Dit::XL_2.gflops_per_image(side);
            assert!((gflops - published).abs() < 0.1, "{side}: {gflops}");
        }
        let others = [(384, 12, 6.06), (768, 12, 23.0), (1024, 24, 80.7)];
        for (hidden_size, depth, published) in others {
            let dit = Dit {
                hidden_size,
                depth,
                ..Dit::XL_2
            };
            let gflops = dit.gflops_per_image(32);
            assert!(
                (gflops / published - 1.0).abs() < 0.005,
                "{hidden_size}: {gflops}"
            );
        }
    }

    #[test]
    fn the_published_totals_are_images_times_a_forward_pass() {
        for row in PUBLISHED.iter().filter(|row| row.name == "DiT-XL/2") {
            let total = 1e6 * row.million_images * Dit::XL_2.gflops_per_image(row.image_size / 8);
            assert!((total / row.total_gflops - 1.0).abs() < 0.01, "{row:?}: {total}");
        }
        // DiffuSSM's totals are a few per cent off any reading of the equations.
        for row in PUBLISHED.iter().filter(|row| row.name == "DiffuSSM-XL") {
            let model = ModelConfig {
                input_size: row.image_size / 8,
                ..ModelConfig::default()
            };
            let total = 1e6 * row.million_images * model.gflops_per_image();
            assert!((total / row.total_gflops - 1.0).abs() < 0.12, "{row:?}: {total}");
        }
    }

    #[test]
    fn without_patches_attention_outgrows_everything_even_with_an_hourglass() {
        let unpatched = Dit {
            patch_size: 1,
            ..Dit::XL_2
        };
        let hourglass = Dit {
            downscale: 2,
            ..unpatched
        };
        assert!(hourglass.gflops_per_image(32) < unpatched.gflops_per_image(32));
        let growth = hourglass.gflops_per_image(256) / hourglass.gflops_per_image(128);
        assert!(growth > 10.0, "{growth}: between 4 (linear) and 16 (quadratic)");
    }
}
