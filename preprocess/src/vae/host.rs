//! The network on the processor: the layers of [`crate::nn`], f32, channels last.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::backend::Backend;
use super::config::NORM_EPS;
use super::error::Error;
use crate::nn::attention::attention;
use crate::nn::upsample::nearest_x2;
use crate::nn::{Activation, Conv2d, FeatureMap, GroupNorm, Output, Padding};

/// Activations of the widest stage that live at one time.
pub(super) const LIVE_MAPS: u64 = 5;

/// See [the module](self).
pub(crate) struct Host;

impl Backend for Host {
    type Map = FeatureMap;
    type Conv = Conv2d;
    type Norm = GroupNorm;

    fn conv_layer(
        &self,
        weight: Vec<f32>,
        shape: [usize; 4],
        bias: Vec<f32>,
        stride: usize,
        padding: Padding,
    ) -> Result<Conv2d, Error> {
        Ok(Conv2d::new(&weight, shape, bias, stride, padding)?.with_fewer_products())
    }

    fn norm_layer(&self, groups: usize, weight: Vec<f32>, bias: Vec<f32>) -> Result<GroupNorm, Error> {
        Ok(GroupNorm::new(groups, weight, bias, NORM_EPS)?)
    }

    fn conv(
        layer: &Conv2d,
        x: &FeatureMap,
        border: Padding,
        residual: Option<&FeatureMap>,
    ) -> Result<FeatureMap, Error> {
        let output = Output {
            padding: border,
            activation: Activation::None,
            residual,
        };
        Ok(layer.forward(x, output)?)
    }

    fn norm(
        layer: &GroupNorm,
        x: &FeatureMap,
        activation: Activation,
        border: Padding,
    ) -> Result<FeatureMap, Error> {
        Ok(layer.forward(x, activation, border)?)
    }

    fn norm_own(layer: &GroupNorm, mut x: FeatureMap, activation: Activation) -> Result<FeatureMap, Error> {
        layer.forward_in_place(&mut x, activation)?;
        Ok(x)
    }

    fn attention(qkv: &FeatureMap) -> Result<FeatureMap, Error> {
        let [batch, height, width, channels] = qkv.shape();
        let (tokens, size) = (height * width, height * width * channels);
        let mut mixed = FeatureMap::zeros([batch, height, width, channels / 3], Padding::NONE);
        for n in 0..batch {
            let image = attention(&qkv.data()[n * size..][..size], tokens, channels / 3)?;
            for (y, row) in image.chunks_exact(width * channels / 3).enumerate() {
                mixed.row_mut(n, y).copy_from_slice(row);
            }
        }
        Ok(mixed)
    }

    fn enlarge(x: &FeatureMap, border: Padding) -> Result<FeatureMap, Error> {
        Ok(nearest_x2(x, border))
    }
}

/// Applies `forward` to each image of a batch `[B, C, H, W]`, `at_once` at a time. The results follow one another as
/// `[C, H, W]`.
pub(super) fn map_images(
    batch: &Tensor,
    border: Padding,
    at_once: usize,
    forward: impl Fn(&FeatureMap) -> Result<FeatureMap, Error> + Sync,
) -> Result<Vec<f32>, Error> {
    let (_, channels, height, width) = batch.dims4()?;
    let values: Vec<f32> = batch
        .to_dtype(DType::F32)?
        .to_device(&Device::Cpu)?
        .flatten_all()?
        .to_vec1()?;
    let size = channels * height * width;
    let mut out = Vec::new();
    for group in values.chunks(at_once * size) {
        let images: Vec<Vec<f32>> = group
            .par_chunks_exact(size)
            .map(|image| {
                let map = FeatureMap::from_nchw(image, [1, channels, height, width], border)?;
                Ok(forward(&map)?.to_nchw())
            })
            .collect::<Result<_, Error>>()?;
        out.extend(images.into_iter().flatten());
    }
    Ok(out)
}
