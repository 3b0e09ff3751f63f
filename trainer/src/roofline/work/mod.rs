//! Bytes and operations of each kernel of `trainer/kernels`, from its shapes.
//!
//! `element` is the size of an activation in bytes: 2 or 4. Statistics, gradients of parameters, the residual stream and
//! everything of the state space model's kernels are f32.

mod chunked;
mod embed;

use std::ops::{Add, Mul};

use crate::model::{Bidirectional, ModelConfig};

pub use chunked::Chunked;
pub use embed::{
    add_label_rows, broadcast_rows, images_of_tokens, silu, silu_backward, timestep_features,
    tokens_of_images,
};

/// Rows whose columns a thread sums, as `ROWS_PER_THREAD` in `kernels/common.cuh`.
pub const ROWS_PER_PART: usize = 32;
const F32: u64 = 4;

/// Bytes that a kernel must move, and its operations (a fused multiply-add is two).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// Those of both that caches can serve: tables, and what other blocks have just moved.
    pub cached: u64,
    /// Operations outside of tensor cores.
    pub flops: u64,
    /// Operations of tensor cores in bf16.
    pub tensor_flops: u64,
}

impl Work {
    /// Bytes moved between the multiprocessors and the L2 cache.
    pub fn bytes(&self) -> u64 {
        self.read + self.written
    }

    /// Bytes moved between the L2 cache and memory.
    pub fn memory_bytes(&self) -> u64 {
        self.bytes() - self.cached
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            read: self.read + other.read,
            written: self.written + other.written,
            cached: self.cached + other.cached,
            flops: self.flops + other.flops,
            tensor_flops: self.tensor_flops + other.tensor_flops,
        }
    }
}

impl Mul<u64> for Work {
    type Output = Self;

    fn mul(self, times: u64) -> Self {
        Self {
            read: self.read * times,
            written: self.written * times,
            cached: self.cached * times,
            flops: self.flops * times,
            tensor_flops: self.tensor_flops * times,
        }
    }
}

