//! NumPy archives: the sample and reference files that ADM's evaluator reads.
//!
//! An `.npz` is a zip (stored or deflated, with 64-bit sizes) of `.npy` files. Images (`arr_0`, `[N, H, W, 3]` bytes)
//! are streamed, since 50,000 of them at 256 pixels are 9.8 GB; statistics (`mu`, `sigma`, `mu_s`, `sigma_s`) are read
//! whole, as f32 or f64.

mod header;
mod read;
mod write;

use std::path::{Path, PathBuf};

pub use header::{Dtype, Header};
pub use read::NpzReader;
pub use write::NpzWriter;

/// What can be wrong with an archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {what}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        what: String,
    },
}

impl Error {
    fn format(path: &Path, what: impl Into<String>) -> Self {
        Self::Format {
            path: path.to_owned(),
            what: what.into(),
        }
    }

    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests;
