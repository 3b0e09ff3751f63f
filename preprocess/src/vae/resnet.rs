//! The residual block: `skip(x) + conv2(SiLU(norm2(conv1(SiLU(norm1(x))))))`.

use crate::nn::{Activation, Conv2d, FeatureMap, GroupNorm, Output, Padding};

use super::error::Error;
use super::loader::Loader;

pub(crate) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    /// A 1x1 convolution, where the number of channels changes.
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    pub(crate) fn load(
        mut loader: Loader<'_, '_>,
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
    pub(crate) fn forward(&self, x: &FeatureMap, padding: Padding) -> Result<FeatureMap, Error> {
        let mut h = {
            let normal = self.norm1.forward(x, Activation::Silu, Padding::ONE)?;
            self.conv1.forward(&normal, Output::padded(Padding::ONE))?
        };
        self.norm2.forward_in_place(&mut h, Activation::Silu)?;
        let skip = match &self.conv_shortcut {
            Some(conv) => Some(conv.forward(x, Output::default())?),
            None => None,
        };
        let output = Output {
            padding,
            activation: Activation::None,
            residual: Some(skip.as_ref().unwrap_or(x)),
        };
        Ok(self.conv2.forward(&h, output)?)
    }
}
