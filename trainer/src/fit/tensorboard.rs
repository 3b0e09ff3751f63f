//! Event files that TensorBoard reads: scalars and pictures by step.
//!
//! A file is a sequence of records (length, its checksum, bytes, their checksum) of which each holds one `Event` of
//! TensorFlow's `event.proto`. Only the few fields that are needed are written, by hand.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Numbers of fields of `Event` and of the messages in it.
mod field {
    pub(super) const WALL_TIME: u32 = 1;
    pub(super) const STEP: u32 = 2;
    pub(super) const FILE_VERSION: u32 = 3;
    pub(super) const SUMMARY: u32 = 5;
    pub(super) const SESSION_LOG: u32 = 7;

    pub(super) const SESSION_STATUS: u32 = 1;
    pub(super) const SUMMARY_VALUE: u32 = 1;

    pub(super) const VALUE_TAG: u32 = 1;
    pub(super) const VALUE_SIMPLE: u32 = 2;
    pub(super) const VALUE_IMAGE: u32 = 4;

    pub(super) const IMAGE_HEIGHT: u32 = 1;
    pub(super) const IMAGE_WIDTH: u32 = 2;
    pub(super) const IMAGE_COLORSPACE: u32 = 3;
    pub(super) const IMAGE_BYTES: u32 = 4;
}

/// `SessionLog.START`: readers forget what they have of this step and of later ones.
const SESSION_START: u64 = 1;
const RGB: u64 = 3;
/// Offset of the mask of a checksum (TensorFlow's `crc32c.h`).
const MASK_DELTA: u32 = 0xa282_ead8;
/// The beginning of a file's name; what follows is the time, by which readers order the files of a folder.
const NAME_START: &str = "events.out.tfevents.";

/// The events of one process.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
}

impl EventFile {
    /// A new file in `dir`, behind those that are there. Events of `first_step` and later in them no longer count: the run
    /// was taken back to the step before.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(dir: &Path, first_step: u64) -> std::io::Result<Self> {
        fs_err::create_dir_all(dir)?;
        let last = fs_err::read_dir(dir)?
            .filter_map(|entry| seconds_of(entry.ok()?.file_name().to_str()?))
            .max();
        // Two processes may begin in the same second, and clocks may go back.
        let seconds = (now() as u64).max(last.map_or(0, |last| last + 1));
        let name = format!("{NAME_START}{seconds:010}.{}", std::process::id());
        let file = Self { path: dir.join(name) };
        let mut version = Message::default();
        version.double(field::WALL_TIME, now());
        version.bytes(field::FILE_VERSION, b"brain.Event:2");
        let mut start = Message::default();
        start.varint(field::SESSION_STATUS, SESSION_START);
        let mut session = event(first_step);
        session.bytes(field::SESSION_LOG, &start.0);
        file.append(&[version, session])?;
        Ok(file)
    }

    /// Appends values of a step, each under its tag.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn scalars(&self, step: u64, values: &[(&str, f64)]) -> std::io::Result<()> {
        let mut summary = Message::default();
        for (tag, number) in values {
            let mut value = Message::default();
            value.bytes(field::VALUE_TAG, tag.as_bytes());
            value.float(field::VALUE_SIMPLE, *number as f32);
            summary.bytes(field::SUMMARY_VALUE, &value.0);
        }
        self.summary(step, &summary)
    }

    /// Appends a picture of a step: an RGB PNG file of `width` x `height` pixels.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn image(&self, step: u64, tag: &str, width: u32, height: u32, png: &[u8]) -> std::io::Result<()> {
        let mut image = Message::default();
        image.varint(field::IMAGE_HEIGHT, height.into());
        image.varint(field::IMAGE_WIDTH, width.into());
        image.varint(field::IMAGE_COLORSPACE, RGB);
        image.bytes(field::IMAGE_BYTES, png);
        let mut value = Message::default();
        value.bytes(field::VALUE_TAG, tag.as_bytes());
        value.bytes(field::VALUE_IMAGE, &image.0);
        let mut summary = Message::default();
        summary.bytes(field::SUMMARY_VALUE, &value.0);
        self.summary(step, &summary)
    }

    fn summary(&self, step: u64, summary: &Message) -> std::io::Result<()> {
        let mut event = event(step);
        event.bytes(field::SUMMARY, &summary.0);
        self.append(&[event])
    }

    /// Appends events in one write, so that a kill cuts at most the last one.
    fn append(&self, events: &[Message]) -> std::io::Result<()> {
        let bytes: Vec<u8> = events.iter().flat_map(|event| record(&event.0)).collect();
        let mut file = fs_err::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)?;
        file.write_all(&bytes)
    }
}

/// The seconds in the name of an event file.
fn seconds_of(name: &str) -> Option<u64> {
    name.strip_prefix(NAME_START)?.split('.').next()?.parse().ok()
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

fn event(step: u64) -> Message {
    let mut event = Message::default();
    event.double(field::WALL_TIME, now());
    event.varint(field::STEP, step);
    event
}

/// A message of protocol buffers, field by field.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn key(&mut self, field: u32, wire_type: u32) {
        self.raw_varint(u64::from(field << 3 | wire_type));
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(&mut self, field: u32, value: u64) {
        self.key(field, 0);
        self.raw_varint(value);
    }

    fn double(&mut self, field: u32, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u32, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    /// A text, bytes, or a message within the message.
    fn bytes(&mut self, field: u32, value: &[u8]) {
        self.key(field, 2);
        self.raw_varint(value.len() as u64);
        self.0.extend(value);
    }
}

/// `bytes` as a record.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut all = length.to_vec();
    all.extend(masked_crc(&length).to_le_bytes());
    all.extend(bytes);
    all.extend(masked_crc(bytes).to_le_bytes());
    all
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(MASK_DELTA)
}

