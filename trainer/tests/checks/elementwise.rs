//! Bias, GELU, gate, residual, sums of columns: each beside the CPU's operation.

use trainer::gpu::Element;
use trainer::gpu::kernels::column_sums::Partials;
use trainer::gpu::kernels::{self, parts};
use trainer::ops::bf16;
use trainer::ops::bias_gelu::{Gelu, bias_backward, bias_gelu, gelu_backward};
use trainer::ops::gate::{gate, gate_backward};
use trainer::ops::residual::{gated_residual, gated_residual_backward, residual};

use crate::device::Runner;

use super::Case;
use super::runner::{Bytes, Launch, Numbers as _};
use super::values::{assert_near, extreme, largest, wave};

const GELUS: [Gelu; 2] = [Gelu::Tanh, Gelu::Erf];

fn bias_gelu_launch(kind: Element, shape: [usize; 2], gelu: Gelu, x: &[f32], bias: &[f32]) -> Launch {
    kernels::elementwise::bias_gelu(
        kind,
        shape,
        gelu,
        kind.buffer(x),
        bias.into(),
        kind.zeros(x.len()),
    )
}

/// Room for the partial sums of `[rows, cols]`.
fn partial([rows, cols]: [usize; 2]) -> Bytes {
    Bytes::zeros::<f32>(parts(rows) * cols)
}

fn gelu_backward_launch(kind: Element, shape: [usize; 2], gelu: Gelu, pre: &[f32], d: &[f32]) -> Launch {
    kernels::elementwise::gelu_backward(
        kind,
        shape,
        gelu,
        kind.buffer(pre),
        kind.buffer(d),
        partial(shape),
    )
}

fn gate_launch(
    kind: Element,
    shape: [usize; 2],
    gelu: Gelu,
    a: &[f32],
    b: &[f32],
    biases: [&[f32]; 2],
) -> Launch {
    kernels::elementwise::gate(
        kind,
        shape,
        gelu,
        [kind.buffer(a), biases[0].into()],
        [kind.buffer(b), biases[1].into()],
        kind.zeros(a.len()),
    )
}

fn gate_backward_launch(
    kind: Element,
    shape: [usize; 2],
    gelu: Gelu,
    a: &[f32],
    b: &[f32],
    d: &[f32],
) -> Launch {
    kernels::elementwise::gate_backward(
        kind,
        shape,
        gelu,
        [kind.buffer(a), kind.buffer(b)],
        kind.buffer(d),
        [partial(shape), partial(shape)],
    )
}

fn column_partials_launch(kind: Element, shape: [usize; 2], d: &[f32]) -> Launch {
    kernels::column_sums::column_partials(kind, shape, kind.buffer(d), partial(shape))
}

fn rounded_column_partials_launch(shape: [usize; 2], d: &[f32]) -> Launch {
    let rounded = Element::Bf16.zeros(d.len());
    kernels::column_sums::rounded_column_partials(shape, d.into(), rounded, partial(shape))
}

/// Adds the sums of `partial` `[groups, parts, width]` over its parts to `out`, whose groups lie `stride` apart.
pub(crate) fn sums(
    partial: &[f32],
    out: &[f32],
    groups: usize,
    width: usize,
    cols: usize,
    stride: usize,
) -> Launch {
    let of = Partials {
        groups,
        parts: partial.len() / groups / width,
        width,
        cols,
    };
    kernels::column_sums::add_column_sums(of, partial.into(), out.into(), stride)
}

fn residual_launch(shape: [usize; 3], input: &[f32], bias: &[f32]) -> Launch {
    let out = Bytes::zeros::<f32>(input.len());
    kernels::residual::residual(shape, input.into(), bias.into(), out)
}

fn gated_launch(
    kind: Element,
    shape: [usize; 3],
    input: &[f32],
    modulation: &[f32],
    bias: &[f32],
    branch: &[f32],
) -> Launch {
    kernels::residual::gated_residual(
        kind,
        shape,
        input.into(),
        modulation.into(),
        bias.into(),
        kind.buffer(branch),
        Bytes::zeros::<f32>(input.len()),
    )
}

fn gated_backward_launch(
    kind: Element,
    shape: [usize; 3],
    d_out: &[f32],
    modulation: &[f32],
    branch: &[f32],
) -> Launch {
    let [batch, rows, dim] = shape;
    let partials = [(); 2].map(|()| Bytes::zeros::<f32>(batch * parts(rows) * dim));
    kernels::residual::gated_residual_backward(
        kind,
        shape,
        d_out.into(),
        modulation.into(),
        kind.buffer(branch),
        kind.zeros(branch.len()),
        partials,
    )
}

