//! One subcommand a file.

pub mod fid;
pub mod reference;
pub mod report;
