//! What a device does in a step, as a list: launches of kernels, matrix products, and what other processes must know.
//!
//! A program depends on shapes alone. It is made once and run for every step: each buffer has its place from the start, nothing
//! is allocated while it runs, and what changes from step to step lies in memory that is written before it. So it can be captured
//! as one CUDA graph, run by an emulation of the device, and counted without running it.

mod arena;
mod builder;
mod filled;

pub use builder::Builder;
pub(super) use filled::Filled;

use super::launch::{Element, Launch};
use crate::ops::profile::Op;
use crate::roofline::Work;

/// Every buffer begins at a multiple of so many bytes, as those of the driver do.
pub(super) const ALIGNMENT: usize = 256;

/// A part of the device's memory with a purpose of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// Weights, f32.
    Params,
    /// Their gradients, f32.
    Grads,
    /// First moment of the optimiser, f32.
    First,
    /// Second moment, f32.
    Second,
    /// Moving average of the weights, f32.
    Ema,
    /// Weights in bf16, for the products.
    Copy,
    /// Tables, written once.
    Constants,
    /// What a step starts from, written before it.
    Inputs,
    /// What a step tells, read after it.
    Outputs,
    /// The spectra of the convolution kernels of all blocks.
    Spectra,
    /// Activations and whatever else lives for a part of a program.
    Arena,
}

/// A place in the device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Where.
    pub space: Space,
    /// Bytes before it in the space.
    pub offset: usize,
    /// Its length in bytes.
    pub bytes: usize,
    /// Bytes of an element.
    pub size: usize,
}

impl Slot {
    /// `count` elements of `size` bytes from byte `offset` on.
    pub fn new(space: Space, offset: usize, count: usize, size: usize) -> Self {
        Self {
            space,
            offset,
            bytes: count * size,
            size,
        }
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.bytes / self.size
    }

    /// Elements `start` to `start + count`.
    ///
    /// # Panics
    /// When there are not so many: a mistake of the program's maker.
    #[must_use]
    pub fn part(&self, start: usize, count: usize) -> Self {
        assert!(
            start + count <= self.count(),
            "a part {start} + {count} of {} elements",
            self.count()
        );
        Self::new(self.space, self.offset + start * self.size, count, self.size)
    }

    /// Whether the two have a byte in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.space == other.space
            && self.offset < other.offset + other.bytes
            && other.offset < self.offset + self.bytes
    }
}

/// A row-major matrix in the device's memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matrix {
    /// From its first element to its last.
    pub slot: Slot,
    /// The type of its elements.
    pub element: Element,
    /// Elements from row to row, as it is stored.
    pub stride: usize,
    /// Whether the product takes it transposed.
    pub is_transposed: bool,
}

impl Matrix {
    /// `slot` as rows of `cols` elements.
    pub fn new(slot: Slot, element: Element, cols: usize) -> Self {
        Self {
            slot,
            element,
            stride: cols,
            is_transposed: false,
        }
    }

    /// Columns `start` to `start + count` of all rows.
    #[must_use]
    pub fn columns(&self, start: usize, count: usize) -> Self {
        let rows = self.slot.count() / self.stride;
        let slot = self.slot.part(start, (rows - 1) * self.stride + count);
        Self { slot, ..*self }
    }

    /// The same, transposed.
    #[must_use]
    pub fn t(&self) -> Self {
        Self {
            is_transposed: !self.is_transposed,
            ..*self
        }
    }
}

/// `out = a b + beta out`: `a` `[rows, inner]`, `b` `[inner, cols]`, `out` `[rows, cols]`; sums are f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// Rows of the result.
    pub rows: usize,
    /// Columns of the result.
    pub cols: usize,
    /// Length of the sums.
    pub inner: usize,
    /// The left factor.
    pub a: Matrix,
    /// The right factor.
    pub b: Matrix,
    /// The result.
    pub out: Matrix,
    /// 0, or 1 to add.
    pub beta: f32,
}

impl Product {
    /// Bytes and operations, two a multiply-add.
    pub fn work(&self) -> Work {
        let bytes = |m: usize, n: usize, of: &Matrix| (m * n * of.element.bytes()) as u64;
        let out = bytes(self.rows, self.cols, &self.out);
        Work {
            read: bytes(self.rows, self.inner, &self.a)
                + bytes(self.inner, self.cols, &self.b)
                + if self.beta == 0.0 { 0 } else { out },
            written: out,
            flops: 2 * (self.rows * self.cols * self.inner) as u64,
            ..Work::default()
        }
    }
}

/// One thing that a device does, after all before it.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// A kernel.
    Launch(Launch<Slot>),
    /// A matrix product.
    Product(Product),
    /// Fills a place with zero bytes.
    Zero(Slot),
    /// The gradients in this place will not be written again before the next step: they can be summed over processes.
    Final(Slot),
    /// Everything that came with [`Command::Final`] must have been summed, and these f64 are summed over processes here.
    Sum(Slot),
}

impl Command {
    /// Its kind, and what it moves and computes; `None` for what is said to other processes.
    pub fn work(&self) -> Option<(Op, Work)> {
        match self {
            Self::Launch(launch) => Some((launch.op, launch.work)),
            Self::Product(product) => Some((Op::MatMul, product.work())),
            Self::Zero(slot) => {
                let work = Work {
                    written: slot.bytes as u64,
                    ..Work::default()
                };
                Some((Op::Activation, work))
            }
            Self::Final(_) | Self::Sum(_) => None,
        }
    }
}

/// A list of commands, and the memory that it works in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// In order.
    pub commands: Vec<Command>,
    /// Bytes of [`Space::Arena`].
    pub arena: usize,
}
