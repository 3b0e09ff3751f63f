//! The network in candle's tensors: f32, channels first, on any of candle's devices. Made for GPUs; on the processor it is
//! the slow twin of [`Host`](super::host::Host), and there tests compare the two.

use candle_core::{D, Device, Tensor};
use preprocess::nn::{Padding, Pool, TensorConv};

use super::backend::Backend;
use crate::error::Result;

/// Side of a pool's window.
const SIDE: usize = 3;

/// See [the module](self): the device that weights go to.
pub(super) struct Tensors {
    pub(super) device: Device,
}

impl Backend for Tensors {
    type Map = Tensor;
    type Conv = TensorConv;

    fn conv_layer(
        &self,
        weight: Vec<f32>,
        shape: [usize; 4],
        bias: Vec<f32>,
        stride: usize,
        padding: Padding,
    ) -> Result<TensorConv> {
        Ok(TensorConv::new(
            weight,
            shape,
            bias,
            stride,
            padding,
            &self.device,
        )?)
    }

    fn border(_: &TensorConv) -> Padding {
        Padding::NONE
    }

    fn conv_relu(layer: &TensorConv, x: &Tensor, _: Padding) -> Result<Tensor> {
        Ok(layer.forward(x)?.relu()?)
    }

    fn pool(pool: Pool, x: &Tensor, stride: usize, padding: usize) -> Result<Tensor> {
        let windows = ((SIDE, SIDE), (stride, stride));
        match pool {
            // What a repeated border shows of the image, a window at the border sees anyway.
            Pool::Maximum => {
                let x = x
                    .pad_with_same(2, padding, padding)?
                    .pad_with_same(3, padding, padding)?;
                Ok(x.contiguous()?.max_pool2d_with_stride(windows.0, windows.1)?)
            }
            Pool::Average => {
                let (_, _, height, width) = x.dims4()?;
                let x = x
                    .pad_with_zeros(2, padding, padding)?
                    .pad_with_zeros(3, padding, padding)?;
                let means = x.contiguous()?.avg_pool2d_with_stride(windows.0, windows.1)?;
                if padding == 0 {
                    return Ok(means);
                }
                // The mean over nine pixels, zeros among them, to that over those inside.
                let rows = seen(height, stride, padding);
                let columns = seen(width, stride, padding);
                let factors: Vec<f32> = rows
                    .iter()
                    .flat_map(|row| columns.iter().map(move |column| row * column))
                    .map(|pixels| (SIDE * SIDE) as f32 / pixels as f32)
                    .collect();
                let shape = (1, 1, rows.len(), columns.len());
                let factors = Tensor::from_vec(factors, shape, x.device())?;
                Ok(means.broadcast_mul(&factors)?)
            }
        }
    }

    fn concatenate(parts: &[Tensor]) -> Result<Tensor> {
        Ok(Tensor::cat(parts, 1)?)
    }

    fn first_channels(x: &Tensor, count: usize) -> Result<Tensor> {
        Ok(x.narrow(1, 0, count)?)
    }

    fn values(x: &Tensor) -> Result<Vec<f32>> {
        let pixels = x.permute((0, 2, 3, 1))?.contiguous()?;
        Ok(pixels.flatten_all()?.to_vec1()?)
    }

    fn spatial_mean(x: &Tensor) -> Result<Vec<f32>> {
        Ok(x.flatten_from(2)?.mean(D::Minus1)?.flatten_all()?.to_vec1()?)
    }
}

/// Rows (or columns) inside the image that each window covers.
fn seen(length: usize, stride: usize, padding: usize) -> Vec<usize> {
    let windows = (length + 2 * padding).saturating_sub(SIDE) / stride + 1;
    (0..windows)
        .map(|window| {
            let start = window * stride;
            (start + SIDE)
                .min(length + padding)
                .saturating_sub(start.max(padding))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use preprocess::nn::FeatureMap;
    use preprocess::nn::synthetic::synthetic_tensor;

    use super::super::host::Host;
    use super::*;

    #[test]
    fn pools_leave_out_what_lies_outside_as_those_of_the_host_do() {
        let shape = [2, 3, 7, 5];
        // Of either sign: a border of zeros would show.
        let values: Vec<f32> = synthetic_tensor("pooled.kernel", 0, &shape, 12.0)
            .iter()
            .map(|value| value - 0.3)
            .collect();
        let map = FeatureMap::from_nchw(&values, shape, Padding::NONE).unwrap();
        let tensor = Tensor::from_vec(values, &shape, &Device::Cpu).unwrap();
        for pool in [Pool::Maximum, Pool::Average] {
            for (stride, padding) in [(1, 1), (2, 0), (2, 1)] {
                let expected = Host::pool(pool, &map, stride, padding).unwrap();
                let found = Tensors::pool(pool, &tensor, stride, padding).unwrap();
                let [batch, height, width, channels] = expected.shape();
                assert_eq!(found.dims(), [batch, channels, height, width]);
                let pairs = Tensors::values(&found).unwrap();
                for (a, b) in pairs.iter().zip(Host::values(&expected).unwrap()) {
                    assert!((a - b).abs() < 1e-6, "{pool:?} {stride} {padding}: {a} {b}");
                }
            }
        }
    }
}
