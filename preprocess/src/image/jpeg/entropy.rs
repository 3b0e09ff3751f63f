//! The coded data: stuffing removed, then codes read from a 64-bit buffer.

use std::ops::Range;

use super::frame::NATURAL;
use super::huffman::{Codes, extend};
use super::idct::LANES;

/// Zeros behind each stretch of data, so that eight bytes can always be read.
const PAD: usize = 16;

/// The data between restart markers, without stuffed zeros.
#[derive(Default)]
pub(super) struct Segments {
    data: Vec<u8>,
    ranges: Vec<Range<usize>>,
}

impl Segments {
    /// Takes the data up to the end marker. `None` when another marker follows, or none.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Option<()> {
        self.data.clear();
        self.ranges.clear();
        self.data.reserve(bytes.len() + PAD);
        let mut start = 0;
        loop {
            let stop = memchr::memchr(0xff, bytes)?;
            self.data.extend_from_slice(&bytes[..stop]);
            let marker = *bytes.get(stop + 1)?;
            bytes = &bytes[stop + 2..];
            match marker {
                0 => self.data.push(0xff),
                0xd0..=0xd7 | 0xd9 => {
                    self.ranges.push(start..self.data.len());
                    self.data.extend_from_slice(&[0; PAD]);
                    start = self.data.len();
                    if marker == 0xd9 {
                        return Some(());
                    }
                    if usize::from(marker & 7) != (self.ranges.len() - 1) % 8 {
                        return None;
                    }
                }
                _ => return None,
            }
        }
    }

    /// How many stretches there are.
    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Bits of stretch `i`, from its beginning.
    pub(super) fn bits(&self, i: usize) -> Option<Bits<'_>> {
        let range = self.ranges.get(i)?.clone();
        Some(Bits {
            data: &self.data[range.start..range.end + PAD],
            at: 0,
            buffer: 0,
            count: 0,
        })
    }
}

/// A reader of bits.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    /// The next bits, from the highest down; below [`Bits::count`] of them anything that follows, or zero.
    buffer: u64,
    count: u32,
}

impl Bits<'_> {
    /// Fills the buffer to at least 56 bits; `None` far behind the end.
    #[inline(always)]
    fn fill(&mut self) -> Option<()> {
        let next = self.data.get(self.at..self.at + 8)?;
        let next = u64::from_be_bytes(next.try_into().ok()?);
        self.buffer |= next >> self.count;
        self.at += ((63 - self.count) / 8) as usize;
        self.count |= 56;
        Some(())
    }

    #[inline(always)]
    fn consume(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.count -= bits;
    }

    /// `size` bits (0 to 16) as a signed value.
    #[inline(always)]
    fn value(&mut self, size: u32) -> i32 {
        let bits = (self.buffer >> 1 >> (63 - size)) as u32;
        self.consume(size);
        extend(bits, size)
    }

    /// Whether no more bits were consumed than there are.
    pub(super) fn is_within(&self) -> bool {
        self.at * 8 <= (self.data.len() - PAD) * 8 + self.count as usize
    }

    /// Decodes one block. With `STORE` its coefficients are put into lane `lane` of `group`, which must be zero there.
    #[inline(always)]
    pub(super) fn block<const STORE: bool>(
        &mut self,
        dc: &Codes,
        ac: &Codes,
        predicted: &mut i32,
        group: &mut [i16; 64 * LANES],
        lane: usize,
    ) -> Option<()> {
        self.fill()?;
        let symbol = dc.look_up(self.buffer)?;
        self.consume(symbol.bits);
        let difference = if symbol.is_whole {
            i32::from(symbol.value)
        } else {
            self.value(symbol.value as u32)
        };
        *predicted = predicted.wrapping_add(difference);
        if STORE {
            group[lane % LANES] = *predicted as i16;
        }
        let mut k = 1;
        while k < 64 {
            if self.count < 32 {
                self.fill()?;
            }
            let symbol = ac.look_up(self.buffer)?;
            self.consume(symbol.bits);
            k += symbol.run as usize;
            let value = if symbol.is_whole {
                symbol.value
            } else {
                self.value(symbol.value as u32) as i16
            };
            if k >= 64 {
                // The end of the block; a run beyond it is for the library to judge.
                return (symbol.run >= 64).then_some(());
            }
            if STORE {
                group[usize::from(NATURAL[k]) * LANES + lane % LANES] = value;
            }
            k += 1;
        }
        Some(())
    }
}
