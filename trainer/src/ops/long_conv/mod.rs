//! The bidirectional long convolution of a block, by FFT, with its exact backward.
//!
//! `y_f[l] = sum_{i <= l} k_f[i] u[l - i] + d_f u[l]` and `y_b[l] = sum_i k_b[i] u[l + i] + d_b u[l]`, per channel.
//! Both directions share the transform of `u`; the backward direction multiplies by the conjugate spectrum of its
//! kernel. O(L log L) time. A task takes sixteen neighbouring channels, one a lane, through the whole operation, so that
//! activations are read and written where they lie and nothing is transposed. The spectra of the kernels serve the
//! forward and the backward; that of `u` is cheaper to compute again than to keep. The gradient of the kernels is summed over the
//! batch before it leaves the frequency domain.

mod columns;
mod fft;
mod lanes;

use std::sync::Arc;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use self::columns::Columns;
use self::fft::{Cell, Fft, GROUP};
use self::lanes::{
    Both, Gradient, InputGradient, Itself, LaneSink, Lanes, Output, Product, Rows, add_products, gather,
    scatter,
};
use super::profile::{Clock, Op};

/// The transforms for one sequence length.
#[derive(Clone)]
pub struct LongConv {
    length: usize,
    fft: Arc<Fft>,
}

/// Spectra of the kernels, for the forward and the backward: `[D / 16, 2, N]` elements of 16 channels.
pub struct Spectra(Vec<Cell>);

/// Bytes of the spectra of a block with `dim` channels.
pub fn spectra_bytes(dim: usize, length: usize) -> usize {
    dim.div_ceil(GROUP) * 2 * fft::size_for(length) * size_of::<Cell>()
}

/// Bytes that one thread works in.
pub fn task_bytes(length: usize) -> usize {
    BACKWARD_CELLS * fft::size_for(length) * size_of::<Cell>()
}

/// Spectra that a task of the backward holds: of the input, both gradients, and both sums.
const BACKWARD_CELLS: usize = 5;

/// Channels of a task, and the shape of the matrices that they are columns of.
#[derive(Clone, Copy)]
struct Group {
    /// The first channel.
    first: usize,
    /// Channels, at most [`GROUP`].
    count: usize,
    /// All channels.
    dim: usize,
    /// Samples.
    length: usize,
    /// Whether the two directions are added, instead of put side by side.
    sum: bool,
}

impl Group {
    fn new(index: usize, dim: usize, length: usize, sum: bool) -> Self {
        let first = index * GROUP;
        Self {
            first,
            count: GROUP.min(dim - first),
            dim,
            length,
            sum,
        }
    }

    /// Columns of `y`.
    fn width(&self) -> usize {
        if self.sum { self.dim } else { 2 * self.dim }
    }

    /// The first column of a direction in `y`.
    fn column(&self, direction: usize) -> usize {
        if self.sum {
            self.first
        } else {
            direction * self.dim + self.first
        }
    }

    /// The skip weights of a direction, zero in unused lanes.
    fn skip(&self, skip: &[f32], direction: usize) -> [f32; GROUP] {
        let mut lanes = [0.0; GROUP];
        lanes[..self.count].copy_from_slice(&skip[direction * self.dim + self.first..][..self.count]);
        lanes
    }
}

impl LongConv {
    /// Plans the transforms for sequences of `length`.
    pub fn new(length: usize) -> Self {
        Self {
            length,
            fft: Arc::new(Fft::new(length)),
        }
    }

    /// The spectra of kernels `[2, D, L]`.
    pub fn spectra(&self, kernels: &[f32]) -> Spectra {
        let dim = kernels.len() / self.length / 2;
        let mut spectra = Spectra(vec![Cell::default(); dim.div_ceil(GROUP) * 2 * self.fft.size()]);
        self.transform(kernels, &mut spectra);
        spectra
    }

