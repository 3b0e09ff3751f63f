//! What the network computes with: one definition of it, two forms of its layers.
//!
//! [`Host`](super::host::Host) is this workspace's own layers on the processor, [`Tensors`](super::tensors::Tensors) the
//! operations of candle's tensors, on any of its devices.

use preprocess::nn::{Padding, Pool};

use crate::error::Result;

/// The layers of one form. A border is what the next layer wants around a map; a form whose convolutions look after
/// themselves has none.
pub(super) trait Backend {
    /// A batch of feature maps.
    type Map;
    /// A convolution with its weights.
    type Conv;

    /// A convolution from `weight` `[out, in, kh, kw]` (row-major) and `bias` `[out]`.
    fn conv_layer(
        &self,
        weight: Vec<f32>,
        shape: [usize; 4],
        bias: Vec<f32>,
        stride: usize,
        padding: Padding,
    ) -> Result<Self::Conv>;

    /// The border that `layer` wants around its input.
    fn border(layer: &Self::Conv) -> Padding;

    /// `ReLU(layer(x))`, within `border`.
    fn conv_relu(layer: &Self::Conv, x: &Self::Map, border: Padding) -> Result<Self::Map>;

    /// Windows of 3 x 3 pixels, which begin `padding` pixels outside the image and are `stride` apart; what lies outside
    /// takes no part.
    fn pool(pool: Pool, x: &Self::Map, stride: usize, padding: usize) -> Result<Self::Map>;

    /// The maps side by side along the channels.
    fn concatenate(parts: &[Self::Map]) -> Result<Self::Map>;

    /// The first `count` channels.
    fn first_channels(x: &Self::Map, count: usize) -> Result<Self::Map>;

    /// Pixels in raster order, channel fastest: `[B, h, w, channels]`.
    fn values(x: &Self::Map) -> Result<Vec<f32>>;

    /// Mean over the pixels, `[B, channels]`.
    fn spatial_mean(x: &Self::Map) -> Result<Vec<f32>>;
}
