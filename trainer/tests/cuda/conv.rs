//! The long convolution, beside the CPU's operation.

use std::f64::consts::PI;

use trainer::ops::long_conv::LongConv;
use trainer::roofline::work;

use super::Case;
use super::emulator::{Emulator, Kind, Launch};
use super::values::{assert_near, largest, wave};

/// `e^{sign 2 pi i j / period}` for j below `count`.
fn turns(count: usize, sign: f64, period: usize) -> Vec<f32> {
    (0..count)
        .flat_map(|j| {
            let angle = sign * 2.0 * PI * j as f64 / period as f64;
            [angle.cos() as f32, angle.sin() as f32]
        })
        .collect()
}

fn table(n: usize) -> Vec<f32> {
    [turns(n / 4, -1.0, n), turns(n / 8, 1.0, 4 * n)].concat()
}

/// The table of the first and last pass over 16,384 samples.
fn outer_table() -> Vec<f32> {
    [turns(4096, -1.0, 16_384), turns(4096, 1.0, 65_536)].concat()
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    n: usize,
    length: usize,
    dim: usize,
    batch: usize,
    directions: usize,
    parts: usize,
}

/// Channels and threads of a block, and bytes of its dynamic shared memory.
struct Block(usize, usize, usize);

impl Shape {
    fn forward_block(&self) -> Block {
        match self.n {
            64 => Block(16, 32, 9_344),
            256 => Block(16, 128, 36_992),
            1024 => Block(8, 256, 73_856),
            _ => Block(4, 512, 163_840),
        }
    }

    fn backward_block(&self) -> Block {
        match self.n {
            64 => Block(16, 64, 17_536),
            256 => Block(16, 256, 69_760),
            1024 => Block(8, 512, 139_392),
            _ => Block(2, 512, 139_264),
        }
    }

    fn u_len(&self) -> usize {
        self.batch * self.length * self.dim
    }

    /// Numbers of the spectra of one part.
    fn spectra_len(&self) -> usize {
        2 * self.directions * self.dim * self.n
    }

    fn rows(&self, name: &str, lines: usize) -> Launch {
        let rows = (1024 / self.n).max(1);
        let launch = Launch::new(
            format!("long_conv_{name}_{}", self.n),
            (lines.div_ceil(rows), 1),
            rows * self.n / 8,
        );
        launch.shared(9 * rows * self.n)
    }

    fn spectra(&self, kernels: &[f32], skip: &[f32]) -> Launch {
        let launch = self
            .rows("spectra", self.dim)
            .arg(kernels)
            .arg(skip)
            .arg(&table(self.n)[..]);
        let launch = launch.arg(&vec![0f32; self.spectra_len()][..]);
        launch
            .arg(self.length as i32)
            .arg(self.dim as i32)
            .arg(self.directions as i32)
    }

    fn forward(&self, kind: Kind, u: &[f32], spectra: &[f32]) -> Launch {
        let Block(channels, threads, shared) = self.forward_block();
        let name = format!("long_conv_forward_{}_{}", self.n, kind.suffix());
        let launch = Launch::new(name, (self.batch, self.dim.div_ceil(channels)), threads).shared(shared);
        let launch = launch.arg(kind.arg(u)).arg(spectra).arg(&table(self.n)[..]);
        let launch = launch.arg(kind.arg(&vec![0.0; self.directions * u.len()]));
        launch
            .arg(self.length as i32)
            .arg(self.dim as i32)
            .arg(self.directions as i32)
    }

    fn backward(&self, kind: Kind, u: &[f32], dy: &[f32], spectra: &[f32]) -> Launch {
        let Block(channels, threads, shared) = self.backward_block();
        let name = format!("long_conv_backward_{}_{}", self.n, kind.suffix());
        let launch = Launch::new(name, (self.parts, self.dim.div_ceil(channels)), threads).shared(shared);
        let launch = launch
            .arg(kind.arg(u))
            .arg(kind.arg(dy))
            .arg(spectra)
            .arg(&table(self.n)[..]);
        let launch = launch
            .arg(kind.arg(&vec![0.0; u.len()]))
            .arg(&vec![0f32; self.parts * spectra.len()][..]);
        let launch = launch.arg(self.batch as i32).arg(self.length as i32);
        launch.arg(self.dim as i32).arg(self.directions as i32)
    }

