#![expect(unsafe_code, reason = "matrix products of cuBLASLt, by address")]
//! Products whose bias and GELU cuBLASLt computes on the way out: one pass over the pre-activations less.
//!
//! A program knows nothing of it: where a product is followed by the `bias_gelu` of its result, the two are run as one if the
//! library has a kernel for them, and as they are if not.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr as _};

use super::failed;
use super::memory::Memory;
use crate::gpu::device::DeviceError;
use crate::gpu::launch::{Arg, Element, Launch};
use crate::gpu::program::{Command, Product, Slot, Space};

/// Bytes that the library may work in.
const WORKSPACE: usize = 32 << 20;
/// The tanh form, by which kernels know it: the library has no other.
const GELU_TANH: i32 = 0;

/// A product, and where its bias lies and its activated result goes.
pub(super) struct Fused<'a> {
    product: &'a Product,
    bias: Slot,
    out: Slot,
}

impl<'a> Fused<'a> {
    /// `product` and what follows it, if they are a product in bf16 and its bias and GELU.
    pub(super) fn of(product: &'a Product, next: Option<&Command>) -> Option<Self> {
        let Some(Command::Launch(Launch { name, args, .. })) = next else {
            return None;
        };
        let [
            Arg::Buffer(pre),
            Arg::Buffer(bias),
            Arg::Buffer(out),
            _,
            Arg::I32(cols),
            Arg::I32(GELU_TANH),
        ] = args[..]
        else {
            return None;
        };
        let is_whole = product.out.slot == pre
            && product.out.stride == cols as usize
            && product.cols == product.out.stride;
        let is_bf16 = product.a.element == Element::Bf16 && product.out.element == Element::Bf16;
        if name != "bias_gelu_bf16"
            || !is_whole
            || !is_bf16
            || product.beta != 0.0
            || bias.space != Space::Params
        {
            return None;
        }
        Some(Self {
            product,
            // Beside the weights in bf16 lie the biases: the library takes them in the type of the result.
            bias: Slot::new(Space::Copy, bias.offset / 2, bias.count(), 2),
            out,
        })
    }
}

/// What decides which kernel the library has.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    rows: usize,
    cols: usize,
    inner: usize,
    strides: [usize; 3],
    transposed: [bool; 2],
    /// Bytes that the addresses of the factors and of the result are multiples of: weights lie where the flat buffer has them.
    alignments: [u32; 3],
}

/// The largest power of two, up to what an allocation has, that an address is a multiple of.
fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

/// Bytes that a bias must be aligned to.
const BIAS_ALIGNMENT: u64 = 16;

/// The library, and its plan for every shape; `None` where it has no kernel.
pub(super) struct Epilogues {
    handle: Handle,
    stream: Arc<CudaStream>,
    workspace: CudaSlice<u8>,
    plans: HashMap<Shape, Option<Plan>>,
}

struct Handle(sys::cublasLtHandle_t);

// SAFETY: NVIDIA documents the handle as usable from any thread; this one has one owner, whose methods take `&mut self`.
unsafe impl Send for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made by `create_handle`, and destroyed here alone.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

/// A product's description, and the kernel that was chosen for it.
struct Plan {
    described: Described,
    chosen: sys::cublasLtMatmulHeuristicResult_t,
}

/// A product as the library describes it.
struct Described {
    desc: sys::cublasLtMatmulDesc_t,
    /// Of the two factors and the result.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
}

// SAFETY: plain descriptions in the host's memory, of one owner.
unsafe impl Send for Described {}

