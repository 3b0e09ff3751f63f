//! The few layers of convolutional networks, channels last, in f32 on the processor; and [`TensorConv`] for GPUs.
//!
//! Activations live in a [`FeatureMap`]: a batch of images, channels last, with a border of zeros around each image, so
//! that a convolution reads its neighbours without copies or bounds. [`Conv2d`] and [`GroupNorm`] go from one map to the
//! next and lay the border out as the next layer wants it. All of them run on rayon's current thread pool, and their
//! results do not depend on the number of threads.

pub mod activation;
pub mod attention;
pub mod conv;
pub mod error;
pub mod feature_map;
pub mod matmul;
pub mod norm;
pub mod pool;
pub mod recycle;
pub mod synthetic;
pub mod tensors;
pub mod upsample;

pub use activation::Activation;
pub use conv::{Conv2d, Output};
pub use error::Error;
pub use feature_map::{FeatureMap, Padding};
pub use norm::GroupNorm;
pub use pool::Pool;
pub use recycle::Recycler;
pub use tensors::{GPU_ARITHMETIC, GpuPrecision, TensorConv, TensorGroupNorm};