impl std::iter::Sum for Work {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// Operations of a GELU's value, with an exponential and a division counted as eight each.
const GELU: u64 = 24;
/// The same with its derivative.
const GELU_SLOPE: u64 = 32;

fn product(factors: &[usize]) -> u64 {
    factors.iter().map(|&factor| factor as u64).product()
}

/// Bytes of partial sums of columns.
fn partials(rows: usize, cols: usize) -> u64 {
    product(&[rows.div_ceil(ROWS_PER_PART), cols]) * F32
}

/// `bias_gelu`: the pre-activation is read and written, the activation written.
pub fn bias_gelu(rows: usize, cols: usize, element: usize) -> Work {
    let count = product(&[rows, cols]);
    Work {
        read: count * element as u64 + cols as u64 * F32,
        written: 2 * count * element as u64,
        flops: count * (GELU + 1),
        ..Work::default()
    }
}

/// `gelu_backward`, with the bias's partial sums.
pub fn gelu_backward(rows: usize, cols: usize, element: usize) -> Work {
    let count = product(&[rows, cols]);
    Work {
        read: 2 * count * element as u64,
        written: count * element as u64 + partials(rows, cols),
        flops: count * (GELU_SLOPE + 2),
        ..Work::default()
    }
}

/// `gate`.
pub fn gate(rows: usize, cols: usize, element: usize) -> Work {
    let count = product(&[rows, cols]);
    Work {
        read: 2 * count * element as u64 + 2 * cols as u64 * F32,
        written: 3 * count * element as u64,
        flops: count * (2 * GELU + 3),
        ..Work::default()
    }
}

/// `gate_backward`, with the partial sums of both biases.
pub fn gate_backward(rows: usize, cols: usize, element: usize) -> Work {
    let count = product(&[rows, cols]);
    Work {
        read: 3 * count * element as u64,
        written: 2 * count * element as u64 + 2 * partials(rows, cols),
        flops: count * (2 * GELU_SLOPE + 6),
        ..Work::default()
    }
}

/// `residual_f32`.
pub fn residual(batch: usize, rows: usize, dim: usize) -> Work {
    let count = product(&[batch, rows, dim]);
    Work {
        read: count * F32 + dim as u64 * F32,
        written: count * F32,
        flops: count,
        ..Work::default()
    }
}

/// `gated_residual`.
pub fn gated_residual(batch: usize, rows: usize, dim: usize, element: usize) -> Work {
    let count = product(&[batch, rows, dim]);
    Work {
        read: count * (F32 + element as u64) + product(&[batch + 1, dim]) * F32,
        written: count * (F32 + element as u64),
        flops: 3 * count,
        ..Work::default()
    }
}

/// `gated_residual_backward`.
pub fn gated_residual_backward(batch: usize, rows: usize, dim: usize, element: usize) -> Work {
    let count = product(&[batch, rows, dim]);
    Work {
        read: count * (F32 + element as u64) + product(&[batch, dim]) * F32,
        written: count * element as u64 + 2 * batch as u64 * partials(rows, dim),
        flops: 4 * count,
        ..Work::default()
    }
}

/// `column_partials`.
pub fn column_partials(rows: usize, cols: usize, element: usize) -> Work {
    let count = product(&[rows, cols]);
    Work {
        read: count * element as u64,
        written: partials(rows, cols),
        flops: count,
        ..Work::default()
    }
}

/// `rounded_column_partials_f32`: with a copy in bf16.
pub fn rounded_column_partials(rows: usize, cols: usize) -> Work {
    let sums = column_partials(rows, cols, F32 as usize);
    Work {
        written: sums.written + 2 * product(&[rows, cols]),
        ..sums
    }
}

/// `add_column_sums_f32`.
pub fn add_column_sums(groups: usize, parts: usize, cols: usize) -> Work {
    Work {
        read: product(&[groups, parts + 1, cols]) * F32,
        written: product(&[groups, cols]) * F32,
        flops: product(&[groups, parts, cols]),
        ..Work::default()
    }
}

/// `norm_modulate`: f32 in, an activation out.
pub fn norm_modulate(batch: usize, rows: usize, dim: usize, element: usize) -> Work {
    let count = product(&[batch, rows, dim]);
    Work {
        read: count * F32 + product(&[batch, 2, dim]) * F32,
        written: count * element as u64 + product(&[batch, rows, 2]) * F32,
        flops: 8 * count,
        ..Work::default()
    }
}

/// `norm_modulate_backward`: adds to the gradient of the residual stream.
pub fn norm_modulate_backward(batch: usize, rows: usize, dim: usize, element: usize) -> Work {
    let count = product(&[batch, rows, dim]);
    Work {
        read: count * (2 * F32 + element as u64)
            + product(&[batch, rows, 2]) * F32
            + product(&[batch, dim]) * F32,
        written: count * F32 + 2 * batch as u64 * partials(rows, dim),
        flops: 14 * count,
        ..Work::default()
    }
}

/// The kernels of the long convolution, of one block of the model.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    /// Size of the transforms: 64, 256, 1024, 4096, or 16,384 in quarters.
    pub n: usize,
    /// Samples L.
    pub length: usize,
    /// Channels D.
    pub dim: usize,
    /// Images.
    pub batch: usize,
    /// 2, or 1 where the two directions are added.
    pub directions: usize,
    /// Shares of the batch that the backward sums apart.
    pub parts: usize,
    /// Bytes of an activation.
    pub element: usize,
}

/// Bytes of a complex number.
const COMPLEX: u64 = 8;
/// Samples of a quarter of a sequence that is transformed in two passes.
const QUARTER: usize = 4096;

/// Numbers that a thread takes from the table in the passes between the first and the last.
fn middle_twiddles(n: usize) -> usize {
    match n {
        64 => 0,
        256 => 1,
        1024 => 3,
        _ => 2,
    }
}

/// Blocks of threads with which the backward of the convolution fills a device: two for each multiprocessor of an H100.
const FULL: usize = 264;

impl Conv {
    /// The convolution of a block of `model` on `batch` images, by transforms of `n` samples; the batch is summed in the fewest
    /// shares that fill a device.
    pub fn of_model(model: &ModelConfig, batch: usize, n: usize, element: usize) -> Self {
        let conv = Self {
            n,
            length: model.length(),
            dim: model.hidden_size,
            batch,
            directions: if model.bidir == Bidirectional::Sum { 1 } else { 2 },
            parts: 1,
            element,
        };
        conv.with_batch(batch)
    }

    /// The same for another number of images.
    #[must_use]
    pub fn with_batch(&self, batch: usize) -> Self {
        let (channels, quarters) = match self.n {
            64 | 256 => (16, 1),
            1024 => (8, 1),
            4096 => (2, 1),
            _ => (2, 4),
        };
        let blocks = self.dim.div_ceil(channels) * quarters;
        Self {
            batch,
            parts: FULL.div_ceil(blocks).clamp(1, batch.max(1)),
            ..*self
        }
    }

