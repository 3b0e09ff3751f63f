//! Reading ahead of a windowed order: blocks as a whole, one after the other, a window before their samples are needed.

use std::ops::Range;

use crate::dataset::Dataset;

/// The blocks of an epoch, and how many of them the system has been asked to read.
pub(super) struct ReadAhead {
    /// In the order of the epoch, as positions in the dataset.
    blocks: Vec<Range<usize>>,
    /// For each block, how many samples of the epoch come before its window.
    starts: Vec<usize>,
    /// Blocks that come next.
    next: usize,
}

impl ReadAhead {
    /// Of `blocks`, `window` of which are shuffled together.
    pub(super) fn new(blocks: Vec<Range<usize>>, window: usize) -> Self {
        let mut starts = Vec::with_capacity(blocks.len());
        let mut start = 0;
        for window in blocks.chunks(window.max(1)) {
            starts.extend(window.iter().map(|_| start));
            start += window.iter().map(Range::len).sum::<usize>();
        }
        Self {
            blocks,
            starts,
            next: 0,
        }
    }

    /// The samples `range` of the epoch come next: asks for the blocks of their windows, and for as many of the
    /// following ones as keep pace.
    pub(super) fn advance(&mut self, dataset: &Dataset, range: Range<usize>) {
        for block in self.due(range) {
            // A block lies in one shard.
            if let (Ok((shard, first)), views) = (dataset.locate(block.start), dataset.views()) {
                let rows = first * views..(first + block.len()) * views;
                dataset.shards()[shard].read_ahead(rows);
            }
        }
    }

    /// The blocks to ask for; none is asked for twice.
    fn due(&mut self, range: Range<usize>) -> Vec<Range<usize>> {
        // A run that goes on does not need the windows before.
        let window_of = |sample: usize| {
            let behind = self.starts.partition_point(|&start| start <= sample);
            let start = behind.checked_sub(1).map_or(0, |block| self.starts[block]);
            self.starts.partition_point(|&other| other < start)..behind
        };
        let current = window_of(range.start);
        let last = window_of(range.end.saturating_sub(1));
        let samples = |blocks: &[Range<usize>]| blocks.iter().map(Range::len).sum::<usize>();
        // Through a share of this window, the same share of the next one is asked for.
        let inside = range.end - self.starts.get(last.start).copied().unwrap_or(0);
        let total = samples(&self.blocks[last.clone()]).max(1);
        let following = window_of(self.starts.get(last.start).map_or(0, |start| start + total));
        let ahead = if following.start == last.start {
            0
        } else {
            (following.len() * inside.min(total)).div_ceil(total)
        };
        let first = self.next.max(current.start);
        let end = (last.end + ahead).min(self.blocks.len()).max(first);
        self.next = end;
        self.blocks[first..end].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_asked_for_once_and_before_its_window() {
        let blocks: Vec<Range<usize>> = (0..10).map(|block| 4 * block..4 * block + 4).collect();
        for from in [0, 5, 13, 39] {
            let mut ahead = ReadAhead::new(blocks.clone(), 3);
            let mut asked = Vec::new();
            let mut at = from;
            while at < 40 {
                let end = (at + 3).min(40);
                asked.extend(ahead.due(at..end));
                // All blocks of the windows that the batch touches.
                let needed = ((end - 1) / 12 + 1) * 3;
                assert!(asked.len() + from / 12 * 3 >= needed.min(10), "{from} {at}");
                at = end;
            }
            assert_eq!(asked, blocks[from / 12 * 3..], "{from}");
        }
        let mut ahead = ReadAhead::new(blocks, 3);
        assert_eq!(ahead.due(0..6).len(), 3 + 2);
        assert_eq!(ahead.due(6..12).len(), 1);
        assert!(ahead.due(12..12).is_empty());
    }
}
