//! Convolution and group norm in candle's tensors: f32, channels first, on any of candle's devices. Made for GPUs; on the
//! processor they are the slow twins of [`Conv2d`](super::Conv2d) and [`GroupNorm`](super::GroupNorm).

#[cfg(feature = "cudnn")]
mod cudnn;
mod group_norm;

pub use group_norm::TensorGroupNorm;

use candle_core::{DType, Device, Result, Tensor};

use super::error::check_length;
use super::feature_map::Padding;

/// What the numbers of networks on a GPU come from, as records tell it: every product and sum in f32.
pub const GPU_ARITHMETIC: &str = GpuPrecision::F32.arithmetic();

/// What the factors of a network's convolutions are rounded to on a GPU; all sums, and everything else, are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum GpuPrecision {
    /// Nothing
    #[default]
    F32,
    /// TF32, 10 bits behind the point, where cuDNN computes
    Tf32,
    /// bf16, 7 bits behind the point
    Bf16,
}

impl GpuPrecision {
    /// What records tell of it.
    pub const fn arithmetic(self) -> &'static str {
        match self {
            Self::F32 => "cuda f32",
            Self::Tf32 => "cuda tf32",
            Self::Bf16 => "cuda bf16",
        }
    }
}

/// A convolution with its weights on a device.
#[derive(Clone, Debug)]
pub struct TensorConv {
    /// `[out, in, kh, kw]`.
    weight: Tensor,
    /// `[1, out, 1, 1]`.
    bias: Tensor,
    stride: usize,
    padding: Padding,
    precision: GpuPrecision,
}

impl TensorConv {
    /// A convolution on `device` from `weight` `[out, in, kh, kw]` (row-major) and `bias` `[out]`.
    ///
    /// # Errors
    /// When a buffer's length does not fit the shape, or the device has no room.
    pub fn new(
        weight: Vec<f32>,
        shape: [usize; 4],
        bias: Vec<f32>,
        stride: usize,
        padding: Padding,
        device: &Device,
    ) -> Result<Self> {
        check_length("convolution weight", shape.iter().product(), weight.len())
            .and_then(|()| check_length("convolution bias", shape[0], bias.len()))
            .map_err(candle_core::Error::wrap)?;
        Ok(Self {
            weight: Tensor::from_vec(weight, &shape[..], device)?,
            bias: Tensor::from_vec(bias, (1, shape[0], 1, 1), device)?,
            stride: stride.max(1),
            padding,
            precision: GpuPrecision::F32,
        })
    }

    /// The same with factors of another precision.
    ///
    /// # Errors
    /// When the device fails.
    pub fn with_precision(self, precision: GpuPrecision) -> Result<Self> {
        let weight = match precision {
            GpuPrecision::F32 | GpuPrecision::Tf32 => self.weight.clone(),
            GpuPrecision::Bf16 => self.weight.to_dtype(DType::BF16)?,
        };
        Ok(Self {
            weight,
            precision,
            ..self
        })
    }