impl Drop for Described {
    fn drop(&mut self) {
        // SAFETY: made by `Plan::new`, and destroyed here alone.
        unsafe {
            let _ = result::destroy_matmul_desc(self.desc);
            for layout in self.layouts {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

impl Epilogues {
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self, DeviceError> {
        // SAFETY: of any content: only the library uses it.
        let workspace = unsafe { stream.alloc::<u8>(WORKSPACE) }
            .map_err(|error| failed("reserving memory for products", &error))?;
        Ok(Self {
            handle: Handle(result::create_handle().map_err(|error| failed("opening cuBLASLt", &error))?),
            stream: Arc::clone(stream),
            workspace,
            plans: HashMap::new(),
        })
    }

    /// Starts a product with its bias and GELU; `false` where the library has no kernel for it, and nothing was done.
    pub(super) fn run(&mut self, fused: &Fused<'_>, memory: &Memory) -> Result<bool, DeviceError> {
        let product = fused.product;
        let address = |slot: Slot| memory.address(slot);
        let (bias, pre) = (address(fused.bias)?, address(product.out.slot)?);
        let (a, b, out) = (
            address(product.a.slot)?,
            address(product.b.slot)?,
            address(fused.out)?,
        );
        if !bias.is_multiple_of(BIAS_ALIGNMENT) {
            return Ok(false);
        }
        let shape = Shape {
            rows: product.rows,
            cols: product.cols,
            inner: product.inner,
            strides: [product.a.stride, product.b.stride, product.out.stride],
            transposed: [product.a.is_transposed, product.b.is_transposed],
            alignments: [a, b, out].map(alignment),
        };
        let handle = self.handle.0;
        let plan = self
            .plans
            .entry(shape)
            .or_insert_with(|| Plan::new(handle, &shape).ok());
        let Some(plan) = plan else {
            return Ok(false);
        };
        let (a, b, out) = (a as *const c_void, b as *const c_void, out as *mut c_void);
        let (alpha, beta) = (1f32, 0f32);
        let described = &plan.described;
        let [of_b, of_a, of_out] = described.layouts;
        let (workspace, _no_events) = self.workspace.device_ptr(&self.stream);
        let done = described
            .set(
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                &bias,
            )
            .and_then(|()| {
                described.set(
                    sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER,
                    &pre,
                )
            })
            // SAFETY: all matrices lie inside of memory of this device, in the shapes and strides of the plan, as the program's
            // own product and launch would read and write them; scalars are host memory.
            .and_then(|()| unsafe {
                result::matmul(
                    handle,
                    described.desc,
                    (&raw const alpha).cast(),
                    (&raw const beta).cast(),
                    b,
                    of_b,
                    a,
                    of_a,
                    out.cast_const(),
                    of_out,
                    out,
                    of_out,
                    &raw const plan.chosen.algo,
                    workspace as *mut c_void,
                    WORKSPACE,
                    self.stream.cu_stream().cast(),
                )
            });
        done.map(|()| true)
            .map_err(|error| failed("a product with bias and GELU", &error))
    }
}

impl Plan {
    /// Asks the library for its kernel. It has columns where we have rows: it computes `out^T = b^T a^T`.
    fn new(handle: sys::cublasLtHandle_t, shape: &Shape) -> Result<Self, CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;

        let kind = sys::cudaDataType::CUDA_R_16BF;
        let layout = |rows: usize, cols: usize, stride: usize| {
            result::create_matrix_layout(kind, rows as u64, cols as u64, stride as i64)
        };
        let stored = |is_transposed: bool, rows: usize, cols: usize| {
            if is_transposed { (cols, rows) } else { (rows, cols) }
        };
        let (a_rows, a_cols) = stored(shape.transposed[0], shape.rows, shape.inner);
        let (b_rows, b_cols) = stored(shape.transposed[1], shape.inner, shape.cols);
        let desc = result::create_matmul_desc(
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cudaDataType::CUDA_R_32F,
        )?;
        let layouts = [
            layout(b_cols, b_rows, shape.strides[1])?,
            layout(a_cols, a_rows, shape.strides[0])?,
            layout(shape.cols, shape.rows, shape.strides[2])?,
        ];
        let described = Described { desc, layouts };
        let [of_a, of_b] = shape.transposed.map(i32::from);
        described.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &of_b)?;
        described.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &of_a)?;
        let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_AUX_BIAS as i32;
        described.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        let stride = shape.strides[2] as i64;
        described.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &stride)?;
        let preference = result::create_matmul_pref()?;
        let [of_a, of_b, of_out] = shape.alignments;
        // SAFETY: the preference and all descriptions are alive; the library copies what it is given, of the types that it asks
        // for.
        let found = unsafe {
            let set = |attribute: Preference, value: *const c_void, bytes: usize| {
                result::set_matmul_pref_attribute(preference, attribute, value, bytes)
            };
            let (room, size) = (WORKSPACE, size_of::<u32>());
            let limited = set(
                Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const room).cast(),
                size_of_val(&room),
            )
            .and_then(|()| {
                let attribute = Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;
                set(attribute, (&raw const of_b).cast(), size)
            })
            .and_then(|()| {
                let attribute = Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES;
                set(attribute, (&raw const of_a).cast(), size)
            })
            .and_then(|()| {
                let attribute = Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES;
                set(attribute, (&raw const of_out).cast(), size)
            })
            .and_then(|()| {
                let attribute = Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES;
                set(attribute, (&raw const of_out).cast(), size)
            });
            let [b, a, out] = described.layouts;
            let found = limited.and_then(|()| {
                result::get_matmul_algo_heuristic(handle, described.desc, b, a, out, out, preference)
            });
            result::destroy_matmul_pref(preference)?;
            found
        };
        Ok(Self {
            chosen: found?,
            described,
        })
    }
}

impl Described {
    fn set<T>(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: &T) -> Result<(), CublasError> {
        // SAFETY: the description is alive; the library copies so many bytes of the value, whose type the attribute asks for.
        unsafe {
            let value = std::ptr::from_ref(value);
            result::set_matmul_desc_attribute(self.desc, attribute, value.cast(), size_of::<T>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Precision};
    use crate::gpu::model::DeviceModel;

    #[test]
    fn products_with_bias_and_gelu_are_found_in_a_program_of_bf16() {
        let mut config = Config::default();
        config.model.depth = 3;
        for (precision, expected) in [(Precision::F32, 0), (Precision::Bf16, 2 * 3)] {
            config.run.precision = precision;
            let program = DeviceModel::new(&config, 1).unwrap().step(2, 1.0);
            let found = program.commands.iter().zip(program.commands.iter().skip(1));
            let found = found.filter_map(|(command, next)| match command {
                Command::Product(product) => Fused::of(product, Some(next)),
                _ => None,
            });
            // W_0 and W_up of every block; W_down is in parts.
            let count = found
                .inspect(|fused| {
                    assert_eq!(fused.bias.count(), fused.product.cols);
                    assert_eq!(fused.out.count(), fused.product.rows * fused.product.cols);
                })
                .count();
            assert_eq!(count, expected, "{precision:?}");
        }
    }
}
