//! Checkpoints: `checkpoints/step-0000500/{model,ema,optim}.safetensors` and `state.json`.
//!
//! A checkpoint is written aside, synchronised and renamed, so that a folder with the final name is complete. The
//! state holds length and hash of every file: a damaged checkpoint is told from a sound one when it is read.

mod flat;
mod state;

use std::path::{Path, PathBuf};

use crate::model::ParamLayout;

pub use state::{DatasetRecord, FileRecord, MetricSums, State};

const MODEL: &str = "model.safetensors";
const EMA: &str = "ema.safetensors";
const OPTIM: &str = "optim.safetensors";
const STATE: &str = "state.json";
/// Name prefixes of the optimiser's moments, PyTorch's words for them.
const MOMENTS: [&str; 2] = ["exp_avg.", "exp_avg_sq."];
const PARTIAL: &str = ".partial";

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

/// The folder of checkpoint `step` in `run`.
pub fn folder(run: &Path, step: u64) -> PathBuf {
    run.join("checkpoints").join(format!("step-{step:07}"))
}

/// The complete checkpoints of a run, oldest first.
pub fn list(run: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs_err::read_dir(run.join("checkpoints")) else {
        return Vec::new();
    };
    let mut all: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
            path.join(STATE).is_file().then_some((step, path))
        })
        .collect();
    all.sort();
    all
}

/// Writes a checkpoint of `run`; answers its folder.
///
/// # Errors
/// Those of the file system; what was there before stays as it is.
pub fn save(
    run: &Path,
    state: &State,
    layout: &ParamLayout,
    buffers: BufferRefs<'_>,
) -> Result<PathBuf, Error> {
    let target = folder(run, state.step);
    let mut partial = target.as_os_str().to_owned();
    partial.push(PARTIAL);
    let partial = PathBuf::from(partial);
    if partial.exists() {
        fs_err::remove_dir_all(&partial)?;
    }
    fs_err::create_dir_all(&partial)?;
    let written = write_all(&partial, state, layout, buffers).and_then(|()| {
        // The same step may have been saved before, by a run that was then taken back.
        if target.exists() {
            fs_err::remove_dir_all(&target)?;
        }
        fs_err::rename(&partial, &target)?;
        sync_dir(&run.join("checkpoints"))
    });
    if let Err(error) = written {
        // A full disk: the half checkpoint only takes room from the next one.
        let _ = fs_err::remove_dir_all(&partial);
        return Err(error);
    }
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
    sync_dir(folder)
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

/// Reads the state and the averaged weights of a checkpoint: what sampling needs.
///
/// # Errors
/// As [`load`].
pub fn load_ema(folder: &Path) -> Result<(State, Vec<f32>), Error> {
    let state = read_state(folder)?;
    let layout = ParamLayout::model(&state.config.model);
    let mut ema = vec![0.0; layout.total()];
    read_file(folder, &state, &layout, EMA, &mut [("", &mut ema)])?;
    Ok((state, ema))
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

/// Removes all but the newest `keep` checkpoints of a run, and what an interrupted save left; 0 keeps all.
///
/// # Errors
/// Those of the file system.
pub fn prune(run: &Path, keep: usize) -> Result<(), Error> {
    let all = list(run);
    if keep > 0 {
        for (_, path) in all.iter().take(all.len().saturating_sub(keep)) {
            fs_err::remove_dir_all(path)?;
        }
    }
    for entry in fs_err::read_dir(run.join("checkpoints"))? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(PARTIAL) {
            fs_err::remove_dir_all(path)?;
        }
    }
    Ok(())
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

/// Makes new names in `dir` last through a power loss.
fn sync_dir(dir: &Path) -> Result<(), Error> {
    if cfg!(unix) {
        fs_err::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
