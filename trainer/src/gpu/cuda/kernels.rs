#![expect(unsafe_code, reason = "launches of kernels")]
//! The kernels of `trainer/kernels`, as PTX, and their launches.

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DriverError, LaunchConfig, PushKernelArg as _};
use cudarc::nvrtc::Ptx;

use super::failed;
use super::memory::Memory;
use crate::gpu::device::DeviceError;
use crate::gpu::launch::{Arg, Launch};
use crate::gpu::program::Slot;

/// Name and PTX of every source.
const SOURCES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Bytes of dynamic shared memory that every kernel may have unasked.
const UNASKED_SHARED: usize = 48 * 1024;

/// All kernels by name.
pub(super) struct Kernels {
    functions: HashMap<String, Kernel>,
    /// Bytes of dynamic shared memory that a block may have at most.
    most_shared: i32,
}

struct Kernel {
    function: CudaFunction,
    /// Bytes of dynamic shared memory that it may have.
    shared: usize,
}

/// An argument as it lies in the host's memory during a launch.
enum Value {
    Address(u64),
    I32(i32),
    I64(i64),
    F32(f32),
    F64(f64),
}

impl Kernels {
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self, DeviceError> {
        let mut functions = HashMap::new();
        for (source, ptx) in SOURCES {
            let load = || {
                let module = context.load_module(Ptx::from_src(*ptx))?;
                entries(ptx)
                    .map(|name| Ok((name.to_owned(), module.load_function(name)?)))
                    .collect::<Result<Vec<_>, _>>()
            };
            let loaded = load().map_err(|error: DriverError| {
                failed(format!("loading the kernels of {source}.cu"), &error)
            })?;
            functions.extend(loaded.into_iter().map(|(name, function)| {
                let shared = UNASKED_SHARED;
                (name, Kernel { function, shared })
            }));
        }
        let most_shared = context
            .attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
            .map_err(|error| failed("asking for the shared memory", &error))?;
        Ok(Self {
            functions,
            most_shared,
        })
    }

    /// Launches a kernel in the order of `stream`.
    pub(super) fn launch(
        &mut self,
        stream: &Arc<CudaStream>,
        launch: &Launch<Slot>,
        memory: &Memory,
    ) -> Result<(), DeviceError> {
        let Some(kernel) = self.functions.get_mut(&launch.name) else {
            return Err(DeviceError {
                what: format!("the launch of {}", launch.name),
                reason: "there is no such kernel".to_owned(),
            });
        };
        if launch.shared > kernel.shared {
            let shared = launch.shared as i32;
            if shared > self.most_shared {
                return Err(DeviceError {
                    what: format!("the launch of {}", launch.name),
                    reason: format!(
                        "it needs {shared} bytes of shared memory, this GPU has {}: sequences of this length are for A100, H100 \
                         and later ones of their kind",
                        self.most_shared
                    ),
                });
            }
            kernel
                .function
                .set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared)
                .map_err(|error| failed(format!("the shared memory of {}", launch.name), &error))?;
            kernel.shared = launch.shared;
        }
        let value = |arg: &Arg<Slot>| {
            Ok(match *arg {
                Arg::Buffer(slot) => Value::Address(memory.address(slot)?),
                Arg::I32(value) => Value::I32(value),
                Arg::I64(value) => Value::I64(value),
                Arg::F32(value) => Value::F32(value),
                Arg::F64(value) => Value::F64(value),
            })
        };
        let values: Vec<Value> = launch
            .args
            .iter()
            .map(value)
            .collect::<Result<_, DeviceError>>()?;
        let mut builder = stream.launch_builder(&kernel.function);
        for value in &values {
            match value {
                Value::Address(value) => builder.arg(value),
                Value::I32(value) => builder.arg(value),
                Value::I64(value) => builder.arg(value),
                Value::F32(value) => builder.arg(value),
                Value::F64(value) => builder.arg(value),
            };
        }
        let config = LaunchConfig {
            grid_dim: (launch.grid.0 as u32, launch.grid.1 as u32, 1),
            block_dim: (launch.block as u32, 1, 1),
            shared_mem_bytes: launch.shared as u32,
        };
        // SAFETY: arguments are in the order and of the types of the kernel, and every buffer has the size that its shape asks
        // for: the emulation runs the same launches and checks types and bounds. Addresses are inside of allocations that live
        // as long as this device, whose one stream orders all uses.
        unsafe { builder.launch(config) }
            .map(|_| ())
            .map_err(|error| failed(format!("the launch of {}", launch.name), &error))
    }
}

/// The names of the kernels of a PTX text.
fn entries(ptx: &str) -> impl Iterator<Item = &str> {
    ptx.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix(".visible .entry ")?;
        Some(rest.trim_end_matches('(').trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::gpu::model::DeviceModel;
    use crate::gpu::program::Command;

    #[test]
    fn every_kernel_of_a_step_is_compiled() {
        let names: Vec<&str> = SOURCES.iter().flat_map(|(_, ptx)| entries(ptx)).collect();
        let program = DeviceModel::new(&Config::default(), 1).unwrap().step(2, 1.0);
        for command in &program.commands {
            if let Command::Launch(launch) = command {
                assert!(names.contains(&&launch.name[..]), "{}", launch.name);
            }
        }
    }
}
