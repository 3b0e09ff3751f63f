//! Group norm with SiLU and the bytes of images, beside the CPU's.

use preprocess::image::tensor::to_byte;
use preprocess::nn::{Activation, FeatureMap, GroupNorm, Padding};
use trainer::roofline::work;

use super::Case;
use super::emulator::{Emulator, Kind, Launch};
use super::values::{assert_near, wave};

struct Map {
    batch: usize,
    pixels: usize,
    channels: usize,
    groups: usize,
}

impl Map {
    fn launch(&self, name: &str, kind: Kind, per_thread: usize) -> Launch {
        let threads = self.pixels.div_ceil(per_thread) * (self.channels / kind.pack(self.channels));
        Launch::new(
            format!("group_norm_{name}_{}", kind.suffix()),
            (threads.div_ceil(256), self.batch),
            256,
        )
    }

    fn sums(&self, kind: Kind, x: &[f32]) -> Launch {
        let partial = vec![0f32; self.batch * self.pixels.div_ceil(128) * 2 * self.channels];
        let launch = self.launch("sums", kind, 128).arg(kind.arg(x)).arg(&partial[..]);
        launch.arg(self.pixels as i32).arg(self.channels as i32)
    }

    fn affine(&self, kind: Kind, x: &[f32], partial: &[f32], weight: &[f32], bias: &[f32]) -> Launch {
        let name = format!("group_norm_affine_{}", kind.suffix());
        let launch =
            Launch::new(name, (self.groups, self.batch), 256).shared(16 * self.channels / self.groups);
        let launch = launch.arg(kind.arg(x)).arg(partial).arg(weight).arg(bias);
        let launch = launch
            .arg(&vec![0f32; self.batch * 2 * self.channels][..])
            .arg(self.pixels as i32);
        launch
            .arg(self.channels as i32)
            .arg(self.groups as i32)
            .arg(1e-6f64)
    }

    fn apply(&self, kind: Kind, x: &[f32], affine: &[f32], silu: bool) -> Launch {
        let launch = self
            .launch("apply", kind, 32)
            .arg(kind.arg(x))
            .arg(affine)
            .arg(kind.arg(&vec![0.0; x.len()]));
        launch
            .arg(self.pixels as i32)
            .arg(self.channels as i32)
            .arg(i32::from(silu))
    }
}

fn to_bytes(kind: Kind, planes: &[f32], batch: usize) -> Launch {
    let area = planes.len() / batch / 3;
    let name = format!("to_bytes_{}", kind.suffix());
    let launch = Launch::new(name, (area.div_ceil(4).div_ceil(256), batch), 256).arg(kind.arg(planes));
    launch.arg(&vec![0u8; planes.len()][..]).arg(area as i32)
}

fn from_bytes(pixels: &[u8], batch: usize) -> Launch {
    let area = pixels.len() / batch / 3;
    let launch = Launch::new("from_bytes_f32", (area.div_ceil(4).div_ceil(256), batch), 256).arg(pixels);
    launch.arg(&vec![0f32; pixels.len()][..]).arg(area as i32)
}

pub(crate) fn cases() -> Vec<Case> {
    let map = Map {
        batch: 2,
        pixels: 256,
        channels: 64,
        groups: 8,
    };
    let Map {
        batch,
        pixels,
        channels,
        ..
    } = map;
    let (x, parts) = (wave(batch * pixels * channels, 0.3), pixels.div_ceil(128));
    let (partial, per_channel) = (wave(batch * parts * 2 * channels, 0.4), wave(channels, 0.9));
    let affine = wave(batch * 2 * channels, 0.6);
    let mut cases = vec![Case::new(
        from_bytes(&[7; 3 * 1024], 1),
        work::image_bytes(1, 1024, 4),
    )];
    for kind in Kind::BOTH {
        let element = kind.bytes();
        cases.extend([
            Case::new(
                map.sums(kind, &x),
                work::group_norm_sums(batch, pixels, channels, element),
            ),
            Case::new(
                map.affine(kind, &x, &partial, &per_channel, &per_channel),
                work::group_norm_affine(batch, parts, channels, element),
            ),
            Case::new(
                map.apply(kind, &x, &affine, true),
                work::group_norm_apply(batch, pixels, channels, element),
            ),
            Case::new(
                to_bytes(kind, &x[..3 * 1024], 1),
                work::image_bytes(1, 1024, element),
            ),
        ]);
    }
    cases
}

#[test]
fn group_norm_is_the_cpus_even_far_from_zero() {
    let Some(mut emulator) = Emulator::start() else {
        return;
    };
    for (kind, [batch, height, width, channels], groups) in [
        (Kind::F32, [2, 19, 33, 12], 4),
        (Kind::Bf16, [1, 16, 16, 64], 8),
        (Kind::F32, [1, 1, 3, 6], 3),
        (Kind::Bf16, [2, 9, 9, 6], 2),
    ] {
        let map = Map {
            batch,
            pixels: height * width,
            channels,
            groups,
        };
        let mut x = wave(batch * height * width * channels, 0.7);
        if kind == Kind::F32 {
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
        let partial = emulator.run(&map.sums(kind, &x)).f32s(1);
        let affine = emulator
            .run(&map.affine(kind, &x, &partial, &weight, &bias))
            .f32s(4);
        for (activation, silu) in [(Activation::Silu, true), (Activation::None, false)] {
            let want = norm.forward(&input, activation, Padding::NONE).unwrap();
            let found = emulator.run(&map.apply(kind, &x, &affine, silu)).values(kind, 2);
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

#[test]
fn bytes_follow_dits_rule_and_return() {
    let Some(mut emulator) = Emulator::start() else {
        return;
    };
    for (kind, area, batch) in [(Kind::F32, 1028, 2), (Kind::F32, 35, 1), (Kind::Bf16, 64, 1)] {
        let mut planes: Vec<f32> = wave(batch * 3 * area, 0.2);
        planes[..6].copy_from_slice(&[f32::NAN, f32::INFINITY, -f32::INFINITY, 1.0, -1.0, -0.003_921_57]);
        let planes = kind.rounded(&planes);
        let pixels = emulator.run(&to_bytes(kind, &planes, batch)).buffers[1].clone();
        for (i, &byte) in pixels.iter().enumerate() {
            let (image, rest) = (i / (3 * area), i % (3 * area));
            let v = planes[image * 3 * area + rest % 3 * area + rest / 3];
            assert_eq!(byte, to_byte(v), "{v}");
        }
        let back = emulator.run(&from_bytes(&pixels, batch)).f32s(1);
        for (i, &v) in back.iter().enumerate() {
            let (image, rest) = (i / (3 * area), i % (3 * area));
            let byte = pixels[image * 3 * area + rest % area * 3 + rest / area];
            assert_eq!(v, f32::from(byte) / 127.5 - 1.0);
        }
    }
}
