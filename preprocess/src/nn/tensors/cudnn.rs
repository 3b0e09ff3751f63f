#![expect(unsafe_code, reason = "a call of cuDNN")]
//! Convolution by cuDNN in plain f32. candle's own call leaves the arithmetic to cuDNN, which rounds the factors to TF32
//! (11 significant bits) where the GPU has it: 1e-3 of the latents, in data that are made once and kept.

use std::cell::RefCell;
use std::sync::Arc;

use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::DeviceId;
use candle_core::cuda_backend::cudarc::cudnn::safe::{ConvForward, Cudnn};
use candle_core::cuda_backend::cudarc::cudnn::sys::{
    cudnnConvolutionMode_t, cudnnMathType_t, cudnnTensorFormat_t,
};
use candle_core::{CpuStorage, CudaDevice, CudaStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

const FORMAT: cudnnTensorFormat_t = cudnnTensorFormat_t::CUDNN_TENSOR_NCHW;

thread_local! {
    /// The library's handles of this thread, one for each device: they cannot be sent.
    static HANDLES: RefCell<Vec<(DeviceId, Arc<Cudnn>)>> = const { RefCell::new(Vec::new()) };
}

/// `x` `[B, in, H, W]` with `weight` `[out, in, kh, kw]`, both on a GPU; `padding` rows above and below, and columns left and
/// right.
pub(super) fn convolve(x: &Tensor, weight: &Tensor, padding: [usize; 2], stride: usize) -> Result<Tensor> {
    let op = Convolution { padding, stride };
    x.contiguous()?.apply_op2_no_bwd(&weight.contiguous()?, &op)
}

struct Convolution {
    padding: [usize; 2],
    stride: usize,
}

impl CustomOp2 for Convolution {
    fn name(&self) -> &'static str {
        "cudnn-f32-convolution"
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
        conv.set_math_type(cudnnMathType_t::CUDNN_FMA_MATH)?;
        let shape = |dims: [usize; 4]| dims.map(|dim| dim as i32);
        let from = handle.create_4d_tensor::<f32>(FORMAT, shape([batch, inputs, height, width]))?;
        let filter =
            handle.create_4d_filter::<f32>(FORMAT, shape([outputs, inputs, kernel_height, kernel_width]))?;
        let out_dims = [batch, outputs, out_height, out_width];
        let to = handle.create_4d_tensor::<f32>(FORMAT, shape(out_dims))?;
        let call = ConvForward {
            conv: &conv,
            x: &from,
            w: &filter,
            y: &to,
        };
        let algorithm = call.pick_algorithm()?;
        let bytes = call.get_workspace_size(algorithm)?;
        let elements = out_dims.iter().product();
        let x = x.as_cuda_slice::<f32>()?.slice(x_layout.start_offset()..);
        let weight = weight
            .as_cuda_slice::<f32>()?
            .slice(weight_layout.start_offset()..);
        // SAFETY: the allocations are of any content, and only used as what the call writes: `out` whole, the workspace as
        // cuDNN's own. The call: both inputs are contiguous (see `convolve`) and the descriptors above have their shapes
        // and dtype; `out` has as many elements as its descriptor.
        let out = unsafe {
            let mut out = device.alloc::<f32>(elements)?;
            let mut workspace = device.alloc::<u8>(bytes.max(1))?;
            call.launch(algorithm, Some(&mut workspace), (1.0, 0.0), &x, &weight, &mut out)?;
            out
        };
        Ok((
            CudaStorage::wrap_cuda_slice(out, device.clone()),
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
