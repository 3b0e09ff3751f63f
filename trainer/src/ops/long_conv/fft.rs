//! The transform of the long convolution: complex FFTs of sixteen channels at once, one channel a lane.
//!
//! Signals are rings of polynomials modulo `x^N - i` ("right-angle convolution"): with the samples of a real signal
//! weighted by `w^l`, `w = e^{i pi / 2N}`, a complex transform of length N evaluates it at the N roots of `x^N = i`.
//! Products of such spectra give the linear convolution of two signals of up to N samples in the real part, what wraps
//! around goes into the imaginary part: no padding to 2 N. The product with a conjugate spectrum gives the
//! correlation in the same way.
//!
//! The forward transform is decimated in frequency and leaves its output in digit-reversed order, the inverse is
//! decimated in time and starts from that order: both work in place, without reordering. Radix 8, and 4 where the
//! logarithm asks for it. Blocks that fit into the first cache go through all their passes before the next one.

use std::f64::consts::PI;

use pulp::Simd;

/// Channels that are transformed together: a cache line of f32.
pub(super) const GROUP: usize = 16;
/// Elements of a block that is finished before the next: 32 KiB.
const TILE: usize = 256;

/// Does the same for each k below a radix of 4 or 8: written out, so that the elements stay in registers.
macro_rules! each {
    ($radix:expr, $k:ident => $body:block) => {
        each!(@ $k, $body, 0, 1, 2, 3);
        if $radix == 8 {
            each!(@ $k, $body, 4, 5, 6, 7);
        }
    };
    (@ $k:ident, $body:block, $($value:literal),*) => {
        $({
            let $k: usize = $value;
            $body
        })*
    };
}

/// One element of the spectra of a group of channels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C, align(64))]
pub(super) struct Cell {
    pub(super) re: [f32; GROUP],
    pub(super) im: [f32; GROUP],
}

/// A vector of complex numbers.
#[derive(Clone, Copy)]
pub(super) struct Complex<V> {
    pub(super) re: V,
    pub(super) im: V,
}

/// Where a forward transform takes its samples from.
pub(super) trait Source<S: Simd> {
    /// Sample `l` of the lanes from `lane` on; zero beyond the signal.
    fn sample(&self, simd: S, l: usize, lane: usize) -> S::f32s;
}

/// Where an inverse transform takes its spectrum from.
pub(super) trait Spectrum<S: Simd> {
    /// Element `at`, in the order of the forward transform, of the lanes from `lane` on; `before` is what lay in the
    /// memory that the transform works in.
    fn element(&mut self, simd: S, at: usize, lane: usize, before: Complex<S::f32s>) -> Complex<S::f32s>;
}

/// Where an inverse transform puts its samples.
pub(super) trait Sink<S: Simd> {
    /// Takes sample `l` of the lanes from `lane` on.
    fn put(&mut self, simd: S, l: usize, lane: usize, sample: S::f32s);
}

/// One pass over blocks of `size` elements.
#[derive(Clone, Debug)]
struct Level {
    size: usize,
    radix: usize,
    /// `e^{-2 pi i j q / size}`, `[size / radix, radix - 1]`, q from 1.
    twiddles: Vec<[f32; 2]>,
}

/// The passes of a transform.
#[derive(Clone, Debug)]
pub(super) struct Fft {
    /// From the whole to the smallest blocks.
    levels: Vec<Level>,
    /// The first level whose blocks fit into a tile, at least 1.
    tiled: usize,
    /// `w^l`.
    weights: Vec<[f32; 2]>,
}

/// Elements of the spectrum of a signal of up to `length` samples.
pub(super) fn size_for(length: usize) -> usize {
    length.next_power_of_two().max(4)
}

impl Fft {
    /// A transform for signals of up to `length` samples.
    pub(super) fn new(length: usize) -> Self {
        let size = size_for(length);
        let mut levels = Vec::new();
        let mut block = size;
        while block > 1 {
            // Eights, but for one or two fours at the end.
            let radix = match block.ilog2() {
                2 | 4 => 4,
                _ => 8,
            };
            let twiddle = |j: usize, q: usize| {
                let angle = -2.0 * PI * (j * q) as f64 / block as f64;
                [angle.cos() as f32, angle.sin() as f32]
            };
            levels.push(Level {
                size: block,
                radix,
                twiddles: (0..block / radix)
                    .flat_map(|j| (1..radix).map(move |q| twiddle(j, q)))
                    .collect(),
            });
            block /= radix;
        }
        let tiled = 1 + levels[1..].iter().take_while(|level| level.size > TILE).count();
        let weights = (0..size)
            .map(|l| {
                let angle = PI * l as f64 / (2 * size) as f64;
                [angle.cos() as f32, angle.sin() as f32]
            })
            .collect();
        Self {
            levels,
            tiled,
            weights,
        }
    }

