//! The pages of an LMDB file, read without a memory map: for databases that lie in a zip archive.
//!
//! The layout is that of LMDB 0.9 (`mdb.c`): pages of 4096 bytes as a rule, two of them `meta` pages of which the later
//! transaction counts, a B+ tree of branch and leaf pages, and values that fill pages of their own. Only the unnamed
//! database without duplicates is read. All numbers are little-endian.

use std::collections::BTreeSet;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

const MAGIC: u32 = 0xBEEF_C0DE;
const VERSION: u32 = 1;
/// Page number (8 bytes), padding (2), flags (2), where free space begins (2) and ends (2).
const PAGE_HEADER: usize = 16;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const DIRTY: u16 = 0x10;
/// A leaf's entry whose value lies in pages of its own.
const BIG_DATA: u16 = 1;
const NODE_HEADER: usize = 8;
/// Depth of a tree: 3 million entries need 4.
const MAX_DEPTH: usize = 32;
const NO_ROOT: u64 = u64::MAX;

/// The head of the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) page_size: usize,
    root: u64,
    pub(crate) last_page: u64,
    entries: u64,
}

/// Where a value lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

impl Head {
    /// Reads both meta pages from the first bytes of the file (at least [`Head::BYTES`]).
    pub(crate) fn parse(start: &[u8]) -> io::Result<Self> {
        let size = word4(start, PAGE_HEADER + 24)? as usize;
        if !size.is_power_of_two() || !(512..=1 << 16).contains(&size) {
            return Err(damaged(format!("a page size of {size}")));
        }
        let mut best: Option<(u64, Self)> = None;
        for page in 0..2 {
            let meta = start.get(page * size + PAGE_HEADER..).ok_or_else(short)?;
            if word4(meta, 0)? != MAGIC || word4(meta, 4)? != VERSION {
                return Err(damaged("no LMDB file of version 1"));
            }
            // Magic, version, address, map size; the free list's record (48 bytes), then the main database's.
            let main = 24 + 48;
            let head = Self {
                page_size: size,
                entries: word8(meta, main + 32)?,
                root: word8(meta, main + 40)?,
                last_page: word8(meta, main + 48)?,
            };
            let transaction = word8(meta, main + 56)?;
            if best.is_none_or(|(other, _)| transaction > other) {
                best = Some((transaction, head));
            }
        }
        best.map(|(_, head)| head).ok_or_else(short)
    }

    /// Bytes that hold both meta pages, for the largest page.
    pub(crate) const BYTES: usize = (1 << 16) + 256;

    pub(crate) fn file_bytes(&self) -> u64 {
        (self.last_page + 1) * self.page_size as u64
    }

    /// Walks over the tree in key order; `page` gives a page by its number.
    pub(crate) fn walk(
        &self,
        mut page: impl FnMut(u64) -> io::Result<Vec<u8>>,
        mut visit: impl FnMut(&[u8], Value) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.root == NO_ROOT {
            return Ok(());
        }
        // Pages on the way from the root: a damaged file must not send the walk round in circles.
        let mut seen = BTreeSet::new();
        let mut stack = vec![self.root];
        let mut depths = vec![0usize];
        let mut found = 0u64;
        while let (Some(number), Some(depth)) = (stack.pop(), depths.pop()) {
            if number > self.last_page || depth > MAX_DEPTH || !seen.insert(number) {
                return Err(damaged(format!("the tree points to page {number}")));
            }
            let bytes = page(number)?;
            match tree_page(&bytes, number) {
                Some(BRANCH) => {
                    let children: Vec<u64> = nodes(&bytes)?
                        .into_iter()
                        .map(|node| child(&bytes[node]))
                        .collect::<io::Result<_>>()?;
                    depths.extend(children.iter().map(|_| depth + 1));
                    stack.extend(children.into_iter().rev());
                }
                Some(_) => {
                    for node in nodes(&bytes)? {
                        let (key, value) = self.leaf_entry(&bytes, node, number)?;
                        found += 1;
                        visit(key, value)?;
                    }
                }
                None => return Err(damaged(format!("page {number} is none of the tree"))),
            }
        }
        if found != self.entries {
            return Err(damaged(format!(
                "{found} entries, {} should be there",
                self.entries
            )));
        }
        Ok(())
    }

