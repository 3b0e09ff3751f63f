//! What training takes on GPUs, on paper: bytes and operations of each CUDA kernel, the time that they take at least, and
//! what follows for a step, for memory and for several GPUs. Nothing here was measured on a GPU.
//!
//! The kernels' tests hold what the emulated kernels move against [`Work`]; `docs/gpu-performance.md` is made of the same
//! numbers: see [`tables`].

mod device;
mod plan;
mod report;
mod step;
pub mod work;

pub use device::{A100, Device, H100};
pub use plan::{GpuMemory, largest_batch};
pub use report::tables;
pub use step::{Part, Step};
pub use work::Chunked;
pub use work::Work;
