//! What lies where in tar archives, also in tar archives within tar archives.

use std::io;
use std::sync::Arc;

use rayon::prelude::*;

use super::ranges::{Archive, Section};

/// A file in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its path in the archive, without a leading `./`.
    pub(crate) name: String,
    /// Where its content starts in the file that the archive lies in.
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Lists the files of an archive: only the headers are read.
///
/// # Errors
/// When the archive is damaged or cut short, naming the file.
pub(crate) fn members(section: Section) -> io::Result<Vec<Member>> {
    let (archive, start) = (Arc::clone(section.archive()), section.start);
    let failed = |error: io::Error| {
        let path = archive.path.display();
        io::Error::new(
            error.kind(),
            format!("{path}: as a tar archive from byte {start} on: {error}\nhint: fetch the file again"),
        )
    };
    let mut all = Vec::new();
    let mut reader = ::tar::Archive::new(section);
    for entry in reader.entries_with_seek().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path_bytes();
        let name = std::str::from_utf8(&name)
            .map_err(|_| failed(io::Error::other("a member's name is not UTF-8")))?;
        let (offset, length) = (start + entry.raw_file_position(), entry.size());
        if offset + length > archive.length {
            let what = format!("`{name}` goes on after the end of the file, which is cut short");
            return Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, what)));
        }
        all.push(Member {
            name: name.trim_start_matches("./").to_owned(),
            offset,
            length,
        });
    }
    Ok(all)
}

/// The files of the archive, and of each archive in it, those of one archive together.
pub(crate) fn nested(archive: &Arc<Archive>, inner: &[Member]) -> io::Result<Vec<Vec<Member>>> {
    inner
        .par_iter()
        .map(|tar| members(Section::new(archive, tar.offset, tar.length)))
        .collect()
}
