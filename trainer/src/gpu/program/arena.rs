//! Places for buffers that live for a part of a program.

use std::collections::BTreeMap;

use super::ALIGNMENT;

/// A range of memory in which buffers are placed, before any of it is there.
#[derive(Debug, Default)]
pub(super) struct Arena {
    /// Free ranges by offset, none next to another.
    free: BTreeMap<usize, usize>,
    /// Bytes in use or free, at most so far.
    end: usize,
}

fn rounded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT).max(ALIGNMENT)
}

impl Arena {
    /// The offset of `bytes` bytes: in the smallest free range that holds them, or behind all.
    pub(super) fn take(&mut self, bytes: usize) -> usize {
        let bytes = rounded(bytes);
        let fitting = self.free.iter().filter(|(_, length)| **length >= bytes);
        if let Some((&offset, &length)) = fitting.min_by_key(|(_, length)| **length) {
            self.free.remove(&offset);
            if length > bytes {
                self.free.insert(offset + bytes, length - bytes);
            }
            return offset;
        }
        // A free range at the end grows.
        let offset = match self.free.last_key_value() {
            Some((&offset, &length)) if offset + length == self.end => {
                self.free.remove(&offset);
                offset
            }
            _ => self.end,
        };
        self.end = offset + bytes;
        offset
    }

    /// Gives the `bytes` bytes at `offset` back.
    pub(super) fn give(&mut self, offset: usize, bytes: usize) {
        let (mut offset, mut length) = (offset, rounded(bytes));
        if let Some((&before, &size)) = self.free.range(..offset).next_back() {
            assert!(before + size <= offset, "given back twice");
            if before + size == offset {
                self.free.remove(&before);
                (offset, length) = (before, size + length);
            }
        }
        if let Some(size) = self.free.remove(&(offset + length)) {
            length += size;
        }
        assert!(self.free.insert(offset, length).is_none(), "given back twice");
    }

    /// Bytes that all of it takes.
    pub(super) fn bytes(&self) -> usize {
        self.end
    }

    /// Whether everything was given back.
    pub(super) fn is_free(&self) -> bool {
        self.free.values().sum::<usize>() == self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_used_again_and_neighbours_grow_together() {
        let mut arena = Arena::default();
        let [a, b, c] = [300, 256, 1000].map(|bytes| arena.take(bytes));
        assert_eq!((a, b, c, arena.bytes()), (0, 512, 768, 1792));
        arena.give(a, 300);
        assert_eq!(arena.take(256), 0, "the smallest that fits");
        arena.give(0, 256);
        arena.give(b, 256);
        assert_eq!(arena.take(768), 0);
        arena.give(c, 1000);
        assert_eq!(arena.take(2000), 768, "the end grows");
        assert_eq!(arena.bytes(), 768 + 2048);
        assert!(!arena.is_free());
        arena.give(768, 2000);
        arena.give(0, 768);
        assert!(arena.is_free());
    }
}
