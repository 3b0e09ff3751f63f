//! A window of one component's samples, in whole blocks.

use std::ops::Range;

use super::idct::LANES;

/// Samples of a component. Eight samples of a row lie in one `u64`, so that a block's row is one value.
#[derive(Default)]
pub(super) struct Plane {
    data: Vec<u64>,
    /// Blocks from one row of samples to the next: a multiple of [`LANES`].
    stride: usize,
    /// The blocks that are held.
    pub(super) across: Range<usize>,
    pub(super) down: Range<usize>,
    /// Samples of the whole component that belong to the image.
    pub(super) width: usize,
    pub(super) height: usize,
}

impl Plane {
    /// Makes room for the samples `columns` x `rows` of a component of `size`, keeping the memory.
    pub(super) fn reset(&mut self, size: (usize, usize), columns: &Range<usize>, rows: &Range<usize>) {
        let blocks = |samples: &Range<usize>| samples.start / 8..samples.end.div_ceil(8);
        (self.width, self.height) = size;
        (self.across, self.down) = (blocks(columns), blocks(rows));
        self.stride = self.across.len().next_multiple_of(LANES);
        // What the memory held before is overwritten by the blocks.
        self.data.resize(self.stride * self.down.len() * 8, 0);
    }

    /// Groups of [`LANES`] blocks in a row of blocks.
    pub(super) fn groups(&self) -> usize {
        self.stride / LANES
    }

    /// The eight rows of samples of one group of blocks of the row of blocks `by`.
    #[inline(always)]
    pub(super) fn group(&mut self, by: usize, group: usize) -> Option<[&mut [u64; LANES]; 8]> {
        let row = (by - self.down.start) * 8 * self.stride;
        let mut rows = self
            .data
            .get_mut(row..row + 8 * self.stride)?
            .chunks_exact_mut(self.stride);
        let mut next = || {
            let row = rows.next()?;
            row.get_mut(group * LANES..(group + 1) * LANES)?.try_into().ok()
        };
        Some([
            next()?,
            next()?,
            next()?,
            next()?,
            next()?,
            next()?,
            next()?,
            next()?,
        ])
    }

    /// Samples of row `y` from column `x` on, both counted in the whole component.
    #[inline(always)]
    pub(super) fn row(&self, y: usize, x: usize) -> &[u8] {
        let row = (y - self.down.start * 8) * self.stride;
        &bytemuck::cast_slice(&self.data[row..row + self.stride])[x - self.across.start * 8..]
    }
}
