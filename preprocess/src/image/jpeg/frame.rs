//! The header of a common JPEG file: sequential, Huffman coded, 8 bits, one scan, grey or YCbCr.
//!
//! Whatever is rarer, doubtful or damaged gives `None`: the library then decodes the file and finds the words for it.
//! Rules of ITU T.81, annex B; the colour space is told as the library tells it.

use super::huffman::{Codes, Table};

/// The zigzag order: where coefficient `k` of a block stands in rows of eight.
pub(super) const NATURAL: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// A component of the image.
pub(super) struct Component {
    id: u8,
    /// Blocks of a unit of the scan, across and down: also the sampling factors.
    pub(super) h: usize,
    pub(super) v: usize,
    quantisation: u8,
    /// Which tables of the frame decode it.
    pub(super) dc: usize,
    pub(super) ac: usize,
}

/// What the headers say.
pub(super) struct Frame {
    pub(super) width: usize,
    pub(super) height: usize,
    /// One of grey, or Y, Cb and Cr.
    pub(super) components: Vec<Component>,
    quantisation: [Option<[i16; 64]>; 4],
    /// Tables 0 and 1 for DC, then for AC.
    dc: [Option<Table>; 4],
    ac: [Option<Table>; 4],
    /// Units between restart markers; 0 for none.
    pub(super) restart_interval: usize,
    /// Where the coded data begin.
    pub(super) data: usize,
}

impl Frame {
    /// Reads the segments up to the coded data.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut frame = Self {
            width: 0,
            height: 0,
            components: Vec::new(),
            quantisation: [None; 4],
            dc: [const { None }; 4],
            ac: [const { None }; 4],
            restart_interval: 0,
            data: 0,
        };
        let (mut is_jfif, mut adobe) = (false, None);
        let mut at = 2;
        loop {
            let [0xff, marker, high, low] = *bytes.get(at..at + 4)? else {
                return None;
            };
            let end = at + 2 + usize::from(u16::from_be_bytes([high, low]));
            let body = bytes.get(at + 4..end)?;
            match marker {
                0xc0 | 0xc1 => frame.frame_header(body)?,
                0xc4 => frame.huffman_tables(body)?,
                0xdb => frame.quantisation_tables(body)?,
                0xdd => frame.restart_interval = usize::from(u16::from_be_bytes(body.try_into().ok()?)),
                0xda => {
                    frame.scan_header(body)?;
                    frame.data = end;
                    return frame.is_common(is_jfif, adobe).then_some(frame);
                }
                0xe0 => is_jfif |= body.len() >= 12 && body.starts_with(b"JFIF\0"),
                0xee if body.len() >= 12 && body.starts_with(b"Adobe") => adobe = Some(body[11]),
                0xe1..=0xef | 0xfe => {}
                _ => return None,
            }
            at = end;
        }
    }

    /// The dequantisation table of a component, in natural order.
    pub(super) fn quantisation(&self, component: &Component) -> Option<&[i16; 64]> {
        self.quantisation[usize::from(component.quantisation)].as_ref()
    }

    /// The table of its DC differences.
    pub(super) fn dc(&self, component: &Component) -> Option<&Table> {
        self.dc[component.dc].as_ref()
    }

    /// The table of its AC coefficients.
    pub(super) fn ac(&self, component: &Component) -> Option<&Table> {
        self.ac[component.ac].as_ref()
    }

    /// The largest sampling factors, across and down.
    pub(super) fn factors(&self) -> (usize, usize) {
        (self.components[0].h, self.components[0].v)
    }

    fn frame_header(&mut self, body: &[u8]) -> Option<()> {
        let [8, h0, h1, w0, w1, count, ref rest @ ..] = *body else {
            return None;
        };
        if !self.components.is_empty() || rest.len() != 3 * usize::from(count) {
            return None;
        }
        self.height = usize::from(u16::from_be_bytes([h0, h1]));
        self.width = usize::from(u16::from_be_bytes([w0, w1]));
        for c in rest.as_chunks::<3>().0 {
            self.components.push(Component {
                id: c[0],
                h: usize::from(c[1] >> 4),
                v: usize::from(c[1] & 15),
                quantisation: (c[2] < 4).then_some(c[2])?,
                dc: 0,
                ac: 0,
            });
        }
        Some(())
    }

    fn quantisation_tables(&mut self, mut body: &[u8]) -> Option<()> {
        while let [which, ref rest @ ..] = *body {
            let wide = usize::from(which >> 4);
            let values = rest.get(..64 * (1 + wide))?;
            let table = self.quantisation.get_mut(usize::from(which & 15))?;
            let mut natural = [0; 64];
            for (k, place) in NATURAL.iter().enumerate() {
                natural[usize::from(*place)] = match wide {
                    0 => i16::from(values[k]),
                    1 => i16::from_be_bytes([values[2 * k], values[2 * k + 1]]),
                    _ => return None,
                };
                if natural[usize::from(*place)] <= 0 {
                    return None;
                }
            }
            *table = Some(natural);
            body = &rest[values.len()..];
        }
        Some(())
    }

    fn huffman_tables(&mut self, mut body: &[u8]) -> Option<()> {
        while let [which, ref rest @ ..] = *body {
            let counts: &[u8; 16] = rest.get(..16)?.try_into().ok()?;
            let total: usize = counts.iter().map(|n| usize::from(*n)).sum();
            let symbols = rest.get(16..16 + total)?;
            let (tables, is_dc) = match which >> 4 {
                0 => (&mut self.dc, true),
                1 => (&mut self.ac, false),
                _ => return None,
            };
            *tables.get_mut(usize::from(which & 15))? = Some(Codes::cached(counts, symbols, is_dc)?);
            body = &rest[16 + total..];
        }
        Some(())
    }

    fn scan_header(&mut self, body: &[u8]) -> Option<()> {
        let [count, ref rest @ ..] = *body else {
            return None;
        };
        let count = usize::from(count);
        if count != self.components.len() || rest.len() != 2 * count + 3 || rest[2 * count..] != [0, 63, 0] {
            return None;
        }
        for (component, c) in self.components.iter_mut().zip(rest.as_chunks::<2>().0) {
            if component.id != c[0] || c[1] >> 4 > 3 || c[1] & 15 > 3 {
                return None;
            }
            (component.dc, component.ac) = (usize::from(c[1] >> 4), usize::from(c[1] & 15));
        }
        Some(())
    }

    /// Whether everything that decoding needs is there and of the kinds that it knows.
    fn is_common(&mut self, is_jfif: bool, adobe: Option<u8>) -> bool {
        if self.width == 0 || self.height == 0 {
            return false;
        }
        let has_tables = self
            .components
            .iter()
            .all(|c| self.quantisation(c).is_some() && self.dc(c).is_some() && self.ac(c).is_some());
        let sampling: Vec<_> = self.components.iter().map(|c| (c.h, c.v)).collect();
        let is_ycc = match adobe {
            _ if is_jfif => true,
            Some(transform) => transform == 1,
            None => self.components.iter().map(|c| c.id).eq([1, 2, 3]),
        };
        has_tables
            && match *sampling {
                [_] => {
                    // A scan of one component has units of one block, whatever the factors say.
                    (self.components[0].h, self.components[0].v) = (1, 1);
                    true
                }
                // The library replicates chroma of at most two columns.
                [(2, 1 | 2), (1, 1), (1, 1)] => is_ycc && self.width > 4,
                [(1, 1), (1, 1), (1, 1)] => is_ycc,
                _ => false,
            }
    }
}
