//! Bytes and operations of the chunked convolution (`trainer/kernels/chunked_conv*.cu`), from its shapes.

use super::{F32, Work, product};

/// Samples of a chunk, of a tile, and complex states of a channel: as in `kernels/chunked_conv.cuh`.
const CHUNK: usize = 32;
const TILE: usize = 16 * CHUNK;
const STATES: usize = 32;
/// Channels of a block.
const CHANNELS: usize = 8;
/// Bytes of a complex number.
const COMPLEX: u64 = 8;
/// Bytes of a matrix between samples and states in bf16, as fragments of a warp.
const MATRIX: u64 = (2 * STATES * CHUNK) as u64 * 2;

/// The kernels of the chunked convolution, of one block of the model.
#[derive(Clone, Copy, Debug)]
pub struct Chunked {
    /// Samples L.
    pub length: usize,
    /// Channels D.
    pub dim: usize,
    /// Images.
    pub batch: usize,
    /// 2, or 1 where the two directions are added.
    pub directions: usize,
    /// Shares of the batch that have blocks of their own.
    pub parts: usize,
    /// Bytes of an activation: 2 for bf16, where products are those of tensor cores, or 4.
    pub element: usize,
}

/// Blocks that go through a batch: four rounds of an A100's 108 multiprocessors. Each reads the matrices of its channels once, so
/// that more of them would read more.
const BLOCKS: usize = 432;

impl Chunked {
    /// Shares of a batch of `batch` images that have blocks of their own, for `dim` channels.
    pub fn shares(batch: usize, dim: usize) -> usize {
        BLOCKS.div_ceil(dim.div_ceil(CHANNELS)).clamp(1, batch.max(1))
    }

    /// Tiles of an image.
    pub fn tiles(&self) -> usize {
        self.length.div_ceil(TILE)
    }

    fn is_tensor(&self) -> bool {
        self.element == 2
    }

    /// Channels and directions, with those that fill up the last block.
    fn lines(&self) -> usize {
        2 * self.dim.next_multiple_of(CHANNELS)
    }

    /// Bytes of a line's fragments and powers.
    fn line_bytes(&self) -> u64 {
        let fragments = if self.is_tensor() {
            2 * MATRIX + 4 * 32 * 4
        } else {
            ((2 * STATES + 1) * CHUNK) as u64 * F32
        };
        fragments + STATES as u64 * 4 * F32
    }

    /// Samples of all images and channels, with those that fill up tiles and blocks.
    fn padded(&self, tiles: usize) -> u64 {
        product(&[self.batch, tiles, TILE, self.lines() / 2])
    }

    /// `chunked_conv_matrices`, `with_slopes` for the backward in bf16: the powers are f64 and few.
    pub fn matrices(&self, states: usize, with_slopes: bool) -> Work {
        let lines = 2 * self.dim as u64;
        let slopes = if with_slopes && self.is_tensor() {
            3 * MATRIX
        } else {
            0
        };
        Work {
            read: lines * (1 + 7 * states as u64) * F32,
            written: lines * (self.line_bytes() + slopes),
            flops: lines * product(&[states, CHUNK, 16]),
            ..Work::default()
        }
    }

    /// The convolution of `inputs` (one for both directions, or one each) into `outputs`.
    ///
    /// On its first way it reads one input but for the first tile of each image, for the states of one direction.
    fn conv(&self, inputs: usize, outputs: usize) -> Work {
        let element = self.element as u64;
        let samples = product(&[self.batch, self.length, self.dim]);
        let first_way = product(&[self.batch, self.length - self.length.min(TILE), self.dim]) * element;
        let behind_first = self.tiles() - 1;
        let lines = self.lines() as u64;
        let matrices = product(&[self.parts]) * lines * self.line_bytes();
        let carries = product(&[self.batch, behind_first, self.dim, STATES]) * COMPLEX;
        let kept = product(&[self.parts, behind_first, self.dim, STATES]) * COMPLEX;
        let (twice, once) = (self.padded(self.tiles()), self.padded(behind_first));
        // A complex multiply-add for each state and chunk; into a matrix of the states, out of it, and the triangle.
        let (scan, into, all) = (8, 4 * STATES as u64, 8 * STATES as u64 + 48);
        let products = twice * 2 * all + once * into;
        let scans = (2 * twice + once) * scan;
        Work {
            read: samples * element * inputs as u64 + first_way + matrices + carries,
            written: samples * element * outputs as u64 + carries,
            cached: first_way + matrices - 2 * self.dim as u64 * self.line_bytes() + 2 * carries - kept,
            flops: scans + if self.is_tensor() { 0 } else { products },
            tensor_flops: if self.is_tensor() { products } else { 0 },
        }
    }

    /// `chunked_conv`: y of u.
    pub fn forward(&self) -> Work {
        self.conv(1, self.directions)
    }

    /// `chunked_conv_adjoint`, or `chunked_conv` where directions are added: du of dy.
    pub fn adjoint(&self) -> Work {
        self.conv(self.directions, 1)
    }

    /// `chunked_conv_moments`: a block has one direction.
    pub fn moments(&self) -> Work {
        let element = self.element as u64;
        let samples = product(&[self.batch, self.length, self.dim]);
        let (u, dy) = (2 * samples * element, 2 * samples * element);
        // Of the matrices in bf16 a warp has two, and only those between samples and states.
        let powers = STATES as u64 * 4 * F32;
        let (line, read_of_line) = if self.is_tensor() {
            (4 * MATRIX + powers, 4 * MATRIX + powers)
        } else {
            (powers, 2 * powers)
        };
        let matrices = product(&[self.parts, self.lines()]) * read_of_line;
        let padded = 2 * self.padded(self.tiles());
        // In bf16, for each state and chunk: three complex multiply-adds of sums, two of states, and the lags. In f32, for
        // each state and sample: two multiplications by the step, two sums, and two additions.
        let flops = if self.is_tensor() {
            44
        } else {
            STATES as u64 * 24 + 2
        };
        Work {
            read: u + dy + matrices,
            written: product(&[self.parts, 2, self.dim, STATES]) * 5 * F32,
            cached: samples * element
                + if self.directions == 1 {
                    samples * element
                } else {
                    0
                }
                + matrices
                - 2 * self.dim as u64 * line,
            flops: padded * flops,
            tensor_flops: if self.is_tensor() {
                padded * (16 * STATES as u64 + 48)
            } else {
                0
            },
        }
    }

    /// `chunked_conv_gradients_f32`: f64, and few.
    pub fn gradients(&self, states: usize) -> Work {
        let lines = 2 * self.dim as u64;
        let sums = product(&[self.parts, STATES]) * 5 * F32;
        // The gradients are read and written, the parameters read twice but for log_dt, which each lane reads.
        let state = states as u64 * F32;
        Work {
            read: lines * (sums + 6 * state + 12 * state + (STATES + states) as u64 * F32 + 2 * F32),
            written: lines * (6 * state + 2 * F32),
            cached: lines * (6 * state + (STATES + states - 1) as u64 * F32),
            flops: lines * product(&[STATES, CHUNK, 16]),
            ..Work::default()
        }
    }
}