    /// Writes the spectra of kernels `[2, D, L]` over those of others.
    ///
    /// # Panics
    /// When the others are of another size: a mistake of the caller.
    pub fn transform(&self, kernels: &[f32], spectra: &mut Spectra) {
        let _clock = Clock::start(Op::Conv);
        let (dim, size) = (kernels.len() / self.length / 2, self.fft.size());
        assert_eq!(
            spectra.0.len(),
            dim.div_ceil(GROUP) * 2 * size,
            "spectra of {dim} channels"
        );
        spectra.0.par_chunks_mut(2 * size).enumerate().for_each_init(
            || vec![Cell::default(); size],
            |scratch, (index, spectra)| {
                Arch::new().dispatch(KernelTask {
                    fft: &self.fft,
                    group: Group::new(index, dim, self.length, false),
                    kernels,
                    spectra,
                    scratch,
                });
            },
        );
    }

    /// The convolution of a batch.
    ///
    /// # Shapes
    /// `u`: `[B, L, D]`; `skip`: `[2, D]`; `y`: `[B, L, 2 D]` (forward half first), or with `sum` `[B, L, D]`, the two
    /// directions added.
    pub fn forward(&self, u: &[f32], spectra: &Spectra, skip: &[f32], sum: bool, y: &mut [f32]) {
        let _clock = Clock::start(Op::Conv);
        let dim = skip.len() / 2;
        let size = self.fft.size();
        let width = if sum { dim } else { 2 * dim };
        let y = Columns::new(y, width);
        spectra.0.par_chunks(2 * size).enumerate().for_each_init(
            || vec![Cell::default(); 2 * size],
            |scratch, (index, spectra)| {
                Arch::new().dispatch(ForwardTask {
                    fft: &self.fft,
                    group: Group::new(index, dim, self.length, sum),
                    u,
                    skip,
                    y: &y,
                    spectra,
                    scratch,
                });
            },
        );
    }

    /// The backward: writes `du` and the gradient `dk` of the kernels `[2, D, L]`, adds to that of the skip `[2, D]`.
    pub fn backward(
        &self,
        u: &[f32],
        spectra: &Spectra,
        skip: &[f32],
        sum: bool,
        dy: &[f32],
        du: &mut [f32],
        dk: &mut [f32],
        d_skip: &mut [f32],
    ) {
        let _clock = Clock::start(Op::Conv);
        let dim = skip.len() / 2;
        let size = self.fft.size();
        let du = Columns::new(du, dim);
        let (dk_forward, dk_backward) = dk.split_at_mut(dim * self.length);
        let group_dk = GROUP * self.length;
        let d_skips: Vec<[[f32; GROUP]; 2]> = dk_forward
            .par_chunks_mut(group_dk)
            .zip(dk_backward.par_chunks_mut(group_dk))
            .zip(spectra.0.par_chunks(2 * size))
            .enumerate()
            .map_init(
                || vec![Cell::default(); BACKWARD_CELLS * size],
                |scratch, (index, ((dk_forward, dk_backward), spectra))| {
                    Arch::new().dispatch(BackwardTask {
                        fft: &self.fft,
                        group: Group::new(index, dim, self.length, sum),
                        u,
                        skip,
                        dy,
                        du: &du,
                        spectra,
                        dk: [dk_forward, dk_backward],
                        scratch,
                    })
                },
            )
            .collect();
        for (index, lanes) in d_skips.iter().enumerate() {
            let group = Group::new(index, dim, self.length, sum);
            for (direction, lanes) in lanes.iter().enumerate() {
                let d_skip = &mut d_skip[direction * dim + group.first..][..group.count];
                for (d, lane) in d_skip.iter_mut().zip(lanes) {
                    *d += lane;
                }
            }
        }
    }
}

/// The spectra of the kernels of one group of channels.
struct KernelTask<'a> {
    fft: &'a Fft,
    group: Group,
    kernels: &'a [f32],
    spectra: &'a mut [Cell],
    scratch: &'a mut [Cell],
}

impl WithSimd for KernelTask<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            fft,
            group,
            kernels,
            spectra,
            scratch,
        } = self;
        for (direction, spectrum) in spectra.chunks_exact_mut(fft.size()).enumerate() {
            let rows = &kernels[(direction * group.dim + group.first) * group.length..];
            gather(&rows[..group.count * group.length], group.length, scratch);
            fft.forward(simd, &Lanes(&scratch[..group.length]), spectrum);
        }
    }
}