    fn gradients(&self, sums: &[f32], d_skip: &[f32]) -> Launch {
        let launch = self
            .rows("gradients", 2 * self.dim)
            .arg(sums)
            .arg(&table(self.n)[..]);
        let launch = launch
            .arg(&vec![0f32; 2 * self.dim * self.length][..])
            .arg(d_skip);
        let launch = launch.arg(self.parts as i32).arg(self.length as i32);
        launch.arg(self.dim as i32).arg(self.directions as i32)
    }

    /// A pass between `outer` signals of `inner` channels and their quarters.
    fn outer_pass(&self, name: &str, kind: Kind, from: Launch, outer: usize, inner: usize) -> Launch {
        let grid = ((4096 * inner).div_ceil(256), outer);
        let launch = Launch {
            name: format!("long_conv_{name}_{}", kind.suffix()),
            grid,
            block: 256,
            ..from
        };
        launch.arg(self.length as i32).arg(inner as i32)
    }

    fn split(&self, kind: Kind, x: &[f32], outer: usize, inner: usize) -> Launch {
        let quarters = vec![0f32; 2 * outer * 16_384 * inner];
        let args = Launch::new("", (1, 1), 1)
            .arg(kind.arg(x))
            .arg(&outer_table()[..])
            .arg(&quarters[..]);
        self.outer_pass("split", kind, args, outer, inner)
    }

    fn merge(&self, kind: Kind, quarters: &[f32], outer: usize, inner: usize) -> Launch {
        let x = vec![0f32; outer * self.length * inner];
        let args = Launch::new("", (1, 1), 1)
            .arg(quarters)
            .arg(&outer_table()[..])
            .arg(kind.arg(&x));
        self.outer_pass("merge", kind, args, outer, inner)
    }

    fn inner(&self, name: &str, grid: (usize, usize), shared: usize) -> Launch {
        Launch::new(format!("long_conv_inner_{name}"), grid, 512).shared(shared)
    }

    fn inner_spectra(&self, kernels: &[f32], skip: &[f32]) -> Launch {
        let launch = self
            .inner("spectra", (self.dim, 4), 9 * 4096)
            .arg(kernels)
            .arg(skip)
            .arg(&table(4096)[..]);
        launch
            .arg(&vec![0f32; self.spectra_len()][..])
            .arg(self.dim as i32)
            .arg(self.directions as i32)
    }

    fn inner_forward(&self, u: &[f32], spectra: &[f32]) -> Launch {
        let launch = self.inner("forward", (4 * self.batch, self.dim.div_ceil(4)), 163_840);
        let launch = launch.arg(u).arg(spectra).arg(&table(4096)[..]);
        let launch = launch.arg(&vec![0f32; self.directions * u.len()][..]);
        launch.arg(self.dim as i32).arg(self.directions as i32)
    }

    fn inner_backward(&self, u: &[f32], dy: &[f32], spectra: &[f32]) -> Launch {
        let launch = self.inner("backward", (4 * self.parts, self.dim.div_ceil(2)), 139_264);
        let launch = launch
            .arg(u)
            .arg(dy)
            .arg(spectra)
            .arg(&table(4096)[..])
            .arg(&vec![0f32; u.len()][..]);
        let launch = launch.arg(&vec![0f32; self.parts * spectra.len()][..]);
        launch
            .arg(self.batch as i32)
            .arg(self.dim as i32)
            .arg(self.directions as i32)
    }

    fn inner_gradients(&self, sums: &[f32]) -> Launch {
        let launch = self
            .inner("gradients", (2 * self.dim, 4), 9 * 4096)
            .arg(sums)
            .arg(&table(4096)[..]);
        let launch = launch.arg(&vec![0f32; 2 * 2 * self.dim * 16_384][..]);
        launch
            .arg(self.parts as i32)
            .arg(self.dim as i32)
            .arg(self.directions as i32)
    }

    fn add_skip(&self, dk: &[f32], d_skip: &[f32]) -> Launch {
        let launch = Launch::new("long_conv_add_skip", (d_skip.len().div_ceil(256), 1), 256)
            .arg(dk)
            .arg(d_skip);
        launch.arg(d_skip.len() as i32).arg(self.length as i32)
    }

