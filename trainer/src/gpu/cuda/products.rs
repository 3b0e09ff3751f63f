#![expect(unsafe_code, reason = "matrix products of cuBLAS, by address")]
//! Matrix products by cuBLAS.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublas::sys::{
    cublasComputeType_t, cublasGemmAlgo_t, cublasOperation_t, cublasSetWorkspace_v2, cudaDataType,
};
use cudarc::cublas::{CudaBlas, result};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr as _};

use super::memory::Memory;
use super::{Arithmetic, failed};
use crate::gpu::device::DeviceError;
use crate::gpu::launch::Element;
use crate::gpu::program::{Matrix, Product};

/// Bytes that cuBLAS may work in: what NVIDIA recommends for Hopper. With memory of its own it allocates nothing in a step, and
/// a product in a graph has the same bits as outside of it.
const WORKSPACE: usize = 32 << 20;

pub(super) struct Products {
    blas: CudaBlas,
    arithmetic: Arithmetic,
    _workspace: CudaSlice<u8>,
}

impl Products {
    pub(super) fn new(stream: &Arc<CudaStream>, arithmetic: Arithmetic) -> Result<Self, DeviceError> {
        // SAFETY: of any content: only cuBLAS uses it.
        let workspace = unsafe { stream.alloc::<u8>(WORKSPACE) }
            .map_err(|error| failed("reserving memory for products", &error))?;
        let blas = CudaBlas::new(Arc::clone(stream)).map_err(|error| failed("opening cuBLAS", &error))?;
        {
            let (start, _no_events) = workspace.device_ptr(stream);
            // SAFETY: so many bytes at that address, which live as long as the handle.
            let status = unsafe { cublasSetWorkspace_v2(*blas.handle(), start as *mut c_void, WORKSPACE) };
            status
                .result()
                .map_err(|error| failed("giving memory to cuBLAS", &error))?;
        }
        Ok(Self {
            blas,
            arithmetic,
            _workspace: workspace,
        })
    }

    /// Starts a product. cuBLAS has columns where we have rows: it computes `out^T = b^T a^T`.
    pub(super) fn run(&self, product: &Product, memory: &Memory) -> Result<(), DeviceError> {
        let Product {
            rows,
            cols,
            inner,
            a,
            b,
            out,
            beta,
        } = product;
        let size = |value: usize| {
            i32::try_from(value).map_err(|_| DeviceError {
                what: "a matrix product".to_owned(),
                reason: format!("{value} is too large"),
            })
        };
        let (alpha, beta) = (1f32, *beta);
        let compute = match (self.arithmetic, a.element) {
            (Arithmetic::Tf32, Element::F32) => cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            _ => cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        // SAFETY: the three matrices lie inside of memory of this device, which lives as long as it; shapes and strides are
        // those of the program, whose every product the emulation computes with bounds checked. Factors are host memory.
        let done = unsafe {
            result::gemm_ex(
                *self.blas.handle(),
                operation(b),
                operation(a),
                size(*cols)?,
                size(*rows)?,
                size(*inner)?,
                (&raw const alpha).cast(),
                memory.address(b.slot)? as *const c_void,
                kind(b),
                size(b.stride)?,
                memory.address(a.slot)? as *const c_void,
                kind(a),
                size(a.stride)?,
                (&raw const beta).cast(),
                memory.address(out.slot)? as *mut c_void,
                kind(out),
                size(out.stride)?,
                compute,
                cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        done.map_err(|error| {
            failed(
                format!("a product of {rows} x {inner} and {inner} x {cols}"),
                &error,
            )
        })
    }
}

fn operation(matrix: &Matrix) -> cublasOperation_t {
    if matrix.is_transposed {
        cublasOperation_t::CUBLAS_OP_T
    } else {
        cublasOperation_t::CUBLAS_OP_N
    }
}

fn kind(matrix: &Matrix) -> cudaDataType {
    match matrix.element {
        Element::F32 => cudaDataType::CUDA_R_32F,
        Element::Bf16 => cudaDataType::CUDA_R_16BF,
    }
}
