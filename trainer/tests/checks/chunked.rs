//! The chunked convolution, beside the CPU's kernels and convolution.

mod bank;

use trainer::gpu::Element;
use trainer::gpu::kernels::chunked::STATES;
use trainer::ops::long_conv::LongConv;
use trainer::ops::ssm_kernel::{Discretization, kernels_backward};

use self::bank::{Bank, Matrices, Shape};
use super::Case;
use super::runner::Numbers as _;
use super::values::{assert_near, largest, wave};
use crate::device::Runner;

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
            bank.moments(kind, &matrices, &u, &dy),
        ]);
    }
    let sums = wave(shape.parts * 2 * shape.dim * STATES * 4, 0.6);
    cases.push(bank.gradients(&sums, &sums[..sums.len() / 4], 0.0, true));
    cases.into_iter().map(Case::from).collect()
}

/// What a convolution and its gradient give.
struct Found {
    y: Vec<f32>,
    du: Vec<f32>,
    d_skip: Vec<f32>,
    d_log_dt: Vec<f32>,
    /// As the parameters' planes.
    d_planes: Vec<Vec<f32>>,
}

/// `dk[l] = sum dy[i] u[i - l]`, or of the other direction `u[i + l]`, in f64: moments weigh what transforms in f32 add to
/// samples that are nearly zero.
fn kernel_gradients(shape: &Shape, u: &[f32], dy: &[f32]) -> Vec<f32> {
    let &Shape {
        length,
        dim,
        batch,
        directions,
        ..
    } = shape;
    let column = |x: &[f32], width: usize, at: usize| -> Vec<f64> {
        x.chunks_exact(width).map(|row| f64::from(row[at])).collect()
    };
    let mut dk = Vec::with_capacity(2 * dim * length);
    for line in 0..2 * dim {
        let (direction, channel) = (line / dim, line % dim);
        let of_dy = if directions == 2 { line } else { channel };
        let (u, dy) = (column(u, dim, channel), column(dy, directions * dim, of_dy));
        dk.extend((0..length).map(|lag| {
            let image = |b: usize| {
                let (u, dy) = (&u[b * length..][..length], &dy[b * length..][..length]);
                let (early, late) = if direction == 0 { (u, dy) } else { (dy, u) };
                let products = early.iter().zip(&late[lag..]).map(|(early, late)| early * late);
                products.sum::<f64>()
            };
            (0..batch).map(image).sum::<f64>() as f32
        }));
    }
    dk
}

/// By the CPU's operations.
fn twin(bank: &Bank, u: &[f32], dy: &[f32]) -> Found {
    let (shape, k) = (&bank.shape, bank.kernels());
    let (conv, is_sum) = (LongConv::new(shape.length), shape.directions == 1);
    let spectra = conv.spectra(&k);
    let (mut y, mut du) = (vec![0.0; dy.len()], vec![0.0; u.len()]);
    conv.forward(u, &spectra, &bank.skip, is_sum, &mut y);
    let (mut dk, mut d_skip) = (vec![0.0; k.len()], vec![0.0; bank.skip.len()]);
    conv.backward(u, &spectra, &bank.skip, is_sum, dy, &mut du, &mut dk, &mut d_skip);
    let grads = kernels_backward(
        &bank.params(),
        shape.kind,
        shape.length,
        &kernel_gradients(shape, u, dy),
    );
    let plane = |i: usize| {
        grads
            .iter()
            .flat_map(|grad| grad.states.iter().map(move |state| state[i]))
            .collect()
    };
    Found {
        y,
        du,
        d_skip,
        d_log_dt: grads.iter().map(|grad| grad.log_dt).collect(),
        d_planes: (0..6).map(plane).collect(),
    }
}

/// By the kernels: outputs, and gradients that start at zero.
fn found(runner: &mut Runner, bank: &Bank, kind: Element, u: &[f32], dy: &[f32]) -> Found {
    let matrices = bank.matrices(runner, kind);
    let y = runner.run(&bank.forward(kind, &matrices, u));
    let du = runner.run(&bank.adjoint(kind, &matrices, dy));
    let moments = runner.run(&bank.moments(kind, &matrices, u, dy));
    let first = if kind == Element::F32 { 3 } else { 5 };
    let (sums, near) = (moments.f32s(first), moments.f32s(first + 1));
    let gradients = runner.run(&bank.gradients(&sums, &near, 0.0, true));
    let untrained = runner.run(&bank.gradients(&sums, &near, 0.25, false));
    for b in [12, 13] {
        assert!(untrained.f32s(b).iter().all(|&v| v == 0.25), "without B");
    }
    for others in [9, 10, 11, 14, 15, 16] {
        let with_start: Vec<f32> = gradients.f32s(others).iter().map(|v| v + 0.25).collect();
        assert_near("added", &untrained.f32s(others), &with_start, 1e-6, 1e-6);
    }
    Found {
        y: y.values(kind, 4),
        du: du.values(kind, 4),
        d_skip: gradients.f32s(16),
        d_log_dt: gradients.f32s(9),
        d_planes: (0..6).map(|i| gradients.f32s(10 + i)).collect(),
    }
}