    fn work(&self, kind: Kind) -> work::Conv {
        work::Conv {
            n: self.n,
            length: self.length,
            dim: self.dim,
            batch: self.batch,
            directions: self.directions,
            parts: self.parts,
            element: kind.bytes(),
        }
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, dim) in [(64, 16), (256, 16), (1024, 8), (4096, 4)] {
        let shape = Shape {
            n,
            length: n,
            dim,
            batch: 2,
            directions: 2,
            parts: 1,
        };
        let (u, k) = (wave(shape.u_len(), 0.4), wave(2 * dim * n, 1.1));
        let (skip, dy, spectra) = (
            wave(2 * dim, 2.3),
            wave(2 * u.len(), 0.9),
            wave(shape.spectra_len(), 0.2),
        );
        for kind in Kind::BOTH {
            let work = shape.work(kind);
            cases.push(Case::new(shape.forward(kind, &u, &spectra), work.forward()));
            cases.push(Case::new(
                shape.backward(kind, &u, &dy, &spectra),
                work.backward(),
            ));
        }
        let work = shape.work(Kind::F32);
        cases.push(Case::new(shape.spectra(&k, &skip), work.spectra()));
        cases.push(Case::new(shape.gradients(&spectra, &skip), work.gradients()));
    }
    let (length, dim) = (16_384, 4);
    let shape = Shape {
        n: length,
        length,
        dim,
        batch: 1,
        directions: 2,
        parts: 1,
    };
    let quarters = |count: usize| wave(2 * length * count, 0.3);
    let skip = wave(2 * dim, 0.1);
    for kind in Kind::BOTH {
        let work = shape.work(kind);
        cases.push(Case::new(
            shape.split(kind, &wave(length * dim, 0.7), 1, dim),
            work.split(1, dim),
        ));
        cases.push(Case::new(
            shape.merge(kind, &quarters(dim), 1, dim),
            work.merge(1, dim),
        ));
    }
    let work = shape.work(Kind::F32);
    cases.extend([
        Case::new(
            shape.inner_spectra(&quarters(2 * dim), &skip),
            work.inner_spectra(),
        ),
        Case::new(
            shape.inner_forward(&quarters(dim), &quarters(2 * dim)),
            work.inner_forward(),
        ),
        Case::new(
            shape.inner_backward(&quarters(dim), &quarters(2 * dim), &quarters(2 * dim)),
            work.inner_backward(),
        ),
        Case::new(shape.inner_gradients(&quarters(2 * dim)), work.inner_gradients()),
    ]);
    let lines = Shape { length: 64, ..shape };
    cases.push(Case::new(
        lines.add_skip(&wave(2 * dim * 64, 0.6), &skip),
        lines.work(Kind::F32).add_skip(),
    ));
    cases
}

/// What a convolution and its gradient give.
struct Found {
    y: Vec<f32>,
    du: Vec<f32>,
    dk: Vec<f32>,
    d_skip: Vec<f32>,
}

impl Found {
    fn assert_near(&self, shape: &Shape, kind: Kind, want: &Self) {
        // Sums over a batch's samples: both sides are f32 and add in other orders.
        let sums = 1e-6 * ((shape.batch * shape.length) as f64).sqrt();
        for (name, got, want, rounding, noise) in [
            ("y", &self.y, &want.y, kind.epsilon(), 0.0),
            ("du", &self.du, &want.du, kind.epsilon(), 0.0),
            ("dk", &self.dk, &want.dk, 0.0, sums),
            ("d_skip", &self.d_skip, &want.d_skip, 0.0, sums),
        ] {
            let what = format!("{kind:?} {shape:?}: {name}");
            assert_near(&what, got, want, rounding, 3e-6 * largest(want) + noise);
        }
    }
}

/// Inputs of a test.
struct Inputs {
    u: Vec<f32>,
    k: Vec<f32>,
    skip: Vec<f32>,
    dy: Vec<f32>,
}

impl Inputs {
    fn new(shape: &Shape, kind: Kind) -> Self {
        let k = wave(2 * shape.dim * shape.length, 1.1);
        let fading = |(i, k): (usize, f32)| k * (-((i % shape.length) as f32) / 40.0).exp();
        Self {
            u: kind.rounded(&wave(shape.u_len(), 0.4)),
            k: k.into_iter().enumerate().map(fading).collect(),
            skip: wave(2 * shape.dim, 2.3),
            dy: kind.rounded(&wave(shape.directions * shape.u_len(), 3.7)),
        }
    }

