//! Memory of finished maps for the maps that follow.
//!
//! A large allocation costs the system a page fault for every 4 KiB, and clearing them: a tenth of a network's time. Where
//! one network runs again and again, its maps can live in the same few buffers.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

/// Buffers that one run keeps at most; the smallest give way.
const MOST: usize = 12;

thread_local! {
    /// What the run that this thread is in has at hand; `None` outside of any.
    static AT_HAND: RefCell<Option<Vec<Vec<f32>>>> = const { RefCell::new(None) };
}

/// Buffers of a network's earlier runs, a set for each run that goes on at the same time.
#[derive(Debug, Default)]
pub struct Recycler {
    sets: Mutex<Vec<Vec<Vec<f32>>>>,
}

impl Recycler {
    /// Runs `work`, on this thread; maps that it drops leave their memory to those that it makes later, and to later calls.
    pub fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        let sets = || self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let set = sets().pop().unwrap_or_default();
        // While the work waits for other threads, this one may begin with another run: each has its own set.
        let outer = AT_HAND.replace(Some(set));
        let result = work();
        if let Some(set) = AT_HAND.replace(outer) {
            sets().push(set);
        }
        result
    }
}

/// A buffer of `len` numbers, whatever they are, if there is one to be had.
pub(super) fn take(len: usize) -> Option<Vec<f32>> {
    AT_HAND.with_borrow_mut(|at_hand| {
        let set = at_hand.as_mut()?;
        let fitting = set
            .iter()
            .enumerate()
            .filter(|(_, buffer)| buffer.capacity() >= len);
        let (best, _) = fitting.min_by_key(|(_, buffer)| buffer.capacity())?;
        let mut buffer = set.swap_remove(best);
        buffer.resize(len, 0.0);
        Some(buffer)
    })
}

/// Leaves `buffer` to later maps.
pub(super) fn give(buffer: Vec<f32>) {
    // At the end of a thread there is nothing to give it to.
    let _ = AT_HAND.try_with(|at_hand| {
        if let Some(set) = &mut *at_hand.borrow_mut() {
            set.push(buffer);
            if set.len() > MOST
                && let Some((smallest, _)) =
                    set.iter().enumerate().min_by_key(|(_, buffer)| buffer.capacity())
            {
                set.swap_remove(smallest);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{FeatureMap, Padding};

    #[test]
    fn maps_follow_one_another_in_the_same_memory_with_a_border_of_zeros() {
        let recycler = Recycler::default();
        let shape = [2, 3, 4, 5];
        let address = |map: &FeatureMap| map.data().as_ptr();
        let first = recycler.run(|| {
            let mut map = FeatureMap::unfilled(shape, Padding::NONE);
            map.for_each_row_mut(|_, _, row| row.fill(7.0));
            address(&map)
        });
        recycler.run(|| {
            let smaller = [2, 1, 2, 5];
            let map = FeatureMap::unfilled(smaller, Padding::ONE);
            assert_eq!(address(&map), first);
            let inside = FeatureMap::from_nchw(&[7.0; 20], [2, 5, 1, 2], Padding::ONE).unwrap();
            assert_eq!(map.data(), inside.data());
            // There is but one buffer.
            assert_ne!(address(&FeatureMap::unfilled(smaller, Padding::ONE)), first);
            assert_eq!(
                FeatureMap::zeros(smaller, Padding::ONE).data(),
                [0.0; 2 * 3 * 4 * 5]
            );
        });
        assert!(take(1).is_none());
    }
}
