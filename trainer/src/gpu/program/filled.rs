//! Places for buffers that stay.

use super::{ALIGNMENT, Slot, Space};

/// A space that is filled from its start.
pub(in crate::gpu) struct Filled {
    space: Space,
    end: usize,
}

impl Filled {
    /// Nothing yet.
    pub(in crate::gpu) fn new(space: Space) -> Self {
        Self { space, end: 0 }
    }

    /// The place of `count` elements of `size` bytes, behind all before it.
    pub(in crate::gpu) fn next(&mut self, count: usize, size: usize) -> Slot {
        let slot = Slot::new(self.space, self.end, count, size);
        self.end += slot.bytes.next_multiple_of(ALIGNMENT);
        slot
    }

    /// Bytes of all of them.
    pub(in crate::gpu) fn bytes(&self) -> usize {
        self.end
    }
}
