//! The residual block: `skip(x) + conv2(SiLU(norm2(conv1(SiLU(norm1(x))))))`.

use crate::nn::{Activation, Padding};

use super::backend::Backend;
use super::error::Error;
use super::loader::Loader;

pub(crate) struct ResnetBlock<B: Backend> {
    norm1: B::Norm,
    conv1: B::Conv,
    norm2: B::Norm,
    conv2: B::Conv,
    /// A 1x1 convolution, where the number of channels changes.
    conv_shortcut: Option<B::Conv>,
}

impl<B: Backend> ResnetBlock<B> {
    pub(crate) fn load(
        mut loader: Loader<'_, '_, B>,
        groups: usize,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self, Error> {
        Ok(Self {
            norm1: loader.norm("norm1", groups, inputs)?,
            conv1: loader.conv("conv1", inputs, outputs, 3)?,
            norm2: loader.norm("norm2", groups, outputs)?,
            conv2: loader.conv("conv2", outputs, outputs, 3)?,
            conv_shortcut: if inputs == outputs {
                None
            } else {
                Some(loader.conv("conv_shortcut", inputs, outputs, 1)?)
            },
        })
    }

    /// The block's output within a border, as the next layer wants it.
    pub(crate) fn forward(&self, x: &B::Map, border: Padding) -> Result<B::Map, Error> {
        let h = {
            let normal = B::norm(&self.norm1, x, Activation::Silu, Padding::ONE)?;
            B::conv(&self.conv1, &normal, Padding::ONE, None)?
        };
        let h = B::norm_own(&self.norm2, h, Activation::Silu)?;
        let skip = match &self.conv_shortcut {
            Some(conv) => Some(B::conv(conv, x, Padding::NONE, None)?),
            None => None,
        };
        B::conv(&self.conv2, &h, border, Some(skip.as_ref().unwrap_or(x)))
    }
}