    /// By the CPU's operation.
    fn twin(&self, shape: &Shape) -> Found {
        let (conv, is_sum) = (LongConv::new(shape.length), shape.directions == 1);
        let spectra = conv.spectra(&self.k);
        let mut found = Found {
            y: vec![0.0; self.dy.len()],
            du: vec![0.0; self.u.len()],
            dk: vec![0.0; self.k.len()],
            d_skip: vec![0.5; self.skip.len()],
        };
        conv.forward(&self.u, &spectra, &self.skip, is_sum, &mut found.y);
        let Found { du, dk, d_skip, .. } = &mut found;
        conv.backward(&self.u, &spectra, &self.skip, is_sum, &self.dy, du, dk, d_skip);
        found
    }
}

#[test]
fn the_convolution_is_the_cpus() {
    let Some(mut emulator) = Emulator::start() else {
        return;
    };
    // Lengths that are no power of two, channels that fill no block or no pack, parts that do not divide the batch.
    for (n, length, dim, batch, directions, parts) in [
        (64, 64, 16, 3, 2, 2),
        (64, 7, 19, 2, 1, 1),
        (256, 200, 5, 2, 1, 2),
        (256, 256, 20, 1, 2, 1),
        (1024, 1024, 12, 2, 2, 1),
        (1024, 900, 3, 1, 1, 1),
        (4096, 2304, 6, 1, 2, 1),
        (4096, 4096, 3, 2, 1, 1),
    ] {
        for kind in Kind::BOTH {
            let shape = Shape {
                n,
                length,
                dim,
                batch,
                directions,
                parts,
            };
            let inputs = Inputs::new(&shape, kind);
            let spectra = emulator.run(&shape.spectra(&inputs.k, &inputs.skip)).f32s(3);
            let y = emulator
                .run(&shape.forward(kind, &inputs.u, &spectra))
                .values(kind, 3);
            let run = emulator.run(&shape.backward(kind, &inputs.u, &inputs.dy, &spectra));
            let gradients = emulator.run(&shape.gradients(&run.f32s(5), &vec![0.5; 2 * dim]));
            let found = Found {
                y,
                du: run.values(kind, 4),
                dk: gradients.f32s(2),
                d_skip: gradients.f32s(3),
            };
            found.assert_near(&shape, kind, &inputs.twin(&shape));
        }
    }
}

#[test]
fn the_convolution_of_long_sequences_is_the_cpus() {
    let Some(mut emulator) = Emulator::start() else {
        return;
    };
    for (kind, length, dim, directions) in [(Kind::F32, 16_384, 2, 2), (Kind::Bf16, 9_000, 3, 1)] {
        let shape = Shape {
            n: 16_384,
            length,
            dim,
            batch: 1,
            directions,
            parts: 1,
        };
        let inputs = Inputs::new(&shape, kind);
        let quarters = emulator
            .run(&shape.split(Kind::F32, &inputs.k, 2 * dim, 1))
            .f32s(2);
        let spectra = emulator
            .run(&shape.inner_spectra(&quarters, &inputs.skip))
            .f32s(3);
        let u = emulator.run(&shape.split(kind, &inputs.u, 1, dim)).f32s(2);
        let y = emulator.run(&shape.inner_forward(&u, &spectra)).f32s(3);
        let y = emulator
            .run(&shape.merge(kind, &y, 1, directions * dim))
            .values(kind, 2);
        let dy = emulator
            .run(&shape.split(kind, &inputs.dy, 1, directions * dim))
            .f32s(2);
        let run = emulator.run(&shape.inner_backward(&u, &dy, &spectra));
        let du = emulator
            .run(&shape.merge(kind, &run.f32s(4), 1, dim))
            .values(kind, 2);
        let quarters = emulator.run(&shape.inner_gradients(&run.f32s(5))).f32s(2);
        let dk = emulator
            .run(&shape.merge(Kind::F32, &quarters, 2 * dim, 1))
            .f32s(2);
        let d_skip = emulator.run(&shape.add_skip(&dk, &vec![0.5; 2 * dim])).f32s(1);
        Found { y, du, dk, d_skip }.assert_near(&shape, kind, &inputs.twin(&shape));
    }
}