    /// Elements of a spectrum.
    pub(super) fn size(&self) -> usize {
        self.weights.len()
    }

    /// Elements of a tile: the size of the blocks of level `tiled`.
    fn tile(&self) -> usize {
        self.levels.get(self.tiled).map_or(1, |level| level.size)
    }

    /// The spectrum of `source`.
    #[inline(always)]
    pub(super) fn forward<S: Simd>(&self, simd: S, source: &impl Source<S>, out: &mut [Cell]) {
        for lane in (0..GROUP).step_by(S::F32_LANES) {
            self.forward_lanes(simd, source, out, lane);
        }
    }

    #[inline(always)]
    fn forward_lanes<S: Simd>(&self, simd: S, source: &impl Source<S>, out: &mut [Cell], lane: usize) {
        let first = &self.levels[0];
        match first.radix {
            8 => self.read::<S, 8>(simd, first, source, out, lane),
            _ => self.read::<S, 4>(simd, first, source, out, lane),
        }
        let (above, within) = self.levels[1..].split_at(self.tiled - 1);
        let tile = self.tile();
        for start in (0..out.len()).step_by(tile) {
            for level in above {
                if start.is_multiple_of(level.size) {
                    pass::<S, false>(simd, level, &mut out[start..start + level.size], lane);
                }
            }
            for level in within {
                pass::<S, false>(simd, level, &mut out[start..start + tile], lane);
            }
        }
    }

    /// The real part of the inverse transform of `spectrum`, into `sink`; `work` holds [`Self::size`] elements.
    #[inline(always)]
    pub(super) fn inverse<S: Simd>(
        &self,
        simd: S,
        spectrum: &mut impl Spectrum<S>,
        work: &mut [Cell],
        sink: &mut impl Sink<S>,
    ) {
        for lane in (0..GROUP).step_by(S::F32_LANES) {
            self.inverse_lanes(simd, spectrum, work, sink, lane);
        }
    }

    #[inline(always)]
    fn inverse_lanes<S: Simd>(
        &self,
        simd: S,
        spectrum: &mut impl Spectrum<S>,
        work: &mut [Cell],
        sink: &mut impl Sink<S>,
        lane: usize,
    ) {
        let (above, within) = self.levels[1..].split_at(self.tiled - 1);
        let tile = self.tile();
        for start in (0..work.len()).step_by(tile) {
            for (i, cell) in work[start..start + tile].iter_mut().enumerate() {
                let value = spectrum.element(simd, start + i, lane, load(simd, cell, lane));
                store(simd, cell, lane, value);
            }
            for level in within.iter().rev() {
                pass::<S, true>(simd, level, &mut work[start..start + tile], lane);
            }
            for level in above.iter().rev() {
                let end = start + tile;
                if end.is_multiple_of(level.size) {
                    pass::<S, true>(simd, level, &mut work[end - level.size..end], lane);
                }
            }
        }
        let first = &self.levels[0];
        match first.radix {
            8 => self.write::<S, 8>(simd, first, work, sink, lane),
            _ => self.write::<S, 4>(simd, first, work, sink, lane),
        }
    }

    /// The first pass of a forward transform.
    #[inline(always)]
    fn read<S: Simd, const R: usize>(
        &self,
        simd: S,
        level: &Level,
        source: &impl Source<S>,
        out: &mut [Cell],
        lane: usize,
    ) {
        let step = out.len() / R;
        for j in 0..step {
            let mut a = [zero(simd); R];
            each!(R, k => {
                let l = j + k * step;
                let [cos, sin] = self.weights[l];
                let x = source.sample(simd, l, lane);
                a[k].re = simd.mul_f32s(x, simd.splat_f32s(cos));
                a[k].im = simd.mul_f32s(x, simd.splat_f32s(sin));
            });
            butterfly(simd, &mut a);
            let twiddles = &level.twiddles[j * (R - 1)..][..R - 1];
            each!(R, k => {
                let turned = if k == 0 { a[k] } else { times(simd, a[k], twiddles[k - 1]) };
                store(simd, &mut out[j + k * step], lane, turned);
            });
        }
    }

