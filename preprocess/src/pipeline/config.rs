//! How to encode, and how the images of a source are cut into blocks and parts.

use std::ops::Range;
use std::path::PathBuf;

use shards::manifest::ManifestHeader;

/// How to encode.
#[derive(Clone, Debug)]
pub struct EncodeConfig {
    /// The dataset's folder.
    pub out: PathBuf,
    /// What is known of the dataset beforehand.
    pub header: ManifestHeader,
    /// Which images to take, by their positions in the source.
    pub positions: Range<u64>,
    /// Bad images that are tolerated.
    pub max_rejects: u64,
    /// Images encoded together (each with its mirror image).
    pub batch: usize,
    /// Threads that read, threads that decode, threads that compress: so many of each.
    pub workers: usize,
    /// Bytes that images may take on their way: half of them those in flight, half those that are being decoded.
    pub memory: u64,
}

/// Parts begin at multiples of so many images, so that blocks do not depend on how a source was split.
const PART_ALIGNMENT: u64 = 256;

/// The positions that part `index` of `count` takes of the first `images`: consecutive, nearly equal, together all.
pub fn part_range(images: u64, index: u32, count: u32) -> Range<u64> {
    let count = u64::from(count.max(1));
    let border = |part: u64| {
        let exact = (u128::from(images) * u128::from(part) / u128::from(count)) as u64;
        match part {
            _ if part == count => images,
            _ if images >= PART_ALIGNMENT * count => exact / PART_ALIGNMENT * PART_ALIGNMENT,
            _ => exact,
        }
    };
    border(u64::from(index))..border(u64::from(index) + 1)
}

/// The blocks that a run works on. Block `b` has the positions from `b * size` on.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    size: u64,
    positions: Range<u64>,
}

impl EncodeConfig {
    /// The blocks from the one on that holds `first`: images before it in its block are encoded again, so that each
    /// image goes through the autoencoder in the same company, and are not stored twice.
    pub(super) fn blocks(&self, first: u64) -> Blocks {
        let size = self.batch.max(1) as u64;
        let start = (first / size * size).max(self.positions.start);
        Blocks {
            size,
            positions: start..self.positions.end.max(start),
        }
    }

    /// Bytes that an image holds on its way, besides its encoded form: the crop, and what becomes of it.
    pub(super) fn image_bytes(&self) -> u64 {
        let pixels = 3 * self.header.image_size * self.header.image_size;
        let latent: usize = self.header.shape.iter().product();
        // The crop and its mirror image as f32; mean and log-variance; rows and frames.
        (pixels + self.header.store.views() * (4 * pixels + 12 * latent)) as u64
    }
}

impl Blocks {
    /// The first position.
    pub(super) fn start(&self) -> u64 {
        self.positions.start
    }

    /// The position after the last.
    pub(super) fn end(&self) -> u64 {
        self.positions.end
    }

    /// The block of a position.
    pub(super) fn of(&self, position: u64) -> u64 {
        position / self.size
    }

    /// The numbers of all blocks.
    pub(super) fn numbers(&self) -> Range<u64> {
        if self.positions.is_empty() {
            return 0..0;
        }
        self.of(self.start())..self.of(self.end() - 1) + 1
    }

    /// The positions of a block.
    pub(super) fn positions(&self, block: u64) -> Range<u64> {
        (block * self.size).max(self.start())..((block + 1) * self.size).min(self.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other_and_cover_everything() {
        for images in [0, 1, 5, 1000, 1_281_167] {
            for count in [1, 2, 3, 7, 64] {
                let mut end = 0;
                for index in 0..count {
                    let part = part_range(images, index, count);
                    assert_eq!(part.start, end);
                    end = part.end;
                }
                assert_eq!(end, images);
            }
        }
        assert_eq!(part_range(1_281_167, 1, 2), 640_512..1_281_167);
    }

    #[test]
    fn blocks_have_borders_of_their_own() {
        let blocks = Blocks {
            size: 8,
            positions: 11..30,
        };
        assert_eq!(blocks.numbers(), 1..4);
        let all: Vec<_> = blocks.numbers().map(|block| blocks.positions(block)).collect();
        assert_eq!(all, [11..16, 16..24, 24..30]);
        let none = Blocks {
            size: 8,
            positions: 16..16,
        };
        assert!(none.numbers().is_empty());
    }
}
