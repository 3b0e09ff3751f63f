//! The order of an epoch: a pure function of (seed, epoch), the same for any number of workers, ranks or shards.

use rayon::slice::ParallelSliceMut;

use crate::rng::{Philox, Stream};

/// Positions in `ids`, in the order in which epoch `epoch` visits them.
///
/// Records are sorted by the first two words of their own counter, then by id, so that the order does not depend on
/// how the dataset was cut into shards.
pub fn epoch_order(seed: u64, epoch: u32, ids: &[u64]) -> Vec<u32> {
    let rng = Philox::new(seed);
    let mut order: Vec<(u64, u64, u32)> = ids
        .iter()
        .enumerate()
        .map(|(position, &id)| {
            let words = rng.block(Stream::Shuffle, id, epoch, 0);
            let rank = (u64::from(words[0]) << 32) | u64::from(words[1]);
            (rank, id, position as u32)
        })
        .collect();
    order.par_sort_unstable();
    order.into_iter().map(|(_, _, position)| position).collect()
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