pub(crate) fn cases() -> Vec<Case> {
    let (shape, gelu) = ([128, 96], Gelu::Tanh);
    let [rows, cols] = shape;
    let (x, y, bias) = (wave(rows * cols, 0.3), wave(rows * cols, 1.3), wave(cols, 0.7));
    let images = [2, 64, 96];
    let modulation = wave(2 * 3 * 96, 0.1);
    let mut cases = Vec::new();
    for kind in Element::ALL {
        cases.extend([
            bias_gelu_launch(kind, shape, gelu, &x, &bias),
            gelu_backward_launch(kind, shape, gelu, &x, &y),
            gate_launch(kind, shape, gelu, &x, &y, [&bias, &bias]),
            gate_backward_launch(kind, shape, gelu, &x, &y, &x),
            column_partials_launch(kind, shape, &x),
            gated_launch(kind, images, &x, &modulation, &bias, &y),
            gated_backward_launch(kind, images, &x, &modulation, &y),
        ]);
    }
    cases.extend([
        rounded_column_partials_launch(shape, &x),
        residual_launch(images, &x, &bias),
        sums(&x, &wave(2 * cols, 0.2), 2, cols, cols, cols),
    ]);
    cases.into_iter().map(Case::from).collect()
}

/// Sums partial sums on the emulated device, starting from `start`.
fn summed(runner: &mut Runner, partial: &[f32], start: &[f32]) -> Vec<f32> {
    let launch = sums(partial, start, 1, start.len(), start.len(), 0);
    runner.run(&launch).f32s(1)
}

pub(crate) fn bias_and_gelu_are_the_cpus() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    for (kind, (rows, cols)) in Element::ALL
        .into_iter()
        .flat_map(|kind| [(kind, (70, 37)), (kind, (33, 24)), (kind, (1, 8))])
    {
        for gelu in GELUS {
            let what = format!("{kind:?} {rows} x {cols} {gelu:?}");
            let (x, bias) = (kind.rounded(&extreme(rows * cols, 0.3)), wave(cols, 0.8));
            let (mut pre, mut out) = (x.clone(), vec![0.0; x.len()]);
            bf16::scope(kind == Element::Bf16, || {
                bias_gelu(gelu, &mut pre, &bias, &mut out);
            });
            let run = runner.run(&bias_gelu_launch(kind, [rows, cols], gelu, &x, &bias));
            assert_near(&what, &run.values(kind, 0), &pre, kind.epsilon(), 0.0);
            assert_near(&what, &run.values(kind, 2), &out, 2e-6 + kind.epsilon(), 1e-6);

            let up = kind.rounded(&wave(x.len(), 1.9));
            let mut d = up.clone();
            gelu_backward(gelu, &pre, &mut d);
            let mut d_bias = vec![0.5; cols];
            bias_backward(&d, &mut d_bias);
            let run = runner.run(&gelu_backward_launch(kind, [rows, cols], gelu, &pre, &up));
            assert_near(&what, &run.values(kind, 1), &d, 2e-6 + kind.epsilon(), 1e-5);
            let sums = summed(&mut runner, &run.f32s(2), &vec![0.5; cols]);
            assert_near(&what, &sums, &d_bias, 1e-5, 1e-4);
        }
    }
}

