//! What several threads finish in any order, taken in order.

use std::collections::BTreeMap;

use crossbeam_channel::Receiver;

/// Receives numbered things and keeps those that come before their turn.
pub(super) struct InOrder<'a, T> {
    receiver: &'a Receiver<(u64, T)>,
    early: BTreeMap<u64, T>,
}

impl<'a, T> InOrder<'a, T> {
    pub(super) fn new(receiver: &'a Receiver<(u64, T)>) -> Self {
        Self {
            receiver,
            early: BTreeMap::new(),
        }
    }

    /// Waits for thing `number`; `None` when the threads have ended without it.
    pub(super) fn take(&mut self, number: u64) -> Option<T> {
        loop {
            if let Some(thing) = self.early.remove(&number) {
                return Some(thing);
            }
            let (other, thing) = self.receiver.recv().ok()?;
            self.early.insert(other, thing);
        }
    }
}
