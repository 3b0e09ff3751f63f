//! How much may be in flight: images are admitted in the order of their positions and leave when they are written.
//!
//! Order matters: were a later image admitted before an earlier one, the later ones could fill the memory while the
//! writer waits for the earlier.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::config::Blocks;
use super::{EncodeConfig, Error};

/// Blocks that are always admitted, whatever their size: one to encode, one to gather.
const LEAST_BLOCKS: u64 = 2;

pub(super) struct Admission {
    state: Mutex<State>,
    changed: Condvar,
    blocks: Blocks,
    /// Bytes of images in flight, and of images that are being decoded.
    limit: u64,
    /// Blocks in flight.
    most_blocks: u64,
    image_bytes: u64,
}

#[derive(Default)]
struct State {
    /// The next position to be fetched.
    claimed: u64,
    /// The next position to be admitted.
    admitted: u64,
    /// The oldest block that is not written.
    oldest: u64,
    in_flight: u64,
    /// Bytes of images that are being decoded.
    decoding: u64,
    /// Bytes of the images of each block in flight, from `oldest` on.
    bytes: std::collections::VecDeque<u64>,
    stopped: bool,
    failure: Option<Error>,
}

impl Admission {
    pub(super) fn new(config: &EncodeConfig, blocks: &Blocks, encoders: usize) -> Self {
        let waiting = (2 * config.workers).div_ceil(config.batch.max(1)) as u64;
        Self {
            state: Mutex::new(State {
                claimed: blocks.start(),
                admitted: blocks.start(),
                oldest: blocks.numbers().start,
                ..State::default()
            }),
            changed: Condvar::new(),
            blocks: blocks.clone(),
            limit: config.memory / 2,
            most_blocks: LEAST_BLOCKS + 2 * encoders as u64 + waiting,
            image_bytes: config.image_bytes(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// The next position to fetch, when there is room for it; `None` at the end.
    pub(super) fn claim(&self) -> Option<u64> {
        let mut state = self.lock();
        loop {
            if state.stopped || state.claimed >= self.blocks.end() {
                return None;
            }
            let ahead = self.blocks.of(state.claimed) - state.oldest;
            let room = ahead < self.most_blocks && state.in_flight < self.limit;
            if ahead < LEAST_BLOCKS || room {
                state.claimed += 1;
                return Some(state.claimed - 1);
            }
            state = self.wait(state);
        }
    }

    /// Waits until an image of `length` bytes that was fetched may go on; false when the work has stopped.
    pub(super) fn admit(&self, position: u64, length: usize) -> bool {
        let bytes = length as u64 + self.image_bytes;
        let block = self.blocks.of(position);
        let mut state = self.lock();
        loop {
            if state.stopped {
                return false;
            }
            let fits = block < state.oldest + LEAST_BLOCKS || state.in_flight + bytes <= self.limit;
            if state.admitted == position && fits {
                state.admitted += 1;
                state.in_flight += bytes;
                let number = (block - state.oldest) as usize;
                if state.bytes.len() <= number {
                    state.bytes.resize(number + 1, 0);
                }
                state.bytes[number] += bytes;
                self.changed.notify_all();
                return true;
            }
            state = self.wait(state);
        }
    }

    /// Takes so many bytes for decoding an image, and gives them back with the guard. One that needs more than there is
    /// is decoded alone.
    pub(super) fn decoding(&self, needed: u64) -> Option<Decoding<'_>> {
        let bytes = needed.min(self.limit);
        let mut state = self.lock();
        while !state.stopped && state.decoding > 0 && state.decoding + bytes > self.limit {
            state = self.wait(state);
        }
        if state.stopped {
            return None;
        }
        state.decoding += bytes;
        Some(Decoding {
            admission: self,
            bytes,
        })
    }

    /// The oldest block is written.
    pub(super) fn written(&self) {
        let mut state = self.lock();
        let bytes = state.bytes.pop_front().unwrap_or(0);
        state.in_flight -= bytes;
        state.oldest += 1;
        self.changed.notify_all();
    }

    /// Ends the work; the first failure is the one that is told.
    pub(super) fn fail(&self, error: Error) {
        let mut state = self.lock();
        state.stopped = true;
        state.failure.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Whether the work has been ended early.
    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Why it was.
    pub(super) fn failure(&self) -> Option<Error> {
        self.lock().failure.take()
    }
}

/// Memory for decoding one image.
pub(super) struct Decoding<'a> {
    admission: &'a Admission,
    bytes: u64,
}

impl Drop for Decoding<'_> {
    fn drop(&mut self) {
        self.admission.lock().decoding -= self.bytes;
        self.admission.changed.notify_all();
    }
}
