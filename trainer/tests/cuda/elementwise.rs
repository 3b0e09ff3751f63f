//! Bias, GELU, gate, residual, sums of columns: each beside the CPU's operation.

use trainer::ops::bf16;
use trainer::ops::bias_gelu::{Gelu, bias_backward, bias_gelu, gelu_backward};
use trainer::ops::gate::{gate, gate_backward};
use trainer::ops::residual::{gated_residual, gated_residual_backward, residual};
use trainer::roofline::work;

use super::Case;
use super::emulator::{Emulator, Kind, Launch};
use super::values::{assert_near, extreme, largest, wave};

const KINDS: [(Gelu, i32); 2] = [(Gelu::Tanh, 0), (Gelu::Erf, 1)];
const PART: usize = work::ROWS_PER_PART;

/// The launch of a kernel whose threads own packs of columns of 32 rows.
fn flat(name: &str, kind: Kind, strips: usize, cols: usize, pack: usize) -> Launch {
    let threads = strips * (cols / pack);
    Launch::new(
        format!("{name}_{}", kind.suffix()),
        (threads.div_ceil(256), 1),
        256,
    )
}

fn with_shape(launch: Launch, rows: usize, cols: usize, gelu: i32) -> Launch {
    launch.arg(rows as i32).arg(cols as i32).arg(gelu)
}

fn bias_gelu_launch(kind: Kind, rows: usize, cols: usize, gelu: i32, x: &[f32], bias: &[f32]) -> Launch {
    let launch = flat("bias_gelu", kind, rows.div_ceil(PART), cols, kind.pack(cols));
    let launch = launch
        .arg(kind.arg(x))
        .arg(bias)
        .arg(kind.arg(&vec![0.0; x.len()]));
    with_shape(launch, rows, cols, gelu)
}

fn gelu_backward_launch(kind: Kind, rows: usize, cols: usize, gelu: i32, pre: &[f32], d: &[f32]) -> Launch {
    let launch = flat("gelu_backward", kind, rows.div_ceil(PART), cols, kind.pack(cols));
    let partial = vec![0f32; rows.div_ceil(PART) * cols];
    let launch = launch.arg(kind.arg(pre)).arg(kind.arg(d)).arg(&partial[..]);
    with_shape(launch, rows, cols, gelu)
}

fn gate_launch(
    kind: Kind,
    shape: [usize; 2],
    gelu: i32,
    a: &[f32],
    b: &[f32],
    biases: [&[f32]; 2],
) -> Launch {
    let [rows, cols] = shape;
    let launch = flat("gate", kind, rows.div_ceil(PART), cols, kind.pack(cols));
    let launch = launch
        .arg(kind.arg(a))
        .arg(biases[0])
        .arg(kind.arg(b))
        .arg(biases[1]);
    with_shape(launch.arg(kind.arg(&vec![0.0; a.len()])), rows, cols, gelu)
}

fn gate_backward_launch(kind: Kind, shape: [usize; 2], gelu: i32, a: &[f32], b: &[f32], d: &[f32]) -> Launch {
    let [rows, cols] = shape;
    let launch = flat("gate_backward", kind, rows.div_ceil(PART), cols, kind.pack(cols));
    let partial = vec![0f32; rows.div_ceil(PART) * cols];
    let launch = launch.arg(kind.arg(a)).arg(kind.arg(b)).arg(kind.arg(d));
    with_shape(launch.arg(&partial[..]).arg(&partial[..]), rows, cols, gelu)
}

fn column_partials_launch(kind: Kind, rows: usize, cols: usize, d: &[f32]) -> Launch {
    let launch = flat(
        "column_partials",
        kind,
        rows.div_ceil(PART),
        cols,
        kind.pack(cols),
    );
    let partial = vec![0f32; rows.div_ceil(PART) * cols];
    launch
        .arg(kind.arg(d))
        .arg(&partial[..])
        .arg(rows as i32)
        .arg(cols as i32)
}

