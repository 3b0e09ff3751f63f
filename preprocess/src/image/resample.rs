//! Pillow's 8-bit resampler, bit for bit (`src/libImaging/Resample.c` of Pillow 9.5), for four-byte pixels.
//!
//! Two passes, the horizontal one first, with 22-bit fixed-point weights and 8-bit results in between. Only a window
//! of the result is computed, from a window of the source, and only a few rows are held between the passes.

use std::ops::Range;

use super::Rgbx;

const PRECISION_BITS: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// The two filters of the ADM centre crop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    Box,
    Bicubic,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Self::Box => 0.5,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bicubic => {
                const A: f64 = -0.5;
                let x = x.abs();
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
        }
    }
}

/// One axis of a resize: `from` input samples give `to` output samples.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub(super) filter: Filter,
    pub(super) from: usize,
    pub(super) to: usize,
}

impl Axis {
    /// The input samples on which the outputs `window` depend.
    pub(super) fn inputs(self, window: &Range<usize>) -> Range<usize> {
        if self.from == self.to || window.is_empty() {
            return window.clone();
        }
        self.bounds(window.start).start..self.bounds(window.end - 1).end
    }

    fn bounds(self, i: usize) -> Range<usize> {
        let scale = self.from as f64 / self.to as f64;
        let radius = self.filter.support() * scale.max(1.0);
        let centre = (i as f64 + 0.5) * scale;
        // A cast of a negative number gives 0, as Pillow's clamp does.
        let low = (centre - radius + 0.5) as usize;
        let high = ((centre + radius + 0.5) as usize).min(self.from);
        low..high
    }

    /// First input and fixed-point weights of output `i`.
    fn weights(self, i: usize) -> (usize, Vec<i32>) {
        if self.from == self.to {
            return (i, vec![1 << PRECISION_BITS]);
        }
        let scale = self.from as f64 / self.to as f64;
        let inverse = 1.0 / scale.max(1.0);
        let centre = (i as f64 + 0.5) * scale;
        let Range { start, end } = self.bounds(i);
        let real: Vec<f64> = (start..end)
            .map(|j| self.filter.weight((j as f64 - centre + 0.5) * inverse))
            .collect();
        let total: f64 = real.iter().fold(0.0, |sum, w| sum + w);
        let fixed = real.iter().map(|w| {
            let w = if total == 0.0 { *w } else { w / total } * f64::from(1 << PRECISION_BITS);
            (if w < 0.0 { w - 0.5 } else { w + 0.5 }) as i32
        });
        (start, fixed.collect())
    }
}

/// Where a resize takes its rows from, the first row of its window first.
pub(super) trait Rows {
    /// Pixels in a row.
    fn width(&self) -> usize;

    /// Row `y`, four bytes a pixel. Rows are asked for in rising order, each at most once.
    fn row(&mut self, y: usize) -> &[u8];
}

impl Rows for &Rgbx {
    fn width(&self) -> usize {
        self.width
    }

    #[inline(always)]
    fn row(&mut self, y: usize) -> &[u8] {
        &self.data[y * self.width * 4..(y + 1) * self.width * 4]
    }
}

/// Pixels that the horizontal pass takes at a time: 16 bytes, the lanes of the widest vectors of 32-bit numbers.
const TAPS: usize = 4;

/// The weights of a window of outputs, input positions counted from the start of the input window.
struct Taps {
    first: Vec<usize>,
    count: Vec<usize>,
    stride: usize,
    weights: Vec<i32>,
    /// The weights of each output once for every byte of a pixel, with zeros up to [`Taps::stride`] pixels.
    wide: Vec<i32>,
    /// Stretches of outputs that are the rounded mean of two inputs each, each pair following the last.
    halves: Vec<Range<usize>>,
}

impl Taps {
    fn new(axis: Axis, window: &Range<usize>, origin: usize) -> Self {
        let each: Vec<_> = window.clone().map(|i| axis.weights(i)).collect();
        let stride = each.iter().map(|(_, w)| w.len()).max().unwrap_or(1);
        let stride = stride.next_multiple_of(TAPS);
        let mut weights = vec![0; stride * each.len()];
        for (row, (_, w)) in weights.chunks_exact_mut(stride).zip(&each) {
            row[..w.len()].copy_from_slice(w);
        }
        let is_half = |i: usize| each[i].1 == [1 << (PRECISION_BITS - 1); 2];
        let mut halves: Vec<Range<usize>> = Vec::new();
        for i in (0..each.len()).filter(|i| is_half(*i)) {
            match halves.last_mut() {
                Some(run) if run.end == i && each[i - 1].0 + 2 == each[i].0 => run.end = i + 1,
                _ => halves.push(i..i + 1),
            }
        }
        Self {
            first: each.iter().map(|(first, _)| first - origin).collect(),
            count: each.iter().map(|(_, w)| w.len()).collect(),
            stride,
            wide: weights.iter().flat_map(|w| [*w; 4]).collect(),
            weights,
            halves,
        }
    }

