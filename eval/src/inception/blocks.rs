//! The building blocks of Inception-v3 (Szegedy et al. 2015, figures 5 to 7), channels last.
//!
//! Every block is a list of branches over the same input, concatenated along the channels in order. The pools of the
//! FID network differ from the usual ones: averages leave the padding out of the count, and the last block's pool is a
//! maximum.

use preprocess::nn::{Activation, Conv2d, FeatureMap, Output, Padding};

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
    Ok(Conv2d::new(&weight, shape, bias, geometry.stride, padding)?)
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

/// What a block does beside its convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// 3x3 average that keeps the size, padding not counted.
    Average,
    /// 3x3 maximum that keeps the size.
    Maximum,
    /// 3x3 maximum that halves the size.
    HalvingMaximum,
}

/// Branches over one input, and a pool with or without a 1x1 convolution after it.
pub struct Block {
    /// Convolution branches, in channel order.
    pub branches: Vec<Branch>,
    /// The pool, which comes last.
    pub pool: Pool,
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
        let pooled = match self.pool {
            Pool::Average => average_pool(input),
            Pool::Maximum => max_pool(input, 1, 1),
            Pool::HalvingMaximum => max_pool(input, 2, 0),
        };
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
    let mut joined = FeatureMap::zeros([batch, height, width, channels], Padding::NONE);
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

/// Input rows (or columns) that a 3-wide window at output `i` covers.
fn window(i: usize, stride: usize, padding: usize, size: usize) -> std::ops::Range<usize> {
    let start = i * stride;
    start.saturating_sub(padding)..(start + 3 - padding).min(size)
}

/// 3x3 maximum; padding never wins.
pub fn max_pool(input: &FeatureMap, stride: usize, padding: usize) -> FeatureMap {
    pool(input, stride, padding, f32::NEG_INFINITY, f32::max, |_, _| ())
}

/// 3x3 average of stride 1 and padding 1, over the pixels inside the map.
fn average_pool(input: &FeatureMap) -> FeatureMap {
    pool(
        input,
        1,
        1,
        0.0,
        |a, b| a + b,
        |pixel, covered| {
            for value in pixel {
                *value /= covered as f32;
            }
        },
    )
}

fn pool(
    input: &FeatureMap,
    stride: usize,
    padding: usize,
    start: f32,
    combine: impl Fn(f32, f32) -> f32 + Sync,
    finish: impl Fn(&mut [f32], usize) + Sync,
) -> FeatureMap {
    let [batch, height, width, channels] = input.shape();
    let size = |side: usize| (side + 2 * padding - 3) / stride + 1;
    let mut output = FeatureMap::zeros([batch, size(height), size(width), channels], Padding::NONE);
    output.for_each_row_mut(|n, y, row| {
        let lines = window(y, stride, padding, height);
        for (x, pixel) in row.chunks_exact_mut(channels).enumerate() {
            let columns = window(x, stride, padding, width);
            pixel.fill(start);
            for line in lines.clone() {
                let covered = &input.row(n, line)[columns.start * channels..columns.end * channels];
                for from in covered.chunks_exact(channels) {
                    for (to, &value) in pixel.iter_mut().zip(from) {
                        *to = combine(*to, value);
                    }
                }
            }
            finish(pixel, lines.len() * columns.len());
        }
    });
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> FeatureMap {
        let values: Vec<f32> = (0..16).map(|v| v as f32 - 20.0).collect();
        FeatureMap::from_nchw(&values, [1, 1, 4, 4], Padding::NONE).unwrap()
    }

    #[test]
    fn averages_leave_the_padding_out() {
        let pooled = average_pool(&map()).to_nchw();
        assert_eq!(pooled[0], -17.5);
        assert_eq!(pooled[5], -15.0);
    }

    #[test]
    fn maxima_ignore_the_padding_and_halve() {
        assert_eq!(max_pool(&map(), 1, 1).to_nchw()[0], -15.0);
        let halved = max_pool(&map(), 2, 0);
        assert_eq!((halved.shape(), halved.to_nchw()), ([1, 1, 1, 1], vec![-10.0]));
    }
}
