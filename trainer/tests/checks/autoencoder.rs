//! Group norm with SiLU and the bytes of images, beside the CPU's.

use preprocess::image::tensor::to_byte;
use preprocess::nn::{Activation, FeatureMap, GroupNorm, Padding};
use trainer::gpu::{Arg, Element};
use trainer::ops::profile::Op;
use trainer::roofline::{Work, work};

use crate::device::Runner;

use super::Case;
use super::runner::{Bytes, Launch, Numbers as _};
use super::values::{assert_near, wave};

struct Map {
    batch: usize,
    pixels: usize,
    channels: usize,
    groups: usize,
}

impl Map {
    fn parts(&self) -> usize {
        self.pixels.div_ceil(128)
    }

    fn launch(&self, name: &str, kind: Element, per_thread: usize, work: Work) -> Launch {
        let threads = self.pixels.div_ceil(per_thread) * (self.channels / kind.pack(self.channels));
        let name = format!("group_norm_{name}_{}", kind.suffix());
        Launch::new(Op::Norm, name, (threads.div_ceil(256), self.batch), 256, work)
    }

    fn sums(&self, kind: Element, x: &[f32]) -> Launch {
        let work = work::group_norm_sums(self.batch, self.pixels, self.channels, kind.bytes());
        let partial = Bytes::zeros::<f32>(self.batch * self.parts() * 2 * self.channels);
        self.launch("sums", kind, 128, work)
            .buffers([kind.buffer(x), partial])
            .ints([self.pixels, self.channels])
    }

    fn affine(&self, kind: Element, x: &[f32], partial: &[f32], weight: &[f32], bias: &[f32]) -> Launch {
        let work = work::group_norm_affine(self.batch, self.parts(), self.channels, kind.bytes());
        let name = format!("group_norm_affine_{}", kind.suffix());
        let room = Bytes::zeros::<f32>(self.batch * 2 * self.channels);
        Launch::new(Op::Norm, name, (self.groups, self.batch), 256, work)
            .shared(16 * self.channels / self.groups)
            .buffers([kind.buffer(x), partial.into(), weight.into(), bias.into(), room])
            .ints([self.pixels, self.channels, self.groups])
            .arg(Arg::F64(1e-6))
    }

    fn apply(&self, kind: Element, x: &[f32], affine: &[f32], silu: bool) -> Launch {
        let work = work::group_norm_apply(self.batch, self.pixels, self.channels, kind.bytes());
        self.launch("apply", kind, 32, work)
            .buffers([kind.buffer(x), affine.into(), kind.zeros(x.len())])
            .ints([self.pixels, self.channels, usize::from(silu)])
    }
}

/// Of a map `[batch, channels, pixels]`.
fn planes(map: &Map, x: &[f32], weight: &[f32], bias: &[f32], silu: bool) -> Launch {
    let work = work::group_norm_planes(map.batch, map.channels, map.groups, map.pixels);
    let grid = (map.groups, map.batch);
    Launch::new(Op::Norm, "group_norm_planes_f32", grid, 256, work)
        .buffers([x.into(), weight.into(), bias.into(), Element::F32.zeros(x.len())])
        .ints([map.channels, map.groups, map.pixels])
        .arg(Arg::F64(1e-6))
        .ints([usize::from(silu)])
}

/// A launch over four pixels a thread.
fn pixels(name: String, batch: usize, area: usize, element: usize) -> Launch {
    let grid = (area.div_ceil(4).div_ceil(256), batch);
    Launch::new(
        Op::Diffusion,
        name,
        grid,
        256,
        work::image_bytes(batch, area, element),
    )
}

fn to_bytes(kind: Element, planes: &[f32], batch: usize) -> Launch {
    let area = planes.len() / batch / 3;
    pixels(format!("to_bytes_{}", kind.suffix()), batch, area, kind.bytes())
        .buffers([kind.buffer(planes), Bytes::zeros::<u8>(planes.len())])
        .ints([area])
}

fn from_bytes(bytes: &[u8], batch: usize) -> Launch {
    let area = bytes.len() / batch / 3;
    pixels("from_bytes_f32".to_owned(), batch, area, 4)
        .buffers([bytes.into(), Bytes::zeros::<f32>(bytes.len())])
        .ints([area])
}

