//! The launches of the chunked convolution, and the parameters that they start from.

use trainer::gpu::Element;
use trainer::gpu::kernels::chunked::{self, STATES};
use trainer::ops::ssm_kernel::{Discretization, SsmParams, kernels};
use trainer::roofline::Chunked;

use super::super::runner::{Bytes, Launch, Numbers as _};
use super::super::values::wave;
use crate::device::Runner;

/// Both directions' parameters, skip weights, and the shape of a batch.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) length: usize,
    pub(super) dim: usize,
    pub(super) batch: usize,
    pub(super) directions: usize,
    pub(super) parts: usize,
    pub(super) states: usize,
    pub(super) kind: Discretization,
}

impl Shape {
    pub(super) fn new(length: usize, dim: usize, batch: usize, directions: usize, parts: usize) -> Self {
        Self {
            length,
            dim,
            batch,
            directions,
            parts,
            states: STATES,
            kind: Discretization::Zoh,
        }
    }

    pub(super) fn work(&self, kind: Element) -> Chunked {
        Chunked {
            length: self.length,
            dim: self.dim,
            batch: self.batch,
            directions: self.directions,
            parts: self.parts,
            element: kind.bytes(),
        }
    }

    pub(super) fn u_len(&self) -> usize {
        self.batch * self.length * self.dim
    }
}

pub(super) struct Bank {
    pub(super) shape: Shape,
    pub(super) log_dt: Vec<f32>,
    /// log_a_real, a_imag, b_re, b_im, c_re, c_im
    pub(super) planes: Vec<Vec<f32>>,
    pub(super) skip: Vec<f32>,
}

/// The matrices that a launch makes of the parameters.
pub(super) struct Matrices {
    pub(super) fragments: Bytes,
    pub(super) powers: Vec<f32>,
    /// Of bf16.
    pub(super) slopes: Vec<u32>,
}

impl Bank {
    pub(super) fn new(shape: &Shape) -> Self {
        let (lines, states) = (2 * shape.dim, shape.states);
        let mut planes: Vec<Vec<f32>> = (0..6).map(|i| wave(lines * states, 0.9 + f64::from(i))).collect();
        // Imaginary parts up to pi n, as they are initialised.
        planes[1] = (0..lines * states).map(|i| 3.1 * (i % states) as f32).collect();
        Self {
            shape: shape.clone(),
            log_dt: wave(lines, 0.2).iter().map(|v| 1.5 * v - 4.6).collect(),
            planes,
            skip: wave(lines, 2.3),
        }
    }

    pub(super) fn params(&self) -> SsmParams<'_> {
        SsmParams {
            log_dt: &self.log_dt,
            log_a_real: &self.planes[0],
            a_imag: &self.planes[1],
            b_re: &self.planes[2],
            b_im: &self.planes[3],
            c_re: &self.planes[4],
            c_im: &self.planes[5],
        }
    }

    pub(super) fn kernels(&self) -> Vec<f32> {
        kernels(&self.params(), self.shape.kind, self.shape.length)
    }

    fn parameters(&self) -> [Bytes; 7] {
        std::array::from_fn(|i| match i {
            0 => self.log_dt[..].into(),
            _ => self.planes[i - 1][..].into(),
        })
    }

    pub(super) fn matrices_launch(&self, kind: Element, with_slopes: bool) -> Launch {
        let lines = 2 * self.shape.dim;
        let (fragments, slopes) = match kind {
            Element::F32 => (Bytes::zeros::<f32>(lines * chunked::fragments(kind)), None),
            Element::Bf16 => (
                Bytes::zeros::<u32>(lines * chunked::fragments(kind)),
                Some(Bytes::zeros::<u32>(lines * chunked::SLOPES)),
            ),
        };
        chunked::matrices(
            &self.shape.work(kind),
            [self.shape.states, usize::from(with_slopes)],
            self.shape.kind,
            self.parameters(),
            self.skip[..].into(),
            [fragments, Bytes::zeros::<f32>(lines * STATES * 4)],
            slopes,
        )
    }

    pub(super) fn matrices(&self, runner: &mut Runner, kind: Element) -> Matrices {
        let run = runner.run(&self.matrices_launch(kind, true));
        Matrices {
            fragments: match kind {
                Element::F32 => run.f32s(8)[..].into(),
                Element::Bf16 => run.get::<u32>(8)[..].into(),
            },
            powers: run.f32s(9),
            slopes: match kind {
                Element::F32 => Vec::new(),
                Element::Bf16 => run.get(10),
            },
        }
    }

    fn carries(&self, kind: Element) -> Bytes {
        Bytes::zeros::<f32>(2 * chunked::carries(&self.shape.work(kind)))
    }

    pub(super) fn forward(&self, kind: Element, matrices: &Matrices, u: &[f32]) -> Launch {
        let y = kind.zeros(self.shape.directions * self.shape.u_len());
        let (shape, from) = (self.shape.work(kind), kind.buffer(u));
        chunked::forward(kind, &shape, from, matrices.buffers(), self.carries(kind), y)
    }

    pub(super) fn adjoint(&self, kind: Element, matrices: &Matrices, dy: &[f32]) -> Launch {
        let du = kind.zeros(self.shape.u_len());
        let (shape, from) = (self.shape.work(kind), kind.buffer(dy));
        chunked::adjoint(kind, &shape, from, matrices.buffers(), self.carries(kind), du)
    }

    pub(super) fn moments(&self, kind: Element, matrices: &Matrices, u: &[f32], dy: &[f32]) -> Launch {
        let lines = self.shape.parts * 2 * self.shape.dim;
        let slopes = (kind == Element::Bf16).then(|| matrices.slopes[..].into());
        chunked::moments(
            &self.shape.work(kind),
            [kind.buffer(u), kind.buffer(dy)],
            matrices.buffers(),
            slopes,
            [4, 1].map(|numbers| Bytes::zeros::<f32>(lines * STATES * numbers)),
        )
    }

    /// Gradients start at `start`.
    pub(super) fn gradients(&self, moments: &[f32], near: &[f32], start: f32, train_b: bool) -> Launch {
        let (lines, states) = (2 * self.shape.dim, self.shape.states);
        let grads = std::array::from_fn(|i| {
            let of_line = if i == 0 { 1 } else { states };
            vec![start; lines * of_line][..].into()
        });
        chunked::gradients(
            &self.shape.work(Element::F32),
            states,
            self.shape.kind,
            self.parameters(),
            [moments.into(), near.into()],
            grads,
            vec![start; lines][..].into(),
            train_b,
        )
    }
}

impl Matrices {
    fn buffers(&self) -> [Bytes; 2] {
        [self.fragments.clone(), self.powers[..].into()]
    }

    /// Some of the right size, for what moves bytes and counts them.
    pub(super) fn any(shape: &Shape, kind: Element) -> Self {
        let lines = 2 * shape.dim;
        let words = wave(lines * 2080, 0.4);
        Self {
            fragments: match kind {
                Element::F32 => words[..].into(),
                Element::Bf16 => (0..lines * 2176)
                    .map(|i| 0x3c00_3c00 + (i % 512) as u32)
                    .collect::<Vec<u32>>()[..]
                    .into(),
            },
            powers: wave(lines * STATES * 4, 0.8).iter().map(|v| 0.5 * v).collect(),
            slopes: vec![0x3c00_3c00; lines * 3072],
        }
    }
}
