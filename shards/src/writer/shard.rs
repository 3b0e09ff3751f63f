//! One shard on its way: rows as they come, then the index, the seek table and, last, the header.

use std::{
    io::{BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::record::{EncodedRecord, Rows};
use crate::{
    disk,
    error::{Error, Result},
    frame::{self, Encoder},
    header::ShardHeader,
    layout::{HEADER_BYTES, INDEX_BYTES_PER_SAMPLE, MAX_INDEX_BYTES, RowLayout},
    seek_table::{self, Entry},
};

/// A shard that is being written.
pub(super) struct ShardWriter {
    path: PathBuf,
    file: BufWriter<disk::File>,
    header: ShardHeader,
    layout: RowLayout,
    entries: Vec<Entry>,
    ids: Vec<u64>,
    labels: Vec<i64>,
    errors: Vec<f64>,
    key_ends: Vec<u64>,
    keys: String,
    /// Rows that do not fill a frame yet.
    pending: Vec<u8>,
    frame: Vec<u8>,
}

impl ShardWriter {
    pub(super) fn create(path: PathBuf, header: ShardHeader) -> Result<Self> {
        let mut file = BufWriter::with_capacity(1 << 20, disk::File::create(&path)?);
        // The header is written last, when its numbers are known; its frame has a fixed length.
        file.write_all(&vec![0; frame::stored_bytes(HEADER_BYTES)])?;
        Ok(Self {
            path,
            file,
            layout: header.row_layout(),
            header,
            entries: vec![Entry {
                compressed: frame::stored_bytes(HEADER_BYTES) as u32,
                decompressed: HEADER_BYTES as u32,
                checksum: 0,
            }],
            ids: Vec::new(),
            labels: Vec::new(),
            errors: Vec::new(),
            key_ends: Vec::new(),
            keys: String::new(),
            pending: Vec::new(),
            frame: Vec::new(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn samples(&self) -> usize {
        self.ids.len()
    }

    /// Whether the index still has room for a key.
    pub(super) fn has_room(&self, key: &str) -> bool {
        (self.ids.len() + 1) * INDEX_BYTES_PER_SAMPLE + self.keys.len() + key.len() <= MAX_INDEX_BYTES
    }

    pub(super) fn push(&mut self, encoder: &mut Encoder, record: &EncodedRecord) -> Result<()> {
        match &record.rows {
            Rows::Frames(frames, entries) => {
                self.file.write_all(frames)?;
                self.entries.extend(entries);
            }
            Rows::Plain(rows) => {
                let row_bytes = self.layout.row_bytes();
                let full = self.header.frame_rows as usize * row_bytes;
                for row in rows.chunks(row_bytes) {
                    self.pending.extend(row);
                    if self.pending.len() >= full {
                        self.write_rows(encoder)?;
                    }
                }
            }
        }
        self.ids.push(record.id);
        self.labels.push(record.label);
        self.errors.push(record.squared_error);
        self.keys.push_str(&record.key);
        self.key_ends.push(self.keys.len() as u64);
        Ok(())
    }

    fn write_rows(&mut self, encoder: &mut Encoder) -> Result<()> {
        let row_bytes = self.layout.row_bytes();
        let row_cuts = self.layout.cuts();
        let cuts: Vec<usize> = (0..self.pending.len() / row_bytes)
            .flat_map(|row| row_cuts.iter().map(move |cut| row * row_bytes + cut))
            .collect();
        let content = std::mem::take(&mut self.pending);
        self.write_frame(encoder, &content, &cuts)?;
        self.pending = content;
        self.pending.clear();
        Ok(())
    }

    fn write_frame(&mut self, encoder: &mut Encoder, content: &[u8], cuts: &[usize]) -> Result<()> {
        self.frame.clear();
        encoder.encode(content, cuts, &mut self.frame)?;
        self.entries.push(Entry {
            compressed: self.frame.len() as u32,
            decompressed: content.len() as u32,
            checksum: frame::checksum(content),
        });
        self.file.write_all(&self.frame)?;
        Ok(())
    }

    /// Writes the last rows, the index, the seek table and the header, and waits until they are on the disk.
    pub(super) fn finish(&mut self, encoder: &mut Encoder) -> Result<()> {
        if !self.pending.is_empty() {
            self.write_rows(encoder)?;
        }
        let mut index: Vec<u8> = Vec::new();
        index.extend(self.ids.iter().flat_map(|id| id.to_le_bytes()));
        index.extend(self.labels.iter().flat_map(|label| label.to_le_bytes()));
        index.extend(self.errors.iter().flat_map(|error| error.to_le_bytes()));
        index.extend(self.key_ends.iter().flat_map(|end| end.to_le_bytes()));
        index.extend(self.keys.as_bytes());
        let cuts = [index.len()];
        self.write_frame(encoder, &index, &cuts)?;
        self.header.samples = self.ids.len() as u64;
        self.header.key_bytes = self.keys.len() as u64;
        let header = self.header.to_bytes().map_err(|what| Error::Settings { what })?;
        self.entries[0].checksum = frame::checksum(&header);
        let mut table = Vec::new();
        seek_table::write(&self.entries, &mut table);
        self.file.write_all(&table)?;
        self.file.seek(SeekFrom::Start(0))?;
        let mut frame = Vec::new();
        frame::store(&header, &mut frame);
        self.file.write_all(&frame)?;
        self.file.flush()?;
        self.file.get_ref().sync()?;
        Ok(())
    }
}
