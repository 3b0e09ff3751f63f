//! The order of an epoch: a pure function of (seed, epoch), the same for any number of workers, ranks or shards.

use std::ops::Range;

use rayon::slice::ParallelSliceMut;

use crate::rng::{Philox, Stream};

/// The order in which an epoch visits the samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// A uniform permutation of all samples: each read is at another place.
    #[default]
    Shuffle,
    /// For spinning disks and network file systems. The shards are cut into blocks of neighbouring samples; the blocks
    /// come in random order, and the samples of `window_blocks` of them at a time are shuffled. So blocks are read as a
    /// whole, one after the other, and a batch mixes samples of `window_blocks` places of the dataset, which is often
    /// sorted by class. Depends on how the dataset is cut into shards, and on both numbers.
    Window {
        /// Neighbouring samples that are read together.
        block_samples: usize,
        /// Blocks whose samples are shuffled together.
        window_blocks: usize,
    },
}

/// Positions in `ids`, in the order in which epoch `epoch` visits them.
///
/// Records are sorted by the first two words of their own counter, then by id, so that the order does not depend on
/// how the dataset was cut into shards.
pub fn epoch_order(seed: u64, epoch: u32, ids: &[u64]) -> Vec<u32> {
    let all = 0..ids.len();
    sorted_by_rank(
        seed,
        epoch,
        0,
        all.map(|position| (ids[position], position as u32)),
    )
}

/// The blocks of [`Order::Window`] in the order in which epoch `epoch` visits them, as stretches of positions in `ids`.
/// `ends` has the position behind the last sample of each shard; no block reaches into the next shard.
///
/// Blocks are sorted by the counter of their first record, at another place of the stream than the records' own.
pub fn window_blocks(
    seed: u64,
    epoch: u32,
    ids: &[u64],
    ends: &[usize],
    block_samples: usize,
) -> Vec<Range<usize>> {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let blocks: Vec<Range<usize>> = starts
        .zip(ends)
        .flat_map(|(start, &end)| {
            let firsts = (start..end).step_by(block_samples.max(1));
            firsts.map(move |first| first..end.min(first + block_samples.max(1)))
        })
        .collect();
    let firsts = blocks.iter().enumerate();
    let keys = firsts.map(|(number, block)| (ids[block.start], number as u32));
    let order = sorted_by_rank(seed, epoch, 1, keys);
    order
        .into_iter()
        .map(|number| blocks[number as usize].clone())
        .collect()
}

/// Positions in `ids`, in the order in which epoch `epoch` visits them when `window` of `blocks` are shuffled together.
pub fn window_order(seed: u64, epoch: u32, ids: &[u64], blocks: &[Range<usize>], window: usize) -> Vec<u32> {
    let mut order = Vec::with_capacity(ids.len());
    for blocks in blocks.chunks(window.max(1)) {
        let positions = blocks.iter().cloned().flatten();
        let keys = positions.map(|position| (ids[position], position as u32));
        order.extend(sorted_by_rank(seed, epoch, 0, keys));
    }
    order
}

/// The second numbers of `keys` (record id, number), sorted by the counters of the ids.
fn sorted_by_rank(seed: u64, epoch: u32, place: u32, keys: impl Iterator<Item = (u64, u32)>) -> Vec<u32> {
    let rng = Philox::new(seed);
    let mut order: Vec<(u64, u64, u32)> = keys
        .map(|(id, number)| {
            let words = rng.block(Stream::Shuffle, id, epoch, place);
            let rank = (u64::from(words[0]) << 32) | u64::from(words[1]);
            (rank, id, number)
        })
        .collect();
    order.par_sort_unstable();
    order.into_iter().map(|(_, _, number)| number).collect()
}

/// The part of a global batch that rank `rank` of `ranks` takes: a contiguous slice.
pub fn rank_slice<T>(batch: &[T], rank: usize, ranks: usize) -> &[T] {
    let start = batch.len() * rank / ranks;
    &batch[start..batch.len() * (rank + 1) / ranks]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_match_the_golden_ones() {
        let ids: Vec<u64> = (0..10).collect();
        assert_eq!(epoch_order(0, 0, &ids), [3, 8, 4, 6, 5, 0, 1, 9, 2, 7]);
        assert_eq!(epoch_order(0, 1, &ids), [9, 8, 1, 0, 7, 6, 2, 3, 5, 4]);
    }

    #[test]
    fn windows_are_shuffled_blocks_of_neighbours() {
        let ids: Vec<u64> = (100..120).collect();
        let ends = [7, 12, 20];
        for (seed, epoch) in [(0, 0), (0, 1), (5, 0)] {
            let blocks = window_blocks(seed, epoch, &ids, &ends, 3);
            assert_eq!(blocks.len(), 3 + 2 + 3);
            for block in &blocks {
                let shard = ends.iter().position(|&end| block.start < end).unwrap();
                assert!(block.len() <= 3 && block.end <= ends[shard], "{block:?}");
            }
            let order = window_order(seed, epoch, &ids, &blocks, 2);
            let mut at = 0;
            for window in blocks.chunks(2) {
                let mut expected: Vec<u32> = window
                    .iter()
                    .cloned()
                    .flatten()
                    .map(|position| position as u32)
                    .collect();
                let mut found = order[at..at + expected.len()].to_vec();
                at += expected.len();
                expected.sort_unstable();
                found.sort_unstable();
                assert_eq!(found, expected);
            }
            assert_eq!(at, ids.len());
        }
        let of = |epoch| window_blocks(0, epoch, &ids, &ends, 3);
        assert!(of(0) == of(0) && of(0) != of(1));
        // A window of everything is the uniform order.
        assert_eq!(window_order(9, 4, &ids, &of(2), 100), epoch_order(9, 4, &ids));
    }

    #[test]
    fn ranks_split_a_batch_without_gap() {
        let batch: Vec<usize> = (0..13).collect();
        for ranks in 1..6 {
            let joined: Vec<usize> = (0..ranks)
                .flat_map(|rank| rank_slice(&batch, rank, ranks).to_vec())
                .collect();
            assert_eq!(joined, batch);
        }
    }
}
