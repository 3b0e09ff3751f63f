//! Samples to pixels, a row at a time: chroma enlarged by the library's triangle filter, then YCbCr to RGB.

use std::ops::Range;

use super::super::resample::Rows;
use super::frame::Frame;
use super::plane::Plane;

/// The pixels of a window, made when they are asked for.
pub(in super::super) struct Pixels<'a> {
    planes: &'a [Plane; 3],
    kind: Kind,
    columns: Range<usize>,
    rows: Range<usize>,
    buffers: &'a mut Buffers,
}

/// Memory that one image after the other uses.
#[derive(Default)]
pub(super) struct Buffers {
    /// Chroma samples weighted down a column, with one neighbour on each side.
    weighted: Vec<u16>,
    /// Cb and Cr of a row, two pixels in one value.
    chroma: [Vec<u16>; 2],
    /// A row of pixels.
    row: Vec<u32>,
}

/// How much chroma there is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Grey,
    Full,
    HalfAcross,
    HalfBoth,
}

impl<'a> Pixels<'a> {
    pub(super) fn new(
        planes: &'a [Plane; 3],
        frame: &Frame,
        columns: Range<usize>,
        rows: Range<usize>,
        buffers: &'a mut Buffers,
    ) -> Self {
        let kind = match (frame.components.len(), frame.factors()) {
            (1, _) => Kind::Grey,
            (_, (1, _)) => Kind::Full,
            (_, (_, 1)) => Kind::HalfAcross,
            _ => Kind::HalfBoth,
        };
        buffers.row.resize(columns.len(), 0);
        Self {
            planes,
            kind,
            columns,
            rows,
            buffers,
        }
    }
}

impl Rows for Pixels<'_> {
    fn width(&self) -> usize {
        self.columns.len()
    }

    #[inline(always)]
    fn row(&mut self, y: usize) -> &[u8] {
        let y = self.rows.start + y;
        let (first, width) = (self.columns.start, self.columns.len());
        let luma = &self.planes[0].row(y, first)[..width];
        let Buffers {
            weighted,
            chroma,
            row,
        } = &mut *self.buffers;
        match self.kind {
            Kind::Grey => {
                for (out, y) in row.iter_mut().zip(luma) {
                    *out = (u32::from(*y) * 0x01_01_01).to_le();
                }
            }
            Kind::Full => {
                let [cb, cr] = [1, 2].map(|c| &self.planes[c].row(y, first)[..width]);
                colour(luma, cb, cr, row);
            }
            kind => {
                for (plane, out) in self.planes[1..].iter().zip(chroma.iter_mut()) {
                    enlarge(plane, kind, y, &self.columns, weighted, out);
                }
                let [cb, cr] = chroma;
                let cb: &[u8] = bytemuck::cast_slice(cb);
                let cr: &[u8] = bytemuck::cast_slice(cr);
                colour(luma, &cb[first % 2..][..width], &cr[first % 2..][..width], row);
            }
        }
        bytemuck::cast_slice(row)
    }
}

/// Row `y` of a component of half the columns, and perhaps of half the rows, enlarged; its first pixel is even.
#[inline(always)]
fn enlarge(
    plane: &Plane,
    kind: Kind,
    y: usize,
    columns: &Range<usize>,
    weighted: &mut Vec<u16>,
    out: &mut Vec<u16>,
) {
    let (first, end) = (columns.start / 2, (columns.end - 1) / 2 + 1);
    let (low, high) = (first.saturating_sub(1), (end + 1).min(plane.width));
    weighted.resize(end - first + 2, 0);
    out.resize(end - first, 0);
    let inner = &mut weighted[low + 1 - first..high + 1 - first];
    if kind == Kind::HalfBoth {
        let far = if y.is_multiple_of(2) {
            (y / 2).saturating_sub(1)
        } else {
            (y / 2 + 1).min(plane.height - 1)
        };
        for ((w, near), far) in inner
            .iter_mut()
            .zip(plane.row(y / 2, low))
            .zip(plane.row(far, low))
        {
            *w = 3 * u16::from(*near) + u16::from(*far);
        }
    } else {
        for (w, sample) in inner.iter_mut().zip(plane.row(y, low)) {
            *w = u16::from(*sample);
        }
    }
    // The outermost samples of the image are their own neighbours.
    if low == first {
        weighted[0] = weighted[1];
    }
    if high == end {
        weighted[end - first + 1] = weighted[end - first];
    }
    let length = out.len();
    let (left, centre, right) = (
        &weighted[..length],
        &weighted[1..=length],
        &weighted[2..2 + length],
    );
    let triples = left.iter().zip(centre).zip(right);
    if kind == Kind::HalfBoth {
        for (out, ((l, c), r)) in out.iter_mut().zip(triples) {
            *out = ((3 * c + l + 8) >> 4 | (3 * c + r + 7) >> 4 << 8).to_le();
        }
    } else {
        for (out, ((l, c), r)) in out.iter_mut().zip(triples) {
            *out = ((3 * c + l + 1) >> 2 | (3 * c + r + 2) >> 2 << 8).to_le();
        }
    }
}

/// YCbCr to RGB with 16-bit fractions (ITU T.871; the library's rounding).
#[inline(always)]
fn colour(luma: &[u8], cb: &[u8], cr: &[u8], out: &mut [u32]) {
    for (((out, y), cb), cr) in out.iter_mut().zip(luma).zip(cb).zip(cr) {
        let (y, cb, cr) = (i32::from(*y), i32::from(*cb) - 128, i32::from(*cr) - 128);
        let byte = |v: i32| v.clamp(0, 255) as u32;
        let red = byte(y + ((91_881 * cr + 32_768) >> 16));
        let green = byte(y + ((-22_554 * cb - 46_802 * cr + 32_768) >> 16));
        let blue = byte(y + ((116_130 * cb + 32_768) >> 16));
        *out = (red | green << 8 | blue << 16).to_le();
    }
}
