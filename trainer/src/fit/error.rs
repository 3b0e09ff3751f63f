//! Why training did not start or did not go on.

use std::path::PathBuf;

/// Why a run stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is wrong, or contradicts the dataset.
    #[error(transparent)]
    Config(#[from] crate::config::Error),
    /// The dataset is damaged or cannot give a batch, or another process holds the run's folder.
    #[error(transparent)]
    Data(#[from] shards::error::Error),
    /// The processes that train together cannot go on.
    #[error(transparent)]
    Distributed(#[from] crate::distributed::Error),
    /// A checkpoint could not be read or written.
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::Error),
    /// A batch does not fit the model.
    #[error(transparent)]
    Model(#[from] crate::model::Error),
    /// The run would take more memory than there is.
    #[error(transparent)]
    Memory(#[from] Box<crate::memory::TooMuch>),
    /// A GPU has failed.
    #[error(transparent)]
    Device(#[from] crate::gpu::DeviceError),
    /// The run does not fit into the GPU.
    #[error(transparent)]
    TooLarge(#[from] crate::gpu::room::TooLarge),
    /// A GPU cannot be used.
    #[error(transparent)]
    Place(#[from] crate::gpu::place::Error),
    /// A grid of samples could not be made.
    #[error(transparent)]
    Generate(#[from] crate::generate::Error),
    /// The program that measures Frechet distances is missing.
    #[error(
        "run.frechet_every: the program {} is missing\n\
         hint: `cargo build --release --workspace` makes it, run.frechet_every=0 does without",
        path.display()
    )]
    NoEval {
        /// Where it should be.
        path: PathBuf,
    },
    /// A file of the run could not be written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Every checkpoint of the run is damaged.
    #[error(
        "none of the {count} checkpoints of {} can be read: {last}\nhint: --fresh starts anew in another folder",
        path.display()
    )]
    NoSoundCheckpoint {
        /// The run.
        path: PathBuf,
        /// Checkpoints that were tried.
        count: usize,
        /// What was wrong with the oldest.
        last: String,
    },
    /// The weights to start from cannot be read.
    #[error(transparent)]
    Init(#[from] crate::export::Error),
    /// The weights to start from are of another model.
    #[error(
        "--init {}: its model has {key} = {was}, the configuration {now}\nhint: without --config and --set model.*, the \
         run takes the model of --init",
        path.display()
    )]
    InitModel {
        /// Where the weights are.
        path: PathBuf,
        /// The key, dotted, or the tensor.
        key: String,
        /// Its value there.
        was: String,
        /// Its value in the configuration.
        now: String,
    },
    /// The run was made with another configuration.
    #[error(
        "{} was trained with {key} = {was}, now it is {now}\nhint: --allow {key} goes on with the new value, --fresh \
         starts anew in another folder",
        path.display()
    )]
    Changed {
        /// The run.
        path: PathBuf,
        /// The key, dotted.
        key: String,
        /// Its value in the checkpoint.
        was: String,
        /// Its value now.
        now: String,
    },
    /// Loss or gradients were not finite several times in a row.
    #[error(
        "loss or gradients were not finite in {count} steps in a row, up to step {step}: loss {loss}, gradient norm \
         {grad_norm}, learning rate {lr:e}, records {}\nhint: a lower optim.lr, or optim.max_grad_norm=1; the last \
         checkpoint is of step {saved}",
        first_few(ids)
    )]
    NotFinite {
        /// Steps in a row.
        count: u64,
        /// The last of them.
        step: u64,
        /// Its loss.
        loss: f64,
        /// Its gradients' norm.
        grad_norm: f64,
        /// Its learning rate.
        lr: f64,
        /// The records of its batch.
        ids: Vec<u64>,
        /// The last checkpoint.
        saved: u64,
    },
}

/// Numbers as text, cut off where they become many.
fn first_few(ids: &[u64]) -> String {
    const FEW: usize = 8;
    let mut text: Vec<String> = ids.iter().take(FEW).map(u64::to_string).collect();
    if ids.len() > FEW {
        text.push(format!("and {} more", ids.len() - FEW));
    }
    text.join(", ")
}