    /// The operations of `count` complex transforms of `n`.
    fn transforms(&self, count: u64, n: usize) -> u64 {
        count * 5 * (n as u64) * u64::from(n.ilog2())
    }

    /// Bytes of the table that are read by `transforms` transforms of `lines` lines each, `at_once` a thread; `outer`
    /// numbers in the pass that touches activations.
    fn table(&self, lines: u64, at_once: u64, transforms: usize, outer: usize, n: usize) -> u64 {
        lines.div_ceil(at_once) * (transforms * (outer + middle_twiddles(n)) * n / 8) as u64 * COMPLEX
    }

    /// Bytes of the spectra of all kernels.
    fn spectra_bytes(&self, n: usize) -> u64 {
        product(&[self.directions, self.dim, n]) * COMPLEX
    }

    /// The same for `images` of `n` numbers of `element` bytes, transformed within a block.
    fn forward_of(&self, images: usize, kernels: usize, n: usize, element: u64, outer: usize) -> Work {
        let (lines, d) = (product(&[images, self.dim]), self.directions);
        let samples = lines * self.length.min(n) as u64;
        let spectra = images as u64 * self.spectra_bytes(n);
        let table = self.table(images as u64 * (self.dim as u64).div_ceil(4), 1, 1 + d, outer, n);
        Work {
            read: samples * element + spectra + table,
            written: d as u64 * samples * element,
            cached: spectra - kernels as u64 * self.spectra_bytes(n) + table,
            flops: self.transforms(lines * (1 + d as u64), n) + 6 * d as u64 * lines * n as u64,
            ..Work::default()
        }
    }

    fn backward_of(&self, images: usize, kernels: usize, n: usize, element: u64, outer: usize) -> Work {
        let (lines, d) = (product(&[images, self.dim]), self.directions);
        let samples = lines * self.length.min(n) as u64;
        let spectra = images as u64 * self.spectra_bytes(n);
        let sums = (self.parts * kernels) as u64 * self.spectra_bytes(n);
        let table = self.table(images as u64 * (self.dim as u64).div_ceil(2), 1, 2 + d, outer, n);
        Work {
            read: (1 + d as u64) * samples * element + 2 * spectra - sums + table,
            written: samples * element + spectra,
            cached: 3 * spectra - kernels as u64 * self.spectra_bytes(n) - 2 * sums + table,
            flops: self.transforms(lines * (2 + d as u64), n) + 18 * d as u64 * lines * n as u64,
            ..Work::default()
        }
    }

    /// `long_conv_forward`.
    pub fn forward(&self) -> Work {
        self.forward_of(self.batch, 1, self.n, self.element as u64, 2)
    }

    /// `long_conv_backward`.
    pub fn backward(&self) -> Work {
        self.backward_of(self.batch, 1, self.n, self.element as u64, 2)
    }

    /// `long_conv_spectra`.
    pub fn spectra(&self) -> Work {
        let lines = 2 * self.dim as u64;
        let table = self.table(lines, 1, 1, 2, self.n);
        Work {
            read: lines * (self.length as u64 + 1) * F32 + table,
            written: self.spectra_bytes(self.n),
            cached: table,
            flops: self.transforms(lines, self.n),
            ..Work::default()
        }
    }

    /// `long_conv_gradients`.
    pub fn gradients(&self) -> Work {
        let lines = 2 * self.dim as u64;
        let table = self.table(lines, 1, 1, 2, self.n);
        Work {
            read: lines * (self.parts * self.n) as u64 * COMPLEX + lines * F32 + table,
            written: lines * (self.length as u64 + 1) * F32,
            cached: table,
            flops: self.transforms(lines, self.n),
            ..Work::default()
        }
    }

    fn outer(&self, outer: usize, inner: usize, element: u64) -> Work {
        let (samples, whole) = (
            product(&[outer, self.length, inner]),
            product(&[outer, 4 * QUARTER, inner]),
        );
        let table = whole / 4 * 2 * COMPLEX;
        Work {
            read: samples * element + table,
            written: whole * COMPLEX,
            cached: table,
            flops: 17 * whole,
            ..Work::default()
        }
    }

    /// `long_conv_split` of `outer` signals of `inner` channels.
    pub fn split(&self, outer: usize, inner: usize) -> Work {
        self.outer(outer, inner, self.element as u64)
    }

    /// `long_conv_merge`.
    pub fn merge(&self, outer: usize, inner: usize) -> Work {
        let split = self.outer(outer, inner, self.element as u64);
        Work {
            read: split.written + split.cached,
            written: split.read - split.cached,
            ..split
        }
    }