/// CRC-32C (Castagnoli), by table.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    let step = |crc: u32, byte: &u8| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)];
    !bytes.iter().fold(!0, step)
}

const fn table() -> [u32; 256] {
    const REVERSED_POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { REVERSED_POLYNOMIAL } else { 0 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A parser that shares nothing with the writer but the checksum, which has a test of its own.
    #[derive(Debug, Default, PartialEq)]
    struct Parsed {
        step: u64,
        version: String,
        starts_session: bool,
        scalars: Vec<(String, f32)>,
        image: Option<(u64, u64, Vec<u8>)>,
    }

    /// Takes `count` bytes off the front.
    fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
        let (head, tail) = bytes.split_at(count);
        *bytes = tail;
        head
    }

    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = take(bytes, 1)[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }

    /// Fields as (number, number value or 0, bytes).
    fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, &[u8])> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let (value, body) = match key & 7 {
                0 => (varint(&mut bytes), &bytes[..0]),
                1 => (0, take(&mut bytes, 8)),
                2 => {
                    let length = varint(&mut bytes) as usize;
                    (0, take(&mut bytes, length))
                }
                5 => (0, take(&mut bytes, 4)),
                other => panic!("wire type {other}"),
            };
            all.push((key >> 3, value, body));
        }
        all
    }

    fn parse(mut bytes: &[u8]) -> Vec<Parsed> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let length = take(&mut bytes, 8);
            assert_eq!(take(&mut bytes, 4), masked_crc(length).to_le_bytes());
            let body = take(
                &mut bytes,
                u64::from_le_bytes(length.try_into().unwrap()) as usize,
            );
            assert_eq!(take(&mut bytes, 4), masked_crc(body).to_le_bytes());
            let mut event = Parsed::default();
            for (number, value, body) in fields(body) {
                match number {
                    1 => assert!(f64::from_le_bytes(body.try_into().unwrap()) > 1e9),
                    2 => event.step = value,
                    3 => event.version = String::from_utf8(body.to_vec()).unwrap(),
                    5 => fields(body)
                        .iter()
                        .for_each(|(_, _, body)| summary_value(body, &mut event)),
                    7 => event.starts_session = fields(body) == [(1, 1, &[][..])],
                    other => panic!("field {other}"),
                }
            }
            all.push(event);
        }
        all
    }

    fn summary_value(body: &[u8], event: &mut Parsed) {
        let parts = fields(body);
        let tag = String::from_utf8(parts[0].2.to_vec()).unwrap();
        if parts[1].0 == 2 {
            event
                .scalars
                .push((tag, f32::from_le_bytes(parts[1].2.try_into().unwrap())));
        } else {
            let image = fields(parts[1].2);
            event.image = Some((image[1].1, image[0].1, image[3].2.to_vec()));
        }
    }

    fn events(dir: &Path) -> Vec<Vec<Parsed>> {
        let mut names: Vec<PathBuf> = fs_err::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        names.sort();
        names
            .iter()
            .map(|name| parse(&fs_err::read(name).unwrap()))
            .collect()
    }

    #[test]
    fn the_checksum_is_castagnoli_s() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn values_and_pictures_come_back_by_another_parser() {
        let dir = tempfile::tempdir().unwrap();
        let file = EventFile::create(dir.path(), 1).unwrap();
        file.scalars(300, &[("loss", 0.25), ("lr", 1e-4)]).unwrap();
        let png: Vec<u8> = (0..400).map(|i| i as u8).collect();
        file.image(301, "samples", 7, 9, &png).unwrap();
        let all = events(dir.path()).remove(0);
        assert_eq!(all[0].version, "brain.Event:2");
        assert!(all[1].starts_session && all[1].step == 1);
        assert_eq!(all[2].step, 300);
        assert_eq!(
            all[2].scalars,
            [("loss".to_owned(), 0.25), ("lr".to_owned(), 1e-4)]
        );
        assert_eq!((all[3].step, &all[3].image), (301, &Some((7, 9, png))));
    }

    #[test]
    fn a_run_that_is_taken_back_goes_on_in_a_later_file() {
        let dir = tempfile::tempdir().unwrap();
        for first in [1, 8, 8] {
            let file = EventFile::create(dir.path(), first).unwrap();
            for step in first..first + 10 {
                file.scalars(step, &[("loss", step as f64)]).unwrap();
            }
        }
        let all = events(dir.path());
        let starts: Vec<u64> = all.iter().map(|file| file[1].step).collect();
        assert_eq!(starts, [1, 8, 8], "in the order of the names");
        // What TensorBoard shows: a start forgets its step and what is after it.
        let mut steps: Vec<u64> = Vec::new();
        for event in all.iter().flatten() {
            if event.starts_session {
                steps.retain(|step| *step < event.step);
            } else if !event.scalars.is_empty() {
                steps.push(event.step);
            }
        }
        assert_eq!(steps, (1..=17).collect::<Vec<u64>>());
    }
}
