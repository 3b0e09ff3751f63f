//! Memory-mapped, compressed shards of VAE latents. This crate knows bytes, never tensors.
//!
//! A shard is an ordinary Zstandard file in the seekable format that decompresses to an ordinary safetensors file:
//!
//! ```text
//! frame 0        safetensors header, 4096 bytes
//! frame 1..=F    rows: one view of one sample each (or several, see `frame_samples`)
//! frame F+1      index: id, label, squared_error, key_end, key
//! skippable      seek table: sizes and checksum of every frame
//! ```
//!
//! The byte-level description is `FORMAT.md`. [`writer::DatasetWriter`] writes, [`dataset::Dataset`] reads at random,
//! [`loader::Loader`] gives training batches.
#![warn(missing_docs)]

pub mod dataset;
pub mod disk;
pub mod error;
pub mod export;
mod frame;
pub mod header;
pub mod layout;
pub mod loader;
pub mod lock;
pub mod manifest;
pub mod memory;
pub mod merge;
mod mmap;
mod posterior;
pub mod quantize;
pub mod reader;
pub mod rng;
mod seek_table;
pub mod shuffle;
#[doc(hidden)]
pub mod study;
mod vectorised;
pub mod verify;
pub mod writer;

// The samples of the tests name the crate as its users do.
#[cfg(test)]
extern crate self as shards;
#[cfg(test)]
#[path = "../tests/it/samples.rs"]
mod samples;
