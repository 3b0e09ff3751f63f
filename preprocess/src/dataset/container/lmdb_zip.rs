//! LSUN's databases as they are downloaded: `data.mdb` within a zip archive, never unpacked.
//!
//! A stored member is read in place. A deflated one can only be read from front to back: once for the pages of the
//! tree, and then for the values in the order in which they lie.

use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zip::{CompressionMethod, ZipArchive};

use super::lmdb_pages::{self, Head, Value, tree_page};
use super::ranges::{Archive, Place, Ranges, Section};
use super::streamed::Streaming;

/// The database of an archive: keys with the places of their values, in key order.
#[derive(Debug)]
pub(crate) struct ZippedLmdb {
    path: PathBuf,
    member: usize,
    /// Where the member's bytes lie in the archive, if they are stored.
    stored: Option<u64>,
    pub(crate) entries: Vec<(String, Value)>,
}

/// Whether the archive holds the database of a folder whose name contains `category`; answers the member's number.
pub(crate) fn find(path: &Path, category: &str) -> io::Result<Option<usize>> {
    let mut zip = open(path)?;
    let mut named = Vec::new();
    for member in 0..zip.len() {
        let file = zip.by_index_raw(member).map_err(|error| failed(path, error))?;
        let name = file.name().map_err(|error| failed(path, error))?.into_owned();
        if name == "data.mdb" || name.ends_with("/data.mdb") {
            named.push((member, name));
        }
    }
    let only = named.len() == 1;
    let chosen = named
        .into_iter()
        .find(|(_, name)| only || name.contains(category));
    Ok(chosen.map(|(member, _)| member))
}

impl ZippedLmdb {
    /// Lists the database that is member `member` of the archive at `path`.
    pub(crate) fn open(path: &Path, member: usize) -> io::Result<Self> {
        let explain = |error| failed(path, error);
        let mut zip = open(path)?;
        let file = zip.by_index(member).map_err(|error| failed(path, error))?;
        let (method, start, length) = (file.compression(), file.data_start(), file.size());
        let mut listed = Self {
            path: path.to_owned(),
            member,
            stored: None,
            entries: Vec::new(),
        };
        if method == CompressionMethod::Stored
            && let Some(start) = start
        {
            drop(file);
            let archive = Archive::open(path)?;
            let section = Section::new(&archive, start, length);
            let head = lmdb_pages::check_length(&section).map_err(explain)?;
            listed.stored = Some(start);
            let page = |number: u64| {
                let mut page = vec![0; head.page_size];
                let mut section = section.clone();
                section.seek(SeekFrom::Start(number * head.page_size as u64))?;
                section.read_exact(&mut page)?;
                Ok(page)
            };
            listed.walk(&head, page).map_err(explain)?;
        } else {
            let (head, mut pages) = tree_pages(file).map_err(explain)?;
            let page = |number: u64| {
                pages
                    .remove(&number)
                    .ok_or_else(|| io::Error::other(format!("page {number} is none of a tree")))
            };
            listed.walk(&head, page).map_err(explain)?;
        }
        Ok(listed)
    }

    fn walk(&mut self, head: &Head, page: impl FnMut(u64) -> io::Result<Vec<u8>>) -> io::Result<()> {
        let entries = &mut self.entries;
        head.walk(page, |key, value| {
            let key =
                String::from_utf8(key.to_vec()).map_err(|_| io::Error::other("a key that is not UTF-8"))?;
            entries.push((key, value));
            Ok(())
        })
    }

    /// Whether the values can be read in any order.
    pub(crate) fn is_stored(&self) -> bool {
        self.stored.is_some()
    }

    /// The values of a stored member, in key order.
    pub(crate) fn ranges(&self) -> io::Result<Ranges> {
        let start = self.stored.unwrap_or_default();
        Ok(Ranges {
            archives: vec![Archive::open(&self.path)?],
            places: self
                .entries
                .iter()
                .map(|(_, value)| Place {
                    archive: 0,
                    length: value.length,
                    offset: start + value.offset,
                })
                .collect(),
        })
    }

    /// The values of a deflated member, in the order of `entries`, which must be that of their places.
    pub(crate) fn stream(&self) -> Inflated {
        Inflated {
            path: self.path.clone(),
            member: self.member,
            values: self.entries.iter().map(|(_, value)| *value).collect(),
            stream: None,
        }
    }
}

