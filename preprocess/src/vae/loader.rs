//! Builds layers from named tensors.

use crate::nn::{Conv2d, GroupNorm, Padding};

use super::config::NORM_EPS;
use super::error::Error;

/// Gives the tensor of a name (diffusers' layout) in the shape asked for, row-major.
pub type GetTensor<'a> = dyn FnMut(&str, &[usize]) -> Result<Vec<f32>, Error> + 'a;

/// A place in the tree of tensor names.
pub(crate) struct Loader<'a, 'b> {
    get: &'a mut GetTensor<'b>,
    prefix: String,
}

impl<'a, 'b> Loader<'a, 'b> {
    pub(crate) fn new(get: &'a mut GetTensor<'b>) -> Self {
        Self {
            get,
            prefix: String::new(),
        }
    }

    /// The place `name` below this one.
    pub(crate) fn at(&mut self, name: &str) -> Loader<'_, 'b> {
        Loader {
            get: &mut *self.get,
            prefix: format!("{}{name}.", self.prefix),
        }
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        (self.get)(&format!("{}{name}", self.prefix), shape)
    }

    /// `{name}.weight` and `{name}.bias` of a linear layer: `[outputs, inputs]`, `[outputs]`.
    pub(crate) fn linear(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let weight = self.tensor(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = self.tensor(&format!("{name}.bias"), &[outputs])?;
        Ok((weight, bias))
    }

    /// A square convolution that keeps the size.
    pub(crate) fn conv(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
        kernel: usize,
    ) -> Result<Conv2d, Error> {
        self.strided_conv(
            name,
            [outputs, inputs, kernel, kernel],
            1,
            Padding::same(kernel / 2),
        )
    }

    /// A convolution with weights of `shape` (`[out, in, kh, kw]`).
    pub(crate) fn strided_conv(
        &mut self,
        name: &str,
        shape: [usize; 4],
        stride: usize,
        padding: Padding,
    ) -> Result<Conv2d, Error> {
        let weight = self.tensor(&format!("{name}.weight"), &shape)?;
        let bias = self.tensor(&format!("{name}.bias"), &shape[..1])?;
        Ok(Conv2d::new(&weight, shape, bias, stride, padding)?.with_fewer_products())
    }

    /// A group norm.
    pub(crate) fn norm(&mut self, name: &str, groups: usize, channels: usize) -> Result<GroupNorm, Error> {
        let weight = self.tensor(&format!("{name}.weight"), &[channels])?;
        let bias = self.tensor(&format!("{name}.bias"), &[channels])?;
        Ok(GroupNorm::new(groups, weight, bias, NORM_EPS)?)
    }
}