/// The root of the mean square of the differences, beside that of the numbers.
fn noise(got: &[f32], want: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let errors: f64 = got.iter().zip(want).map(|(g, w)| square(f64::from(g - w))).sum();
    let all: f64 = want.iter().map(|&w| square(f64::from(w))).sum();
    (errors / all).sqrt()
}

/// Numbers without a spectrum: of a pure tone the states that are out of tune have next to nothing, and rounding shows.
fn white(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// How far numbers may be from the CPU's: for f32 beside the largest, for bf16 as noise.
struct Allowed {
    f32: f64,
    bf16: f64,
}

/// Outputs.
const OUTPUTS: Allowed = Allowed {
    f32: 1e-5,
    bf16: 8e-3,
};
/// Sums over all samples and images that weigh lags, where a step's rounding counts as often as the lag.
const SUMS: Allowed = Allowed {
    f32: 3e-5,
    bf16: 5e-3,
};

fn assert_is_twin(what: &str, kind: Element, got: &[f32], want: &[f32], allowed: &Allowed) {
    match kind {
        Element::F32 => assert_near(what, got, want, 0.0, allowed.f32 * largest(want)),
        Element::Bf16 => {
            // Matrices and states are rounded to bf16, each by up to 1 / 512 of itself, and numbers cancel in their sums.
            let noise = noise(got, want);
            eprintln!("{what}: noise {noise:.2e}");
            assert!(noise < allowed.bf16, "{what}: noise {noise:.2e}");
            assert_near(
                what,
                got,
                want,
                kind.epsilon(),
                2.0 * allowed.bf16 * largest(want),
            );
        }
    }
}

/// The gradient of log_dt is a sum over states that mostly cancel: beside the sum of their sizes, `z dL/dz` each.
fn assert_steps_are_twins(what: &str, kind: Element, bank: &Bank, found: &Found, want: &Found) {
    let allowed = if kind == Element::F32 { 2e-5 } else { 5e-3 };
    let states = bank.shape.states;
    for (line, (got, exact)) in found.d_log_dt.iter().zip(&want.d_log_dt).enumerate() {
        let sizes = (line * states..(line + 1) * states).map(|at| {
            let of_imaginary = bank.planes[1][at] * want.d_planes[1][at];
            f64::from(want.d_planes[0][at].abs() + of_imaginary.abs())
        });
        let size = sizes.sum::<f64>() + largest(&want.d_log_dt);
        assert_near(
            &format!("{what}: log_dt {line}"),
            &[*got],
            &[*exact],
            0.0,
            allowed * size,
        );
    }
}

pub(crate) fn the_chunked_convolution_and_its_gradients_are_the_cpus() {
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
        Shape::new(20_000, 1, 1, 1, 1),
    ];
    shapes[2].kind = Discretization::Bilinear;
    shapes[3].states = 5;
    for shape in shapes {
        let bank = Bank::new(&shape);
        for kind in Element::ALL {
            let u = kind.rounded(&white(shape.u_len(), 1));
            let dy = kind.rounded(&white(shape.directions * shape.u_len(), 2));
            let want = twin(&bank, &u, &dy);
            let found = found(&mut runner, &bank, kind, &u, &dy);
            let what = format!("{kind:?} {shape:?}");
            assert_is_twin(&format!("{what}: y"), kind, &found.y, &want.y, &OUTPUTS);
            assert_is_twin(&format!("{what}: du"), kind, &found.du, &want.du, &OUTPUTS);
            assert_is_twin(
                &format!("{what}: d_skip"),
                kind,
                &found.d_skip,
                &want.d_skip,
                &SUMS,
            );
            assert_steps_are_twins(&what, kind, &bank, &found, &want);
            for (i, (got, want)) in found.d_planes.iter().zip(&want.d_planes).enumerate() {
                assert_is_twin(&format!("{what}: plane {i}"), kind, got, want, &SUMS);
            }
        }
    }
}
