//! The building blocks of Inception-v3 (Szegedy et al. 2015, figures 5 to 7), in either form.
//!
//! Every block is a list of branches over the same input, concatenated along the channels in order. The pools of the
//! FID network differ from the usual ones: averages leave the padding out of the count, and the last block's pool is a
//! maximum.

use preprocess::nn::{Padding, Pool};

use super::backend::Backend;
use crate::error::{Error, Result};

/// Epsilon of every batch norm.
const BATCH_NORM_EPS: f64 = 0.001;

/// Gives the tensor of a name, `[shape]` row-major.
pub type TensorSource<'a> = dyn FnMut(&str, &[usize]) -> Result<Vec<f32>> + 'a;

/// Geometry of one convolution: kernel, stride and zero padding, each (rows, columns) where they differ.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    kernel: (usize, usize),
    stride: usize,
    padding: (usize, usize),
}

/// 1x1.
pub(super) const POINT: Geometry = Geometry {
    kernel: (1, 1),
    stride: 1,
    padding: (0, 0),
};
/// 3x3 without padding.
pub(super) const VALID3: Geometry = Geometry {
    kernel: (3, 3),
    stride: 1,
    padding: (0, 0),
};
/// 3x3 that keeps the size.
pub(super) const SAME3: Geometry = Geometry {
    kernel: (3, 3),
    stride: 1,
    padding: (1, 1),
};
/// 3x3 that halves the size.
pub(super) const HALVE3: Geometry = Geometry {
    kernel: (3, 3),
    stride: 2,
    padding: (0, 0),
};
/// 5x5 that keeps the size.
pub(super) const SAME5: Geometry = Geometry {
    kernel: (5, 5),
    stride: 1,
    padding: (2, 2),
};
/// 1x7 that keeps the size.
pub(super) const ROW7: Geometry = Geometry {
    kernel: (1, 7),
    stride: 1,
    padding: (0, 3),
};
/// 7x1 that keeps the size.
pub(super) const COLUMN7: Geometry = Geometry {
    kernel: (7, 1),
    stride: 1,
    padding: (3, 0),
};
/// 1x3 that keeps the size.
pub(super) const ROW3: Geometry = Geometry {
    kernel: (1, 3),
    stride: 1,
    padding: (0, 1),
};
/// 3x1 that keeps the size.
pub(super) const COLUMN3: Geometry = Geometry {
    kernel: (3, 1),
    stride: 1,
    padding: (1, 0),
};

/// Gives layers of one form their weights.
pub(super) struct Loader<'a, 's, B: Backend> {
    pub(super) backend: &'a B,
    pub(super) source: &'a mut TensorSource<'s>,
}

impl<B: Backend> Loader<'_, '_, B> {
    /// Convolution and batch norm as one convolution: the norm is folded into the weights, in f64.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub(super) fn conv_bn(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
        geometry: Geometry,
    ) -> Result<B::Conv> {
        let shape = [outputs, inputs, geometry.kernel.0, geometry.kernel.1];
        let mut weight = (self.source)(&format!("{name}.conv.weight"), &shape)?;
        let mut norm = |part: &str| (self.source)(&format!("{name}.bn.{part}"), &[outputs]);
        let (gamma, beta) = (norm("weight")?, norm("bias")?);
        let (mean, variance) = (norm("running_mean")?, norm("running_var")?);
        let fan_in = inputs * geometry.kernel.0 * geometry.kernel.1;
        let mut bias = vec![0.0; outputs];
        for (o, kernel) in weight.chunks_exact_mut(fan_in).enumerate() {
            let scale = f64::from(gamma[o]) / (f64::from(variance[o]) + BATCH_NORM_EPS).sqrt();
            bias[o] = (f64::from(beta[o]) - f64::from(mean[o]) * scale) as f32;
            for value in kernel {
                *value = (f64::from(*value) * scale) as f32;
            }
        }
        let padding = Padding::symmetric(geometry.padding.0, geometry.padding.1);
        self.backend
            .conv_layer(weight, shape, bias, geometry.stride, padding)
    }
}