    fn len(&self) -> usize {
        self.first.len()
    }

    #[inline(always)]
    fn of(&self, i: usize) -> (usize, &[i32]) {
        (
            self.first[i],
            &self.weights[i * self.stride..i * self.stride + self.count[i]],
        )
    }
}

/// Computes the outputs `columns` x `rows` of a resize. `source` holds the inputs that [`Axis::inputs`] names for them.
pub(super) fn resize_window<R: Rows>(
    source: &mut R,
    horizontal: Axis,
    columns: &Range<usize>,
    vertical: Axis,
    rows: &Range<usize>,
) -> Rgbx {
    let across = Taps::new(horizontal, columns, horizontal.inputs(columns).start);
    let down = Taps::new(vertical, rows, vertical.inputs(rows).start);
    let copied = horizontal.from == horizontal.to;
    let mut out = Rgbx {
        width: across.len(),
        height: down.len(),
        data: vec![0; across.len() * down.len() * 4],
    };
    pulp::Arch::new().dispatch(Passes {
        source,
        across: &across,
        copied,
        down: &down,
        out: &mut out,
    });
    out
}

/// Both passes, compiled for the widest vectors of the processor: a closure would not be.
struct Passes<'a, R> {
    source: &'a mut R,
    across: &'a Taps,
    copied: bool,
    down: &'a Taps,
    out: &'a mut Rgbx,
}

impl<R: Rows> pulp::WithSimd for Passes<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        passes(self.source, self.across, self.copied, self.down, self.out);
    }
}

#[inline(always)]
fn passes<R: Rows>(source: &mut R, across: &Taps, copied: bool, down: &Taps, out: &mut Rgbx) {
    let width = across.len() * 4;
    // The horizontal pass's rows, as a ring of as many as the vertical pass looks at.
    let mut ring = vec![0u8; width * down.stride];
    let mut ready = 0;
    for (i, row) in out.data.chunks_exact_mut(width.max(1)).enumerate() {
        let (first, weights) = down.of(i);
        ready = ready.max(first);
        while ready < first + weights.len() {
            let slot = ready % down.stride * width;
            let from = source.row(ready);
            let to = &mut ring[slot..slot + width];
            if copied {
                to.copy_from_slice(&from[..width]);
            } else {
                horizontal(from, across, to);
            }
            ready += 1;
        }
        let at = |t: usize| (first + t) % down.stride * width;
        match *weights {
            [_] => row.copy_from_slice(&ring[at(0)..at(0) + width]),
            [HALF, HALF] => {
                let (a, b) = (&ring[at(0)..at(0) + width], &ring[at(1)..at(1) + width]);
                for ((o, a), b) in row.iter_mut().zip(a).zip(b) {
                    *o = mean(*a, *b);
                }
            }
            _ => vertical(&ring, at, weights, row),
        }
    }
}

/// `(2^21 (a + b) + 2^21) >> 22`.
#[inline(always)]
fn mean(a: u8, b: u8) -> u8 {
    ((u16::from(a) + u16::from(b) + 1) >> 1) as u8
}

#[inline(always)]
fn horizontal(from: &[u8], taps: &Taps, to: &mut [u8]) {
    let mut next = 0;
    for run in &taps.halves {
        weighted(from, taps, next..run.start, to);
        let start = taps.first[run.start] * 4;
        let pairs = from[start..start + run.len() * 8].chunks_exact(8);
        for (out, pair) in to[run.start * 4..run.end * 4].chunks_exact_mut(4).zip(pairs) {
            for c in 0..4 {
                out[c] = mean(pair[c], pair[c + 4]);
            }
        }
        next = run.end;
    }
    weighted(from, taps, next..taps.len(), to);
}

