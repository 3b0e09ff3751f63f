//! What lies around the chain of blocks, beside the CPU's operations.

use trainer::gpu::Element;
use trainer::gpu::kernels::embed::{
    Patches, add_label_rows, broadcast_rows, silu, silu_backward, timestep_features,
};
use trainer::model::timestep_features as features;

use crate::device::Runner;

use super::Case;
use super::runner::{Bytes, Launch, Numbers as _};
use super::values::{assert_near, extreme, wave};

fn broadcast(shape: [usize; 3], bias: &[f32], positions: &[f32]) -> Launch {
    let out = Bytes::zeros::<f32>(shape[0] * shape[2]);
    broadcast_rows(shape, bias.into(), positions.into(), out)
}

fn features_launch(kind: Element, timesteps: &[i32], map: &[f32], width: usize) -> Launch {
    let shape = [timesteps.len(), width];
    timestep_features(
        kind,
        shape,
        timesteps.into(),
        map.into(),
        kind.zeros(shape[0] * width),
    )
}

/// The table's rows and every row's label, if any.
type Table<'a> = Option<(&'a [f32], &'a [i32])>;

fn silu_launch(kind: Element, shape: [usize; 2], pre: &[f32], bias: &[f32], table: Table<'_>) -> Launch {
    let table = table.map(|(rows, labels)| [rows.into(), labels.into()]);
    silu(kind, shape, pre.into(), bias.into(), table, kind.zeros(pre.len()))
}

fn silu_backward_launch(pre: &[f32], d: &[f32], direct: Option<&[f32]>) -> Launch {
    silu_backward(pre.len(), pre.into(), d.into(), direct.map(Bytes::from))
}

fn label_rows(shape: [usize; 2], d: &[f32], labels: &[i32], table: &[f32]) -> Launch {
    add_label_rows(shape, d.into(), labels.into(), table.into())
}

fn tokens(kind: Element, patches: Patches, batch: usize, x: &[f32]) -> Launch {
    patches.tokens_of_images(kind, batch, x.into(), kind.zeros(x.len()))
}

fn images(patches: Patches, batch: usize, tokens: &[f32]) -> Launch {
    patches.images_of_tokens(batch, tokens.into(), Bytes::zeros::<f32>(tokens.len()))
}

const PATCHES: Patches = Patches {
    channels: 4,
    side: 16,
    patch: 2,
    channels_first: true,
};

pub(crate) fn cases() -> Vec<Case> {
    let (rows, cols) = (64, 96);
    let (x, row) = (wave(rows * cols, 0.3), wave(cols, 0.8));
    let labels: Vec<i32> = (0..rows as i32).rev().collect();
    let image = wave(2 * 4 * 16 * 16, 0.4);
    let mut cases = vec![
        broadcast([rows, 16, cols], &row, &x[..16 * cols]),
        silu_backward_launch(&x, &x, None),
        label_rows([rows, cols], &x, &labels, &x),
        images(PATCHES, 2, &image),
    ];
    for kind in Element::ALL {
        cases.extend([
            features_launch(kind, &[3, 700, 999], &wave(1000, 0.2), 256),
            silu_launch(kind, [rows, cols], &x, &row, Some((&x, &labels))),
            tokens(kind, PATCHES, 2, &image),
        ]);
    }
    cases.into_iter().map(Case::from).collect()
}

pub(crate) fn rows_begin_with_bias_and_position() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    let (bias, positions) = (wave(7, 0.4), wave(3 * 7, 1.9));
    for period in [0, 3] {
        let found = runner.run(&broadcast([9, period, 7], &bias, &positions)).f32s(2);
        for (i, found) in found.iter().enumerate() {
            let position = if period > 0 {
                positions[i / 7 % period * 7 + i % 7]
            } else {
                0.0
            };
            assert_eq!(*found, bias[i % 7] + position);
        }
    }
}

pub(crate) fn timesteps_become_the_cpus_features() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    let map: Vec<f32> = (0..50).map(|k| 20.0 * k as f32).collect();
    let timesteps = [0, 1, 17, 49, 3];
    let t: Vec<f32> = timesteps.iter().map(|&k| map[k as usize]).collect();
    for kind in Element::ALL {
        for width in [256, 6] {
            let run = runner.run(&features_launch(kind, &timesteps, &map, width));
            // Angles of up to 980 in f64, on both sides.
            assert_near(
                "features",
                &run.values(kind, 2),
                &features(&t, width),
                kind.epsilon(),
                1e-7,
            );
        }
    }
}

