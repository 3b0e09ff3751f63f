//! Checkpoints: `checkpoints/step-0000500/{model,ema,optim}.safetensors` and `state.json`.
//!
//! A checkpoint is written aside, synchronised and renamed, so that a folder with the final name is complete. The
//! state holds length and hash of every file, and its own: a damaged checkpoint is told from a sound one when it is read.

pub(crate) mod flat;
mod state;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shards::disk;
use shards::layout::PARTIAL_SUFFIX;

use crate::config::RunConfig;
use crate::model::ParamLayout;

pub use state::{DatasetRecord, FileRecord, InitRecord, MetricSums, State};

const MODEL: &str = "model.safetensors";
const EMA: &str = "ema.safetensors";
const OPTIM: &str = "optim.safetensors";
const STATE: &str = "state.json";
/// Name prefixes of the optimiser's moments, PyTorch's words for them.
const MOMENTS: [&str; 2] = ["exp_avg.", "exp_avg_sq."];
/// End of the names of checkpoints that were found damaged and left behind.
const DAMAGED: &str = ".damaged";

/// What can be wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused; the message names the file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// `state.json` is not what it should be.
    #[error("{} is not a checkpoint's state: {source}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A file of tensors is not what it should be.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        what: String,
    },
    /// A checkpoint could not be written.
    #[error(
        "the checkpoint of step {step} cannot be written: {source}\n{}\nhint: free some space and run the same command \
         again; run.keep_last=N keeps fewer",
        kept.as_ref().map_or_else(
            || "there is none before it".to_owned(),
            |kept| format!("{} stays, and is gone on from", kept.display())
        )
    )]
    Save {
        /// Its step.
        step: u64,
        /// The newest complete checkpoint.
        kept: Option<PathBuf>,
        /// What the system or the serialiser says.
        source: Box<Error>,
    },
    /// There is no checkpoint.
    #[error("{} holds no checkpoint\nhint: `trainer fit` writes one below `checkpoints/` of its run folder", path.display())]
    Missing {
        /// Where one was looked for.
        path: PathBuf,
    },
    /// The state describes an impossible model.
    #[error(transparent)]
    Model(#[from] crate::model::Error),
}

/// Everything flat that training changes, in the layout of the parameters.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    /// Weights.
    pub params: Vec<f32>,
    /// Moving average of the weights.
    pub ema: Vec<f32>,
    /// First moment of the gradients.
    pub first: Vec<f32>,
    /// Second moment of the gradients.
    pub second: Vec<f32>,
}

/// Borrowed [`Buffers`].
#[derive(Clone, Copy, Debug)]
pub struct BufferRefs<'a> {
    /// Weights.
    pub params: &'a [f32],
    /// Moving average of the weights.
    pub ema: &'a [f32],
    /// First moment of the gradients.
    pub first: &'a [f32],
    /// Second moment of the gradients.
    pub second: &'a [f32],
}

impl Buffers {
    /// The same, borrowed.
    pub fn refs(&self) -> BufferRefs<'_> {
        BufferRefs {
            params: &self.params,
            ema: &self.ema,
            first: &self.first,
            second: &self.second,
        }
    }
}

/// The folder of checkpoint `step` in `run`.
pub fn folder(run: &Path, step: u64) -> PathBuf {
    run.join("checkpoints").join(format!("step-{step:07}"))
}

/// The checkpoints of a run, oldest first. Their names say that they were complete once; reading tells whether they
/// still are.
pub fn list(run: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs_err::read_dir(run.join("checkpoints")) else {
        return Vec::new();
    };
    let mut all: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
            path.is_dir().then_some((step, path))
        })
        .collect();
    all.sort();
    all
}

/// Writes a checkpoint of `run`; answers its folder.
///
/// # Errors
/// [`Error::Save`] when the system refuses; what was there before stays as it is.
pub fn save(
    run: &Path,
    state: &State,
    layout: &ParamLayout,
    buffers: BufferRefs<'_>,
) -> Result<PathBuf, Error> {
    let target = folder(run, state.step);
    let partial = disk::partial(&target);
    let write = || {
        disk::remove_dir_all(&partial)?;
        disk::create_dir_all(&partial)?;
        write_all(&partial, state, layout, buffers)?;
        // The same step may have been saved before, by a run that was then taken back.
        if target.exists() {
            disk::remove_dir_all(&target)?;
        }
        disk::rename(&partial, &target)?;
        Ok(disk::sync_dir(&run.join("checkpoints"))?)
    };
    write().map_err(|source: Error| {
        // A full disk: the half checkpoint only takes room from the next one.
        let _ = disk::remove_dir_all(&partial);
        Error::Save {
            step: state.step,
            kept: list(run).pop().map(|(_, folder)| folder),
            source: Box::new(source),
        }
    })?;
    Ok(target)
}

fn write_all(
    folder: &Path,
    state: &State,
    layout: &ParamLayout,
    buffers: BufferRefs<'_>,
) -> Result<(), Error> {
    let mut state = state.clone();
    state.files.clear();
    let moments = [(MOMENTS[0], buffers.first), (MOMENTS[1], buffers.second)];
    for (name, parts) in [
        (MODEL, &[("", buffers.params)][..]),
        (EMA, &[("", buffers.ema)][..]),
        (OPTIM, &moments[..]),
    ] {
        let record = flat::write(&folder.join(name), layout, parts)?;
        state.files.insert(name.to_owned(), record);
    }
    state.write(&folder.join(STATE))?;
    Ok(disk::sync_dir(folder)?)
}

