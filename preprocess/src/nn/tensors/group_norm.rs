//! Group norm with SiLU in candle's tensors: on a GPU one launch of our own kernel, on the processor candle's operations.

use candle_core::{Device, Result, Tensor};
use candle_nn::Module as _;

/// A group norm with its weights on a device.
#[derive(Clone, Debug)]
pub struct TensorGroupNorm {
    /// Its twin, in candle's operations.
    by_operations: candle_nn::GroupNorm,
    #[cfg(feature = "cuda")]
    parameters: [Tensor; 2],
    #[cfg(feature = "cuda")]
    shape: kernel::Shape,
}

impl TensorGroupNorm {
    /// A norm of `groups` groups on `device`, from scale and shift of every channel.
    ///
    /// # Errors
    /// When the groups do not divide the channels, or the device has no room.
    pub fn new(weight: Vec<f32>, bias: Vec<f32>, groups: usize, eps: f64, device: &Device) -> Result<Self> {
        let channels = weight.len();
        let weight = Tensor::from_vec(weight, channels, device)?;
        let bias = Tensor::from_vec(bias, channels, device)?;
        Ok(Self {
            #[cfg(feature = "cuda")]
            parameters: [weight.clone(), bias.clone()],
            #[cfg(feature = "cuda")]
            shape: kernel::Shape { groups, eps },
            by_operations: candle_nn::GroupNorm::new(weight, bias, channels, groups, eps)?,
        })
    }

    /// `x` `[B, channels, H, W]` normalised, and through `x sigmoid(x)` if `silu`.
    ///
    /// # Errors
    /// When the input does not fit the layer, or the device fails.
    pub fn forward(&self, x: &Tensor, silu: bool) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return self.shape.apply(x, &self.parameters, silu);
        }
        let y = self.by_operations.forward(x)?;
        if silu { y.silu() } else { Ok(y) }
    }
}

#[cfg(feature = "cuda")]
mod kernel {
    #![expect(unsafe_code, reason = "a launch of a kernel")]

    use candle_core::backend::BackendStorage as _;
    use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg as _};
    use candle_core::{CpuStorage, CudaStorage, CustomOp3, Layout, Result, Shape as Dims, Tensor, bail};

    const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/group_norm.ptx"));
    const KERNEL: &str = "group_norm_planes_f32";
    const THREADS: u32 = 256;

    /// What the kernel is told beside the tensors.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct Shape {
        pub(super) groups: usize,
        pub(super) eps: f64,
    }

    struct Norm {
        shape: Shape,
        silu: bool,
    }

    impl Shape {
        pub(super) fn apply(self, x: &Tensor, [weight, bias]: &[Tensor; 2], silu: bool) -> Result<Tensor> {
            let norm = Norm { shape: self, silu };
            x.contiguous()?.apply_op3_no_bwd(weight, bias, &norm)
        }
    }

    impl CustomOp3 for Norm {
        fn name(&self) -> &'static str {
            "group-norm"
        }

        fn cpu_fwd(
            &self,
            _: &CpuStorage,
            _: &Layout,
            _: &CpuStorage,
            _: &Layout,
            _: &CpuStorage,
            _: &Layout,
        ) -> Result<(CpuStorage, Dims)> {
            bail!("the kernel works on GPUs alone")
        }

        fn cuda_fwd(
            &self,
            x: &CudaStorage,
            x_layout: &Layout,
            weight: &CudaStorage,
            weight_layout: &Layout,
            bias: &CudaStorage,
            bias_layout: &Layout,
        ) -> Result<(CudaStorage, Dims)> {
            let (batch, channels, height, width) = x_layout.shape().dims4()?;
            let groups = self.shape.groups;
            if weight_layout.shape().elem_count() != channels || !channels.is_multiple_of(groups) {
                bail!(
                    "a group norm of {} channels was given {channels}",
                    weight_layout.shape().elem_count()
                );
            }
            let device = x.device();
            let from = x.as_cuda_slice::<f32>()?.slice(x_layout.start_offset()..);
            let weight = weight
                .as_cuda_slice::<f32>()?
                .slice(weight_layout.start_offset()..);
            let bias = bias.as_cuda_slice::<f32>()?.slice(bias_layout.start_offset()..);
            let function = device.get_or_load_custom_func(KERNEL, "preprocess-group-norm", PTX)?;
            let sizes = [channels, groups, height * width].map(|size| size as i32);
            let (eps, silu) = (self.shape.eps, i32::from(self.silu));
            let config = LaunchConfig {
                grid_dim: (groups as u32, batch as u32, 1),
                block_dim: (THREADS, 1, 1),
                shared_mem_bytes: 0,
            };
            // SAFETY: `out` is of any content and the kernel writes all of it. Arguments are in the kernel's order and of its
            // types; x is contiguous (see `apply`) with as many numbers as its shape says, weight and bias have one a channel.
            let out = unsafe {
                let out = device.alloc::<f32>(x_layout.shape().elem_count())?;
                let mut launch = function.builder();
                launch.arg(&from).arg(&weight).arg(&bias).arg(&out);
                launch.arg(&sizes[0]).arg(&sizes[1]).arg(&sizes[2]);
                launch.arg(&eps).arg(&silu);
                launch
                    .launch(config)
                    .map_err(|error| candle_core::Error::wrap(error).bt())?;
                out
            };
            Ok((
                CudaStorage::wrap_cuda_slice(out, device.clone()),
                x_layout.shape().clone(),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn off(device: &Device) -> f32 {
        let numbers = |count: usize, step: f32| -> Vec<f32> {
            (0..count).map(|i| (i as f32 * step).sin() + 2.0).collect()
        };
        let (weight, bias) = (numbers(12, 0.7), numbers(12, 1.3));
        let x = Tensor::from_vec(numbers(2 * 12 * 35, 0.11), (2, 12, 5, 7), &Device::Cpu).unwrap();
        let mut worst = 0f32;
        for silu in [false, true] {
            let layer = |device: &Device| {
                TensorGroupNorm::new(weight.clone(), bias.clone(), 4, 1e-6, device).unwrap()
            };
            let want = layer(&Device::Cpu).forward(&x, silu).unwrap();
            let found = layer(device)
                .forward(&x.to_device(device).unwrap(), silu)
                .unwrap();
            let found = found.to_device(&Device::Cpu).unwrap();
            let distance = (found - want).unwrap().abs().unwrap();
            worst = worst.max(
                distance
                    .flatten_all()
                    .unwrap()
                    .max(0)
                    .unwrap()
                    .to_scalar()
                    .unwrap(),
            );
        }
        worst
    }

    #[test]
    fn the_processor_normalises_by_candles_operations() {
        assert!(off(&Device::Cpu) < 1e-6);
        let wrong = TensorGroupNorm::new(vec![1.0; 5], vec![0.0; 5], 2, 1e-6, &Device::Cpu);
        assert!(wrong.is_err(), "two groups of five channels");
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn a_gpu_normalises_by_the_kernel() {
        let device = Device::new_cuda(0).unwrap();
        assert!(off(&device) < 1e-5);
    }
}
