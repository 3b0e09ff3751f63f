//! The middle of encoder and decoder: residual block, attention, residual block.

use crate::nn::Padding;

use super::attention::AttentionBlock;
use super::backend::Backend;
use super::error::Error;
use super::loader::Loader;
use super::resnet::ResnetBlock;

pub(crate) struct MiddleBlock<B: Backend> {
    first: ResnetBlock<B>,
    attention: AttentionBlock<B>,
    second: ResnetBlock<B>,
}

impl<B: Backend> MiddleBlock<B> {
    pub(crate) fn load(mut loader: Loader<'_, '_, B>, groups: usize, channels: usize) -> Result<Self, Error> {
        Ok(Self {
            first: ResnetBlock::load(loader.at("resnets.0"), groups, channels, channels)?,
            attention: AttentionBlock::load(loader.at("attentions.0"), groups, channels)?,
            second: ResnetBlock::load(loader.at("resnets.1"), groups, channels, channels)?,
        })
    }

    pub(crate) fn forward(&self, x: &B::Map) -> Result<B::Map, Error> {
        let h = self.first.forward(x, Padding::NONE)?;
        let h = self.attention.forward(&h)?;
        self.second.forward(&h, Padding::NONE)
    }
}
