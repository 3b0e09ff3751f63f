//! The long convolution, beside the CPU's operation.

use trainer::gpu::Element;
use trainer::gpu::kernels::long_conv;
use trainer::ops::long_conv::LongConv;
use trainer::roofline::work::Conv;

use crate::device::Runner;

use super::Case;
use super::runner::{Bytes, Launch, Numbers as _};
use super::values::{assert_near, largest, wave};

#[derive(Clone, Copy, Debug)]
struct Shape {
    n: usize,
    length: usize,
    dim: usize,
    batch: usize,
    directions: usize,
    parts: usize,
}

impl Shape {
    fn conv(&self) -> Conv {
        Conv {
            n: self.n,
            length: self.length,
            dim: self.dim,
            batch: self.batch,
            directions: self.directions,
            parts: self.parts,
            element: 4,
        }
    }

    fn of(&self, kind: Element) -> Conv {
        Conv {
            element: kind.bytes(),
            ..self.conv()
        }
    }

    fn table(&self) -> Bytes {
        long_conv::table(self.n.min(long_conv::QUARTER))[..].into()
    }

    fn u_len(&self) -> usize {
        self.batch * self.length * self.dim
    }

    /// Numbers of the spectra of one part.
    fn spectra_len(&self) -> usize {
        2 * self.directions * self.dim * self.n
    }

    fn spectra(&self, kernels: &[f32], skip: &[f32]) -> Launch {
        let room = Bytes::zeros::<f32>(self.spectra_len());
        long_conv::spectra(&self.conv(), kernels.into(), skip.into(), self.table(), room)
    }

    fn forward(&self, kind: Element, u: &[f32], spectra: &[f32]) -> Launch {
        let (from, y) = (kind.buffer(u), kind.zeros(self.directions * u.len()));
        long_conv::forward(kind, &self.of(kind), from, spectra.into(), self.table(), y)
    }

    fn backward(&self, kind: Element, u: &[f32], dy: &[f32], spectra: &[f32]) -> Launch {
        let (from, du) = ([kind.buffer(u), kind.buffer(dy)], kind.zeros(u.len()));
        let sums = Bytes::zeros::<f32>(self.parts * spectra.len());
        long_conv::backward(kind, &self.of(kind), from, spectra.into(), self.table(), du, sums)
    }

    fn gradients(&self, sums: &[f32], d_skip: &[f32]) -> Launch {
        let dk = Bytes::zeros::<f32>(2 * self.dim * self.length);
        long_conv::gradients(&self.conv(), sums.into(), self.table(), dk, d_skip.into())
    }

    fn split(&self, kind: Element, x: &[f32], outer: usize, inner: usize) -> Launch {
        let (table, quarters) = (
            long_conv::outer_table()[..].into(),
            Bytes::zeros::<f32>(2 * outer * 16_384 * inner),
        );
        long_conv::split(
            kind,
            &self.conv(),
            [outer, inner],
            kind.buffer(x),
            table,
            quarters,
        )
    }

    fn merge(&self, kind: Element, quarters: &[f32], outer: usize, inner: usize) -> Launch {
        let (table, x) = (
            long_conv::outer_table()[..].into(),
            kind.zeros(outer * self.length * inner),
        );
        long_conv::merge(kind, &self.conv(), [outer, inner], quarters.into(), table, x)
    }

    fn inner_spectra(&self, kernels: &[f32], skip: &[f32]) -> Launch {
        let room = Bytes::zeros::<f32>(self.spectra_len());
        long_conv::inner_spectra(&self.conv(), kernels.into(), skip.into(), self.table(), room)
    }

    fn inner_forward(&self, u: &[f32], spectra: &[f32]) -> Launch {
        let y = Bytes::zeros::<f32>(self.directions * u.len());
        long_conv::inner_forward(&self.conv(), u.into(), spectra.into(), self.table(), y)
    }

    fn inner_backward(&self, u: &[f32], dy: &[f32], spectra: &[f32]) -> Launch {
        let (du, sums) = (
            Bytes::zeros::<f32>(u.len()),
            Bytes::zeros::<f32>(self.parts * spectra.len()),
        );
        let from = [u.into(), dy.into()];
        long_conv::inner_backward(&self.conv(), from, spectra.into(), self.table(), du, sums)
    }

