//! What the network computes with: one definition of encoder and decoder, two forms of their layers.
//!
//! [`Host`](super::host::Host) is this crate's own layers on the processor, [`Tensors`](super::tensors::Tensors) the
//! operations of candle's tensors, on any of its devices.

use super::error::Error;
use crate::nn::{Activation, Padding};

/// The layers of one form. Maps are batches; a border is what the next layer wants around a map, and a form whose
/// convolutions look after themselves has none.
pub(crate) trait Backend {
    /// A batch of feature maps.
    type Map;
    /// A convolution with its weights.
    type Conv;
    /// A group norm with its weights.
    type Norm;

    /// A convolution from `weight` `[out, in, kh, kw]` (row-major) and `bias` `[out]`.
    fn conv_layer(
        &self,
        weight: Vec<f32>,
        shape: [usize; 4],
        bias: Vec<f32>,
        stride: usize,
        padding: Padding,
    ) -> Result<Self::Conv, Error>;

    /// A group norm from its scale and shift, one of each a channel.
    fn norm_layer(&self, groups: usize, weight: Vec<f32>, bias: Vec<f32>) -> Result<Self::Norm, Error>;

    /// `layer(x) + residual`, within `border`.
    fn conv(
        layer: &Self::Conv,
        x: &Self::Map,
        border: Padding,
        residual: Option<&Self::Map>,
    ) -> Result<Self::Map, Error>;

    /// `activation(layer(x))`, within `border`.
    fn norm(
        layer: &Self::Norm,
        x: &Self::Map,
        activation: Activation,
        border: Padding,
    ) -> Result<Self::Map, Error>;

    /// `activation(layer(x))`, within the border that `x` has.
    fn norm_own(layer: &Self::Norm, x: Self::Map, activation: Activation) -> Result<Self::Map, Error>;

    /// `softmax(q kT / sqrt(channels)) v` between the pixels of each map, from one whose channels are `[q | k | v]`.
    fn attention(qkv: &Self::Map) -> Result<Self::Map, Error>;

    /// Every pixel four times, within `border`.
    fn enlarge(x: &Self::Map, border: Padding) -> Result<Self::Map, Error>;
}