    /// The last pass of an inverse transform.
    #[inline(always)]
    fn write<S: Simd, const R: usize>(
        &self,
        simd: S,
        level: &Level,
        work: &[Cell],
        sink: &mut impl Sink<S>,
        lane: usize,
    ) {
        let step = work.len() / R;
        let scale = 1.0 / work.len() as f32;
        for j in 0..step {
            let mut a = [zero(simd); R];
            let twiddles = &level.twiddles[j * (R - 1)..][..R - 1];
            each!(R, k => {
                let loaded = swapped(load(simd, &work[j + k * step], lane));
                a[k] = if k == 0 { loaded } else { times(simd, loaded, twiddles[k - 1]) };
            });
            butterfly(simd, &mut a);
            each!(R, k => {
                let l = j + k * step;
                let [cos, sin] = self.weights[l];
                let (cos, sin) = (simd.splat_f32s(scale * cos), simd.splat_f32s(scale * sin));
                let sample = simd.mul_add_e_f32s(a[k].im, cos, simd.mul_f32s(a[k].re, sin));
                sink.put(simd, l, lane, sample);
            });
        }
    }
}

/// One pass over every block of `cells`, in place.
#[inline(always)]
fn pass<S: Simd, const INVERSE: bool>(simd: S, level: &Level, cells: &mut [Cell], lane: usize) {
    match level.radix {
        8 => {
            for block in cells.chunks_exact_mut(level.size) {
                pass_block::<S, 8, INVERSE>(simd, level, block, lane);
            }
        }
        _ => {
            for block in cells.chunks_exact_mut(level.size) {
                pass_block::<S, 4, INVERSE>(simd, level, block, lane);
            }
        }
    }
}

#[inline(always)]
fn pass_block<S: Simd, const R: usize, const INVERSE: bool>(
    simd: S,
    level: &Level,
    block: &mut [Cell],
    lane: usize,
) {
    let step = block.len() / R;
    let has_twiddles = step > 1;
    for j in 0..step {
        let mut a = [zero(simd); R];
        let twiddles = &level.twiddles[j * (R - 1)..][..R - 1];
        each!(R, k => {
            a[k] = load(simd, &block[j + k * step], lane);
            if INVERSE {
                // The inverse transform is the forward one between two exchanges of real and imaginary part.
                a[k] = swapped(a[k]);
                if k > 0 && has_twiddles {
                    a[k] = times(simd, a[k], twiddles[k - 1]);
                }
            }
        });
        butterfly(simd, &mut a);
        each!(R, k => {
            let mut value = a[k];
            if !INVERSE && k > 0 && has_twiddles {
                value = times(simd, value, twiddles[k - 1]);
            }
            if INVERSE {
                value = swapped(value);
            }
            store(simd, &mut block[j + k * step], lane, value);
        });
    }
}

#[inline(always)]
pub(super) fn zero<S: Simd>(simd: S) -> Complex<S::f32s> {
    let zero = simd.splat_f32s(0.0);
    Complex { re: zero, im: zero }
}

#[inline(always)]
fn swapped<V>(a: Complex<V>) -> Complex<V> {
    Complex { re: a.im, im: a.re }
}

#[inline(always)]
pub(super) fn vector<S: Simd>(_: S, values: &[f32; GROUP], lane: usize) -> S::f32s {
    S::as_simd_f32s(values).0[lane / S::F32_LANES]
}

#[inline(always)]
pub(super) fn load<S: Simd>(simd: S, cell: &Cell, lane: usize) -> Complex<S::f32s> {
    Complex {
        re: vector(simd, &cell.re, lane),
        im: vector(simd, &cell.im, lane),
    }
}

#[inline(always)]
pub(super) fn store<S: Simd>(_: S, cell: &mut Cell, lane: usize, value: Complex<S::f32s>) {
    S::as_mut_simd_f32s(&mut cell.re).0[lane / S::F32_LANES] = value.re;
    S::as_mut_simd_f32s(&mut cell.im).0[lane / S::F32_LANES] = value.im;
}

#[inline(always)]
fn add<S: Simd>(simd: S, a: Complex<S::f32s>, b: Complex<S::f32s>) -> Complex<S::f32s> {
    Complex {
        re: simd.add_f32s(a.re, b.re),
        im: simd.add_f32s(a.im, b.im),
    }
}