fn rounded_column_partials_launch(rows: usize, cols: usize, d: &[f32]) -> Launch {
    let launch = flat(
        "rounded_column_partials",
        Kind::F32,
        rows.div_ceil(PART),
        cols,
        Kind::F32.pack(cols),
    );
    let partial = vec![0f32; rows.div_ceil(PART) * cols];
    let launch = launch
        .arg(d)
        .arg(Kind::Bf16.arg(&vec![0.0; d.len()]))
        .arg(&partial[..]);
    launch.arg(rows as i32).arg(cols as i32)
}

/// Adds the sums of `partial` `[groups, parts, width]` over its parts to `out`, whose groups lie `stride` apart.
pub(crate) fn add_column_sums_launch(
    partial: &[f32],
    out: &[f32],
    groups: usize,
    width: usize,
    cols: usize,
    stride: usize,
) -> Launch {
    let parts = partial.len() / groups / width;
    Launch::new("add_column_sums_f32", (cols.div_ceil(32), groups), 256)
        .arg(partial)
        .arg(out)
        .arg(parts as i32)
        .arg(width as i32)
        .arg(cols as i32)
        .arg(stride as i64)
}

/// Shapes, and the launches of the three kernels of the residual.
struct Residual {
    batch: usize,
    rows: usize,
    dim: usize,
}

impl Residual {
    fn launch(&self, name: &str, kind: Kind) -> Launch {
        let pack = if self.dim.is_multiple_of(4) { 4 } else { 1 };
        flat(name, kind, self.batch * self.rows.div_ceil(PART), self.dim, pack)
    }

    fn with_shape(&self, launch: Launch) -> Launch {
        launch
            .arg(self.batch as i32)
            .arg(self.rows as i32)
            .arg(self.dim as i32)
    }

    fn plain(&self, input: &[f32], bias: &[f32]) -> Launch {
        let launch = self.launch("residual", Kind::F32).arg(input).arg(bias);
        self.with_shape(launch.arg(&vec![0f32; input.len()][..]))
    }

    fn gated(&self, kind: Kind, input: &[f32], modulation: &[f32], bias: &[f32], branch: &[f32]) -> Launch {
        let launch = self
            .launch("gated_residual", kind)
            .arg(input)
            .arg(modulation)
            .arg(bias);
        self.with_shape(launch.arg(kind.arg(branch)).arg(&vec![0f32; input.len()][..]))
    }

