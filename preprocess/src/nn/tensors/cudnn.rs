#![expect(unsafe_code, reason = "a call of cuDNN")]
//! Convolution by cuDNN in plain f32. candle's own call leaves the arithmetic to cuDNN, which rounds the factors to TF32
//! (11 significant bits) where the GPU has it: 1e-3 of the latents, in data that are made once and kept.

use std::cell::RefCell;
use std::sync::Arc;

use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::cudarc::cudnn::safe::CudnnDataType;
use candle_core::cuda_backend::cudarc::cudnn::safe::{ConvForward, Cudnn};
use candle_core::cuda_backend::cudarc::cudnn::sys::{
    cudnnConvolutionMode_t, cudnnMathType_t, cudnnTensorFormat_t,
};
use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::cuda_backend::{CudaDType, DeviceId};
use candle_core::{CpuStorage, CudaDevice, CudaStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use half::bf16;

use super::GpuPrecision;

const FORMAT: cudnnTensorFormat_t = cudnnTensorFormat_t::CUDNN_TENSOR_NCHW;

thread_local! {
    /// The library's handles of this thread, one for each device: they cannot be sent.
    static HANDLES: RefCell<Vec<(DeviceId, Arc<Cudnn>)>> = const { RefCell::new(Vec::new()) };
}

/// `x` `[B, in, H, W]` with `weight` `[out, in, kh, kw]`, both on a GPU; `padding` rows above and below, and columns left and
/// right.
pub(super) fn convolve(
    x: &Tensor,
    weight: &Tensor,
    padding: [usize; 2],
    stride: usize,
    precision: GpuPrecision,
) -> Result<Tensor> {
    let op = Convolution {
        padding,
        stride,
        precision,
    };
    x.contiguous()?.apply_op2_no_bwd(&weight.contiguous()?, &op)
}

struct Convolution {
    padding: [usize; 2],
    stride: usize,
    precision: GpuPrecision,
}

impl CustomOp2 for Convolution {
    fn name(&self) -> &'static str {
        "cudnn-convolution"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("cuDNN works on GPUs alone")
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        match self.precision {
            GpuPrecision::F32 | GpuPrecision::Tf32 => {
                self.run::<f32>((1.0, 0.0), x, x_layout, weight, weight_layout)
            }
            GpuPrecision::Bf16 => {
                let scales = (bf16::ONE, bf16::ZERO);
                self.run::<bf16>(scales, x, x_layout, weight, weight_layout)
            }
        }
    }
}

impl Convolution {
    /// Factors and result are `T`, sums f32; `scales` are one and zero.
    fn run<T: CudaDType + CudnnDataType + DeviceRepr>(
        &self,
        scales: (T, T),
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (batch, inputs, height, width) = x_layout.shape().dims4()?;
        let (outputs, _, kernel_height, kernel_width) = weight_layout.shape().dims4()?;
        let device = x.device();
        let handle = handle(device)?;
        let side = |length: usize, padding: usize, kernel: usize| {
            (length + 2 * padding)
                .checked_sub(kernel)
                .map(|room| room / self.stride + 1)
        };
        let [rows, columns] = self.padding;
        let (Some(out_height), Some(out_width)) = (
            side(height, rows, kernel_height),
            side(width, columns, kernel_width),
        ) else {
            bail!("a {height} x {width} image is too small for a {kernel_height} x {kernel_width} kernel");
        };
        let mut conv = handle.create_conv2d::<f32>(
            self.padding.map(|size| size as i32),
            [self.stride as i32; 2],
            [1, 1],
            cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION,
        )?;
        conv.set_math_type(match self.precision {
            GpuPrecision::F32 => cudnnMathType_t::CUDNN_FMA_MATH,
            GpuPrecision::Tf32 => cudnnMathType_t::CUDNN_DEFAULT_MATH,
            GpuPrecision::Bf16 => cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        })?;
        let shape = |dims: [usize; 4]| dims.map(|dim| dim as i32);
        let from = handle.create_4d_tensor::<T>(FORMAT, shape([batch, inputs, height, width]))?;
        let filter =
            handle.create_4d_filter::<T>(FORMAT, shape([outputs, inputs, kernel_height, kernel_width]))?;
        let out_dims = [batch, outputs, out_height, out_width];
        let to = handle.create_4d_tensor::<T>(FORMAT, shape(out_dims))?;
        let call = ConvForward {
            conv: &conv,
            x: &from,
            w: &filter,
            y: &to,
        };
        let algorithm = call.pick_algorithm()?;
        let bytes = call.get_workspace_size(algorithm)?;
        let elements = out_dims.iter().product();
        let x = x.as_cuda_slice::<T>()?.slice(x_layout.start_offset()..);
        let weight = weight.as_cuda_slice::<T>()?.slice(weight_layout.start_offset()..);
        // SAFETY: the allocations are of any content, and only used as what the call writes: `out` whole, the workspace as
        // cuDNN's own. The call: both inputs are contiguous (see `convolve`) and the descriptors above have their shapes
        // and dtype; `out` has as many elements as its descriptor.
        let out = unsafe {
            let mut out = device.alloc::<T>(elements)?;
            let mut workspace = device.alloc::<u8>(bytes.max(1))?;
            call.launch(algorithm, Some(&mut workspace), scales, &x, &weight, &mut out)?;
            out
        };
        Ok((
            T::wrap_cuda_slice(out, device.clone()),
            Shape::from_dims(&out_dims),
        ))
    }
}

/// This thread's handle for the stream of `device`.
fn handle(device: &CudaDevice) -> Result<Arc<Cudnn>> {
    HANDLES.with_borrow_mut(|handles| {
        if let Some((_, handle)) = handles.iter().find(|(id, _)| *id == device.id()) {
            return Ok(Arc::clone(handle));
        }
        let handle = Cudnn::new(device.cuda_stream())?;
        handles.push((device.id(), Arc::clone(&handle)));
        Ok(handle)
    })
}
