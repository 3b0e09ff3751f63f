//! The network on the processor: the layers of [`preprocess::nn`], f32, channels last.

use preprocess::nn::{Activation, Conv2d, FeatureMap, Output, Padding, Pool};

use super::backend::Backend;
use crate::error::Result;

/// See [the module](self).
pub(super) struct Host;

impl Backend for Host {
    type Map = FeatureMap;
    type Conv = Conv2d;

    fn conv_layer(
        &self,
        weight: Vec<f32>,
        shape: [usize; 4],
        bias: Vec<f32>,
        stride: usize,
        padding: Padding,
    ) -> Result<Conv2d> {
        Ok(Conv2d::new(&weight, shape, bias, stride, padding)?.with_fewer_products())
    }

    fn border(layer: &Conv2d) -> Padding {
        layer.padding()
    }

    fn conv_relu(layer: &Conv2d, x: &FeatureMap, border: Padding) -> Result<FeatureMap> {
        let output = Output {
            padding: border,
            activation: Activation::Relu,
            residual: None,
        };
        Ok(layer.forward(x, output)?)
    }

    fn pool(pool: Pool, x: &FeatureMap, stride: usize, padding: usize) -> Result<FeatureMap> {
        Ok(pool.forward(x, stride, padding))
    }

    fn concatenate(parts: &[FeatureMap]) -> Result<FeatureMap> {
        let Some([batch, height, width, _]) = parts.first().map(FeatureMap::shape) else {
            return Ok(FeatureMap::zeros([0; 4], Padding::NONE));
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
        Ok(joined)
    }

    fn first_channels(x: &FeatureMap, count: usize) -> Result<FeatureMap> {
        let [batch, height, width, channels] = x.shape();
        let mut first = FeatureMap::unfilled([batch, height, width, count], Padding::NONE);
        first.for_each_row_mut(|n, y, row| {
            let pixels = x.row(n, y).chunks_exact(channels);
            for (to, from) in row.chunks_exact_mut(count).zip(pixels) {
                to.copy_from_slice(&from[..count]);
            }
        });
        Ok(first)
    }

    fn values(x: &FeatureMap) -> Result<Vec<f32>> {
        let [batch, height, width, channels] = x.shape();
        let mut values = Vec::with_capacity(batch * height * width * channels);
        for n in 0..batch {
            for y in 0..height {
                values.extend_from_slice(x.row(n, y));
            }
        }
        Ok(values)
    }

    fn spatial_mean(x: &FeatureMap) -> Result<Vec<f32>> {
        Ok(spatial_mean(x))
    }
}

/// Mean over the pixels, `[B, channels]`.
pub(crate) fn spatial_mean(map: &FeatureMap) -> Vec<f32> {
    let [batch, height, width, channels] = map.shape();
    let mut means = vec![0.0; batch * channels];
    for (n, mean) in means.chunks_exact_mut(channels).enumerate() {
        for y in 0..height {
            for pixel in map.row(n, y).chunks_exact(channels) {
                for (sum, value) in mean.iter_mut().zip(pixel) {
                    *sum += value;
                }
            }
        }
        for sum in mean {
            *sum /= (height * width) as f32;
        }
    }
    means
}
