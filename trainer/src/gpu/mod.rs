//! Training on a GPU: how the kernels of `trainer/kernels` are launched, and what a GPU needs of the host's memory.

#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod in_flight;
pub mod kernels;
mod launch;
mod learner;
pub mod model;
#[cfg(feature = "cuda")]
mod pinned;
pub mod place;
pub mod program;
pub mod room;
mod sampler;

pub use device::{Device, DeviceError, Ticket};
pub use in_flight::{Fence, InFlight};
pub use launch::{Arg, Element, Launch};
pub use learner::{DeviceBatch, DeviceLearner, StepOutputs};
#[cfg(feature = "cuda")]
pub use pinned::PinnedBuffers;
pub use place::Place;
pub use sampler::DeviceSampler;
