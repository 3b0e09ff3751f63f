//! What the processes of a run do together before the first step.

use std::path::Path;

use bytemuck::cast_slice_mut;

use super::{Error, Learner, RunFolder};
use crate::checkpoint::{Buffers, DatasetRecord, State};
use crate::config::Config;
use crate::distributed::{self, HostReducer, agree, share};
use crate::model::ParamLayout;

/// Refuses more processes than a batch has images.
///
/// # Errors
/// [`distributed::Error::TooMany`].
pub fn check_batch(config: &Config, reducer: &HostReducer) -> Result<(), Error> {
    let (ranks, batch) = (reducer.ranks(), config.optim.global_batch_size);
    if ranks > batch {
        return Err(distributed::Error::TooMany { ranks, batch }.into());
    }
    Ok(())
}

/// What one process takes of `config`, for plans of memory: its slice of every batch.
pub fn slice_of(config: &Config, ranks: usize) -> Config {
    let mut slice = config.clone();
    slice.optim.global_batch_size = config.optim.global_batch_size.div_ceil(ranks);
    slice
}

/// Refuses another dataset than the first process has: a copy on another machine may be an old one.
pub(super) fn check_data(record: &DatasetRecord, reducer: &mut HostReducer) -> Result<(), Error> {
    let describe = |d: &DatasetRecord| format!("{} ({:.12}, {} samples)", d.name, d.fingerprint, d.samples);
    let mine = describe(record);
    let first = share::<_, Error>(reducer, || Ok(mine.clone()))?;
    if first != mine {
        let rank = reducer.rank();
        return Err(distributed::Error::OtherData { rank, mine, first }.into());
    }
    Ok(())
}

/// The run's folder, for the first process.
pub(super) fn open_folder(out: &Path, reducer: &HostReducer) -> Result<Option<RunFolder>, Error> {
    (reducer.rank() == 0).then(|| RunFolder::open(out)).transpose()
}

/// The checkpoint that the first process has found, in all of them: one reads it, and none can take another.
pub(super) fn share_checkpoint(
    found: Option<(State, Buffers)>,
    reducer: &mut HostReducer,
) -> Result<Option<(State, Buffers)>, Error> {
    if reducer.ranks() == 1 {
        return Ok(found);
    }
    let (state, buffers) = found.unzip();
    let Some(state) = share::<Option<State>, Error>(reducer, || Ok(state))? else {
        return Ok(None);
    };
    let mut buffers = buffers.unwrap_or_default();
    let length = ParamLayout::model(&state.config.model).total();
    for buffer in [
        &mut buffers.params,
        &mut buffers.ema,
        &mut buffers.first,
        &mut buffers.second,
    ] {
        buffer.resize(length, 0.0);
        reducer.broadcast(cast_slice_mut(buffer));
    }
    Ok(Some((state, buffers)))
}

/// Checks that all processes begin with the same step, weights and moments.
pub(super) fn check_start(state: &State, learner: &Learner, reducer: &mut HostReducer) -> Result<(), Error> {
    let all = learner.buffers();
    let buffers = [all.params, all.ema, all.first, all.second];
    Ok(agree(reducer, state.step, &buffers)?)
}
