//! Huffman codes as tables that decode a code and its value by one look at the next bits.

use std::cell::RefCell;
use std::rc::Rc;

/// Bits of the look-up: most codes, with their values, are no longer.
const LOOK: u32 = 11;

/// An entry that holds everything: the coefficient's value in the upper half.
const WHOLE: u32 = 0x80;
/// What `run` is for the end of the block: more than a block's coefficients.
pub(super) const END: u32 = 0x80;

/// A decoding table.
///
/// Entries: bits 0 to 6 the bits to consume (0: the code is longer than the look-up), bit 7 [`WHOLE`], bits 8 to 15 the
/// zeros before the coefficient, bits 16 to 31 its value, or its size in bits when the value is not in the table.
pub(super) struct Codes {
    look: [u32; 1 << LOOK],
    /// One more than the largest code of each length, left-aligned in 16 bits; and what leads from code to symbol.
    limit: [u32; 17],
    offset: [i32; 17],
    symbols: Vec<u8>,
    counts: [u8; 16],
    is_dc: bool,
}

/// A table that images share.
pub(super) type Table = Rc<Codes>;

thread_local! {
    /// The last few tables: most files of a set have the same.
    static CACHE: RefCell<Vec<Table>> = const { RefCell::new(Vec::new()) };
}

const CACHED: usize = 8;

/// A decoded code.
#[derive(Clone, Copy)]
pub(super) struct Symbol {
    /// Zeros before the coefficient, or [`END`].
    pub(super) run: u32,
    /// Bits of the code and, if it is whole, of the value.
    pub(super) bits: u32,
    /// The value, if it is whole, or its size in bits.
    pub(super) value: i16,
    pub(super) is_whole: bool,
}

impl Codes {
    /// The table of a segment's code lengths and symbols; `None` when they are no proper code.
    pub(super) fn cached(counts: &[u8; 16], symbols: &[u8], is_dc: bool) -> Option<Table> {
        CACHE.with_borrow_mut(|cache| {
            let same = |t: &Table| t.is_dc == is_dc && t.counts == *counts && t.symbols == symbols;
            if let Some(table) = cache.iter().find(|t| same(t)) {
                return Some(Rc::clone(table));
            }
            let table = Rc::new(Self::new(counts, symbols, is_dc)?);
            if cache.len() == CACHED {
                cache.remove(0);
            }
            cache.push(Rc::clone(&table));
            Some(table)
        })
    }

    fn new(counts: &[u8; 16], symbols: &[u8], is_dc: bool) -> Option<Self> {
        if symbols.len() > 256 || is_dc && symbols.iter().any(|s| *s > 11) {
            return None;
        }
        let mut table = Self {
            look: [0; 1 << LOOK],
            limit: [0; 17],
            offset: [0; 17],
            symbols: symbols.to_vec(),
            counts: *counts,
            is_dc,
        };
        let (mut code, mut next) = (0u32, 0usize);
        for length in 1..=16u32 {
            let count = usize::from(counts[length as usize - 1]);
            table.offset[length as usize] = next as i32 - code as i32;
            for symbol in &symbols[next..next + count] {
                // A code of nothing but ones is not allowed.
                if code + 1 >= 1 << length {
                    return None;
                }
                if length <= LOOK {
                    let first = code << (LOOK - length);
                    for low in 0..1 << (LOOK - length) {
                        table.look[(first + low) as usize] = entry(*symbol, length, low, is_dc);
                    }
                }
                code += 1;
            }
            next += count;
            table.limit[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }

    /// The code that begins in the highest bit of `bits`; `None` for no code.
    #[inline(always)]
    pub(super) fn look_up(&self, bits: u64) -> Option<Symbol> {
        let entry = self.look[(bits >> (64 - LOOK)) as usize];
        if entry == 0 {
            return self.long(bits);
        }
        Some(Symbol {
            run: entry >> 8 & 0xff,
            bits: entry & 0x7f,
            value: (entry >> 16) as i16,
            is_whole: entry & WHOLE != 0,
        })
    }

    #[cold]
    fn long(&self, bits: u64) -> Option<Symbol> {
        let code = (bits >> 48) as u32;
        let length = (LOOK + 1..=16).find(|l| code < self.limit[*l as usize])?;
        let index = (code >> (16 - length)) as i32 + self.offset[length as usize];
        let symbol = *self.symbols.get(usize::try_from(index).ok()?)?;
        let (run, size) = parts(symbol, self.is_dc);
        Some(Symbol {
            run,
            bits: length,
            value: size as i16,
            is_whole: false,
        })
    }
}

/// Run and size of a symbol.
fn parts(symbol: u8, is_dc: bool) -> (u32, u32) {
    let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
    match (run, size) {
        _ if is_dc => (0, size),
        // Sixteen zeros: fifteen, and a coefficient that is zero.
        (15, 0) => (15, 0),
        (_, 0) => (END, 0),
        other => other,
    }
}

/// The entry for a code of `length` bits with `low` in the bits behind it.
fn entry(symbol: u8, length: u32, low: u32, is_dc: bool) -> u32 {
    let (run, size) = parts(symbol, is_dc);
    let behind = LOOK - length;
    if size <= behind {
        let bits = low >> (behind - size);
        let value = extend(bits, size) as i16;
        u32::from(value as u16) << 16 | run << 8 | WHOLE | (length + size)
    } else {
        size << 16 | run << 8 | length
    }
}

/// The value of `size` bits (ITU T.81, F.2.2.1, EXTEND).
#[inline(always)]
pub(super) fn extend(bits: u32, size: u32) -> i32 {
    let is_negative = size > 0 && bits >> (size - 1) == 0;
    bits as i32 - if is_negative { (1 << size) - 1 } else { 0 }
}