    fn gated_backward(&self, kind: Kind, d_out: &[f32], modulation: &[f32], branch: &[f32]) -> Launch {
        let launch = self
            .launch("gated_residual_backward", kind)
            .arg(d_out)
            .arg(modulation);
        let partial = vec![0f32; self.batch * self.rows.div_ceil(PART) * self.dim];
        let launch = launch
            .arg(kind.arg(branch))
            .arg(kind.arg(&vec![0.0; branch.len()]));
        self.with_shape(launch.arg(&partial[..]).arg(&partial[..]))
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let (rows, cols) = (128, 96);
    let (x, y, bias) = (wave(rows * cols, 0.3), wave(rows * cols, 1.3), wave(cols, 0.7));
    let shape = Residual {
        batch: 2,
        rows: 64,
        dim: 96,
    };
    let modulation = wave(shape.batch * 3 * shape.dim, 0.1);
    let mut cases = Vec::new();
    for kind in Kind::BOTH {
        let element = kind.bytes();
        cases.extend([
            Case::new(
                bias_gelu_launch(kind, rows, cols, 0, &x, &bias),
                work::bias_gelu(rows, cols, element),
            ),
            Case::new(
                gelu_backward_launch(kind, rows, cols, 0, &x, &y),
                work::gelu_backward(rows, cols, element),
            ),
            Case::new(
                gate_launch(kind, [rows, cols], 0, &x, &y, [&bias, &bias]),
                work::gate(rows, cols, element),
            ),
            Case::new(
                gate_backward_launch(kind, [rows, cols], 0, &x, &y, &x),
                work::gate_backward(rows, cols, element),
            ),
            Case::new(
                column_partials_launch(kind, rows, cols, &x),
                work::column_partials(rows, cols, element),
            ),
            Case::new(
                shape.gated(kind, &x, &modulation, &bias, &y),
                work::gated_residual(shape.batch, shape.rows, shape.dim, element),
            ),
            Case::new(
                shape.gated_backward(kind, &x, &modulation, &y),
                work::gated_residual_backward(shape.batch, shape.rows, shape.dim, element),
            ),
        ]);
    }
    cases.push(Case::new(
        rounded_column_partials_launch(rows, cols, &x),
        work::rounded_column_partials(rows, cols),
    ));
    cases.push(Case::new(
        shape.plain(&x, &bias),
        work::residual(shape.batch, shape.rows, shape.dim),
    ));
    cases.push(Case::new(
        add_column_sums_launch(&x, &wave(2 * cols, 0.2), 2, cols, cols, cols),
        work::add_column_sums(2, rows / 2, cols),
    ));
    cases
}

/// Sums partial sums on the emulated device, starting from `start`.
fn summed(emulator: &mut Emulator, partial: &[f32], start: &[f32]) -> Vec<f32> {
    let launch = add_column_sums_launch(partial, start, 1, start.len(), start.len(), 0);
    emulator.run(&launch).f32s(1)
}

#[test]
fn bias_and_gelu_are_the_cpus() {
    let Some(mut emulator) = Emulator::start() else {
        return;
    };
    for (kind, (rows, cols)) in Kind::BOTH
        .into_iter()
        .flat_map(|kind| [(kind, (70, 37)), (kind, (33, 24)), (kind, (1, 8))])
    {
        for (gelu, number) in KINDS {
            let what = format!("{kind:?} {rows} x {cols} {gelu:?}");
            let (x, bias) = (kind.rounded(&extreme(rows * cols, 0.3)), wave(cols, 0.8));
            let (mut pre, mut out) = (x.clone(), vec![0.0; x.len()]);
            bf16::scope(kind == Kind::Bf16, || bias_gelu(gelu, &mut pre, &bias, &mut out));
            let run = emulator.run(&bias_gelu_launch(kind, rows, cols, number, &x, &bias));
            assert_near(&what, &run.values(kind, 0), &pre, kind.epsilon(), 0.0);
            assert_near(&what, &run.values(kind, 2), &out, 2e-6 + kind.epsilon(), 1e-6);

            let up = kind.rounded(&wave(x.len(), 1.9));
            let mut d = up.clone();
            gelu_backward(gelu, &pre, &mut d);
            let mut d_bias = vec![0.5; cols];
            bias_backward(&d, &mut d_bias);
            let run = emulator.run(&gelu_backward_launch(kind, rows, cols, number, &pre, &up));
            assert_near(&what, &run.values(kind, 1), &d, 2e-6 + kind.epsilon(), 1e-5);
            let sums = summed(&mut emulator, &run.f32s(2), &vec![0.5; cols]);
            assert_near(&what, &sums, &d_bias, 1e-5, 1e-4);
        }
    }
}

#[test]
fn the_gate_is_the_cpus() {
    let Some(mut emulator) = Emulator::start() else {
        return;
    };
    for (kind, (rows, cols)) in Kind::BOTH
        .into_iter()
        .flat_map(|kind| [(kind, (70, 37)), (kind, (33, 24))])
    {
        for (gelu, number) in KINDS {
            let what = format!("{kind:?} {rows} x {cols} {gelu:?}");
            let (x, y) = (
                kind.rounded(&extreme(rows * cols, 0.3)),
                kind.rounded(&wave(rows * cols, 2.6)),
            );
            let (bias_x, bias_y) = (wave(cols, 0.8), wave(cols, 4.4));
            let (mut a, mut b, mut out) = (x.clone(), y.clone(), vec![0.0; x.len()]);
            bf16::scope(kind == Kind::Bf16, || {
                gate(gelu, &mut a, &bias_x, &mut b, &bias_y, &mut out);
            });
            let run = emulator.run(&gate_launch(
                kind,
                [rows, cols],
                number,
                &x,
                &y,
                [&bias_x, &bias_y],
            ));
            for (index, want) in [(0, &a), (2, &b), (4, &out)] {
                assert_near(&what, &run.values(kind, index), want, 4e-6 + kind.epsilon(), 1e-6);
            }
            let up = kind.rounded(&wave(x.len(), 1.9));
            let launch = gate_backward_launch(kind, [rows, cols], number, &a, &b, &up);
            gate_backward(gelu, &mut a, &mut b, &up);
            let run = emulator.run(&launch);
            for (index, want) in [(0, &a), (1, &b)] {
                assert_near(&what, &run.values(kind, index), want, 4e-6 + kind.epsilon(), 1e-5);
                let mut d_bias = vec![0.0; cols];
                bias_backward(want, &mut d_bias);
                let sums = summed(&mut emulator, &run.f32s(3 + index), &vec![0.0; cols]);
                assert_near(&what, &sums, &d_bias, 1e-5, 1e-6 * largest(want) * rows as f64);
            }
        }
    }
}

#[test]
fn the_residual_is_the_cpus() {
    let Some(mut emulator) = Emulator::start() else {
        return;
    };
    for (kind, (batch, rows, dim)) in Kind::BOTH
        .into_iter()
        .flat_map(|kind| [(kind, (2, 35, 19)), (kind, (3, 32, 12))])
    {
        let (shape, what) = (
            Residual { batch, rows, dim },
            format!("{kind:?} {batch} x {rows} x {dim}"),
        );
        let (input, bias, modulation) = (
            extreme(batch * rows * dim, 0.2),
            wave(dim, 0.6),
            wave(batch * 3 * dim, 0.9),
        );
        let mut out = vec![0.0; input.len()];
        residual(&input, &bias, &mut out);
        assert_eq!(emulator.run(&shape.plain(&input, &bias)).f32s(2), out, "{what}");

        let mut branch = kind.rounded(&wave(input.len(), 1.4));
        let launch = shape.gated(kind, &input, &modulation, &bias, &branch);
        gated_residual(&input, &modulation, &bias, &mut branch, batch, &mut out);
        let run = emulator.run(&launch);
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
        let run = emulator.run(&shape.gated_backward(kind, &d_out, &modulation, &branch));
        assert_near(&what, &run.values(kind, 3), &d_branch, kind.epsilon(), 0.0);
        // Only the gate's third is added to: the launcher gives the pointer to it.
        let launch = add_column_sums_launch(&run.f32s(4), &start[2 * dim..], batch, dim, dim, 3 * dim);
        let sums = emulator.run(&launch).f32s(1);
        assert_near(&what, &sums, &d_modulation[2 * dim..], 1e-5, 1e-5);
        let mut d_bias = vec![0.0; dim];
        bias_backward(&d_branch, &mut d_bias);
        assert_near(
            &what,
            &summed(&mut emulator, &run.f32s(5), &vec![0.0; dim]),
            &d_bias,
            1e-5,
            1e-5,
        );
    }
}

#[test]
fn sums_of_columns_are_the_cpus() {
    let Some(mut emulator) = Emulator::start() else {
        return;
    };
    for (kind, (rows, cols)) in Kind::BOTH
        .into_iter()
        .flat_map(|kind| [(kind, (300, 37)), (kind, (31, 16))])
    {
        let d = kind.rounded(&wave(rows * cols, 0.5));
        let mut d_bias = vec![1.5; cols];
        bias_backward(&d, &mut d_bias);
        let partial = emulator
            .run(&column_partials_launch(kind, rows, cols, &d))
            .f32s(1);
        let sums = summed(&mut emulator, &partial, &vec![1.5; cols]);
        assert_near("column sums", &sums, &d_bias, 1e-5, 1e-5);
        if kind == Kind::F32 {
            let run = emulator.run(&rounded_column_partials_launch(rows, cols, &d));
            assert_eq!(run.f32s(2), partial);
            assert_eq!(run.values(Kind::Bf16, 1), Kind::Bf16.rounded(&d));
        }
    }
}