/// Reads a whole database and keeps the pages of its tree (and whatever looks like one: nothing points to these).
fn tree_pages(mut file: impl Read) -> io::Result<(Head, HashMap<u64, Vec<u8>>)> {
    let mut start = Vec::new();
    file.by_ref().take(Head::BYTES as u64).read_to_end(&mut start)?;
    let head = Head::parse(&start)?;
    let mut pages = HashMap::new();
    let mut all = io::Cursor::new(start).chain(file);
    let mut page = vec![0; head.page_size];
    for number in 0..=head.last_page {
        all.read_exact(&mut page).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(
                error.kind(),
                "the database is cut short\nhint: fetch the file again",
            ),
            _ => error,
        })?;
        if tree_page(&page, number).is_some() {
            pages.insert(number, page.clone());
        }
    }
    Ok((head, pages))
}

/// Values of a deflated database, in the order in which they lie.
pub(crate) struct Inflated {
    path: PathBuf,
    member: usize,
    values: Vec<Value>,
    /// The stream, the byte at which it stands, and the value that comes next.
    stream: Option<(Box<dyn Read + Send>, u64, usize)>,
}

impl std::fmt::Debug for Inflated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflated")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Inflated {
    /// Lets the bytes up to `offset` go by.
    fn pass(&mut self, offset: u64) -> io::Result<()> {
        let Some((stream, at, _)) = &mut self.stream else {
            return Err(io::Error::other("no value was asked for"));
        };
        let wanted = offset.saturating_sub(*at);
        let passed = io::copy(&mut stream.take(wanted), &mut io::sink())?;
        *at += passed;
        if passed < wanted {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the database is cut short",
            ));
        }
        Ok(())
    }
}

impl Streaming for Inflated {
    fn start_at(&mut self, position: usize) -> io::Result<usize> {
        let explain = |error| failed(&self.path, error);
        if !matches!(&self.stream, Some((_, _, next)) if *next <= position) {
            let archive = Archive::open(&self.path)?;
            self.stream = Some((inflate(&archive, self.member).map_err(explain)?, 0, 0));
        }
        if let Some((_, _, next)) = &mut self.stream {
            *next = position;
        }
        if let Some(value) = self.values.get(position) {
            let offset = value.offset;
            self.pass(offset).map_err(|error| failed(&self.path, error))?;
        }
        Ok(position)
    }

    fn next(&mut self) -> io::Result<Vec<u8>> {
        let position = self.stream.as_ref().map_or(0, |(_, _, next)| *next);
        let Some(&value) = self.values.get(position) else {
            return Err(io::Error::other("a value after the last"));
        };
        let read = |this: &mut Self| {
            this.pass(value.offset)?;
            let Some((stream, at, next)) = &mut this.stream else {
                return Ok(Vec::new());
            };
            let mut bytes = Vec::new();
            stream.take(u64::from(value.length)).read_to_end(&mut bytes)?;
            *at += bytes.len() as u64;
            *next += 1;
            if bytes.len() < value.length as usize {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the database is cut short",
                ));
            }
            Ok(bytes)
        };
        let bytes = read(self);
        if bytes.is_err() {
            self.stream = None;
        }
        bytes.map_err(|error| failed(&self.path, error))
    }
}

/// The content of a member as a stream that owns its archive.
fn inflate(archive: &Arc<Archive>, member: usize) -> io::Result<Box<dyn Read + Send>> {
    let mut zip = ZipArchive::new(Section::whole(archive))?;
    let file = zip.by_index(member)?;
    let (method, start, length) = (file.compression(), file.data_start(), file.compressed_size());
    let start = start.ok_or_else(|| io::Error::other("the member's start is not known"))?;
    drop(file);
    let raw = io::BufReader::with_capacity(1 << 20, Section::new(archive, start, length));
    match method {
        CompressionMethod::Deflated => Ok(Box::new(flate2::bufread::DeflateDecoder::new(raw))),
        other => Err(io::Error::other(format!(
            "the member is compressed by {other}, expected deflate or none\nhint: zip -0 -r writes an archive without compression"
        ))),
    }
}

fn open(path: &Path) -> io::Result<ZipArchive<Section>> {
    ZipArchive::new(Section::whole(&Archive::open(path)?)).map_err(|error| failed(path, error))
}

fn failed(path: &Path, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