    fn leaf_entry<'a>(
        &self,
        page: &'a [u8],
        node: Range<usize>,
        number: u64,
    ) -> io::Result<(&'a [u8], Value)> {
        let start = node.start;
        let node = &page[node];
        let length = u32::from(word2(node, 0)?) | u32::from(word2(node, 2)?) << 16;
        let (flags, key_length) = (word2(node, 4)?, usize::from(word2(node, 6)?));
        let key = node
            .get(NODE_HEADER..NODE_HEADER + key_length)
            .ok_or_else(short)?;
        let data = NODE_HEADER + key_length;
        let offset = match flags {
            0 => {
                node.get(data..data + length as usize).ok_or_else(short)?;
                number * self.page_size as u64 + (start + data) as u64
            }
            BIG_DATA => {
                let page = word8(node, data)?;
                let end = (page.saturating_mul(self.page_size as u64) + PAGE_HEADER as u64)
                    .saturating_add(u64::from(length));
                if end > self.file_bytes() {
                    return Err(damaged(format!("a value points to page {page}")));
                }
                page * self.page_size as u64 + PAGE_HEADER as u64
            }
            _ => {
                return Err(damaged(
                    "it has sub-databases or duplicate keys, which LSUN's files do not",
                ));
            }
        };
        Ok((key, Value { offset, length }))
    }
}

/// Whether a page says of itself that it belongs to a tree: [`BRANCH`] or [`LEAF`].
pub(crate) fn tree_page(page: &[u8], number: u64) -> Option<u16> {
    let flags = word2(page, 10).ok()? & !DIRTY;
    (word8(page, 0).ok()? == number && (flags == BRANCH || flags == LEAF)).then_some(flags)
}

/// Refuses a file that is shorter than its head says.
pub(crate) fn check_length<R: Read + Seek + Clone>(file: &R) -> io::Result<Head> {
    let mut file = file.clone();
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    let mut start = Vec::new();
    file.take(Head::BYTES as u64).read_to_end(&mut start)?;
    let head = Head::parse(&start)?;
    if head.file_bytes() > length {
        return Err(damaged(format!(
            "it has {length} bytes of {}, it is cut short\nhint: fetch the file again",
            head.file_bytes()
        )));
    }
    Ok(head)
}

/// The nodes of a page.
fn nodes(page: &[u8]) -> io::Result<Vec<Range<usize>>> {
    let lower = usize::from(word2(page, 12)?);
    if lower < PAGE_HEADER || lower > page.len() {
        return Err(damaged("a page's own bounds"));
    }
    page[PAGE_HEADER..lower]
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&pointer| {
            let start = usize::from(u16::from_le_bytes(pointer));
            if start + NODE_HEADER > page.len() {
                return Err(damaged("an entry behind the end of its page"));
            }
            Ok(start..page.len())
        })
        .collect()
}

fn child(node: &[u8]) -> io::Result<u64> {
    Ok(u64::from(word2(node, 0)?) | u64::from(word2(node, 2)?) << 16 | u64::from(word2(node, 4)?) << 32)
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> io::Result<[u8; N]> {
    from.get(at..at + N)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(short)
}

fn word2(from: &[u8], at: usize) -> io::Result<u16> {
    bytes(from, at).map(u16::from_le_bytes)
}

fn word4(from: &[u8], at: usize) -> io::Result<u32> {
    bytes(from, at).map(u32::from_le_bytes)
}

fn word8(from: &[u8], at: usize) -> io::Result<u64> {
    bytes(from, at).map(u64::from_le_bytes)
}

fn damaged(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("as an LMDB file: {what}"))
}

fn short() -> io::Error {
    damaged("it ends too early")
}