pub(crate) fn cases() -> Vec<Case> {
    let map = Map {
        batch: 2,
        pixels: 256,
        channels: 64,
        groups: 8,
    };
    let (batch, channels) = (map.batch, map.channels);
    let x = wave(batch * map.pixels * channels, 0.3);
    let (partial, per_channel) = (wave(batch * map.parts() * 2 * channels, 0.4), wave(channels, 0.9));
    let affine = wave(batch * 2 * channels, 0.6);
    let mut cases = vec![
        from_bytes(&[7; 3 * 1024], 1),
        planes(&map, &x, &per_channel, &per_channel, true),
    ];
    for kind in Element::ALL {
        cases.extend([
            map.sums(kind, &x),
            map.affine(kind, &x, &partial, &per_channel, &per_channel),
            map.apply(kind, &x, &affine, true),
            to_bytes(kind, &x[..3 * 1024], 1),
        ]);
    }
    cases.into_iter().map(Case::from).collect()
}

pub(crate) fn group_norm_is_the_cpus_even_far_from_zero() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    for (kind, [batch, height, width, channels], groups) in [
        (Element::F32, [2, 19, 33, 12], 4),
        (Element::Bf16, [1, 16, 16, 64], 8),
        (Element::F32, [1, 1, 3, 6], 3),
        (Element::Bf16, [2, 9, 9, 6], 2),
    ] {
        let map = Map {
            batch,
            pixels: height * width,
            channels,
            groups,
        };
        let mut x = wave(batch * height * width * channels, 0.7);
        if kind == Element::F32 {
            x.iter_mut()
                .enumerate()
                .for_each(|(i, v)| *v += 100.0 * (i % channels / 3) as f32);
        }
        let x = kind.rounded(&x);
        let (weight, bias) = (wave(channels, 0.8), wave(channels, 2.8));
        let norm = GroupNorm::new(groups, weight.clone(), bias.clone(), 1e-6).unwrap();
        let mut input = FeatureMap::zeros([batch, height, width, channels], Padding::NONE);
        for n in 0..batch {
            for y in 0..height {
                let start = (n * height + y) * width * channels;
                input
                    .row_mut(n, y)
                    .copy_from_slice(&x[start..start + width * channels]);
            }
        }
        if kind == Element::F32 {
            // The same numbers, channel by channel.
            let by_channel = |x: &[f32]| -> Vec<f32> {
                let image = map.pixels * channels;
                let at =
                    |i: usize| (i / image) * image + (i % map.pixels) * channels + i % image / map.pixels;
                (0..x.len()).map(|i| x[at(i)]).collect()
            };
            let want = norm.forward(&input, Activation::Silu, Padding::NONE).unwrap();
            let launch = planes(&map, &by_channel(&x), &weight, &bias, true);
            let found = runner.run(&launch).f32s(3);
            assert_near("planes", &found, &by_channel(want.data()), 1e-5, 1e-3);
        }
        let partial = runner.run(&map.sums(kind, &x)).f32s(1);
        let affine = runner
            .run(&map.affine(kind, &x, &partial, &weight, &bias))
            .f32s(4);
        for (activation, silu) in [(Activation::Silu, true), (Activation::None, false)] {
            let want = norm.forward(&input, activation, Padding::NONE).unwrap();
            let found = runner.run(&map.apply(kind, &x, &affine, silu)).values(kind, 2);
            // A value near 300 carries a rounding of 1.5e-5 standard deviations of 0.06.
            assert_near(
                &format!("{kind:?} {activation:?}"),
                &found,
                want.data(),
                1e-5 + kind.epsilon(),
                2e-3,
            );
        }
    }
}

pub(crate) fn bytes_follow_dits_rule_and_return() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    for (kind, area, batch) in [
        (Element::F32, 1028, 2),
        (Element::F32, 35, 1),
        (Element::Bf16, 64, 1),
    ] {
        let mut planes: Vec<f32> = wave(batch * 3 * area, 0.2);
        planes[..6].copy_from_slice(&[f32::NAN, f32::INFINITY, -f32::INFINITY, 1.0, -1.0, -0.003_921_57]);
        let planes = kind.rounded(&planes);
        let pixels = runner.run(&to_bytes(kind, &planes, batch)).buffers[1].clone();
        for (i, &byte) in pixels.iter().enumerate() {
            let (image, rest) = (i / (3 * area), i % (3 * area));
            let v = planes[image * 3 * area + rest % 3 * area + rest / 3];
            assert_eq!(byte, to_byte(v), "{v}");
        }
        let back = runner.run(&from_bytes(&pixels, batch)).f32s(1);
        for (i, &v) in back.iter().enumerate() {
            let (image, rest) = (i / (3 * area), i % (3 * area));
            let byte = pixels[image * 3 * area + rest % area * 3 + rest / area];
            assert_eq!(v, f32::from(byte) / 127.5 - 1.0);
        }
    }
}
