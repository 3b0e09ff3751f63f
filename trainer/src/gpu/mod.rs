//! Training on a GPU: how the kernels of `trainer/kernels` are launched, and what a GPU needs of the host's memory.

mod in_flight;
pub mod kernels;
mod launch;
#[cfg(feature = "cuda")]
mod pinned;

pub use in_flight::{Fence, InFlight};
pub use launch::{Arg, Element, Launch};
#[cfg(feature = "cuda")]
pub use pinned::{PinnedBuffers, upload};
