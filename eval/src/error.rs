//! Everything that can go wrong between a folder of pictures and a number.

use std::path::{Path, PathBuf};

/// An error of this crate: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
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
    /// A NumPy archive could not be read or written.
    #[error(transparent)]
    Npz(#[from] preprocess::npz::Error),
    /// A dataset of latents could not be read.
    #[error(transparent)]
    Shards(#[from] shards::error::Error),
    /// An autoencoder could not decode.
    #[error(transparent)]
    Autoencoder(#[from] preprocess::vae::Error),
    /// A model could not be sampled from.
    #[error(transparent)]
    Generate(#[from] trainer::generate::Error),
    /// Samples could not be drawn or kept.
    #[error(transparent)]
    Samples(#[from] trainer::bulk::Error),
    /// There is no model to be sampled from.
    #[error(transparent)]
    Model(#[from] trainer::export::Error),
    /// A tensor file could not be read.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A layer was given something that does not fit it.
    #[error(transparent)]
    Network(#[from] preprocess::nn::Error),
    /// The request makes no sense, or its parts do not fit each other.
    #[error("{0}")]
    Input(String),
    /// A computation did not reach a finite answer.
    #[error("{0}")]
    Numeric(String),
    /// The network's weights could not be fetched.
    #[error(
        "{url} could not be downloaded ({reason}); fetch it on a machine with a network and give the file as `--inception FILE`"
    )]
    Download {
        /// What was asked for.
        url: String,
        /// Why it failed.
        reason: String,
    },
}

impl Error {
    /// A file that is not what it should be.
    pub fn format(path: &Path, what: impl Into<String>) -> Self {
        Self::Format {
            path: path.to_owned(),
            what: what.into(),
        }
    }

    /// An input/output error at `path`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;
