//! The Stable Diffusion autoencoder.
