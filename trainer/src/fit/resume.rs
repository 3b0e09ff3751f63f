//! Going on where a run stopped: the newest sound checkpoint, if it is of the same run.

use std::path::{Path, PathBuf};

use super::{Error, Event};
use crate::checkpoint::{self, Buffers, DatasetRecord, State};
use crate::config::{Config, LrSchedule, entries};

/// Keys that change how a run is carried out, not what it computes.
const FREE: [&str; 18] = [
    "data.path",
    "data.workers",
    "data.cache",
    "optim.micro_batch_size",
    "run.checkpoint_every",
    "run.keep_last",
    "run.keep_every",
    "run.async_checkpoint",
    "run.sample_every",
    "run.sample_count",
    "run.sample_steps",
    "run.sample_cfg",
    "run.frechet_every",
    "run.frechet_samples",
    "run.frechet_inception",
    "run.recompute",
    "run.cuda_graph",
    "run.threads",
];

/// What a run goes on with, and the newer checkpoints that cannot be read.
type Found = (Option<(State, Buffers)>, Vec<PathBuf>);

/// The newest checkpoint of `run` that can be read; `None` when there is none at all.
pub(super) fn newest_sound(run: &Path, listener: &mut dyn FnMut(Event<'_>)) -> Result<Found, Error> {
    let all = checkpoint::list(run);
    let mut damaged = Vec::new();
    let mut last = None;
    for (_, folder) in all.iter().rev() {
        match checkpoint::load(folder) {
            Ok(found) => return Ok((Some(found), damaged)),
            Err(error) => {
                listener(Event::Note(&format!(
                    "{error}\nfalling back to the checkpoint before"
                )));
                damaged.push(folder.clone());
                last = Some(error.to_string());
            }
        }
    }
    match last {
        None => Ok((None, damaged)),
        Some(last) => Err(Error::NoSoundCheckpoint {
            path: run.to_owned(),
            count: all.len(),
            last,
        }),
    }
}

/// Refuses to go on with a run that started from other weights than `init`; without a word, what it started from holds.
pub(super) fn check_init(
    run: &Path,
    state: &State,
    init: Option<&Path>,
    allow: &[String],
) -> Result<(), Error> {
    let Some(now) = init.map(|path| path.display().to_string()) else {
        return Ok(());
    };
    let was = state.init.as_ref().map_or("none", |record| &record.path);
    if was == now || allow.iter().any(|key| key == "init") {
        return Ok(());
    }
    Err(Error::Changed {
        path: run.to_owned(),
        key: "init".to_owned(),
        was: was.to_owned(),
        now,
    })
}

/// Renames the checkpoints that were passed over, so that none of them is taken for the newest again.
pub(super) fn set_aside(damaged: &[PathBuf], listener: &mut dyn FnMut(Event<'_>)) -> Result<(), Error> {
    for folder in damaged {
        let aside = checkpoint::set_aside(folder)?;
        listener(Event::Note(&format!(
            "the damaged checkpoint is now {}",
            aside.display()
        )));
    }
    Ok(())
}

/// Refuses to go on with other settings or other data, but for the keys in `allow` (`data` for the data).
pub(super) fn check_same(
    run: &Path,
    state: &State,
    config: &Config,
    dataset: &DatasetRecord,
    allow: &[String],
) -> Result<(), Error> {
    let is_allowed = |key: &str| allow.iter().any(|allowed| allowed == key);
    let changed = |key: &str, was: String, now: String| Error::Changed {
        path: run.to_owned(),
        key: key.to_owned(),
        was,
        now,
    };
    // A longer run has the same steps at its start only while the rate does not depend on the end.
    let is_open_ended = config.optim.lr_schedule == LrSchedule::Constant;
    for ((key, was), (_, now)) in entries(&state.config).into_iter().zip(entries(config)) {
        let is_free = FREE.contains(&key.as_str()) || (key == "run.num_steps" && is_open_ended);
        if was != now && !is_free && !is_allowed(&key) {
            return Err(changed(&key, was.to_string(), now.to_string()));
        }
    }
    if state.dataset.fingerprint != dataset.fingerprint && !is_allowed("data") {
        let describe = |d: &DatasetRecord| format!("{} ({:.12})", d.name, d.fingerprint);
        return Err(changed("data", describe(&state.dataset), describe(dataset)));
    }
    Ok(())
}
