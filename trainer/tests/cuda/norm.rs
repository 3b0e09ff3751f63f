//! LayerNorm with modulation, beside the CPU's operation.

use trainer::ops::norm_modulate::{norm_modulate, norm_modulate_backward};
use trainer::roofline::work;

use super::Case;
use super::elementwise::add_column_sums_launch;
use super::emulator::{Emulator, Kind, Launch};
use super::values::{assert_near, extreme, largest, wave};

const EPS: f32 = 1e-6;

struct Shape {
    batch: usize,
    rows: usize,
    dim: usize,
    with_scale: bool,
}

impl Shape {
    fn grid(&self) -> (usize, usize) {
        (self.rows.div_ceil(32), self.batch)
    }

    fn with_shape(&self, launch: Launch) -> Launch {
        let width = 2 * self.dim;
        let launch = launch
            .arg(self.rows as i32)
            .arg(self.dim as i32)
            .arg(width as i32);
        launch.arg(i32::from(self.with_scale))
    }

    fn forward(&self, kind: Kind, x: &[f32], modulation: &[f32]) -> Launch {
        let launch = Launch::new(format!("norm_modulate_{}", kind.suffix()), self.grid(), 256);
        let launch = launch.shared(10 * self.dim * 4).arg(x).arg(modulation);
        let stats = vec![0f32; self.batch * self.rows * 2];
        let launch = launch.arg(kind.arg(&vec![0.0; x.len()])).arg(&stats[..]);
        self.with_shape(launch).arg(EPS)
    }

    fn backward(
        &self,
        kind: Kind,
        x: &[f32],
        modulation: &[f32],
        stats: &[f32],
        dh: &[f32],
        dx: &[f32],
    ) -> Launch {
        let pack = if self.dim.is_multiple_of(4) { 4 } else { 1 };
        let block = (self.dim / pack).next_multiple_of(32).min(1024);
        let launch = Launch::new(
            format!("norm_modulate_backward_{}", kind.suffix()),
            self.grid(),
            block,
        );
        let launch = launch.shared(5 * self.dim * 4).arg(x).arg(modulation).arg(stats);
        let partial = vec![0f32; self.batch * self.rows.div_ceil(32) * 2 * self.dim];
        self.with_shape(launch.arg(kind.arg(dh)).arg(dx).arg(&partial[..]))
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let shape = Shape {
        batch: 2,
        rows: 64,
        dim: 160,
        with_scale: true,
    };
    let Shape { batch, rows, dim, .. } = shape;
    let (x, modulation) = (wave(batch * rows * dim, 0.4), wave(batch * 2 * dim, 1.1));
    let stats: Vec<f32> = (0..batch * rows).flat_map(|_| [0.1, 1.3]).collect();
    Kind::BOTH
        .into_iter()
        .flat_map(|kind| {
            [
                Case::new(
                    shape.forward(kind, &x, &modulation),
                    work::norm_modulate(batch, rows, dim, kind.bytes()),
                ),
                Case::new(
                    shape.backward(kind, &x, &modulation, &stats, &x, &x),
                    work::norm_modulate_backward(batch, rows, dim, kind.bytes()),
                ),
            ]
        })
        .collect()
}

#[test]
fn the_modulated_norm_is_the_cpus() {
    let Some(mut emulator) = Emulator::start() else {
        return;
    };
    for (kind, with_scale) in [(Kind::F32, true), (Kind::F32, false), (Kind::Bf16, true)] {
        for (batch, rows, dim) in [(2, 35, 19), (1, 33, 64), (2, 1, 1152)] {
            let what = format!("{kind:?} {batch} x {rows} x {dim} scale {with_scale}");
            let shape = Shape {
                batch,
                rows,
                dim,
                with_scale,
            };
            // Far from zero, and with rows that are nearly constant.
            let mut x = extreme(batch * rows * dim, 0.6);
            x[..dim]
                .iter_mut()
                .enumerate()
                .for_each(|(i, v)| *v = 100.0 + 1e-2 * (i % 7) as f32);
            let modulation = wave(batch * 2 * dim, 1.4);
            let (mut h, mut stats) = (vec![0.0; x.len()], vec![(0.0, 0.0); batch * rows]);
            norm_modulate(&x, &modulation, batch, with_scale, EPS, &mut h, &mut stats);
            let run = emulator.run(&shape.forward(kind, &x, &modulation));
            // In the first row a unit of the last place of a mean is some thousandths of the spread.
            let (first, rest) = (5e-3, 1e-4);
            let found = run.values(kind, 2);
            assert_near(&what, &found[..dim], &h[..dim], kind.epsilon(), first);
            assert_near(&what, &found[dim..], &h[dim..], 1e-5 + kind.epsilon(), rest);
            // Means of numbers of up to 10,000.
            let flat: Vec<f32> = stats.iter().flat_map(|&(mean, rstd)| [mean, rstd]).collect();
            assert_near(&what, &run.f32s(3), &flat, 2e-5, 1e-3);

            let (dh, dx) = (kind.rounded(&wave(x.len(), 2.2)), wave(x.len(), 0.25));
            let (mut want, mut d_modulation) = (dx.clone(), vec![0.5; modulation.len()]);
            let launch = shape.backward(kind, &x, &modulation, &flat, &dh, &dx);
            norm_modulate_backward(
                &x,
                &modulation,
                batch,
                with_scale,
                &stats,
                &dh,
                &mut want,
                &mut d_modulation,
            );
            let run = emulator.run(&launch);
            assert_near(&what, &run.f32s(4)[..dim], &want[..dim], 1e-5, first);
            assert_near(&what, &run.f32s(4)[dim..], &want[dim..], 1e-5, 1e-5);
            let cols = if with_scale { 2 * dim } else { dim };
            let launch = add_column_sums_launch(
                &run.f32s(5),
                &vec![0.5; modulation.len()],
                batch,
                2 * dim,
                cols,
                2 * dim,
            );
            let sums = emulator.run(&launch).f32s(1);
            assert_near(&what, &sums, &d_modulation, 1e-5, 3e-6 * largest(&d_modulation));
        }
    }
}
