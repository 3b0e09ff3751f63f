//! DiffuSSM in Rust: the model with hand-written backward passes, its diffusion, training and sampling.

pub mod diffusion;
pub mod model;
pub mod ops;
pub mod optim;
pub mod sampler;
