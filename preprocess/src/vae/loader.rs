//! Builds layers from named tensors.

use crate::nn::Padding;

use super::backend::Backend;
use super::error::Error;

/// Gives the tensor of a name (diffusers' layout) in the shape asked for, row-major.
pub type GetTensor<'a> = dyn FnMut(&str, &[usize]) -> Result<Vec<f32>, Error> + 'a;

/// A place in the tree of tensor names.
pub(crate) struct Loader<'a, 'b, B> {
    backend: &'a B,
    get: &'a mut GetTensor<'b>,
    prefix: String,
}

impl<'a, 'b, B: Backend> Loader<'a, 'b, B> {
    pub(crate) fn new(backend: &'a B, get: &'a mut GetTensor<'b>) -> Self {
        Self {
            backend,
            get,
            prefix: String::new(),
        }
    }

    /// The place `name` below this one.
    pub(crate) fn at(&mut self, name: &str) -> Loader<'_, 'b, B> {
        Loader {
            backend: self.backend,
            get: &mut *self.get,
            prefix: format!("{}{name}.", self.prefix),
        }
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        (self.get)(&format!("{}{name}", self.prefix), shape)
    }

    /// Linear layers from the same `inputs`, of `outputs` each, as one 1x1 convolution whose outputs follow one another.
    pub(crate) fn linears(
        &mut self,
        names: &[&str],
        inputs: usize,
        outputs: usize,
    ) -> Result<B::Conv, Error> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for name in names {
            weight.extend(self.tensor(&format!("{name}.weight"), &[outputs, inputs])?);
            bias.extend(self.tensor(&format!("{name}.bias"), &[outputs])?);
        }
        let shape = [names.len() * outputs, inputs, 1, 1];
        self.backend.conv_layer(weight, shape, bias, 1, Padding::NONE)
    }

    /// A square convolution that keeps the size.
    pub(crate) fn conv(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
        kernel: usize,
    ) -> Result<B::Conv, Error> {
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
    ) -> Result<B::Conv, Error> {
        let weight = self.tensor(&format!("{name}.weight"), &shape)?;
        let bias = self.tensor(&format!("{name}.bias"), &shape[..1])?;
        self.backend.conv_layer(weight, shape, bias, stride, padding)
    }

    /// A group norm.
    pub(crate) fn norm(&mut self, name: &str, groups: usize, channels: usize) -> Result<B::Norm, Error> {
        let weight = self.tensor(&format!("{name}.weight"), &[channels])?;
        let bias = self.tensor(&format!("{name}.bias"), &[channels])?;
        self.backend.norm_layer(groups, weight, bias)
    }
}
