//! What the CUDA kernels must move and compute, and how long that takes at least: by counting, nothing was measured.
//!
//! The kernels' tests hold what the emulated kernels move against [`Work`]; `docs/gpu-performance.md` is made of the
//! same numbers by the example `gpu_performance`.

pub mod work;

pub use work::Work;
