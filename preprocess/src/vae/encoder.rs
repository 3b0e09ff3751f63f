//! Image to posterior moments.

use crate::nn::{Activation, Padding};

use super::backend::Backend;
use super::config::VaeConfig;
use super::error::Error;
use super::loader::Loader;
use super::middle::MiddleBlock;
use super::resnet::ResnetBlock;

/// The stride-2 convolution sees one row of zeros below and one column on the right, and none on the other sides.
const DOWN_PADDING: Padding = Padding {
    top: 0,
    bottom: 1,
    left: 0,
    right: 1,
};

pub(crate) struct Encoder<B: Backend> {
    conv_in: B::Conv,
    levels: Vec<Level<B>>,
    middle: MiddleBlock<B>,
    conv_norm_out: B::Norm,
    conv_out: B::Conv,
    quant_conv: B::Conv,
}

struct Level<B: Backend> {
    resnets: Vec<ResnetBlock<B>>,
    /// Missing on the last level.
    down: Option<B::Conv>,
}

impl<B: Backend> Encoder<B> {
    pub(crate) fn load(loader: &mut Loader<'_, '_, B>, config: &VaeConfig) -> Result<Self, Error> {
        let groups = config.norm_num_groups;
        let moments = 2 * config.latent_channels;
        let widths = &config.block_out_channels;
        let quant_conv = loader.conv("quant_conv", moments, moments, 1)?;
        let mut loader = loader.at("encoder");
        let mut width = widths[0];
        let conv_in = loader.conv("conv_in", config.in_channels, width, 3)?;
        let mut levels = Vec::new();
        for (i, &outputs) in widths.iter().enumerate() {
            let mut loader = loader.at(&format!("down_blocks.{i}"));
            let mut resnets = Vec::new();
            for j in 0..config.layers_per_block {
                resnets.push(ResnetBlock::load(
                    loader.at(&format!("resnets.{j}")),
                    groups,
                    width,
                    outputs,
                )?);
                width = outputs;
            }
            let down = if i + 1 < widths.len() {
                Some(loader.strided_conv("downsamplers.0.conv", [width, width, 3, 3], 2, DOWN_PADDING)?)
            } else {
                None
            };
            levels.push(Level { resnets, down });
        }
        Ok(Self {
            conv_in,
            levels,
            middle: MiddleBlock::load(loader.at("mid_block"), groups, width)?,
            conv_norm_out: loader.norm("conv_norm_out", groups, width)?,
            conv_out: loader.conv("conv_out", width, moments, 3)?,
            quant_conv,
        })
    }

    /// `[n, H, W, 3]` in `[-1, 1]`, within a border of one, to the moments `[n, h, w, 2 * latent_channels]`.
    pub(crate) fn forward(&self, image: &B::Map) -> Result<B::Map, Error> {
        let mut h = B::conv(&self.conv_in, image, Padding::NONE, None)?;
        for level in &self.levels {
            for (j, resnet) in level.resnets.iter().enumerate() {
                let last = j + 1 == level.resnets.len();
                let border = if last && level.down.is_some() {
                    DOWN_PADDING
                } else {
                    Padding::NONE
                };
                h = resnet.forward(&h, border)?;
            }
            if let Some(down) = &level.down {
                h = B::conv(down, &h, Padding::NONE, None)?;
            }
        }
        let h = self.middle.forward(&h)?;
        let h = B::norm(&self.conv_norm_out, &h, Activation::Silu, Padding::ONE)?;
        let h = B::conv(&self.conv_out, &h, Padding::NONE, None)?;
        B::conv(&self.quant_conv, &h, Padding::NONE, None)
    }
}
