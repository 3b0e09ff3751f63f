//! DiffuSSM in Rust: the model with hand-written backward passes, its diffusion, training and sampling.
//!
//! `fit` joins `shards` (batches of latents), `diffusion` (noise and loss), `model` (forward and backward over `ops`)
//! and `optim` (AdamW and EMA); `checkpoint` keeps what they changed; `export` gives the weights away; `generate` samples from
//! both.

pub mod bulk;
pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod config;
pub mod cost;
pub mod diffusion;
pub mod distributed;
pub mod export;
pub mod fit;
pub mod forward_times;
pub mod generate;
pub mod gpu;
pub mod memory;
pub mod model;
pub mod ops;
pub mod optim;
pub mod roofline;
pub mod sampler;
