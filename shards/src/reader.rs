//! Reads one shard: opening checks the header, the seek table and the index; a row is checked when it is read.

use std::{
    cell::RefCell,
    ops::Range,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    error::{Error, Result},
    frame::{self, Decoder},
    header::ShardHeader,
    layout::{FORMAT_VERSION, HEADER_BYTES, MAX_KEY_BYTES},
    mmap::Bytes,
    quantize,
    seek_table::{self, Entry},
};

static READERS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Each thread keeps its zstd tables and the frame that it decoded last.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        decoder: Decoder::new(),
        frame: None,
        content: Vec::new(),
    });
}

struct Scratch {
    decoder: Decoder,
    /// Reader and frame that `content` holds.
    frame: Option<(u64, usize)>,
    content: Vec<u8>,
}

/// An open shard; any number of threads may read from it.
#[derive(Debug)]
pub struct ShardReader {
    path: PathBuf,
    bytes: Bytes,
    header: ShardHeader,
    entries: Vec<Entry>,
    offsets: Vec<u64>,
    number: u64,
    ids: Vec<u64>,
    labels: Vec<i64>,
    squared_errors: Vec<f64>,
    key_ends: Vec<usize>,
    keys: String,
}

impl ShardReader {
    /// Opens a shard.
    ///
    /// # Errors
    /// Whatever is wrong with header, seek table or index, with frame and byte.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(path, Bytes::open(path)?)
    }

    /// Opens a shard that is in memory; errors name it by `path`.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        Self::of(path, Bytes::Owned(bytes))
    }

    fn of(path: &Path, bytes: Bytes) -> Result<Self> {
        let entries = seek_table::read(path, &bytes)?;
        let mut offset = 0;
        let offsets = entries
            .iter()
            .map(|entry| {
                let start = offset;
                offset += u64::from(entry.compressed);
                start
            })
            .collect();
        let mut reader = Self {
            path: path.to_owned(),
            bytes,
            // Replaced below; until then no row can be asked for.
            header: ShardHeader {
                format_version: FORMAT_VERSION,
                fingerprint: String::new(),
                shard: 0,
                samples: 0,
                views: 1,
                shape: [1; 3],
                store: crate::manifest::Store::Mean,
                dtype: crate::manifest::Dtype::F32,
                frame_rows: 1,
                key_bytes: 0,
            },
            entries,
            offsets,
            number: READERS.fetch_add(1, Ordering::Relaxed),
            ids: Vec::new(),
            labels: Vec::new(),
            squared_errors: Vec::new(),
            key_ends: Vec::new(),
            keys: String::new(),
        };
        reader.read_header()?;
        reader.check_sizes()?;
        reader.read_index()?;
        Ok(reader)
    }

    fn read_header(&mut self) -> Result<()> {
        if self.entries.len() < 3 {
            return Err(self.format_error(
                0,
                format!("there are {} frames, expected 3 or more", self.entries.len()),
            ));
        }
        let mut content = Vec::new();
        self.decode(0, HEADER_BYTES, &mut Decoder::new(), &mut content)?;
        if let Some(found) = ShardHeader::version(&content)
            && found > FORMAT_VERSION
        {
            return Err(Error::Version {
                path: self.path.clone(),
                found,
                supported: FORMAT_VERSION,
            });
        }
        self.header = ShardHeader::from_bytes(&content).map_err(|what| self.format_error(0, what))?;
        Ok(())
    }

    /// The seek table's decompressed sizes must be those that the header implies, frame by frame.
    fn check_sizes(&self) -> Result<()> {
        let frames = self.header.rows().div_ceil(self.header.frame_rows) as usize + 2;
        if self.entries.len() != frames {
            let what = format!(
                "the seek table has {} frames, the header implies {frames}",
                self.entries.len()
            );
            return Err(self.format_error(self.entries.len(), what));
        }
        for frame in 1..frames {
            let (found, expected) = (self.entries[frame].decompressed as usize, self.frame_bytes(frame));
            if found != expected {
                let what = format!("the seek table says {found} bytes, the header implies {expected}");
                return Err(self.format_error(frame, what));
            }
        }
        Ok(())
    }

    fn read_index(&mut self) -> Result<()> {
        let frame = self.entries.len() - 1;
        let mut content = Vec::new();
        self.decode(frame, self.frame_bytes(frame), &mut Decoder::new(), &mut content)?;
        let samples = self.header.samples as usize;
        let words = |part: usize| content[8 * samples * part..][..8 * samples].as_chunks::<8>().0;
        self.ids = words(0).iter().map(|&word| u64::from_le_bytes(word)).collect();
        self.labels = words(1).iter().map(|&word| i64::from_le_bytes(word)).collect();
        self.squared_errors = words(2).iter().map(|&word| f64::from_le_bytes(word)).collect();
        let ends: Vec<u64> = words(3).iter().map(|&word| u64::from_le_bytes(word)).collect();
        let keys = String::from_utf8(content[32 * samples..].to_vec())
            .map_err(|error| self.format_error(frame, format!("the keys are not UTF-8: {error}")))?;
        let mut start = 0;
        for (sample, &end) in ends.iter().enumerate() {
            let sound = end >= start
                && end - start <= MAX_KEY_BYTES as u64
                && end <= keys.len() as u64
                && keys.is_char_boundary(end as usize);
            if !sound {
                return Err(self.format_error(frame, format!("key {sample} ends at {end} of {}", keys.len())));
            }
            start = end;
        }
        if start != keys.len() as u64 {
            return Err(self.format_error(frame, format!("the last key ends at {start} of {}", keys.len())));
        }
        self.key_ends = ends.into_iter().map(|end| end as usize).collect();
        self.keys = keys;
        Ok(())
    }

    /// Decompressed bytes of a frame, by the header.
    fn frame_bytes(&self, frame: usize) -> usize {
        if frame == 0 {
            return HEADER_BYTES;
        }
        if frame + 1 == self.entries.len() {
            return self.header.index_bytes() as usize;
        }
        let first = (frame as u64 - 1) * self.header.frame_rows;
        let rows = self.header.frame_rows.min(self.header.rows() - first);
        rows as usize * self.header.row_layout().row_bytes()
    }

    /// The frame that row `row` is in.
    fn frame_of(&self, row: usize) -> usize {
        1 + row / self.header.frame_rows as usize
    }

    /// Where a frame lies in the file.
    fn stretch(&self, frame: usize) -> Range<usize> {
        let start = self.offsets[frame] as usize;
        start..start + self.entries[frame].compressed as usize
    }

    /// Decodes a frame of known size and compares its checksum.
    fn decode(&self, frame: usize, size: usize, decoder: &mut Decoder, content: &mut Vec<u8>) -> Result<()> {
        let entry = self.entries[frame];
        if entry.decompressed as usize != size {
            let what = format!(
                "the seek table says {} bytes, expected {size}",
                entry.decompressed
            );
            return Err(self.format_error(frame, what));
        }
        // What the frame before has left is overwritten, or an error.
        content.resize(size, 0);
        let found = decoder
            .decode(&self.bytes[self.stretch(frame)], content)
            .map_err(|what| self.format_error(frame, what))?;
        if found != entry.checksum {
            return Err(Error::Checksum {
                path: self.path.clone(),
                frame,
                offset: self.offsets[frame],
                expected: entry.checksum,
                found,
            });
        }
        Ok(())
    }

    fn format_error(&self, frame: usize, what: String) -> Error {
        Error::Format {
            path: self.path.clone(),
            frame,
            offset: self.offsets.get(frame).copied().unwrap_or(0),
            what,
        }
    }

    /// Calls `use_row` with the bytes of row `sample * views + view`.
    pub(crate) fn with_row<T>(&self, row: usize, use_row: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let rows = self.header.rows() as usize;
        if row >= rows {
            return Err(Error::OutOfRange {
                what: "row",
                index: row,
                count: rows,
            });
        }
        let frame_rows = self.header.frame_rows as usize;
        let frame = self.frame_of(row);
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.frame != Some((self.number, frame)) {
                scratch.frame = None;
                self.decode(
                    frame,
                    self.frame_bytes(frame),
                    &mut scratch.decoder,
                    &mut scratch.content,
                )?;
                scratch.frame = Some((self.number, frame));
            }
            let row_bytes = self.header.row_layout().row_bytes();
            Ok(use_row(
                &scratch.content[row % frame_rows * row_bytes..][..row_bytes],
            ))
        })
    }

    /// Tells the processor that row `row` comes next.
    pub(crate) fn prefetch(&self, row: usize) {
        let frame = self.frame_of(row);
        if frame < self.frames() {
            self.bytes.prefetch(self.stretch(frame));
        }
    }

    /// Asks the system to read a stretch of rows in one go, soon and in the background.
    pub(crate) fn read_ahead(&self, rows: Range<usize>) {
        let (first, last) = (
            self.frame_of(rows.start),
            self.frame_of(rows.end.saturating_sub(1)),
        );
        if first.max(last) < self.frames() {
            self.bytes
                .read_ahead(self.stretch(first).start..self.stretch(last).end);
        }
    }

    /// The frame of row `row`, as it lies in the file, where each row has its own; its content has been checked.
    pub(crate) fn checked_row_frame(&self, row: usize) -> Result<(&[u8], Entry)> {
        self.with_row(row, |_| ())?;
        let frame = self.frame_of(row);
        Ok((&self.bytes[self.stretch(frame)], self.entries[frame]))
    }

    /// Reads view `view` of sample `sample` into `mean` and `logvar`, each `[C, H, W]`.
    ///
    /// # Errors
    /// A damaged frame; an index out of range; a buffer of the wrong length, or a log-variance that is not stored.
    pub fn read(
        &self,
        sample: usize,
        view: usize,
        mean: &mut [f32],
        logvar: Option<&mut [f32]>,
    ) -> Result<()> {
        let layout = self.header.row_layout();
        let views = self.header.views as usize;
        for (what, index, count) in [("sample", sample, self.len()), ("view", view, views)] {
            if index >= count {
                return Err(Error::OutOfRange { what, index, count });
            }
        }
        let expected = layout.elements();
        let stored = if layout.logvar { expected } else { 0 };
        for (what, found, expected) in [
            ("mean", mean.len(), expected),
            (
                "log-variance",
                logvar.as_ref().map_or(stored, |logvar| logvar.len()),
                stored,
            ),
        ] {
            if found != expected {
                return Err(Error::Buffer {
                    what,
                    found,
                    expected,
                });
            }
        }
        self.with_row(sample * views + view, |row| {
            quantize::decode_mean(&layout, row, mean);
            if let Some(logvar) = logvar {
                quantize::decode_logvar(&layout, row, logvar);
            }
        })
    }

    /// Decodes frame `frame` to compare its checksums: the seek table's and its own.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_frame(&self, frame: usize) -> Result<()> {
        if frame >= self.entries.len() {
            return Err(Error::OutOfRange {
                what: "frame",
                index: frame,
                count: self.entries.len(),
            });
        }
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.frame = None;
            self.decode(
                frame,
                self.frame_bytes(frame),
                &mut scratch.decoder,
                &mut scratch.content,
            )
        })?;
        let entry = self.entries[frame];
        match frame::own_checksum(&self.bytes[self.stretch(frame)]) {
            Some(found) if found != entry.checksum => Err(Error::Checksum {
                path: self.path.clone(),
                frame,
                offset: self.offsets[frame],
                expected: entry.checksum,
                found,
            }),
            _ => Ok(()),
        }
    }

    /// Frames: the header, the rows, the index.
    pub fn frames(&self) -> usize {
        self.entries.len()
    }

    /// The header.
    pub fn header(&self) -> &ShardHeader {
        &self.header
    }

    /// Samples.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a shard without samples is never written and not opened"
    )]
    pub fn len(&self) -> usize {
        self.header.samples as usize
    }

    /// Record ids, in order.
    pub fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// Labels, in order.
    pub fn labels(&self) -> &[i64] {
        &self.labels
    }

    /// For each sample the squared error of its stored means, summed over views and elements.
    pub fn squared_errors(&self) -> &[f64] {
        &self.squared_errors
    }

    /// The source key of a sample, if there is such a sample.
    pub fn key(&self, sample: usize) -> Option<&str> {
        let end = *self.key_ends.get(sample)?;
        let start = sample.checked_sub(1).map_or(0, |before| self.key_ends[before]);
        self.keys.get(start..end)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The length of the file.
    pub fn file_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The length of what the file decompresses to.
    pub fn content_bytes(&self) -> u64 {
        self.entries
            .iter()
            .map(|entry| u64::from(entry.decompressed))
            .sum()
    }

    /// The SHA-256 of the file, hex.
    pub fn sha256(&self) -> String {
        use sha2::{Digest, Sha256};
        crate::manifest::hex(&Sha256::digest(&self.bytes[..]))
    }
}
