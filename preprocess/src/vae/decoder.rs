//! Latent to image.

use crate::nn::{Activation, Padding};

use super::backend::Backend;
use super::config::VaeConfig;
use super::error::Error;
use super::loader::Loader;
use super::middle::MiddleBlock;
use super::resnet::ResnetBlock;

pub(crate) struct Decoder<B: Backend> {
    post_quant_conv: B::Conv,
    conv_in: B::Conv,
    middle: MiddleBlock<B>,
    levels: Vec<Level<B>>,
    conv_norm_out: B::Norm,
    conv_out: B::Conv,
}

struct Level<B: Backend> {
    resnets: Vec<ResnetBlock<B>>,
    /// Missing on the last level.
    up: Option<B::Conv>,
}

impl<B: Backend> Decoder<B> {
    pub(crate) fn load(loader: &mut Loader<'_, '_, B>, config: &VaeConfig) -> Result<Self, Error> {
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
    pub(crate) fn forward(&self, latent: &B::Map) -> Result<B::Map, Error> {
        let h = B::conv(&self.post_quant_conv, latent, Padding::ONE, None)?;
        let h = B::conv(&self.conv_in, &h, Padding::NONE, None)?;
        let mut h = self.middle.forward(&h)?;
        for level in &self.levels {
            for resnet in &level.resnets {
                h = resnet.forward(&h, Padding::NONE)?;
            }
            if let Some(up) = &level.up {
                h = B::enlarge(&h, Padding::ONE)?;
                h = B::conv(up, &h, Padding::NONE, None)?;
            }
        }
        let h = B::norm(&self.conv_norm_out, &h, Activation::Silu, Padding::ONE)?;
        B::conv(&self.conv_out, &h, Padding::NONE, None)
    }
}