/// Reads a whole checkpoint.
///
/// # Errors
/// When a file is missing, damaged, or of another model than the state describes.
pub fn load(folder: &Path) -> Result<(State, Buffers), Error> {
    let state = read_state(folder)?;
    let layout = ParamLayout::model(&state.config.model);
    let mut buffers = Buffers::default();
    for buffer in [
        &mut buffers.params,
        &mut buffers.ema,
        &mut buffers.first,
        &mut buffers.second,
    ] {
        buffer.resize(layout.total(), 0.0);
    }
    let read = |name: &str, parts: &mut [(&str, &mut [f32])]| read_file(folder, &state, &layout, name, parts);
    read(MODEL, &mut [("", &mut buffers.params)])?;
    read(EMA, &mut [("", &mut buffers.ema)])?;
    read(
        OPTIM,
        &mut [
            (MOMENTS[0], &mut buffers.first),
            (MOMENTS[1], &mut buffers.second),
        ],
    )?;
    Ok((state, buffers))
}

/// Which of the weights of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightKind {
    /// Their moving average: what sampling takes.
    Ema,
    /// As the last step left them.
    Raw,
}

/// Reads the state and one set of weights of a checkpoint.
///
/// # Errors
/// As [`load`].
pub fn load_weights(folder: &Path, kind: WeightKind) -> Result<(State, Vec<f32>), Error> {
    let state = read_state(folder)?;
    let layout = ParamLayout::model(&state.config.model);
    let mut weights = vec![0.0; layout.total()];
    let name = match kind {
        WeightKind::Ema => EMA,
        WeightKind::Raw => MODEL,
    };
    read_file(folder, &state, &layout, name, &mut [("", &mut weights)])?;
    Ok((state, weights))
}

/// Reads the state of a checkpoint alone.
///
/// # Errors
/// When it cannot be read, or is no state of this version.
pub fn read_state(folder: &Path) -> Result<State, Error> {
    State::read(&folder.join(STATE))
}

/// Reads one file of tensors, checked against what the state says of it.
fn read_file(
    folder: &Path,
    state: &State,
    layout: &ParamLayout,
    name: &str,
    parts: &mut [(&str, &mut [f32])],
) -> Result<(), Error> {
    let path = folder.join(name);
    let record = state.files.get(name).ok_or_else(|| Error::Damaged {
        path: path.clone(),
        what: "state.json does not list it".to_owned(),
    })?;
    flat::read(&path, record, layout, parts)
}

/// Removes checkpoints that `run_config` does not keep, and what an interrupted save left.
///
/// The newest `keep_last` stay (0: all), and those of every `keep_every`-th step (0: none beside them).
///
/// # Errors
/// Those of the file system.
pub fn prune(run: &Path, run_config: &RunConfig) -> Result<(), Error> {
    let all = list(run);
    let old = match run_config.keep_last {
        0 => 0,
        keep => all.len().saturating_sub(keep),
    };
    let is_kept = |step: u64| run_config.keep_every > 0 && step.is_multiple_of(run_config.keep_every);
    for (_, path) in all[..old].iter().filter(|(step, _)| !is_kept(*step)) {
        // Half a checkpoint must not keep the name of a whole one.
        let aside = disk::partial(path);
        disk::remove_dir_all(&aside)?;
        disk::rename(path, &aside)?;
        disk::remove_dir_all(&aside)?;
    }
    for entry in fs_err::read_dir(run.join("checkpoints"))? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(PARTIAL_SUFFIX) {
            disk::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

/// Takes a damaged checkpoint out of the way: it is neither gone on from nor counted any more. Answers its new name.
///
/// # Errors
/// Those of the file system.
pub fn set_aside(folder: &Path) -> Result<PathBuf, Error> {
    let mut name = folder.as_os_str().to_owned();
    name.push(DAMAGED);
    let aside = PathBuf::from(name);
    disk::remove_dir_all(&aside)?;
    disk::rename(folder, &aside)?;
    Ok(aside)
}

/// The newest checkpoint that `path` stands for: itself, or that of a run folder, or of the newest run below a folder of
/// runs.
///
/// # Errors
/// [`Error::Missing`].
pub fn find(path: &Path) -> Result<PathBuf, Error> {
    if path.join(STATE).is_file() {
        return Ok(path.to_owned());
    }
    if let Some((_, newest)) = list(path).pop() {
        return Ok(newest);
    }
    let runs = fs_err::read_dir(path).into_iter().flatten().flatten();
    runs.filter_map(|run| list(&run.path()).pop())
        .filter_map(|(_, folder)| {
            Some((
                fs_err::metadata(folder.join(STATE)).ok()?.modified().ok()?,
                folder,
            ))
        })
        .max()
        .map(|(_, folder)| folder)
        .ok_or_else(|| Error::Missing {
            path: path.to_owned(),
        })
}

#[cfg(test)]
mod tests;
