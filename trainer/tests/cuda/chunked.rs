//! The chunked convolution, beside the CPU's kernels and convolution.

use trainer::ops::long_conv::LongConv;
use trainer::ops::ssm_kernel::{Discretization, SsmParams, kernels};
use trainer::roofline::Chunked;

use super::Case;
use super::emulator::{Arg, Emulator, Kind, Launch};
use super::values::{assert_near, largest, wave};

/// Complex states that the kernels have room for.
const STATES: usize = 32;

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

    fn work(&self, kind: Kind) -> Chunked {
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
    fragments: Arg,
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

    fn with_parameters(&self, launch: Launch) -> Launch {
        let launch = launch.arg(&self.log_dt[..]);
        self.planes
            .iter()
            .fold(launch, |launch, plane| launch.arg(&plane[..]))
    }

    fn matrices_launch(&self, kind: Kind, with_slopes: bool) -> Launch {
        let lines = 2 * self.shape.dim;
        let name = format!("chunked_conv_matrices_{}", kind.suffix());
        let launch = self
            .with_parameters(Launch::new(name, (lines, 1), 256).shared(17_536))
            .arg(&self.skip[..]);
        let powers = vec![0f32; lines * STATES * 4];
        let launch = match kind {
            Kind::F32 => launch.arg(&vec![0f32; lines * 2080][..]).arg(&powers[..]),
            Kind::Bf16 => launch
                .arg(&vec![0u32; lines * 2176][..])
                .arg(&powers[..])
                .arg(&vec![0u32; lines * 3072][..]),
        };
        let discretization = i32::from(self.shape.kind == Discretization::Bilinear);
        let launch = launch.arg(self.shape.states as i32).arg(discretization);
        match kind {
            Kind::F32 => launch,
            Kind::Bf16 => launch.arg(i32::from(with_slopes)),
        }
    }

    fn matrices(&self, emulator: &mut Emulator, kind: Kind) -> Matrices {
        let run = emulator.run(&self.matrices_launch(kind, true));
        Matrices {
            fragments: match kind {
                Kind::F32 => run.f32s(8)[..].into(),
                Kind::Bf16 => run.get::<u32>(8)[..].into(),
            },
            powers: run.f32s(9),
        }
    }

    /// A convolution of `x` with so many inputs, into so many outputs.
    fn launch(&self, name: &str, kind: Kind, matrices: &Matrices, x: &[f32], ways: (usize, usize)) -> Launch {
        let Shape {
            length,
            dim,
            batch,
            parts,
            ..
        } = self.shape;
        let (inputs, outputs) = ways;
        let tile = 8 * 324 * if kind == Kind::F32 { 8 } else { 4 };
        let launch = Launch::new(
            format!("chunked_conv{name}_{}", kind.suffix()),
            (parts, dim.div_ceil(8)),
            512,
        );
        let launch = launch.shared(114_688 + inputs * tile).arg(kind.arg(x));
        let carries = vec![0f32; parts * (self.shape.work(kind).tiles() - 1) * dim * STATES * 2];
        launch
            .arg(matrices.fragments.clone())
            .arg(&matrices.powers[..])
            .arg(&carries[..])
            .arg(kind.arg(&vec![0.0; batch * length * outputs * dim]))
            .arg(batch as i32)
            .arg(length as i32)
            .arg(dim as i32)
    }

    fn forward(&self, kind: Kind, matrices: &Matrices, u: &[f32]) -> Launch {
        let outputs = self.shape.directions;
        let launch = self.launch("", kind, matrices, u, (1, outputs));
        launch.arg(outputs as i32).arg(0)
    }

    fn adjoint(&self, kind: Kind, matrices: &Matrices, dy: &[f32]) -> Launch {
        if self.shape.directions == 2 {
            return self.launch("_adjoint", kind, matrices, dy, (2, 1));
        }
        self.launch("", kind, matrices, dy, (1, 1)).arg(1).arg(1)
    }
}

impl Matrices {
    /// Some of the right size, for what moves bytes and counts them.
    fn any(shape: &Shape, kind: Kind) -> Self {
        let lines = 2 * shape.dim;
        let words = wave(lines * 2080, 0.4);
        Self {
            fragments: match kind {
                Kind::F32 => words[..].into(),
                Kind::Bf16 => (0..lines * 2176)
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
    for kind in Kind::BOTH {
        let (work, matrices) = (shape.work(kind), Matrices::any(&shape, kind));
        cases.extend([
            Case::new(
                bank.matrices_launch(kind, true),
                work.matrices(shape.states, true),
            ),
            Case::new(bank.forward(kind, &matrices, &u), work.forward()),
            Case::new(bank.adjoint(kind, &matrices, &dy), work.adjoint()),
        ]);
    }
    cases
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

fn assert_is_twin(what: &str, kind: Kind, got: &[f32], want: &[f32]) {
    match kind {
        Kind::F32 => assert_near(what, got, want, 0.0, 1e-5 * largest(want)),
        Kind::Bf16 => {
            // Matrices and states are rounded to bf16, each by up to 1 / 512 of itself, and numbers cancel in their sums.
            let noise = noise(got, want);
            eprintln!("{what}: noise {noise:.2e}");
            assert!(noise < 1e-2, "{what}: noise {noise:.2e}");
            assert_near(what, got, want, kind.epsilon(), 2e-2 * largest(want));
        }
    }
}

#[test]
fn the_chunked_convolution_is_the_cpus() {
    let Some(mut emulator) = Emulator::start() else {
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
        for kind in Kind::BOTH {
            let u = kind.rounded(&wave(shape.u_len(), 0.4));
            let dy = kind.rounded(&wave(shape.directions * shape.u_len(), 3.7));
            let want = twin(&bank, &u, &dy);
            let matrices = bank.matrices(&mut emulator, kind);
            let y = emulator.run(&bank.forward(kind, &matrices, &u)).values(kind, 4);
            let du = emulator.run(&bank.adjoint(kind, &matrices, &dy)).values(kind, 4);
            let what = format!("{kind:?} {shape:?}");
            assert_is_twin(&format!("{what}: y"), kind, &y, &want.y);
            assert_is_twin(&format!("{what}: du"), kind, &du, &want.du);
        }
    }
}
