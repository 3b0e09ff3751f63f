//! Buffers that a training step takes from a pool and gives back: after the first step nothing is allocated, cleared, or
//! mapped by the system anew.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Buffers that are not in use, by their lengths. Clones share them.
#[derive(Clone, Default)]
pub struct Pool(Arc<Mutex<BTreeMap<usize, Vec<Vec<f32>>>>>);

/// Numbers that go back to their pool in the end.
pub struct Buffer {
    /// At least `length` numbers.
    numbers: Vec<f32>,
    length: usize,
    pool: Pool,
}

impl Pool {
    /// A buffer of `length` numbers, which are anything: for results that are written whole before they are read.
    ///
    /// One that is up to half as long again will do, so that the smaller last micro-batch takes those of the others.
    pub fn take(&self, length: usize) -> Buffer {
        let mut free = self.lock();
        let found = free
            .range_mut(length..=length + length / 2)
            .find_map(|(_, buffers)| buffers.pop());
        drop(free);
        #[cfg_attr(
            not(test),
            expect(unused_mut, reason = "tests make reading before writing visible")
        )]
        let mut numbers = found.unwrap_or_else(|| vec![0.0; length]);
        #[cfg(test)]
        numbers.fill(f32::NAN);
        Buffer {
            numbers,
            length,
            pool: self.clone(),
        }
    }

    /// A buffer with the numbers of `source`.
    pub fn copy(&self, source: &[f32]) -> Buffer {
        let mut buffer = self.take(source.len());
        buffer.copy_from_slice(source);
        buffer
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Vec<Vec<f32>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.numbers[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.numbers[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let numbers = std::mem::take(&mut self.numbers);
        self.pool.lock().entry(numbers.len()).or_default().push(numbers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_serve_what_is_a_little_smaller() {
        let pool = Pool::default();
        let first = pool.copy(&[1.0; 90]);
        let place = first.as_ptr();
        drop(first);
        let smaller = pool.take(60);
        assert_eq!((smaller.as_ptr(), smaller.len()), (place, 60));
        let other = pool.take(90);
        assert_ne!(other.as_ptr(), place);
        drop(smaller);
        assert_ne!(pool.take(59).as_ptr(), place, "it would be wasted");
        assert_eq!(pool.take(90).as_ptr(), place);
    }
}