pub(crate) fn the_gate_is_the_cpus() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    for (kind, (rows, cols)) in Element::ALL
        .into_iter()
        .flat_map(|kind| [(kind, (70, 37)), (kind, (33, 24))])
    {
        for gelu in GELUS {
            let what = format!("{kind:?} {rows} x {cols} {gelu:?}");
            let (x, y) = (
                kind.rounded(&extreme(rows * cols, 0.3)),
                kind.rounded(&wave(rows * cols, 2.6)),
            );
            let (bias_x, bias_y) = (wave(cols, 0.8), wave(cols, 4.4));
            let (mut a, mut b, mut out) = (x.clone(), y.clone(), vec![0.0; x.len()]);
            bf16::scope(kind == Element::Bf16, || {
                gate(gelu, &mut a, &bias_x, &mut b, &bias_y, &mut out);
            });
            let run = runner.run(&gate_launch(kind, [rows, cols], gelu, &x, &y, [&bias_x, &bias_y]));
            for (index, want) in [(0, &a), (2, &b), (4, &out)] {
                assert_near(&what, &run.values(kind, index), want, 4e-6 + kind.epsilon(), 1e-6);
            }
            let up = kind.rounded(&wave(x.len(), 1.9));
            let launch = gate_backward_launch(kind, [rows, cols], gelu, &a, &b, &up);
            gate_backward(gelu, &mut a, &mut b, &up);
            let run = runner.run(&launch);
            for (index, want) in [(0, &a), (1, &b)] {
                assert_near(&what, &run.values(kind, index), want, 4e-6 + kind.epsilon(), 1e-5);
                let mut d_bias = vec![0.0; cols];
                bias_backward(want, &mut d_bias);
                let sums = summed(&mut runner, &run.f32s(3 + index), &vec![0.0; cols]);
                assert_near(&what, &sums, &d_bias, 1e-5, 1e-6 * largest(want) * rows as f64);
            }
        }
    }
}

pub(crate) fn the_residual_is_the_cpus() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    for (kind, (batch, rows, dim)) in Element::ALL
        .into_iter()
        .flat_map(|kind| [(kind, (2, 35, 19)), (kind, (3, 32, 12))])
    {
        let (shape, what) = ([batch, rows, dim], format!("{kind:?} {batch} x {rows} x {dim}"));
        let (input, bias, modulation) = (
            extreme(batch * rows * dim, 0.2),
            wave(dim, 0.6),
            wave(batch * 3 * dim, 0.9),
        );
        let mut out = vec![0.0; input.len()];
        residual(&input, &bias, &mut out);
        assert_eq!(
            runner.run(&residual_launch(shape, &input, &bias)).f32s(2),
            out,
            "{what}"
        );

        let mut branch = kind.rounded(&wave(input.len(), 1.4));
        let launch = gated_launch(kind, shape, &input, &modulation, &bias, &branch);
        gated_residual(&input, &modulation, &bias, &mut branch, batch, &mut out);
        let run = runner.run(&launch);
        assert_near(&what, &run.values(kind, 3), &branch, kind.epsilon(), 0.0);
        assert_near(&what, &run.f32s(4), &out, 1e-6, 1e-6);

        let (branch, d_out) = (kind.rounded(&branch), wave(input.len(), 2.7));
        let (mut d_branch, mut d_modulation) = (vec![0.0; input.len()], vec![0.25; modulation.len()]);
        let start = d_modulation.clone();
        gated_residual_backward(
            &d_out,
            &modulation,
            &branch,
            batch,
            &mut d_branch,
            &mut d_modulation,
        );
        let run = runner.run(&gated_backward_launch(kind, shape, &d_out, &modulation, &branch));
        assert_near(&what, &run.values(kind, 3), &d_branch, kind.epsilon(), 0.0);
        // Only the gate's third is added to: the launcher gives the pointer to it.
        let launch = sums(&run.f32s(4), &start[2 * dim..], batch, dim, dim, 3 * dim);
        let sums = runner.run(&launch).f32s(1);
        assert_near(&what, &sums, &d_modulation[2 * dim..], 1e-5, 1e-5);
        let mut d_bias = vec![0.0; dim];
        bias_backward(&d_branch, &mut d_bias);
        assert_near(
            &what,
            &summed(&mut runner, &run.f32s(5), &vec![0.0; dim]),
            &d_bias,
            1e-5,
            1e-5,
        );
    }
}

pub(crate) fn sums_of_columns_are_the_cpus() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    for (kind, (rows, cols)) in Element::ALL
        .into_iter()
        .flat_map(|kind| [(kind, (300, 37)), (kind, (31, 16))])
    {
        let d = kind.rounded(&wave(rows * cols, 0.5));
        let mut d_bias = vec![1.5; cols];
        bias_backward(&d, &mut d_bias);
        let partial = runner
            .run(&column_partials_launch(kind, [rows, cols], &d))
            .f32s(1);
        let sums = summed(&mut runner, &partial, &vec![1.5; cols]);
        assert_near("column sums", &sums, &d_bias, 1e-5, 1e-5);
        if kind == Element::F32 {
            let run = runner.run(&rounded_column_partials_launch([rows, cols], &d));
            assert_eq!(run.f32s(2), partial);
            assert_eq!(run.values(Element::Bf16, 1), Element::Bf16.rounded(&d));
        }
    }
}
