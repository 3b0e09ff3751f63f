//! Images to latent shards: data sets, decoding and cropping, the Stable Diffusion autoencoder, the pipeline.
//!
//! The data flow is `dataset` (bytes, label, key) -> `image` (RGB, centre crop) -> `vae` (posterior moments) ->
//! `shards` (compressed frames); `pipeline` joins the stages. `console` is what every binary of the workspace
//! shows at the terminal.

pub mod cli;
pub mod commands;
pub mod console;
pub mod dataset;
pub mod device;
pub mod image;
pub mod nn;
pub mod npz;
pub mod pipeline;
pub mod shards_cli;
pub mod vae;