    /// `x` `[B, in, H, W]`, without a border of its own, to `[B, out, h, w]`.
    ///
    /// # Errors
    /// When the input does not fit the layer, or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let sides = self.padding;
        // cuDNN pads rows and columns by what each wants, candle all sides alike.
        let by_cudnn = cfg!(feature = "cudnn") && x.device().is_cuda();
        let alike = sides == Padding::same(sides.top);
        let (padded, within) = if alike || by_cudnn && sides == Padding::symmetric(sides.top, sides.left) {
            (x.clone(), [sides.top, sides.left])
        } else {
            let rows = x.pad_with_zeros(2, sides.top, sides.bottom)?;
            (rows.pad_with_zeros(3, sides.left, sides.right)?, [0, 0])
        };
        self.convolve(&padded, within)?.broadcast_add(&self.bias)
    }

    /// `x` `[B, in, H, W]` within so many rows and columns of zeros: the same number, unless cuDNN computes.
    fn convolve(&self, x: &Tensor, within: [usize; 2]) -> Result<Tensor> {
        let is_rounded = self.precision == GpuPrecision::Bf16;
        #[cfg(feature = "cudnn")]
        if x.device().is_cuda() {
            let kind = if is_rounded { DType::BF16 } else { DType::F32 };
            let x = x.to_dtype(kind)?;
            let y = cudnn::convolve(&x, &self.weight, within, self.stride, self.precision)?;
            return y.to_dtype(DType::F32);
        }
        if !is_rounded {
            return x.conv2d(&self.weight, within[0], self.stride, 1, 1);
        }
        let x = x.to_dtype(DType::BF16)?.to_dtype(DType::F32)?;
        let y = x.conv2d(&self.weight.to_dtype(DType::F32)?, within[0], self.stride, 1, 1)?;
        y.to_dtype(DType::BF16)?.to_dtype(DType::F32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::synthetic::synthetic_tensor;
    use crate::nn::{Conv2d, FeatureMap, Output};

    /// Sums of up to 63 products of the order of one in another order.
    const TOLERANCE: f32 = 1e-5;

    #[test]
    fn every_padding_gives_what_the_host_layer_does() {
        let image = synthetic_tensor("image.kernel", 0, &[2, 3, 9, 8], 12.0);
        let mixed = Padding {
            top: 0,
            bottom: 1,
            left: 2,
            right: 1,
        };
        for (kernel, padding) in [
            ([3, 3], Padding::ONE),
            ([1, 7], Padding::symmetric(0, 3)),
            ([7, 1], Padding::symmetric(3, 0)),
            ([3, 3], mixed),
            ([1, 1], Padding::NONE),
        ] {
            for stride in [1, 2] {
                let shape = [5, 3, kernel[0], kernel[1]];
                let weight = synthetic_tensor("a.kernel", 1, &shape, 12.0);
                let bias = synthetic_tensor("a.bias", 2, &[5], 12.0);
                let host = Conv2d::new(&weight, shape, bias.clone(), stride, padding).unwrap();
                let map = FeatureMap::from_nchw(&image, [2, 3, 9, 8], padding).unwrap();
                let expected = host.forward(&map, Output::default()).unwrap();
                let layer = TensorConv::new(weight, shape, bias, stride, padding, &Device::Cpu).unwrap();
                let x = Tensor::from_slice(&image, (2, 3, 9, 8), &Device::Cpu).unwrap();
                let y = layer.forward(&x).unwrap();
                let [batch, height, width, channels] = expected.shape();
                assert_eq!(y.dims(), [batch, channels, height, width]);
                let values: Vec<f32> = y.flatten_all().unwrap().to_vec1().unwrap();
                for (value, expected) in values.iter().zip(expected.to_nchw()) {
                    assert!(
                        (value - expected).abs() < TOLERANCE,
                        "{kernel:?} {padding:?} {stride}: {value} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn bf16_rounds_factors_and_results_and_nothing_else() {
        let layer = |precision| {
            let weight = vec![1.0 + 1.0 / 512.0, 3.0];
            let layer = TensorConv::new(
                weight,
                [2, 1, 1, 1],
                vec![1.0 / 1024.0; 2],
                1,
                Padding::NONE,
                &Device::Cpu,
            );
            layer.unwrap().with_precision(precision).unwrap()
        };
        let x = Tensor::new(&[[[[1.0f32, 1.0 + 1.0 / 256.0]]]], &Device::Cpu).unwrap();
        let values = |precision| -> Vec<f32> {
            let y = layer(precision).forward(&x).unwrap();
            y.flatten_all().unwrap().to_vec1().unwrap()
        };
        // Ties go to the even neighbour: both factors become 1, the bias is added in f32.
        let bias = 1.0 / 1024.0;
        assert_eq!(
            values(GpuPrecision::Bf16),
            [1.0 + bias, 1.0 + bias, 3.0 + bias, 3.0 + bias]
        );
        assert_eq!(values(GpuPrecision::F32)[0], 1.0 + 1.0 / 512.0 + bias);
        assert_eq!(GpuPrecision::Tf32.arithmetic(), "cuda tf32");
    }

    #[test]
    fn buffers_that_do_not_fit_are_told() {
        let layer = |weight: usize, bias: usize| {
            let (weight, bias) = (vec![0.0; weight], vec![0.0; bias]);
            TensorConv::new(weight, [2, 3, 1, 1], bias, 1, Padding::NONE, &Device::Cpu)
        };
        assert!(layer(6, 2).is_ok());
        let told = |result: Result<TensorConv>| result.unwrap_err().to_string();
        assert!(told(layer(5, 2)).contains("5 values given, 6 expected"));
        assert!(told(layer(6, 3)).contains("3 values given, 2 expected"));
    }
}
