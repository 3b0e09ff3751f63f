//! The rows of all tokens in tiles: a task takes one through several layers, in memory that it has just used.

use std::ops::Range;

use rayon::prelude::*;

/// Rows of a tile, at most. The weights are read again for every tile, which shows below a thousand rows of width 384.
const MOST_ROWS: usize = 4096;
/// Rows of a tile, at least, before there are tiles for all threads.
const FEWEST_ROWS: usize = 32;

/// Tiles of the rows of some images: part of one image, or several whole ones.
pub(super) struct Tiles {
    rows: Vec<Range<usize>>,
    /// Rows of an image.
    per_image: usize,
}

impl Tiles {
    /// Tiles of `images` images of `per_image` rows.
    pub(super) fn new(images: usize, per_image: usize) -> Self {
        let total = images * per_image;
        let fair = total.div_ceil(2 * rayon::current_num_threads());
        let most = fair.clamp(FEWEST_ROWS, MOST_ROWS);
        let rows = if per_image >= most {
            let tile = per_image.div_ceil(per_image.div_ceil(most));
            let of_image = |image: usize| {
                let (first, end) = (image * per_image, (image + 1) * per_image);
                (first..end)
                    .step_by(tile)
                    .map(move |start| start..(start + tile).min(end))
            };
            (0..images).flat_map(of_image).collect()
        } else {
            let tile = most / per_image * per_image;
            (0..total)
                .step_by(tile)
                .map(|start| start..(start + tile).min(total))
                .collect()
        };
        Self { rows, per_image }
    }

    /// The images whose rows these are.
    pub(super) fn images(&self, rows: &Range<usize>) -> Range<usize> {
        rows.start / self.per_image..rows.end.div_ceil(self.per_image)
    }

    /// Calls `work(rows, their part of out)` for every tile, on all threads.
    ///
    /// # Panics
    /// When `out` does not have the same number of elements for every row: a mistake of the caller.
    pub(super) fn write(&self, out: &mut [f32], work: impl Fn(&Range<usize>, &mut [f32]) + Sync) {
        let total = self.rows.last().map_or(0, |rows| rows.end);
        let width = out.len() / total.max(1);
        assert_eq!(width * total, out.len(), "rows of one width");
        let mut rest = out;
        let mut parts = Vec::with_capacity(self.rows.len());
        for rows in &self.rows {
            let (part, after) = rest.split_at_mut(rows.len() * width);
            parts.push((rows, part));
            rest = after;
        }
        parts.into_par_iter().for_each(|(rows, part)| work(rows, part));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_tile_and_no_tile_has_parts_of_two_images() {
        for (images, per_image) in [(1, 1), (3, 7), (16, 32), (5, 127), (2, 128), (3, 450), (1, 9000)] {
            let tiles = Tiles::new(images, per_image);
            let mut out = vec![0.0; 2 * images * per_image];
            tiles.write(&mut out, |rows, part| {
                for (row, part) in rows.clone().zip(part.chunks_exact_mut(2)) {
                    part[1] += row as f32;
                }
                assert!(rows.len() <= MOST_ROWS);
                let whole = rows.start % per_image == 0 && rows.end % per_image == 0;
                assert!(whole || tiles.images(rows).len() == 1, "{rows:?} of {per_image}");
            });
            let expected: Vec<f32> = (0..images * per_image)
                .flat_map(|row| [0.0, row as f32])
                .collect();
            assert_eq!(out, expected);
        }
    }
}