/// `x * sigmoid(x)` and its derivative.
fn silu_of(x: f32) -> (f64, f64) {
    let x = f64::from(x);
    let s = 1.0 / (1.0 + (-x).exp());
    (x * s, s * (1.0 + x * (1.0 - s)))
}

pub(crate) fn silu_adds_bias_and_label() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    let (rows, cols) = (5, 37);
    let (x, bias, table) = (extreme(rows * cols, 0.3), wave(cols, 0.9), wave(3 * cols, 1.4));
    let labels = [2, 0, 2, 1, 0];
    for kind in Element::ALL {
        for with_table in [false, true] {
            let of = with_table.then_some((&table[..], &labels[..]));
            let run = runner.run(&silu_launch(kind, [rows, cols], &x, &bias, of));
            let index = |i: usize| labels[i / cols] as usize * cols + i % cols;
            let pre: Vec<f32> = (0..x.len())
                .map(|i| {
                    let with_bias = x[i] + bias[i % cols];
                    if with_table {
                        with_bias + table[index(i)]
                    } else {
                        with_bias
                    }
                })
                .collect();
            assert_eq!(run.f32s(0), pre);
            let value: Vec<f32> = pre.iter().map(|&x| silu_of(x).0 as f32).collect();
            assert_near("silu", &run.values(kind, 4), &value, 1e-6 + kind.epsilon(), 1e-7);
        }
    }
    let (d, direct) = (wave(x.len(), 2.2), wave(x.len(), 4.4));
    for direct in [None, Some(&direct[..])] {
        let run = runner.run(&silu_backward_launch(&x, &d, direct));
        let want: Vec<f32> = (0..x.len())
            .map(|i| f64::from(d[i]) * silu_of(x[i]).1 + direct.map_or(0.0, |direct| f64::from(direct[i])))
            .map(|v| v as f32)
            .collect();
        assert_near("silu, backward", &run.f32s(1), &want, 1e-5, 1e-6);
    }
}

pub(crate) fn label_rows_are_summed_image_after_image() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    let (batch, cols, labels) = (40, 19, (0..40).map(|b| b * b % 3).collect::<Vec<i32>>());
    let (d, mut table) = (wave(batch * cols, 0.6), wave(3 * cols, 0.2));
    let found = runner
        .run(&label_rows([batch, cols], &d, &labels, &table))
        .f32s(2);
    for (row, &label) in d.chunks_exact(cols).zip(&labels) {
        for (sum, d) in table[label as usize * cols..].iter_mut().zip(row) {
            *sum += d;
        }
    }
    assert_eq!(found, table);
}

pub(crate) fn patches_lie_as_the_cpus() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    for (channels, side, patch) in [(3, 8, 2), (4, 6, 1), (2, 9, 3)] {
        for channels_first in [true, false] {
            let patches = Patches {
                channels,
                side,
                patch,
                channels_first,
            };
            let (batch, grid) = (2, side / patch);
            let x = wave(batch * channels * side * side, 0.7);
            let mut want = Vec::new();
            for image in x.chunks_exact(channels * side * side) {
                let pixel = |c: usize, y: usize, x: usize| image[(c * side + y) * side + x];
                for (row, column) in (0..grid * grid).map(|place| (place / grid, place % grid)) {
                    for inside in 0..channels * patch * patch {
                        let (c, within) = if channels_first {
                            (inside / (patch * patch), inside % (patch * patch))
                        } else {
                            (inside % channels, inside / channels)
                        };
                        let (y, x) = (row * patch + within / patch, column * patch + within % patch);
                        want.push(pixel(c, y, x));
                    }
                }
            }
            for kind in Element::ALL {
                let found = runner.run(&tokens(kind, patches, batch, &x)).values(kind, 1);
                assert_eq!(found, kind.rounded(&want));
            }
            assert_eq!(runner.run(&images(patches, batch, &want)).f32s(1), x);
        }
    }
}