#[inline(always)]
fn sub<S: Simd>(simd: S, a: Complex<S::f32s>, b: Complex<S::f32s>) -> Complex<S::f32s> {
    Complex {
        re: simd.sub_f32s(a.re, b.re),
        im: simd.sub_f32s(a.im, b.im),
    }
}

/// `a - i b` and `a + i b`.
#[inline(always)]
fn quarter<S: Simd>(simd: S, a: Complex<S::f32s>, b: Complex<S::f32s>) -> [Complex<S::f32s>; 2] {
    [
        Complex {
            re: simd.add_f32s(a.re, b.im),
            im: simd.sub_f32s(a.im, b.re),
        },
        Complex {
            re: simd.sub_f32s(a.re, b.im),
            im: simd.add_f32s(a.im, b.re),
        },
    ]
}

/// `a w`
#[inline(always)]
fn times<S: Simd>(simd: S, a: Complex<S::f32s>, [cos, sin]: [f32; 2]) -> Complex<S::f32s> {
    let (cos, sin) = (simd.splat_f32s(cos), simd.splat_f32s(sin));
    Complex {
        re: simd.negate_mul_add_e_f32s(a.im, sin, simd.mul_f32s(a.re, cos)),
        im: simd.mul_add_e_f32s(a.im, cos, simd.mul_f32s(a.re, sin)),
    }
}

/// The forward transform of R elements, in natural order.
#[inline(always)]
fn butterfly<S: Simd, const R: usize>(simd: S, a: &mut [Complex<S::f32s>; R]) {
    if R == 4 {
        let (s0, s1) = (add(simd, a[0], a[2]), add(simd, a[1], a[3]));
        let (d0, d1) = (sub(simd, a[0], a[2]), sub(simd, a[1], a[3]));
        let [x1, x3] = quarter(simd, d0, d1);
        (a[0], a[1], a[2], a[3]) = (add(simd, s0, s1), x1, sub(simd, s0, s1), x3);
    } else {
        let (s0, d0) = (add(simd, a[0], a[4]), sub(simd, a[0], a[4]));
        let (s1, d1) = (add(simd, a[1], a[5]), sub(simd, a[1], a[5]));
        let (s2, d2) = (add(simd, a[2], a[6]), sub(simd, a[2], a[6]));
        let (s3, d3) = (add(simd, a[3], a[7]), sub(simd, a[3], a[7]));
        let (t0, t1) = (add(simd, s0, s2), sub(simd, s0, s2));
        let (t2, t3) = (add(simd, s1, s3), sub(simd, s1, s3));
        let [x2, x6] = quarter(simd, t1, t3);
        // The odd ones: d1 and d3 are turned by an eighth and three eighths, which shares the factor sqrt(1/2).
        let [f, g] = quarter(simd, d0, d2);
        let (m, n) = (sub(simd, d1, d3), add(simd, d1, d3));
        let sum = Complex {
            re: simd.add_f32s(m.re, n.im),
            im: simd.sub_f32s(m.im, n.re),
        };
        let difference = Complex {
            re: simd.add_f32s(n.re, m.im),
            im: simd.sub_f32s(n.im, m.re),
        };
        a[0] = add(simd, t0, t2);
        a[4] = sub(simd, t0, t2);
        (a[2], a[6]) = (x2, x6);
        [a[1], a[5]] = around(simd, f, sum);
        // -i times the difference
        let turned = Complex {
            re: difference.im,
            im: simd.sub_f32s(simd.splat_f32s(0.0), difference.re),
        };
        [a[3], a[7]] = around(simd, g, turned);
    }
}

/// `a + sqrt(1/2) b` and `a - sqrt(1/2) b`.
#[inline(always)]
fn around<S: Simd>(simd: S, a: Complex<S::f32s>, b: Complex<S::f32s>) -> [Complex<S::f32s>; 2] {
    let root = simd.splat_f32s(std::f32::consts::FRAC_1_SQRT_2);
    [
        Complex {
            re: simd.mul_add_e_f32s(root, b.re, a.re),
            im: simd.mul_add_e_f32s(root, b.im, a.im),
        },
        Complex {
            re: simd.negate_mul_add_e_f32s(root, b.re, a.re),
            im: simd.negate_mul_add_e_f32s(root, b.im, a.im),
        },
    ]
}