    /// `long_conv_inner_forward`.
    pub fn inner_forward(&self) -> Work {
        self.forward_of(4 * self.batch, 4, QUARTER, COMPLEX, 1)
    }

    /// `long_conv_inner_backward`.
    pub fn inner_backward(&self) -> Work {
        self.backward_of(4 * self.batch, 4, QUARTER, COMPLEX, 1)
    }

    /// `long_conv_inner_spectra`.
    pub fn inner_spectra(&self) -> Work {
        let lines = 8 * self.dim as u64;
        let table = self.table(lines, 1, 1, 1, QUARTER);
        Work {
            read: lines * (QUARTER as u64 * COMPLEX + F32) + table,
            written: 4 * self.spectra_bytes(QUARTER),
            cached: table,
            flops: self.transforms(lines, QUARTER),
            ..Work::default()
        }
    }

    /// `long_conv_inner_gradients`.
    pub fn inner_gradients(&self) -> Work {
        let lines = 8 * self.dim as u64;
        let table = self.table(lines, 1, 1, 1, QUARTER);
        Work {
            read: lines * (self.parts * QUARTER) as u64 * COMPLEX + table,
            written: lines * QUARTER as u64 * COMPLEX,
            cached: table,
            flops: self.transforms(lines, QUARTER),
            ..Work::default()
        }
    }

    /// `long_conv_add_skip`.
    pub fn add_skip(&self) -> Work {
        let lines = 2 * self.dim as u64;
        Work {
            read: 2 * lines * F32,
            written: lines * F32,
            ..Work::default()
        }
    }

    /// Everything of a block's forward beside its kernels: one launch, or three.
    pub fn whole_forward(&self) -> Work {
        if self.n <= QUARTER {
            return self.forward();
        }
        let (split, merge) = (
            self.split(self.batch, self.dim),
            self.merge(self.batch, self.directions * self.dim),
        );
        split + self.inner_forward() + merge
    }

    /// The same of its backward.
    pub fn whole_backward(&self) -> Work {
        if self.n <= QUARTER {
            return self.backward();
        }
        let dy = self.split(self.batch, self.directions * self.dim);
        self.split(self.batch, self.dim) + dy + self.inner_backward() + self.merge(self.batch, self.dim)
    }

    /// Once a step: spectra of the kernels, and the kernels' gradients from the sums.
    pub fn whole_kernels(&self) -> Work {
        if self.n <= QUARTER {
            return self.spectra() + self.gradients();
        }
        let lines = Self {
            element: F32 as usize,
            ..*self
        };
        let (split, merge) = (lines.split(2 * self.dim, 1), lines.merge(2 * self.dim, 1));
        split + self.inner_spectra() + self.inner_gradients() + merge + self.add_skip()
    }
}

/// The inner length of the factored kernels, as `inner_length` of `ops::ssm_kernel`.
fn inner_length(length: usize) -> usize {
    (1 << length.max(1).ilog2().div_ceil(2)).max(16)
}

/// `ssm_kernels_f32`; the powers are f64 and few.
pub fn ssm_kernels(channels: usize, states: usize, length: usize) -> Work {
    Work {
        read: product(&[channels, 1 + 7 * states]) * F32,
        written: product(&[channels, length]) * F32,
        flops: product(&[channels, states, length, 4]),
        ..Work::default()
    }
}

/// `ssm_kernels_backward_f32`.
pub fn ssm_kernels_backward(channels: usize, states: usize, length: usize) -> Work {
    let rows = length.div_ceil(inner_length(length)) * inner_length(length);
    Work {
        read: product(&[channels, length]) * F32 + product(&[channels, 1 + 20 * states]) * F32,
        written: product(&[channels, 1 + 6 * states]) * F32,
        flops: product(&[channels, states, rows, 8]),
        ..Work::default()
    }
}

/// `training_loss`: f64 arithmetic.
pub fn training_loss(batch: usize, count: usize, element: usize) -> Work {
    let all = product(&[batch, count]);
    Work {
        read: all * (2 * F32 + 2 * element as u64),
        written: all * 2 * element as u64,
        flops: 80 * all,
        ..Work::default()
    }
}

/// `adamw_f32`, or `adamw_bf16`, which writes a copy of the weights, too.
pub fn adamw(count: usize, with_copy: bool) -> Work {
    let count = count as u64;
    Work {
        read: 5 * count * F32,
        written: 4 * count * F32 + if with_copy { 2 * count } else { 0 },
        flops: 24 * count,
        ..Work::default()
    }
}

