//! The building blocks of Inception-v3 (Szegedy et al. 2015, figures 5 to 7), channels last.
//!
//! Every block is a list of branches over the same input, concatenated along the channels in order. The pools of the
//! FID network differ from the usual ones: averages leave the padding out of the count, and the last block's pool is a
//! maximum.

use preprocess::nn::{Activation, Conv2d, FeatureMap, Output, Padding, Pool};

use crate::error::{Error, Result};

/// Epsilon of every batch norm.
const BATCH_NORM_EPS: f64 = 0.001;

/// Gives the tensor of a name, `[shape]` row-major.
pub type TensorSource<'a> = dyn FnMut(&str, &[usize]) -> Result<Vec<f32>> + 'a;

/// Geometry of one convolution: kernel, stride and zero padding, each (rows, columns) where they differ.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    kernel: (usize, usize),
    stride: usize,
    padding: (usize, usize),
}

/// 1x1.
pub const POINT: Geometry = Geometry {
    kernel: (1, 1),
    stride: 1,
    padding: (0, 0),
};
/// 3x3 without padding.
pub const VALID3: Geometry = Geometry {
    kernel: (3, 3),
    stride: 1,
    padding: (0, 0),
};
/// 3x3 that keeps the size.
pub const SAME3: Geometry = Geometry {
    kernel: (3, 3),
    stride: 1,
    padding: (1, 1),
};
/// 3x3 that halves the size.
pub const HALVE3: Geometry = Geometry {
    kernel: (3, 3),
    stride: 2,
    padding: (0, 0),
};
/// 5x5 that keeps the size.
pub const SAME5: Geometry = Geometry {
    kernel: (5, 5),
    stride: 1,
    padding: (2, 2),
};
/// 1x7 that keeps the size.
pub const ROW7: Geometry = Geometry {
    kernel: (1, 7),
    stride: 1,
    padding: (0, 3),
};
/// 7x1 that keeps the size.
pub const COLUMN7: Geometry = Geometry {
    kernel: (7, 1),
    stride: 1,
    padding: (3, 0),
};
/// 1x3 that keeps the size.
pub const ROW3: Geometry = Geometry {
    kernel: (1, 3),
    stride: 1,
    padding: (0, 1),
};
/// 3x1 that keeps the size.
pub const COLUMN3: Geometry = Geometry {
    kernel: (3, 1),
    stride: 1,
    padding: (1, 0),
};

/// Convolution, batch norm and ReLU as one convolution: the norm is folded into the weights, in f64.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn conv_bn(
    source: &mut TensorSource<'_>,
    name: &str,
    inputs: usize,
    outputs: usize,
    geometry: Geometry,
) -> Result<Conv2d> {
    let shape = [outputs, inputs, geometry.kernel.0, geometry.kernel.1];
    let mut weight = source(&format!("{name}.conv.weight"), &shape)?;
    let mut norm = |part: &str| source(&format!("{name}.bn.{part}"), &[outputs]);
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
    Ok(Conv2d::new(&weight, shape, bias, geometry.stride, padding)?.with_fewer_products())
}

/// Runs `conv` and ReLU, leaving the border that the next layer needs.
///
/// # Errors
/// If the input does not fit.
pub fn conv_relu(conv: &Conv2d, input: &FeatureMap, next: Padding) -> Result<FeatureMap> {
    let output = Output {
        padding: next,
        activation: Activation::Relu,
        residual: None,
    };
    Ok(conv.forward(input, output)?)
}

/// Convolutions in a row, at the end of which two may stand side by side.
pub struct Branch {
    chain: Vec<Conv2d>,
    split: Option<[Conv2d; 2]>,
}

