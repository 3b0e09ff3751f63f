//! LayerNorm with modulation, beside the CPU's operation.

use trainer::gpu::Element;
use trainer::gpu::kernels::norm::{self, Norm};
use trainer::ops::norm_modulate::{norm_modulate, norm_modulate_backward};

use crate::device::Runner;

use super::Case;
use super::elementwise::sums as sums_of;
use super::runner::{Bytes, Launch, Numbers as _};
use super::values::{assert_near, extreme, largest, wave};

const EPS: f32 = 1e-6;

fn forward(kind: Element, shape: Norm, x: &[f32], modulation: &[f32]) -> Launch {
    let stats = Bytes::zeros::<f32>(shape.batch * shape.rows * 2);
    norm::norm_modulate(
        kind,
        shape,
        EPS,
        x.into(),
        modulation.into(),
        kind.zeros(x.len()),
        stats,
    )
}

fn backward(
    kind: Element,
    shape: Norm,
    x: &[f32],
    modulation: &[f32],
    stats: &[f32],
    dh: &[f32],
    dx: &[f32],
) -> Launch {
    let partial = Bytes::zeros::<f32>(shape.batch * shape.parts() * 2 * shape.dim);
    let saved = [x.into(), modulation.into(), stats.into()];
    norm::norm_modulate_backward(kind, shape, saved, kind.buffer(dh), dx.into(), partial)
}

pub(crate) fn cases() -> Vec<Case> {
    let shape = Norm {
        batch: 2,
        rows: 64,
        dim: 160,
        width: 320,
        with_scale: true,
    };
    let Norm { batch, rows, dim, .. } = shape;
    let (x, modulation) = (wave(batch * rows * dim, 0.4), wave(batch * 2 * dim, 1.1));
    let stats: Vec<f32> = (0..batch * rows).flat_map(|_| [0.1, 1.3]).collect();
    let launches = Element::ALL.into_iter().flat_map(|kind| {
        [
            forward(kind, shape, &x, &modulation),
            backward(kind, shape, &x, &modulation, &stats, &x, &x),
        ]
    });
    launches.map(Case::from).collect()
}

pub(crate) fn the_modulated_norm_is_the_cpus() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    for (kind, with_scale) in [(Element::F32, true), (Element::F32, false), (Element::Bf16, true)] {
        for (batch, rows, dim) in [(2, 35, 19), (1, 33, 64), (2, 1, 1152)] {
            let what = format!("{kind:?} {batch} x {rows} x {dim} scale {with_scale}");
            let shape = Norm {
                batch,
                rows,
                dim,
                width: 2 * dim,
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
            let run = runner.run(&forward(kind, shape, &x, &modulation));
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
            let launch = backward(kind, shape, &x, &modulation, &flat, &dh, &dx);
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
            let run = runner.run(&launch);
            assert_near(&what, &run.f32s(4)[..dim], &want[..dim], 1e-5, first);
            assert_near(&what, &run.f32s(4)[dim..], &want[dim..], 1e-5, 1e-5);
            let cols = if with_scale { 2 * dim } else { dim };
            let launch = sums_of(
                &run.f32s(5),
                &vec![0.5; modulation.len()],
                batch,
                2 * dim,
                cols,
                2 * dim,
            );
            let sums = runner.run(&launch).f32s(1);
            assert_near(&what, &sums, &d_modulation, 1e-5, 3e-6 * largest(&d_modulation));
        }
    }
}
