//! One file a subcommand: what it reads, calls and prints.

mod autoencoder;
pub mod crop;
pub mod encode;
pub mod reconstruct;
pub mod verify;
