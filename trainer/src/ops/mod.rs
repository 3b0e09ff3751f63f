//! The operations of the training step on flat f32 slices, each with its hand-written backward.
//!
//! Convention: gradients of parameters are added (`+=`), gradients of activations are written (`=`) unless the name
//! says otherwise. Every pass over an activation is parallel (rayon) and vectorised (`vectorised`).

pub mod bf16;
pub mod bias_gelu;
pub mod buffer;
pub mod gate;
pub mod long_conv;
pub mod matmul;
pub mod norm_modulate;
pub mod profile;
pub mod reference;
pub mod residual;
pub mod ssm_kernel;
pub(crate) mod vectorised;

#[cfg(test)]
mod tests;