/// Convolutions in a row, at the end of which two may stand side by side.
pub(super) struct Branch<B: Backend> {
    chain: Vec<B::Conv>,
    split: Option<[B::Conv; 2]>,
}

/// Name, output channels and geometry of one convolution of a branch.
pub(super) type Layer = (&'static str, usize, Geometry);

impl<B: Backend> Branch<B> {
    /// The convolutions `layers` of block `block`, one after the other.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub(super) fn new(
        source: &mut Loader<'_, '_, B>,
        block: &str,
        inputs: usize,
        layers: &[Layer],
    ) -> Result<Self> {
        let mut channels = inputs;
        let mut chain = Vec::with_capacity(layers.len());
        for &(name, outputs, geometry) in layers {
            chain.push(source.conv_bn(&format!("{block}.{name}"), channels, outputs, geometry)?);
            channels = outputs;
        }
        Ok(Self { chain, split: None })
    }

    /// The same, then two convolutions side by side.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub(super) fn with_split(
        source: &mut Loader<'_, '_, B>,
        block: &str,
        inputs: usize,
        layers: &[Layer],
        split: [Layer; 2],
    ) -> Result<Self> {
        let mut branch = Self::new(source, block, inputs, layers)?;
        let channels = layers.last().map_or(inputs, |&(_, outputs, _)| outputs);
        let mut side = |(name, outputs, geometry): Layer| {
            source.conv_bn(&format!("{block}.{name}"), channels, outputs, geometry)
        };
        branch.split = Some([side(split[0])?, side(split[1])?]);
        Ok(branch)
    }

    /// The outputs of the last layer or layers, in channel order.
    fn forward(&self, input: &B::Map) -> Result<Vec<B::Map>> {
        let after_chain = if self.split.is_some() {
            Padding::ONE
        } else {
            Padding::NONE
        };
        let mut current: Option<B::Map> = None;
        for (i, conv) in self.chain.iter().enumerate() {
            let next = self.chain.get(i + 1).map_or(after_chain, B::border);
            current = Some(B::conv_relu(conv, current.as_ref().unwrap_or(input), next)?);
        }
        let current = current.ok_or_else(|| Error::Input("a branch has no layer".into()))?;
        match &self.split {
            None => Ok(vec![current]),
            Some(sides) => sides
                .iter()
                .map(|conv| B::conv_relu(conv, &current, Padding::NONE))
                .collect(),
        }
    }
}

/// What a block does beside its convolutions, over windows of 3 x 3 pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SidePool {
    /// An average that keeps the size, padding not counted.
    Average,
    /// A maximum that keeps the size.
    Maximum,
    /// A maximum that halves the size.
    HalvingMaximum,
}

impl SidePool {
    fn forward<B: Backend>(self, input: &B::Map) -> Result<B::Map> {
        match self {
            Self::Average => B::pool(Pool::Average, input, 1, 1),
            Self::Maximum => B::pool(Pool::Maximum, input, 1, 1),
            Self::HalvingMaximum => B::pool(Pool::Maximum, input, 2, 0),
        }
    }
}

/// Branches over one input, and a pool with or without a 1x1 convolution after it.
pub(super) struct Block<B: Backend> {
    /// Convolution branches, in channel order.
    pub(super) branches: Vec<Branch<B>>,
    /// The pool, which comes last.
    pub(super) pool: SidePool,
    /// Applied to the pooled input.
    pub(super) after_pool: Option<B::Conv>,
}

impl<B: Backend> Block<B> {
    /// `[B, h, w, channels]` of all branches.
    ///
    /// # Errors
    /// If the input does not fit.
    pub(super) fn forward(&self, input: &B::Map) -> Result<B::Map> {
        let mut parts = Vec::with_capacity(self.branches.len() + 1);
        for branch in &self.branches {
            parts.extend(branch.forward(input)?);
        }
        let pooled = self.pool.forward::<B>(input)?;
        parts.push(match &self.after_pool {
            Some(conv) => B::conv_relu(conv, &pooled, Padding::NONE)?,
            None => pooled,
        });
        B::concatenate(&parts)
    }
}