#[inline(always)]
fn weighted(from: &[u8], taps: &Taps, outputs: Range<usize>, to: &mut [u8]) {
    const LANES: usize = 4 * TAPS;
    for i in outputs {
        let (first, weights) = taps.of(i);
        let wide = &taps.wide[i * taps.stride * 4..(i + 1) * taps.stride * 4];
        let mut sum = [HALF; 4];
        // Zeros stand behind the weights: pixels there may be anything, but must be there.
        if let Some(pixels) = from.get(first * 4..(first + taps.stride) * 4) {
            let mut lanes = [0i32; LANES];
            for (pixels, weights) in pixels.chunks_exact(LANES).zip(wide.chunks_exact(LANES)) {
                for ((lane, pixel), w) in lanes.iter_mut().zip(pixels).zip(weights) {
                    *lane += i32::from(*pixel) * w;
                }
            }
            for part in lanes.chunks_exact(4) {
                for (sum, part) in sum.iter_mut().zip(part) {
                    *sum += part;
                }
            }
        } else {
            let pixels = from[first * 4..(first + weights.len()) * 4].chunks_exact(4);
            for (pixel, w) in pixels.zip(weights) {
                for (sum, byte) in sum.iter_mut().zip(pixel) {
                    *sum += i32::from(*byte) * w;
                }
            }
        }
        for (out, sum) in to[i * 4..i * 4 + 4].iter_mut().zip(sum) {
            *out = (sum >> PRECISION_BITS).clamp(0, 255) as u8;
        }
    }
}

#[inline(always)]
fn vertical(ring: &[u8], at: impl Fn(usize) -> usize, weights: &[i32], row: &mut [u8]) {
    const LANES: usize = 32;
    let whole = row.len() / LANES * LANES;
    for x in (0..whole).step_by(LANES) {
        let mut sum = [HALF; LANES];
        for (t, w) in weights.iter().enumerate() {
            let from = &ring[at(t) + x..at(t) + x + LANES];
            for (s, p) in sum.iter_mut().zip(from) {
                *s += i32::from(*p) * w;
            }
        }
        for (o, s) in row[x..x + LANES].iter_mut().zip(sum) {
            *o = (s >> PRECISION_BITS).clamp(0, 255) as u8;
        }
    }
    for x in whole..row.len() {
        let sum = weights
            .iter()
            .enumerate()
            .fold(HALF, |s, (t, w)| s + i32::from(ring[at(t) + x]) * w);
        row[x] = (sum >> PRECISION_BITS).clamp(0, 255) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::super::crop::tests::{sha, synthetic};
    use super::*;

    #[test]
    fn fixed_point_weights_are_pillows() {
        let cubic = Axis {
            filter: Filter::Bicubic,
            from: 37,
            to: 16,
        };
        assert_eq!(
            cubic.weights(0),
            (0, vec![1623977, 1851578, 877684, -12820, -133450, -12666])
        );
        let seventh = vec![
            -68637, -123788, 310663, 1344193, 1796479, 1021708, 77108, -133671, -29752,
        ];
        assert_eq!(cubic.weights(7), (13, seventh));
        let halving = Axis {
            filter: Filter::Box,
            from: 37,
            to: 18,
        };
        assert_eq!(halving.weights(0), (0, vec![1 << 21, 1 << 21]));
        assert_eq!(halving.weights(1), (2, vec![1 << 21, 1 << 21]));
        assert_eq!(halving.weights(17), (35, vec![1 << 21, 1 << 21]));
    }

    #[test]
    fn resized_images_are_pillows() {
        type Case = (Filter, (usize, usize), (usize, usize), &'static str);
        let cases: [Case; 4] = [
            (
                Filter::Box,
                (37, 23),
                (18, 11),
                "117f3d43f7dcc43080a2dae80c4fb3ed726b5ca700c6a7c0c24e829cc332917a",
            ),
            (
                Filter::Bicubic,
                (37, 23),
                (16, 10),
                "0b4eb74a7d3dcc253d8904bad7488b8b69869d6c632950020cd8a46d17271b82",
            ),
            (
                Filter::Bicubic,
                (37, 23),
                (50, 31),
                "439022174eac7f191930002629e98a91d27081cc6b6920366aca1d1ebbb67308",
            ),
            (
                Filter::Box,
                (501, 375),
                (250, 187),
                "e0d7c581bafd7c77a3ea3e408d4e4f58833b13528de5c528c947757114cb3f6e",
            ),
        ];
        for (filter, from, to, expected) in cases {
            let source = Rgbx::from_rgb(&synthetic(from.0, from.1));
            let across = Axis {
                filter,
                from: from.0,
                to: to.0,
            };
            let down = Axis {
                filter,
                from: from.1,
                to: to.1,
            };
            let image = resize_window(&mut &source, across, &(0..to.0), down, &(0..to.1)).to_rgb();
            assert_eq!(sha(&image.data), expected, "{filter:?} {from:?} to {to:?}");
        }
    }
}
