//! Inception features and the metrics that diffusion models are compared by.
//!
//! The numbers follow the evaluator of "Diffusion Models Beat GANs on Image Synthesis" (Dhariwal and Nichol 2021), which
//! the literature on ImageNet and LSUN reports: [`inception`] turns images into features, [`stats`] into Gaussians,
//! [`metric`] into FID, sFID, Inception score, precision and recall.

pub mod classifier;
pub mod cli;
pub mod commands;
pub mod dataset_images;
pub mod error;
mod feature_parts;
pub mod features;
pub mod generated;
pub mod images;
pub mod inception;
pub mod metric;
pub mod neighbours;
pub use preprocess::npz;
pub mod reference;
pub mod reference_cache;
pub mod report;
pub mod stats;
pub mod transform;
