//! A launch of one of the kernels of `trainer/kernels`: its name, its shape and its arguments.

use crate::ops::profile::Op;
use crate::roofline::Work;

/// The type of activations on the device. Weights, gradients and the residual stream are f32 in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// Single precision.
    F32,
    /// bfloat16.
    Bf16,
}

impl Element {
    /// Both.
    pub const ALL: [Self; 2] = [Self::F32, Self::Bf16];

    /// The suffix of a kernel's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// Numbers of a row of `cols` that one thread moves at a time: 16 bytes, where that divides the row.
    pub fn pack(self, cols: usize) -> usize {
        let widest = 16 / self.bytes();
        if cols.is_multiple_of(widest) { widest } else { 1 }
    }
}

/// An argument of a kernel; `B` is a place in the device's memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg<B> {
    /// A pointer.
    Buffer(B),
    /// `int`
    I32(i32),
    /// `long long`
    I64(i64),
    /// `float`
    F32(f32),
    /// `double`
    F64(f64),
}

/// A kernel and what it is launched with.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch<B> {
    /// The kernel's name.
    pub name: String,
    /// Blocks.
    pub grid: (usize, usize),
    /// Threads of a block.
    pub block: usize,
    /// Bytes of dynamic shared memory.
    pub shared: usize,
    /// In the kernel's order.
    pub args: Vec<Arg<B>>,
    /// The kind of operation.
    pub op: Op,
    /// What it moves and computes.
    pub work: Work,
}

impl<B> Launch<B> {
    /// A launch without arguments yet.
    pub fn new(op: Op, name: impl Into<String>, grid: (usize, usize), block: usize, work: Work) -> Self {
        Self {
            name: name.into(),
            grid,
            block,
            shared: 0,
            args: Vec::new(),
            op,
            work,
        }
    }

    /// With so many bytes of dynamic shared memory.
    #[must_use]
    pub fn shared(self, shared: usize) -> Self {
        Self { shared, ..self }
    }

    /// With more buffers.
    #[must_use]
    pub fn buffers<const N: usize>(mut self, buffers: [B; N]) -> Self {
        self.args.extend(buffers.map(Arg::Buffer));
        self
    }

    /// With more sizes and flags.
    #[must_use]
    pub fn ints<const N: usize>(mut self, numbers: [usize; N]) -> Self {
        self.args.extend(numbers.map(|number| Arg::I32(number as i32)));
        self
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, arg: Arg<B>) -> Self {
        self.args.push(arg);
        self
    }

    /// The same with every place turned into another.
    pub fn map<C>(&self, place: impl Fn(&B) -> C) -> Launch<C> {
        let arg = |arg: &Arg<B>| match arg {
            Arg::Buffer(buffer) => Arg::Buffer(place(buffer)),
            Arg::I32(value) => Arg::I32(*value),
            Arg::I64(value) => Arg::I64(*value),
            Arg::F32(value) => Arg::F32(*value),
            Arg::F64(value) => Arg::F64(*value),
        };
        Launch {
            name: self.name.clone(),
            grid: self.grid,
            block: self.block,
            shared: self.shared,
            args: self.args.iter().map(arg).collect(),
            op: self.op,
            work: self.work,
        }
    }

    /// The places among its arguments.
    pub fn places(&self) -> impl Iterator<Item = &B> {
        self.args.iter().filter_map(|arg| match arg {
            Arg::Buffer(buffer) => Some(buffer),
            _ => None,
        })
    }
}
