//! Threads of one process in the place of processes: for tests, without MPI.

use std::sync::{Arc, Barrier, Mutex};

use super::{Backward, Group, Reducer};

/// What the threads share: a meeting point, and what each of them brings there.
struct Table {
    meeting: Barrier,
    brought: Mutex<Vec<Vec<f64>>>,
}

/// One thread of several that train together.
pub(crate) struct Threads {
    rank: usize,
    ranks: usize,
    table: Arc<Table>,
    /// Lengths of the buckets of the last step.
    pub(crate) buckets: Vec<usize>,
}

impl Threads {
    /// As many as wanted.
    pub(crate) fn group(ranks: usize) -> Vec<Self> {
        let table = Arc::new(Table {
            meeting: Barrier::new(ranks),
            brought: Mutex::new(vec![Vec::new(); ranks]),
        });
        let thread = |rank| Self {
            rank,
            ranks,
            table: Arc::clone(&table),
            buckets: Vec::new(),
        };
        (0..ranks).map(thread).collect()
    }

    /// Calls `with` with what each thread has brought, in the order of ranks.
    fn exchange<R>(&self, mine: Vec<f64>, with: impl FnOnce(&[Vec<f64>]) -> R) -> R {
        self.table.brought.lock().unwrap()[self.rank] = mine;
        self.table.meeting.wait();
        let result = with(&self.table.brought.lock().unwrap());
        self.table.meeting.wait();
        result
    }

    fn total(&self, mine: Vec<f64>) -> Vec<f64> {
        self.exchange(mine, |all| {
            let length = all[0].len();
            assert!(all.iter().all(|brought| brought.len() == length), "out of step");
            (0..length)
                .map(|i| all.iter().map(|brought| brought[i]).sum())
                .collect()
        })
    }
}

impl Group for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn sum(&mut self, values: &mut [f64]) {
        values.copy_from_slice(&self.total(values.to_vec()));
    }

    fn broadcast(&mut self, bytes: &mut [u8]) {
        let mine = bytes.iter().map(|&byte| f64::from(byte)).collect();
        self.exchange(mine, |all| {
            for (byte, &first) in bytes.iter_mut().zip(&all[0]) {
                *byte = first as u8;
            }
        });
    }
}

impl<'g> Reducer<&'g mut [f32]> for Threads {
    fn overlap(&mut self, backward: Backward<'_, &'g mut [f32]>) {
        let mut lengths = Vec::new();
        super::overlap::overlap(backward, |bucket| {
            lengths.push(bucket.len());
            let total = self.total(bucket.iter().map(|&value| f64::from(value)).collect());
            for (value, total) in bucket.iter_mut().zip(total) {
                *value = total as f32;
            }
        });
        self.buckets = lengths;
    }
}
