//! Which output pixel a number of the tiles' numbering is, and where it lies in a map.

use std::ops::Range;

use crate::nn::feature_map::{FeatureMap, Padding};

/// The numbering of output pixels along the padded rows of the input.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    /// Numbers from one row to the next.
    pub(super) pitch: usize,
    /// Numbers from one image to the next.
    pub(super) image: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Grid {
    /// The first real pixel `(n, y, x)` with a number of at least `q`.
    pub(super) fn next_pixel(&self, q: usize) -> (usize, usize, usize) {
        let (n, within) = (q / self.image, q % self.image);
        let (y, x) = (within / self.pitch, within % self.pitch);
        if y >= self.height {
            (n + 1, 0, 0)
        } else if x < self.width {
            (n, y, x)
        } else if y + 1 < self.height {
            (n, y + 1, 0)
        } else {
            (n + 1, 0, 0)
        }
    }

    /// Calls `work` for each run of real pixels of one row within `range`: its numbers and its first pixel.
    pub(super) fn for_each_run(
        &self,
        range: &Range<usize>,
        work: &mut impl FnMut(Range<usize>, (usize, usize, usize)),
    ) {
        let mut q = range.start;
        while q < range.end {
            let (n, y, x) = self.next_pixel(q);
            q = n * self.image + y * self.pitch + x;
            let stop = (q + self.width - x).min(range.end);
            if stop > q {
                work(q..stop, (n, y, x));
            }
            q = stop.max(q + 1);
        }
    }
}

/// Where the pixels of a map lie, without borrowing the map.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) padded_height: usize,
    pub(super) padded_width: usize,
    pub(super) channels: usize,
    pub(super) padding: Padding,
    pub(super) length: usize,
}

impl Layout {
    pub(super) fn of(map: &FeatureMap) -> Self {
        Self {
            padded_height: map.padded_height(),
            padded_width: map.padded_width(),
            channels: map.shape()[3],
            padding: map.padding(),
            length: map.data().len(),
        }
    }

    pub(super) fn offset(&self, n: usize, y: usize, x: usize) -> usize {
        let row = n * self.padded_height + self.padding.top + y;
        (row * self.padded_width + self.padding.left + x) * self.channels
    }
}
