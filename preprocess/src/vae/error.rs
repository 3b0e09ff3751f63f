//! What can go wrong with an autoencoder: where it comes from, what its files hold, what it is given.

use std::path::PathBuf;

use crate::nn;

/// An autoencoder could not be loaded or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text names no autoencoder.
    #[error(
        "`{0}` is no autoencoder: expected a hub id such as `stabilityai/sd-vae-ft-ema`, a folder or file that exists, \
         `tiny` or `none`"
    )]
    Source(String),
    /// A file could not be read.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A folder holds no weights.
    #[error("`{}` holds neither `{}`", path.display(), names.join("` nor `"))]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// File names that were looked for.
        names: Vec<&'static str>,
    },
    /// The configuration is not one of an autoencoder that this program can run.
    #[error("configuration `{origin}`: {reason}")]
    Config {
        /// Where it was read.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The weights file is damaged or of another kind.
    #[error("weights `{origin}`: {reason}")]
    Weights {
        /// The file.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor is missing.
    #[error(
        "weights `{origin}`: tensor `{name}` is missing; is this the autoencoder that the configuration describes?"
    )]
    MissingTensor {
        /// The file.
        origin: String,
        /// The tensor's name in diffusers' layout.
        name: String,
    },
    /// A tensor has another shape than the configuration asks for.
    #[error("weights `{origin}`: tensor `{name}` is {got:?}, the configuration asks for {expected:?}")]
    TensorShape {
        /// The file.
        origin: String,
        /// The tensor's name in diffusers' layout.
        name: String,
        /// Shape from the configuration.
        expected: Vec<usize>,
        /// Shape in the file.
        got: Vec<usize>,
    },
    /// The hub did not give the file.
    #[error("cannot get `{file}` of `{id}` from the hub: {reason}\nhint: {hint}")]
    Hub {
        /// The model.
        id: String,
        /// The file.
        file: String,
        /// What the hub or the network said.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// The weights are not those that a dataset was made with.
    #[error(
        "the autoencoder `{id}` has changed: its weights have the SHA-256 {found}, the dataset was made with {expected}\n\
         hint: encode the dataset again, or bring the old weights back"
    )]
    Replaced {
        /// The autoencoder.
        id: String,
        /// The hash that the dataset records.
        expected: String,
        /// The hash of what is there.
        found: String,
    },
    /// An image or latent has a shape that the autoencoder cannot take.
    #[error("the autoencoder cannot take a tensor of shape {got:?}: {reason}")]
    Input {
        /// Its shape.
        got: Vec<usize>,
        /// What is expected.
        reason: String,
    },
    /// A layer was given numbers that do not fit it.
    #[error(transparent)]
    Layer(#[from] nn::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}