    fn inner_gradients(&self, sums: &[f32]) -> Launch {
        let dk = Bytes::zeros::<f32>(2 * 2 * self.dim * 16_384);
        long_conv::inner_gradients(&self.conv(), sums.into(), self.table(), dk)
    }

    fn add_skip(&self, dk: &[f32], d_skip: &[f32]) -> Launch {
        long_conv::add_skip(&self.conv(), dk.into(), d_skip.into())
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
        for kind in Element::ALL {
            cases.push(shape.forward(kind, &u, &spectra).into());
            cases.push(shape.backward(kind, &u, &dy, &spectra).into());
        }
        cases.push(shape.spectra(&k, &skip).into());
        cases.push(shape.gradients(&spectra, &skip).into());
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
    for kind in Element::ALL {
        cases.push(shape.split(kind, &wave(length * dim, 0.7), 1, dim).into());
        cases.push(shape.merge(kind, &quarters(dim), 1, dim).into());
    }
    cases.extend([
        shape.inner_spectra(&quarters(2 * dim), &skip).into(),
        shape.inner_forward(&quarters(dim), &quarters(2 * dim)).into(),
        shape
            .inner_backward(&quarters(dim), &quarters(2 * dim), &quarters(2 * dim))
            .into(),
        shape.inner_gradients(&quarters(2 * dim)).into(),
    ]);
    let lines = Shape { length: 64, ..shape };
    cases.push(lines.add_skip(&wave(2 * dim * 64, 0.6), &skip).into());
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
    fn assert_near(&self, shape: &Shape, kind: Element, want: &Self) {
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
    fn new(shape: &Shape, kind: Element) -> Self {
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

pub(crate) fn the_convolution_is_the_cpus() {
    let Some(mut runner) = Runner::start() else {
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
        for kind in Element::ALL {
            let shape = Shape {
                n,
                length,
                dim,
                batch,
                directions,
                parts,
            };
            let inputs = Inputs::new(&shape, kind);
            let spectra = runner.run(&shape.spectra(&inputs.k, &inputs.skip)).f32s(3);
            let y = runner
                .run(&shape.forward(kind, &inputs.u, &spectra))
                .values(kind, 3);
            let run = runner.run(&shape.backward(kind, &inputs.u, &inputs.dy, &spectra));
            let gradients = runner.run(&shape.gradients(&run.f32s(5), &vec![0.5; 2 * dim]));
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

pub(crate) fn the_convolution_of_long_sequences_is_the_cpus() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    for (kind, length, dim, directions) in [(Element::F32, 16_384, 2, 2), (Element::Bf16, 9_000, 3, 1)] {
        let shape = Shape {
            n: 16_384,
            length,
            dim,
            batch: 1,
            directions,
            parts: 1,
        };
        let inputs = Inputs::new(&shape, kind);
        let quarters = runner
            .run(&shape.split(Element::F32, &inputs.k, 2 * dim, 1))
            .f32s(2);
        let spectra = runner.run(&shape.inner_spectra(&quarters, &inputs.skip)).f32s(3);
        let u = runner.run(&shape.split(kind, &inputs.u, 1, dim)).f32s(2);
        let y = runner.run(&shape.inner_forward(&u, &spectra)).f32s(3);
        let y = runner
            .run(&shape.merge(kind, &y, 1, directions * dim))
            .values(kind, 2);
        let dy = runner
            .run(&shape.split(kind, &inputs.dy, 1, directions * dim))
            .f32s(2);
        let run = runner.run(&shape.inner_backward(&u, &dy, &spectra));
        let du = runner
            .run(&shape.merge(kind, &run.f32s(4), 1, dim))
            .values(kind, 2);
        let quarters = runner.run(&shape.inner_gradients(&run.f32s(5))).f32s(2);
        let dk = runner
            .run(&shape.merge(Element::F32, &quarters, 2 * dim, 1))
            .f32s(2);
        let d_skip = runner.run(&shape.add_skip(&dk, &vec![0.5; 2 * dim])).f32s(1);
        Found { y, du, dk, d_skip }.assert_near(&shape, kind, &inputs.twin(&shape));
    }
}