/// Name, output channels and geometry of one convolution of a branch.
pub type Layer = (&'static str, usize, Geometry);

impl Branch {
    /// The convolutions `layers` of block `block`, one after the other.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn new(source: &mut TensorSource<'_>, block: &str, inputs: usize, layers: &[Layer]) -> Result<Self> {
        let mut channels = inputs;
        let mut chain = Vec::with_capacity(layers.len());
        for &(name, outputs, geometry) in layers {
            chain.push(conv_bn(
                source,
                &format!("{block}.{name}"),
                channels,
                outputs,
                geometry,
            )?);
            channels = outputs;
        }
        Ok(Self { chain, split: None })
    }

    /// The same, then two convolutions side by side.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn with_split(
        source: &mut TensorSource<'_>,
        block: &str,
        inputs: usize,
        layers: &[Layer],
        split: [Layer; 2],
    ) -> Result<Self> {
        let mut branch = Self::new(source, block, inputs, layers)?;
        let channels = branch.chain.last().map_or(inputs, Conv2d::out_channels);
        let mut side = |(name, outputs, geometry): Layer| {
            conv_bn(source, &format!("{block}.{name}"), channels, outputs, geometry)
        };
        branch.split = Some([side(split[0])?, side(split[1])?]);
        Ok(branch)
    }

    /// The outputs of the last layer or layers, in channel order.
    fn forward(&self, input: &FeatureMap) -> Result<Vec<FeatureMap>> {
        let after_chain = if self.split.is_some() {
            Padding::ONE
        } else {
            Padding::NONE
        };
        let mut current: Option<FeatureMap> = None;
        for (i, conv) in self.chain.iter().enumerate() {
            let next = self.chain.get(i + 1).map_or(after_chain, Conv2d::padding);
            current = Some(conv_relu(conv, current.as_ref().unwrap_or(input), next)?);
        }
        let current = current.ok_or_else(|| Error::Input("a branch has no layer".into()))?;
        match &self.split {
            None => Ok(vec![current]),
            Some(sides) => sides
                .iter()
                .map(|conv| conv_relu(conv, &current, Padding::NONE))
                .collect(),
        }
    }
}

/// What a block does beside its convolutions, over windows of 3 x 3 pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SidePool {
    /// An average that keeps the size, padding not counted.
    Average,
    /// A maximum that keeps the size.
    Maximum,
    /// A maximum that halves the size.
    HalvingMaximum,
}

impl SidePool {
    fn forward(self, input: &FeatureMap) -> FeatureMap {
        match self {
            Self::Average => Pool::Average.forward(input, 1, 1),
            Self::Maximum => Pool::Maximum.forward(input, 1, 1),
            Self::HalvingMaximum => Pool::Maximum.forward(input, 2, 0),
        }
    }
}

/// Branches over one input, and a pool with or without a 1x1 convolution after it.
pub struct Block {
    /// Convolution branches, in channel order.
    pub branches: Vec<Branch>,
    /// The pool, which comes last.
    pub pool: SidePool,
    /// Applied to the pooled input.
    pub after_pool: Option<Conv2d>,
}

impl Block {
    /// `[B, h, w, channels]` of all branches.
    ///
    /// # Errors
    /// If the input does not fit.
    pub fn forward(&self, input: &FeatureMap) -> Result<FeatureMap> {
        let mut parts = Vec::with_capacity(self.branches.len() + 1);
        for branch in &self.branches {
            parts.extend(branch.forward(input)?);
        }
        let pooled = self.pool.forward(input);
        parts.push(match &self.after_pool {
            Some(conv) => conv_relu(conv, &pooled, Padding::NONE)?,
            None => pooled,
        });
        Ok(concatenate(&parts))
    }
}

/// The maps side by side along the channels.
fn concatenate(parts: &[FeatureMap]) -> FeatureMap {
    let Some([batch, height, width, _]) = parts.first().map(FeatureMap::shape) else {
        return FeatureMap::zeros([0; 4], Padding::NONE);
    };
    let channels = parts.iter().map(|part| part.shape()[3]).sum();
    let mut joined = FeatureMap::unfilled([batch, height, width, channels], Padding::NONE);
    joined.for_each_row_mut(|n, y, row| {
        let mut first = 0;
        for part in parts {
            let width = part.shape()[3];
            for (to, from) in row
                .chunks_exact_mut(channels)
                .zip(part.row(n, y).chunks_exact(width))
            {
                to[first..first + width].copy_from_slice(from);
            }
            first += width;
        }
    });
    joined
}
