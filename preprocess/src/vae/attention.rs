//! Self-attention between all pixels of the smallest map, one head: `x + out(softmax(q kT / sqrt(C)) v)`.

use crate::nn::attention::attention;
use crate::nn::{Activation, Conv2d, FeatureMap, GroupNorm, Output, Padding};

use super::error::Error;
use super::loader::Loader;

pub(crate) struct AttentionBlock {
    group_norm: GroupNorm,
    /// Query, key and value as one 1x1 convolution.
    to_qkv: Conv2d,
    to_out: Conv2d,
    channels: usize,
}

impl AttentionBlock {
    pub(crate) fn load(mut loader: Loader<'_, '_>, groups: usize, channels: usize) -> Result<Self, Error> {
        let group_norm = loader.norm("group_norm", groups, channels)?;
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for name in ["to_q", "to_k", "to_v"] {
            let (part_weight, part_bias) = loader.linear(name, channels, channels)?;
            weight.extend(part_weight);
            bias.extend(part_bias);
        }
        let to_qkv = Conv2d::new(&weight, [3 * channels, channels, 1, 1], bias, 1, Padding::NONE)?;
        let (weight, bias) = loader.linear("to_out.0", channels, channels)?;
        let to_out = Conv2d::new(&weight, [channels, channels, 1, 1], bias, 1, Padding::NONE)?;
        Ok(Self {
            group_norm,
            to_qkv,
            to_out,
            channels,
        })
    }

    /// The block's output without a border; pixels are tokens in raster order.
    pub(crate) fn forward(&self, x: &FeatureMap) -> Result<FeatureMap, Error> {
        let [batch, height, width, channels] = x.shape();
        let tokens = height * width;
        let normal = self.group_norm.forward(x, Activation::None, Padding::NONE)?;
        let qkv = self.to_qkv.forward(&normal, Output::default())?;
        let mut mixed = FeatureMap::zeros([batch, height, width, channels], Padding::NONE);
        for n in 0..batch {
            let qkv = &qkv.data()[n * tokens * 3 * channels..][..tokens * 3 * channels];
            let image = attention(qkv, tokens, self.channels)?;
            for (y, row) in image.chunks_exact(width * channels).enumerate() {
                mixed.row_mut(n, y).copy_from_slice(row);
            }
        }
        let output = Output {
            residual: Some(x),
            ..Output::default()
        };
        Ok(self.to_out.forward(&mixed, output)?)
    }
}
