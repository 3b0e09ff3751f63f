//! One file a subcommand: what it reads, calls and prints.

pub mod crop;
