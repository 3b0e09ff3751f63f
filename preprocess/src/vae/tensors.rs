//! The network in candle's tensors: f32, channels first, on any of candle's devices. Made for GPUs; on the processor it
//! is the slow twin of [`Host`](super::host::Host), and there tests compare the two.

use candle_core::{DType, Device, Tensor};
use candle_nn::ops::softmax_last_dim;

use super::backend::Backend;
use super::config::NORM_EPS;
use super::error::Error;
use crate::nn::{Activation, GpuPrecision, Padding, TensorConv, TensorGroupNorm};

/// Scores of one image that attention holds at a time: 256 MiB. Images of 512 pixels (4,096 tokens) and less are one block.
const BLOCK_SCORES: usize = 1 << 26;

/// Activations of the widest stage that live at one time: those of a group norm, which candle composes of simple passes,
/// and without cuDNN the nine shifted copies that a 3x3 convolution multiplies.
pub(super) const LIVE_MAPS: u64 = if cfg!(feature = "cudnn") { 8 } else { 17 };

/// See [the module](self): the device that weights go to, and what convolutions round there.
pub(crate) struct Tensors {
    pub(crate) device: Device,
    pub(crate) precision: GpuPrecision,
}

impl Backend for Tensors {
    type Map = Tensor;
    type Conv = TensorConv;
    type Norm = TensorGroupNorm;

    fn conv_layer(
        &self,
        weight: Vec<f32>,
        shape: [usize; 4],
        bias: Vec<f32>,
        stride: usize,
        padding: Padding,
    ) -> Result<TensorConv, Error> {
        let layer = TensorConv::new(weight, shape, bias, stride, padding, &self.device)?;
        Ok(layer.with_precision(self.precision)?)
    }

    fn norm_layer(&self, groups: usize, weight: Vec<f32>, bias: Vec<f32>) -> Result<TensorGroupNorm, Error> {
        Ok(TensorGroupNorm::new(
            weight,
            bias,
            groups,
            NORM_EPS,
            &self.device,
        )?)
    }

    fn conv(layer: &TensorConv, x: &Tensor, _: Padding, residual: Option<&Tensor>) -> Result<Tensor, Error> {
        let y = layer.forward(x)?;
        Ok(match residual {
            Some(residual) => (y + residual)?,
            None => y,
        })
    }

    fn norm(
        layer: &TensorGroupNorm,
        x: &Tensor,
        activation: Activation,
        _: Padding,
    ) -> Result<Tensor, Error> {
        Ok(match activation {
            Activation::None => layer.forward(x, false)?,
            Activation::Silu => layer.forward(x, true)?,
            Activation::Relu => layer.forward(x, false)?.relu()?,
        })
    }

    fn norm_own(layer: &TensorGroupNorm, x: Tensor, activation: Activation) -> Result<Tensor, Error> {
        Self::norm(layer, &x, activation, Padding::NONE)
    }

    fn attention(qkv: &Tensor) -> Result<Tensor, Error> {
        let (batch, channels, height, width) = qkv.dims4()?;
        let (channels, tokens) = (channels / 3, height * width);
        let qkv = qkv.reshape((batch, 3 * channels, tokens))?;
        let part = |number: usize| qkv.narrow(1, number * channels, channels);
        // [B, T, C], [B, C, T], [B, T, C]
        let query = (part(0)?.transpose(1, 2)?.contiguous()? / (channels as f64).sqrt())?;
        let key = part(1)?.contiguous()?;
        let value = part(2)?.transpose(1, 2)?.contiguous()?;
        let at_once = (BLOCK_SCORES / tokens.max(1)).max(1);
        let mut mixed = Vec::new();
        for first in (0..tokens).step_by(at_once) {
            let query = query
                .narrow(1, first, at_once.min(tokens - first))?
                .contiguous()?;
            let weights = softmax_last_dim(&query.matmul(&key)?)?;
            mixed.push(weights.matmul(&value)?);
        }
        let mixed = Tensor::cat(&mixed, 1)?.transpose(1, 2)?.contiguous()?;
        Ok(mixed.reshape((batch, channels, height, width))?)
    }

    fn enlarge(x: &Tensor, _: Padding) -> Result<Tensor, Error> {
        let (_, _, height, width) = x.dims4()?;
        Ok(x.upsample_nearest2d(2 * height, 2 * width)?)
    }
}

/// Applies `forward` to a batch `[B, C, H, W]`, `at_once` images at a time, on `device`.
pub(super) fn map_batches(
    batch: &Tensor,
    at_once: usize,
    device: &Device,
    forward: impl Fn(&Tensor) -> Result<Tensor, Error>,
) -> Result<Tensor, Error> {
    let images = batch.dim(0)?;
    let mut done = Vec::new();
    for first in (0..images).step_by(at_once) {
        let some = batch.narrow(0, first, at_once.min(images - first))?;
        done.push(forward(
            &some.to_device(device)?.to_dtype(DType::F32)?.contiguous()?,
        )?);
    }
    Ok(Tensor::cat(&done, 0)?)
}
