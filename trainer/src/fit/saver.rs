//! Checkpoints that are written while training goes on, from a copy of what they hold.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::{Error, Event, folder};
use crate::checkpoint::{self, BufferRefs, Buffers, State};
use crate::model::ParamLayout;

/// Values that a thread copies at a time.
const COPIED_AT_ONCE: usize = 1 << 16;

/// Writes checkpoints of a run, at most one at a time.
///
/// Where memory does not suffice for a copy, or `run.async_checkpoint` is off, training waits for the disk. Dropping the
/// saver waits for the checkpoint that is being written.
#[derive(Debug)]
pub(super) struct Saver {
    /// `None`: another process writes the checkpoints.
    run: Option<PathBuf>,
    /// Step of the newest complete checkpoint; at first that which the run starts from.
    saved: u64,
    in_flight: Option<JoinHandle<Done>>,
    /// Time for which training has waited for the checkpoint in flight.
    waited: Duration,
    /// The memory of the copy, kept from one checkpoint to the next.
    copy: Option<Buffers>,
    is_short_of_memory: bool,
}

/// What the thread that writes gives back.
#[derive(Debug)]
struct Done {
    copy: Buffers,
    step: u64,
    written: Result<PathBuf, Error>,
}

impl Saver {
    /// For the run `run`, which starts from step `step`; without one it only counts, as another process writes.
    pub(super) fn new(run: Option<&Path>, step: u64) -> Self {
        Self {
            run: run.map(Path::to_owned),
            saved: step,
            in_flight: None,
            waited: Duration::ZERO,
            copy: None,
            is_short_of_memory: false,
        }
    }

    /// The step of the newest checkpoint that is known to be complete.
    pub(super) fn saved(&self) -> u64 {
        self.saved
    }

    /// Takes a copy of everything and begins to write it; waits for the checkpoint before, if it is still being written.
    ///
    /// # Errors
    /// Those of either checkpoint.
    pub(super) fn save(
        &mut self,
        state: &State,
        layout: &ParamLayout,
        refs: BufferRefs<'_>,
        listener: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Error> {
        self.finish(listener)?;
        let Some(run) = self.run.clone() else {
            self.saved = state.step;
            return Ok(());
        };
        let start = Instant::now();
        if !state.config.run.async_checkpoint || !self.has_memory(refs, listener) {
            let path = write(&run, state, layout, refs)?;
            self.saved = state.step;
            listener(Event::Saved(&path, start.elapsed()));
            return Ok(());
        }
        let mut copy = self.copy.take().unwrap_or_default();
        copy_all(&mut copy, refs);
        let (state, layout) = (state.clone(), layout.clone());
        let thread = std::thread::Builder::new().name("checkpoint".to_owned());
        self.in_flight = Some(thread.spawn(move || Done {
            written: write(&run, &state, &layout, copy.refs()),
            step: state.step,
            copy,
        })?);
        self.waited = start.elapsed();
        Ok(())
    }

    /// Tells of the checkpoint in flight if it is written by now.
    ///
    /// # Errors
    /// When it could not be written.
    pub(super) fn poll(&mut self, listener: &mut dyn FnMut(Event<'_>)) -> Result<(), Error> {
        match &self.in_flight {
            Some(thread) if thread.is_finished() => self.finish(listener),
            _ => Ok(()),
        }
    }

    /// Waits for the checkpoint in flight.
    ///
    /// # Errors
    /// When it could not be written.
    pub(super) fn finish(&mut self, listener: &mut dyn FnMut(Event<'_>)) -> Result<(), Error> {
        let Some(thread) = self.in_flight.take() else {
            return Ok(());
        };
        let start = Instant::now();
        let done = thread.join().map_err(|_| {
            std::io::Error::other("the thread that writes the checkpoint has ended with a panic")
        })?;
        self.waited += start.elapsed();
        self.copy = Some(done.copy);
        let path = done.written?;
        self.saved = done.step;
        listener(Event::Saved(&path, self.waited));
        Ok(())
    }

    /// Whether there is room for the copy; told once when there is not.
    fn has_memory(&mut self, refs: BufferRefs<'_>, listener: &mut dyn FnMut(Event<'_>)) -> bool {
        if self.copy.is_some() {
            return true;
        }
        let needed = 4 * size_of_val(refs.params) as u64;
        // An eighth more, so that the system is not left without any.
        let fits = shards::memory::available_bytes().is_none_or(|available| available >= needed + needed / 8);
        if !fits && !self.is_short_of_memory {
            self.is_short_of_memory = true;
            listener(Event::Note(
                "there is no memory for a copy of the weights: training waits while checkpoints are written",
            ));
        }
        fits
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        // Whatever ended the run, what was begun is brought to its end.
        if let Some(thread) = self.in_flight.take() {
            let _ = thread.join();
        }
    }
}

/// Writes a checkpoint, removes those that are too old, and draws the loss anew.
fn write(run: &Path, state: &State, layout: &ParamLayout, buffers: BufferRefs<'_>) -> Result<PathBuf, Error> {
    let path = checkpoint::save(run, state, layout, buffers)?;
    checkpoint::prune(run, &state.config.run)?;
    folder::plot(run)?;
    Ok(path)
}

fn copy_all(copy: &mut Buffers, from: BufferRefs<'_>) {
    for (to, from) in [
        (&mut copy.params, from.params),
        (&mut copy.ema, from.ema),
        (&mut copy.first, from.first),
        (&mut copy.second, from.second),
    ] {
        to.resize(from.len(), 0.0);
        to.par_chunks_mut(COPIED_AT_ONCE)
            .zip(from.par_chunks(COPIED_AT_ONCE))
            .for_each(|(to, from)| to.copy_from_slice(from));
    }
}
