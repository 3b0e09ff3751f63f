//! One subcommand a file.

pub mod fid;
pub mod quickstart;
mod reconstruct;
pub mod reference;
pub mod report;
pub mod sweep;
