//! Bytes to RGB pixels to the centre crop to tensors, with the same bytes as Pillow at every step.

/// An 8-bit RGB image: `data` holds `height * width * 3` bytes, rows first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Bytes in the order row, column, channel.
    pub data: Vec<u8>,
}
