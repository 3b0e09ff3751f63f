//! Images that lie uncompressed in archives: a file, an offset, a length.

use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Container;

/// A file that any thread may read anywhere.
#[derive(Debug)]
pub(crate) struct Archive {
    pub(crate) path: PathBuf,
    file: std::fs::File,
    pub(crate) length: u64,
}

impl Archive {
    pub(crate) fn open(path: &Path) -> io::Result<Arc<Self>> {
        let file = fs_err::File::open(path)?.into_parts().0;
        let length = file.metadata()?.len();
        Ok(Arc::new(Self {
            path: path.to_owned(),
            file,
            length,
        }))
    }

    /// Exactly `out`'s length from `offset` on.
    pub(crate) fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let wanted = out.len();
        self.file.read_exact_at(out, offset).map_err(|error| {
            let path = self.path.display();
            io::Error::new(
                error.kind(),
                format!("{path}: {wanted} bytes at byte {offset}: {error}"),
            )
        })
    }
}

/// A stretch of an archive, as a stream.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    archive: Arc<Archive>,
    /// Where it starts in the file.
    pub(crate) start: u64,
    length: u64,
    at: u64,
}

impl Section {
    pub(crate) fn new(archive: &Arc<Archive>, start: u64, length: u64) -> Self {
        Self {
            archive: Arc::clone(archive),
            start,
            length: length.min(archive.length.saturating_sub(start)),
            at: 0,
        }
    }

    pub(crate) fn whole(archive: &Arc<Archive>) -> Self {
        Self::new(archive, 0, archive.length)
    }

    pub(crate) fn archive(&self) -> &Arc<Archive> {
        &self.archive
    }
}

impl Read for Section {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = out.len().min(self.length.saturating_sub(self.at) as usize);
        self.archive.read_at(self.start + self.at, &mut out[..length])?;
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for Section {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a seek before the start"))?;
        Ok(self.at)
    }
}

/// Where one image lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which of the archives.
    pub(crate) archive: u32,
    pub(crate) length: u32,
    pub(crate) offset: u64,
}

/// Images in archives, by position.
#[derive(Debug)]
pub(crate) struct Ranges {
    pub(crate) archives: Vec<Arc<Archive>>,
    pub(crate) places: Vec<Place>,
}

impl Ranges {
    /// Puts the places into another order: `order[position]` is where one was.
    pub(crate) fn reordered(mut self, order: &[u32]) -> Self {
        self.places = order.iter().map(|&was| self.places[was as usize]).collect();
        self
    }
}

impl Container for Ranges {
    fn read(&self, position: usize, _key: &str) -> io::Result<Vec<u8>> {
        let place = self.places[position];
        let archive = &self.archives[place.archive as usize];
        // Checked before the memory is taken: the length came from the archive.
        if place.offset + u64::from(place.length) > archive.length {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "{}: it ends at byte {}, within an image",
                    archive.path.display(),
                    archive.length
                ),
            ));
        }
        let mut bytes = vec![0; place.length as usize];
        archive.read_at(place.offset, &mut bytes)?;
        Ok(bytes)
    }
}