/// The forward of one group of channels, for the whole batch.
struct ForwardTask<'a> {
    fft: &'a Fft,
    group: Group,
    u: &'a [f32],
    skip: &'a [f32],
    y: &'a Columns<'a>,
    spectra: &'a [Cell],
    scratch: &'a mut [Cell],
}

impl WithSimd for ForwardTask<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            fft,
            group,
            u,
            skip,
            y,
            spectra,
            scratch,
        } = self;
        let (u_spectrum, work) = scratch.split_at_mut(fft.size());
        let (forward, backward) = spectra.split_at(fft.size());
        let image = group.length * group.dim;
        for (b, u) in u.chunks_exact(image).enumerate() {
            let u = Rows::new(u, group.dim, group.first, group);
            fft.forward(simd, &u, u_spectrum);
            let mut out = Output {
                y,
                row: b * group.length,
                column: group.column(0),
                u,
                skip: group.skip(skip, 0),
            };
            if group.sum {
                let skip_b = group.skip(skip, 1);
                for (a, b) in out.skip.iter_mut().zip(skip_b) {
                    *a += b;
                }
                let mut product = Both {
                    u: u_spectrum,
                    kernels: [forward, backward],
                };
                fft.inverse(simd, &mut product, work, &mut out);
            } else {
                let mut product = Product::<false> {
                    u: u_spectrum,
                    kernel: forward,
                };
                fft.inverse(simd, &mut product, work, &mut out);
                (out.column, out.skip) = (group.column(1), group.skip(skip, 1));
                let mut product = Product::<true> {
                    u: u_spectrum,
                    kernel: backward,
                };
                fft.inverse(simd, &mut product, work, &mut out);
            }
        }
    }
}

/// The backward of one group of channels, for the whole batch.
struct BackwardTask<'a> {
    fft: &'a Fft,
    group: Group,
    u: &'a [f32],
    skip: &'a [f32],
    dy: &'a [f32],
    du: &'a Columns<'a>,
    spectra: &'a [Cell],
    dk: [&'a mut [f32]; 2],
    scratch: &'a mut [Cell],
}

impl WithSimd for BackwardTask<'_> {
    type Output = [[f32; GROUP]; 2];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Self {
            fft,
            group,
            u,
            skip,
            dy,
            du,
            spectra,
            dk,
            scratch,
        } = self;
        let size = fft.size();
        let kernels = <[&[Cell]; 2]>::from(spectra.split_at(size));
        let (sums, rest) = scratch.split_at_mut(2 * size);
        let (u_spectrum, rest) = rest.split_at_mut(size);
        let (forward, backward) = rest.split_at_mut(size);
        sums.fill(Cell::default());
        let (sum_forward, sum_backward) = sums.split_at_mut(size);
        let skips = [group.skip(skip, 0), group.skip(skip, 1)];
        let mut d_skip = [[0f64; GROUP]; 2];
        let images = u
            .chunks_exact(group.length * group.dim)
            .zip(dy.chunks_exact(group.length * group.width()));
        for (b, (u, dy)) in images.enumerate() {
            let u = Rows::new(u, group.dim, group.first, group);
            let dy = [0, 1].map(|direction| Rows::new(dy, group.width(), group.column(direction), group));
            fft.forward(simd, &u, u_spectrum);
            fft.forward(simd, &dy[0], forward);
            fft.forward(simd, &dy[1], backward);
            add_products(simd, &u, &dy, &mut d_skip);
            let mut out = InputGradient {
                du,
                row: b * group.length,
                column: group.first,
                dy,
                skips,
            };
            let mut gradient = Gradient {
                u: u_spectrum,
                forward,
                kernels,
                sums: [sum_forward, sum_backward],
            };
            fft.inverse(simd, &mut gradient, backward, &mut out);
        }
        for (sum, dk) in [sum_forward, sum_backward].into_iter().zip(dk) {
            let mut lanes = LaneSink(u_spectrum);
            fft.inverse(simd, &mut Itself, sum, &mut lanes);
            scatter(u_spectrum, group.length, dk);
        }
        d_skip.map(|lanes| lanes.map(|v| v as f32))
    }
}
