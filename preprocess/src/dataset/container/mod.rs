//! Where the bytes of images lie: files, ranges of archives, columns of parquet files, values of a database.
//!
//! Nothing is ever unpacked to disk. A container knows bytes, not what they show: decoding is the pipeline's.

pub(super) mod files;
#[cfg(feature = "parquet")]
mod guard;
pub(super) mod lmdb;
pub(super) mod lmdb_pages;
pub(super) mod lmdb_zip;
#[cfg(feature = "parquet")]
pub(super) mod parquet;
pub(super) mod ranges;
pub(super) mod streamed;
pub(super) mod tar;

use std::fmt::Debug;
use std::io;

/// Gives the bytes of images, to several threads.
///
/// Threads may ask for any position, but those that ask in rising order (a few positions apart) are served quickly by
/// every container, and those that do not are served slowly by some.
pub(super) trait Container: Debug + Send + Sync {
    /// The encoded image at `position` of the listing, whose key is `key`.
    ///
    /// # Errors
    /// Of the file system, or of a container that is damaged there: the work cannot go on, whereas bytes that are no
    /// image are for the decoder to refuse.
    fn read(&self, position: usize, key: &str) -> io::Result<Vec<u8>>;

    /// Whether positions that do not rise are slow.
    fn is_streamed(&self) -> bool {
        false
    }
}
