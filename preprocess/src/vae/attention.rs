//! Self-attention between all pixels of the smallest map, one head: `x + out(softmax(q kT / sqrt(C)) v)`.

use crate::nn::{Activation, Padding};

use super::backend::Backend;
use super::error::Error;
use super::loader::Loader;

pub(crate) struct AttentionBlock<B: Backend> {
    group_norm: B::Norm,
    /// Query, key and value as one 1x1 convolution.
    to_qkv: B::Conv,
    to_out: B::Conv,
}

impl<B: Backend> AttentionBlock<B> {
    pub(crate) fn load(mut loader: Loader<'_, '_, B>, groups: usize, channels: usize) -> Result<Self, Error> {
        Ok(Self {
            group_norm: loader.norm("group_norm", groups, channels)?,
            to_qkv: loader.linears(&["to_q", "to_k", "to_v"], channels, channels)?,
            to_out: loader.linears(&["to_out.0"], channels, channels)?,
        })
    }

    /// The block's output without a border; pixels are tokens in raster order.
    pub(crate) fn forward(&self, x: &B::Map) -> Result<B::Map, Error> {
        let normal = B::norm(&self.group_norm, x, Activation::None, Padding::NONE)?;
        let qkv = B::conv(&self.to_qkv, &normal, Padding::NONE, None)?;
        B::conv(&self.to_out, &B::attention(&qkv)?, Padding::NONE, Some(x))
    }
}
