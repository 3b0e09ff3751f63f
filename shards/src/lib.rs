//! Memory-mapped, compressed shards of VAE latents. This crate knows bytes, never tensors.

pub mod rng;
