//! Latent to image.

use crate::nn::upsample::nearest_x2;
use crate::nn::{Activation, Conv2d, FeatureMap, GroupNorm, Output, Padding};

use super::config::VaeConfig;
use super::error::Error;
use super::loader::Loader;
use super::middle::MiddleBlock;
use super::resnet::ResnetBlock;

pub(crate) struct Decoder {
    post_quant_conv: Conv2d,
    conv_in: Conv2d,
    middle: MiddleBlock,
    levels: Vec<Level>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

struct Level {
    resnets: Vec<ResnetBlock>,
    /// Missing on the last level.
    up: Option<Conv2d>,
}

impl Decoder {
    pub(crate) fn load(loader: &mut Loader<'_, '_>, config: &VaeConfig) -> Result<Self, Error> {
        let groups = config.norm_num_groups;
        let latent = config.latent_channels;
        let post_quant_conv = loader.conv("post_quant_conv", latent, latent, 1)?;
        let mut loader = loader.at("decoder");
        let widths: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let mut width = widths[0];
        let conv_in = loader.conv("conv_in", latent, width, 3)?;
        let middle = MiddleBlock::load(loader.at("mid_block"), groups, width)?;
        let mut levels = Vec::new();
        for (i, &outputs) in widths.iter().enumerate() {
            let mut loader = loader.at(&format!("up_blocks.{i}"));
            let mut resnets = Vec::new();
            for j in 0..=config.layers_per_block {
                resnets.push(ResnetBlock::load(
                    loader.at(&format!("resnets.{j}")),
                    groups,
                    width,
                    outputs,
                )?);
                width = outputs;
            }
            let up = if i + 1 < widths.len() {
                Some(loader.conv("upsamplers.0.conv", width, width, 3)?)
            } else {
                None
            };
            levels.push(Level { resnets, up });
        }
        Ok(Self {
            post_quant_conv,
            conv_in,
            middle,
            levels,
            conv_norm_out: loader.norm("conv_norm_out", groups, width)?,
            conv_out: loader.conv("conv_out", width, config.out_channels, 3)?,
        })
    }

    /// `[n, h, w, latent_channels]`, unscaled, to `[n, H, W, 3]`; about `[-1, 1]`, not clipped.
    pub(crate) fn forward(&self, latent: &FeatureMap) -> Result<FeatureMap, Error> {
        let h = self
            .post_quant_conv
            .forward(latent, Output::padded(Padding::ONE))?;
        let h = self.conv_in.forward(&h, Output::default())?;
        let mut h = self.middle.forward(&h)?;
        for level in &self.levels {
            for resnet in &level.resnets {
                h = resnet.forward(&h, Padding::NONE)?;
            }
            if let Some(up) = &level.up {
                h = nearest_x2(&h, Padding::ONE);
                h = up.forward(&h, Output::default())?;
            }
        }
        let h = self.conv_norm_out.forward(&h, Activation::Silu, Padding::ONE)?;
        Ok(self.conv_out.forward(&h, Output::default())?)
    }
}