/// `sum_of_squares_f32`.
pub fn sum_of_squares(count: usize) -> Work {
    Work {
        read: count as u64 * F32,
        written: count.div_ceil(1 << 16) as u64 * 8,
        flops: 2 * count as u64,
        ..Work::default()
    }
}

/// `grad_scale_f32`.
pub fn grad_scale(parts: usize, losses: usize) -> Work {
    Work {
        read: (parts + losses) as u64 * 8,
        written: 12,
        ..Work::default()
    }
}

/// `normals_f32`.
pub fn normals(batch: usize, count: usize) -> Work {
    let all = product(&[batch, count]);
    Work {
        read: batch as u64 * (count as u64 / 4) * 8,
        written: all * F32,
        cached: batch as u64 * (count as u64 / 4) * 8,
        flops: 60 * all,
        ..Work::default()
    }
}

/// `noised_f32`: four numbers a thread, each of which reads its image's id and noise level.
pub fn noised(batch: usize, count: usize) -> Work {
    let all = product(&[batch, count]);
    Work {
        read: all * F32 + all / 4 * 16,
        written: 3 * all * F32,
        cached: all / 4 * 16,
        flops: 64 * all,
        ..Work::default()
    }
}

/// `posterior_sample_f32`.
pub fn posterior_sample(batch: usize, count: usize) -> Work {
    let all = product(&[batch, count]);
    Work {
        read: 2 * all * F32 + all / 4 * 12,
        written: all * F32,
        cached: all / 4 * 12,
        flops: 70 * all,
        ..Work::default()
    }
}

/// `sampler_step`.
pub fn sampler_step(batch: usize, count: usize, element: usize) -> Work {
    let all = product(&[batch, count]);
    // An id and a noise level a thread of four, four numbers of the tables each.
    let small = all / 4 * 16 + all * 32;
    Work {
        read: all * (F32 + 2 * element as u64) + small,
        written: all * F32,
        cached: small,
        flops: 90 * all,
        ..Work::default()
    }
}

/// `guided`.
pub fn guided(batch: usize, count: usize, element: usize) -> Work {
    let all = product(&[batch, count]) * element as u64;
    Work {
        read: 2 * all,
        written: all,
        flops: 3 * all / element as u64,
        ..Work::default()
    }
}

/// `group_norm_sums`.
pub fn group_norm_sums(batch: usize, pixels: usize, channels: usize, element: usize) -> Work {
    Work {
        read: product(&[batch, pixels, channels, element]),
        written: product(&[batch, pixels.div_ceil(128), 2, channels]) * F32,
        flops: product(&[batch, pixels, channels, 4]),
        ..Work::default()
    }
}

/// `group_norm_affine`: a small kernel, whose threads all read the pivots.
pub fn group_norm_affine(batch: usize, parts: usize, channels: usize, element: usize) -> Work {
    let pivots = product(&[batch, channels, 256, element]);
    Work {
        read: product(&[batch, parts, 2, channels]) * F32 + product(&[batch, 2, channels]) * F32 + pivots,
        written: product(&[batch, 2, channels]) * F32,
        cached: pivots,
        ..Work::default()
    }
}

/// `group_norm_apply`.
pub fn group_norm_apply(batch: usize, pixels: usize, channels: usize, element: usize) -> Work {
    let count = product(&[batch, pixels, channels]);
    Work {
        read: count * element as u64 + product(&[batch, 2, channels]) * F32,
        written: count * element as u64,
        flops: 20 * count,
        ..Work::default()
    }
}

/// `group_norm_planes_f32`: x twice, the second time from the cache where a group fits there.
pub fn group_norm_planes(batch: usize, channels: usize, groups: usize, area: usize) -> Work {
    let all = product(&[batch, channels, area]);
    let origins = product(&[batch, groups, 256]) * F32;
    let parameters = 2 * channels as u64 * F32;
    Work {
        read: 4 * all * F32 + origins,
        written: all * F32,
        cached: 3 * all * F32 + origins - parameters,
        flops: 36 * all,
        ..Work::default()
    }
}

/// `to_bytes` and `from_bytes_f32`, with numbers of `element` bytes.
pub fn image_bytes(batch: usize, area: usize, element: usize) -> Work {
    let count = product(&[batch, 3, area]);
    Work {
        read: count * element as u64,
        written: count,
        flops: 4 * count,
        ..Work::default()
    }
}
