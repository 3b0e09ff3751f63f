//! One subcommand a file.

mod against;
pub mod fid;
pub mod quickstart;
mod reconstruct;
pub mod reference;
pub mod report;
mod scoring;
pub mod sweep;
