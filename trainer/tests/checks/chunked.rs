//! The chunked convolution, beside the CPU's kernels and convolution.

use trainer::gpu::Element;
use trainer::gpu::kernels::chunked::{self, STATES};
use trainer::ops::long_conv::LongConv;
use trainer::ops::ssm_kernel::{Discretization, SsmParams, kernels};
use trainer::roofline::Chunked;

use crate::device::Runner;

use super::Case;
use super::runner::{Bytes, Launch, Numbers as _};
use super::values::{assert_near, largest, wave};

/// Both directions' parameters, skip weights, and the shape of a batch.
#[derive(Clone, Debug)]
struct Shape {
    length: usize,
    dim: usize,
    batch: usize,
    directions: usize,
    parts: usize,
    states: usize,
    kind: Discretization,
}

impl Shape {
    fn new(length: usize, dim: usize, batch: usize, directions: usize, parts: usize) -> Self {
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

    fn work(&self, kind: Element) -> Chunked {
        Chunked {
            length: self.length,
            dim: self.dim,
            batch: self.batch,
            directions: self.directions,
            parts: self.parts,
            element: kind.bytes(),
        }
    }

    fn u_len(&self) -> usize {
        self.batch * self.length * self.dim
    }
}

struct Bank {
    shape: Shape,
    log_dt: Vec<f32>,
    /// log_a_real, a_imag, b_re, b_im, c_re, c_im
    planes: Vec<Vec<f32>>,
    skip: Vec<f32>,
}

/// The matrices that a launch makes of the parameters.
struct Matrices {
    fragments: Bytes,
    powers: Vec<f32>,
}

impl Bank {
    fn new(shape: &Shape) -> Self {
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

    fn params(&self) -> SsmParams<'_> {
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

    fn kernels(&self) -> Vec<f32> {
        kernels(&self.params(), self.shape.kind, self.shape.length)
    }

    fn matrices_launch(&self, kind: Element, with_slopes: bool) -> Launch {
        let lines = 2 * self.shape.dim;
        let params = std::array::from_fn(|i| match i {
            0 => self.log_dt[..].into(),
            _ => self.planes[i - 1][..].into(),
        });
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
            params,
            self.skip[..].into(),
            [fragments, Bytes::zeros::<f32>(lines * STATES * 4)],
            slopes,
        )
    }

    fn matrices(&self, runner: &mut Runner, kind: Element) -> Matrices {
        let run = runner.run(&self.matrices_launch(kind, true));
        Matrices {
            fragments: match kind {
                Element::F32 => run.f32s(8)[..].into(),
                Element::Bf16 => run.get::<u32>(8)[..].into(),
            },
            powers: run.f32s(9),
        }
    }

    fn carries(&self, kind: Element) -> Bytes {
        Bytes::zeros::<f32>(2 * chunked::carries(&self.shape.work(kind)))
    }

    fn forward(&self, kind: Element, matrices: &Matrices, u: &[f32]) -> Launch {
        let y = kind.zeros(self.shape.directions * self.shape.u_len());
        let (shape, from) = (self.shape.work(kind), kind.buffer(u));
        chunked::forward(kind, &shape, from, matrices.buffers(), self.carries(kind), y)
    }

    fn adjoint(&self, kind: Element, matrices: &Matrices, dy: &[f32]) -> Launch {
        let du = kind.zeros(self.shape.u_len());
        let (shape, from) = (self.shape.work(kind), kind.buffer(dy));
        chunked::adjoint(kind, &shape, from, matrices.buffers(), self.carries(kind), du)
    }
}

impl Matrices {
    fn buffers(&self) -> [Bytes; 2] {
        [self.fragments.clone(), self.powers[..].into()]
    }

    /// Some of the right size, for what moves bytes and counts them.
    fn any(shape: &Shape, kind: Element) -> Self {
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
        }
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let shape = Shape::new(1100, 8, 2, 2, 1);
    let bank = Bank::new(&shape);
    let (u, dy) = (wave(shape.u_len(), 0.4), wave(2 * shape.u_len(), 0.9));
    for kind in Element::ALL {
        let matrices = Matrices::any(&shape, kind);
        cases.extend([
            bank.matrices_launch(kind, true),
            bank.forward(kind, &matrices, &u),
            bank.adjoint(kind, &matrices, &dy),
        ]);
    }
    cases.into_iter().map(Case::from).collect()
}

/// What a convolution and its gradient give.
struct Found {
    y: Vec<f32>,
    du: Vec<f32>,
}

/// By the CPU's operations.
fn twin(bank: &Bank, u: &[f32], dy: &[f32]) -> Found {
    let (shape, k) = (&bank.shape, bank.kernels());
    let (conv, is_sum) = (LongConv::new(shape.length), shape.directions == 1);
    let spectra = conv.spectra(&k);
    let mut found = Found {
        y: vec![0.0; dy.len()],
        du: vec![0.0; u.len()],
    };
    conv.forward(u, &spectra, &bank.skip, is_sum, &mut found.y);
    let (mut dk, mut d_skip) = (vec![0.0; k.len()], vec![0.0; bank.skip.len()]);
    conv.backward(
        u,
        &spectra,
        &bank.skip,
        is_sum,
        dy,
        &mut found.du,
        &mut dk,
        &mut d_skip,
    );
    found
}

/// The root of the mean square of the differences, beside that of the numbers.
fn noise(got: &[f32], want: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let errors: f64 = got.iter().zip(want).map(|(g, w)| square(f64::from(g - w))).sum();
    let all: f64 = want.iter().map(|&w| square(f64::from(w))).sum();
    (errors / all).sqrt()
}

fn assert_is_twin(what: &str, kind: Element, got: &[f32], want: &[f32]) {
    match kind {
        Element::F32 => assert_near(what, got, want, 0.0, 1e-5 * largest(want)),
        Element::Bf16 => {
            // Matrices and states are rounded to bf16, each by up to 1 / 512 of itself, and numbers cancel in their sums.
            let noise = noise(got, want);
            eprintln!("{what}: noise {noise:.2e}");
            assert!(noise < 1e-2, "{what}: noise {noise:.2e}");
            assert_near(what, got, want, kind.epsilon(), 2e-2 * largest(want));
        }
    }
}

pub(crate) fn the_chunked_convolution_is_the_cpus() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    // Less than a chunk, than a tile, several; channels that fill no block and no pack; parts that do not divide the batch.
    let mut shapes = vec![
        Shape::new(1024, 16, 3, 2, 2),
        Shape::new(7, 12, 2, 2, 1),
        Shape::new(333, 5, 2, 1, 2),
        Shape::new(1537, 3, 1, 1, 1),
        Shape::new(4100, 4, 1, 2, 1),
        Shape::new(1, 2, 1, 2, 1),
    ];
    shapes[2].kind = Discretization::Bilinear;
    shapes[3].states = 5;
    for shape in shapes {
        let bank = Bank::new(&shape);
        for kind in Element::ALL {
            let u = kind.rounded(&wave(shape.u_len(), 0.4));
            let dy = kind.rounded(&wave(shape.directions * shape.u_len(), 3.7));
            let want = twin(&bank, &u, &dy);
            let matrices = bank.matrices(&mut runner, kind);
            let y = runner.run(&bank.forward(kind, &matrices, &u)).values(kind, 4);
            let du = runner.run(&bank.adjoint(kind, &matrices, &dy)).values(kind, 4);
            let what = format!("{kind:?} {shape:?}");
            assert_is_twin(&format!("{what}: y"), kind, &y, &want.y);
            assert_is_twin(&format!("{what}: du"), kind, &du, &want.du);
        }
    }
}
