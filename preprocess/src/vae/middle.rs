//! The middle of encoder and decoder: residual block, attention, residual block.

use crate::nn::{FeatureMap, Padding};

use super::attention::AttentionBlock;
use super::error::Error;
use super::loader::Loader;
use super::resnet::ResnetBlock;

pub(crate) struct MiddleBlock {
    first: ResnetBlock,
    attention: AttentionBlock,
    second: ResnetBlock,
}

impl MiddleBlock {
    pub(crate) fn load(mut loader: Loader<'_, '_>, groups: usize, channels: usize) -> Result<Self, Error> {
        Ok(Self {
            first: ResnetBlock::load(loader.at("resnets.0"), groups, channels, channels)?,
            attention: AttentionBlock::load(loader.at("attentions.0"), groups, channels)?,
            second: ResnetBlock::load(loader.at("resnets.1"), groups, channels, channels)?,
        })
    }

    pub(crate) fn forward(&self, x: &FeatureMap) -> Result<FeatureMap, Error> {
        let h = self.first.forward(x, Padding::NONE)?;
        let h = self.attention.forward(&h)?;
        self.second.forward(&h, Padding::NONE)
    }
}
