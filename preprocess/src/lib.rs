//! Images to latent shards: decoding, cropping, the Stable Diffusion autoencoder.

pub mod nn;
