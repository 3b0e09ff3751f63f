//! What can be wrong with an image file, in words for a list of rejects.

/// What can be wrong with an image file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The first bytes are those of no format that is read.
    #[error("not a JPEG, PNG or WebP file: {}", guess(start))]
    UnknownFormat {
        /// The first bytes.
        start: Vec<u8>,
    },
    /// More pixels than any photograph has; refused before memory is taken.
    #[error("{width} x {height} pixels are more than the limit of {limit}")]
    TooLarge {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
        /// The largest number of pixels.
        limit: usize,
    },
    /// A side of no pixels.
    #[error("the image is empty: {width} x {height} pixels")]
    Empty {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// The data end before the image does.
    #[error("the file is truncated")]
    Truncated,
    /// The JPEG library's own words.
    #[error("damaged JPEG: {0}")]
    Jpeg(String),
    /// The PNG or WebP decoder's own words.
    #[error("damaged {format} file: {message}")]
    Damaged {
        /// `PNG` or `WebP`.
        format: &'static str,
        /// The decoder's message.
        message: String,
    },
}

/// How many first bytes [`guess`] wants to see.
pub(super) const START: usize = 16;

/// What a file probably is, in words.
fn guess(start: &[u8]) -> String {
    let known: [(&[u8], &str); 11] = [
        (b"GIF8", "a GIF"),
        (b"BM", "a BMP"),
        (b"II*\0", "a TIFF"),
        (b"MM\0*", "a TIFF"),
        (b"\0\0\0\x0cjP  ", "a JPEG 2000"),
        (b"\xff\x4f\xff\x51", "a JPEG 2000"),
        (b"\xff\x0a", "a JPEG XL"),
        (b"\0\0\0\x0cJXL ", "a JPEG XL"),
        (b"8BPS", "a Photoshop"),
        (b"%PDF", "a PDF"),
        (b"PK\x03\x04", "a ZIP"),
    ];
    if start.is_empty() {
        return "it is empty".into();
    }
    if let Some((_, name)) = known.iter().find(|(magic, _)| start.starts_with(magic)) {
        return format!("it is {name} file");
    }
    if start.get(4..8) == Some(b"ftyp") {
        return "it is an AVIF, HEIC or MP4 file".into();
    }
    let is_text = |b: &u8| b.is_ascii_graphic() || b.is_ascii_whitespace();
    if start.iter().all(is_text) {
        return format!("it is text ({:?})", String::from_utf8_lossy(start));
    }
    format!("it starts with {start:02x?}")
}
