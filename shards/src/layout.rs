//! Names, limits and the byte layout of a row: the index of `FORMAT.md`.

use std::ops::Range;

use crate::manifest::Dtype;

/// The version written to every shard and manifest; readers refuse a later one.
pub const FORMAT_VERSION: u32 = 1;
/// The manifest of a dataset folder.
pub const MANIFEST_NAME: &str = "dataset.json";
/// The settings of a dataset that is not complete yet; its place is taken by the manifest.
pub const BEGUN_NAME: &str = "dataset.begun.json";
/// The images of the source that could not be stored, one JSON object a line; in the folder of a dataset.
pub const REJECTS_NAME: &str = "rejects.jsonl";
/// How the name of a complete shard ends.
pub const SHARD_SUFFIX: &str = ".safetensors.zst";
/// How the name of a file that is being written ends.
pub const PARTIAL_SUFFIX: &str = ".partial";

/// Bytes of the safetensors header with its length, padded with spaces: fixed, so that it can be written last.
pub const HEADER_BYTES: usize = 4096;
/// Rows are padded to this, so that every tensor of the file is aligned.
pub const ROW_ALIGNMENT: usize = 8;
/// A reader never allocates more than this for one frame of rows.
pub const MAX_FRAME_BYTES: usize = 64 << 20;
/// A reader never allocates more than this for the index of a shard.
pub const MAX_INDEX_BYTES: usize = 256 << 20;
/// Samples in one shard.
pub const MAX_SAMPLES: u64 = 1 << 20;
/// Latent channels.
pub const MAX_CHANNELS: usize = 256;
/// Latent height and width.
pub const MAX_SIDE: usize = 4096;
/// Bytes of one source key.
pub const MAX_KEY_BYTES: usize = 4096;
/// Bytes of a manifest.
pub const MAX_MANIFEST_BYTES: u64 = 64 << 20;
/// Bytes per sample in the index: id, label, squared error, end of the key.
pub const INDEX_BYTES_PER_SAMPLE: usize = 32;

/// The least log-variance, and what the byte 0 stands for.
pub const LOGVAR_MIN: f32 = -30.0;
/// The greatest log-variance, and what the byte 255 stands for.
pub const LOGVAR_MAX: f32 = 20.0;

/// Where things lie in one row: the bytes of one view of one sample.
///
/// `scales [C] f32 (int8 only) | byte planes of the mean, highest first, [C, H, W] each | log-variance [C, H, W] u8 | 0..`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLayout {
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// How the mean is stored.
    pub dtype: Dtype,
    /// Whether a log-variance follows the mean.
    pub logvar: bool,
}

impl RowLayout {
    /// `C H W`.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Elements of one channel.
    pub fn channel_elements(&self) -> usize {
        self.shape[1] * self.shape[2]
    }

    /// Bytes of the int8 scales.
    pub fn scale_bytes(&self) -> usize {
        if self.dtype == Dtype::Int8 {
            4 * self.shape[0]
        } else {
            0
        }
    }

    /// Where the byte planes of the mean lie.
    pub fn mean(&self) -> Range<usize> {
        let start = self.scale_bytes();
        start..start + self.dtype.width() * self.elements()
    }

    /// Where the log-variance lies; empty when it is not stored.
    pub fn logvar(&self) -> Range<usize> {
        let start = self.mean().end;
        start..start + if self.logvar { self.elements() } else { 0 }
    }

    /// Bytes of the row with its padding.
    pub fn row_bytes(&self) -> usize {
        self.logvar().end.next_multiple_of(ROW_ALIGNMENT)
    }

    /// Where a zstd block ends inside the row: after the scales, after each plane, at the end.
    pub(crate) fn cuts(&self) -> Vec<usize> {
        let mean = self.mean();
        let mut cuts = Vec::with_capacity(8);
        if mean.start > 0 {
            cuts.push(mean.start);
        }
        cuts.extend((1..=self.dtype.width()).map(|plane| mean.start + plane * self.elements()));
        if self.logvar {
            cuts.push(self.logvar().end);
        }
        // The padding rides with the last plane.
        if let Some(last) = cuts.last_mut() {
            *last = self.row_bytes();
        }
        cuts
    }
}
