//! The built-in data set: coloured shapes and textures, ten classes, any number of images at any size.
//!
//! Image `id` is a pure function of (seed, id): sixteen uniforms place and colour it, and the class is `id mod 10`.
//! Coordinates are in units of the side, y downwards; signed distances are negative inside.

use std::f64::consts::TAU;

use shards::rng::{Philox, Stream};

use crate::image::RgbImage;

/// The classes, in label order.
pub const CLASSES: [&str; 10] = [
    "disc",
    "ring",
    "square",
    "triangle",
    "star",
    "cross",
    "horizontal",
    "vertical",
    "checker",
    "dots",
];

const HUES: [[f64; 3]; 10] = [
    [230.0, 57.0, 70.0],
    [244.0, 140.0, 6.0],
    [255.0, 215.0, 50.0],
    [120.0, 200.0, 60.0],
    [20.0, 140.0, 90.0],
    [40.0, 190.0, 210.0],
    [38.0, 110.0, 214.0],
    [100.0, 60.0, 200.0],
    [200.0, 60.0, 180.0],
    [150.0, 90.0, 50.0],
];

const GROUNDS: [[f64; 3]; 6] = [
    [245.0, 240.0, 225.0],
    [205.0, 222.0, 235.0],
    [225.0, 205.0, 220.0],
    [44.0, 47.0, 64.0],
    [62.0, 44.0, 38.0],
    [28.0, 66.0, 66.0],
];

/// Standard deviation of the grey noise on every pixel.
const NOISE: f32 = 0.012;

/// So many images of one seed.
#[derive(Clone, Copy, Debug)]
pub struct Demo {
    /// The seed of the drawing.
    pub seed: u64,
    /// The number of images.
    pub count: u64,
}

/// The class of image `id`.
pub fn class(id: u64) -> usize {
    (id % 10) as usize
}

/// Draws image `id` at `size` x `size`; answers it with its class.
pub fn draw(seed: u64, id: u64, size: usize) -> (RgbImage, usize) {
    let rng = Philox::new(seed);
    let u: [f64; 16] = std::array::from_fn(|i| rng.uniform(Stream::Demo, id, 0, i as u32));
    let k = class(id);
    let mut noise = vec![0f32; size * size];
    rng.fill_normal(Stream::Demo, id, 1, &mut noise);

    let foreground: [f64; 3] = std::array::from_fn(|c| HUES[k][c] / 255.0 + 0.1 * (u[13 + c] - 0.5));
    let background = GROUNDS[((6.0 * u[1]) as usize).min(5)].map(|v| v / 255.0);
    let (sin_g, cos_g) = (TAU * u[6]).sin_cos();
    let side = size as f64;
    let mut data = Vec::with_capacity(size * size * 3);
    for (j, row) in noise.chunks_exact(size.max(1)).enumerate() {
        for (i, grey) in row.iter().enumerate() {
            let (x, y) = ((i as f64 + 0.5) / side, (j as f64 + 0.5) / side);
            let cover = (0.5 - distance(k, &u, x, y) * side).clamp(0.0, 1.0);
            let g = (x - 0.5) * cos_g + (y - 0.5) * sin_g;
            for c in 0..3 {
                let below = background[c] * (1.0 + 0.5 * u[7] * g) * (1.0 - cover);
                let above = foreground[c] * (1.0 - 0.35 * u[12] * (0.5 + g)) * cover;
                let v = (below + above + f64::from(NOISE * grey)).clamp(0.0, 1.0);
                data.push((255.0 * v).round() as u8);
            }
        }
    }
    (
        RgbImage {
            width: size,
            height: size,
            data,
        },
        k,
    )
}

/// The signed distance of a point from the figure of class `k`.
fn distance(k: usize, u: &[f64; 16], px: f64, py: f64) -> f64 {
    if k >= 6 {
        return texture(k, u, px, py);
    }
    let r = 0.29 + 0.07 * u[4];
    let angle = match k {
        4 => TAU * u[5],
        2 | 3 | 5 => 0.7 * (u[5] - 0.5),
        _ => 0.0,
    };
    let (dx, dy) = (px - 0.5 - 0.08 * (u[2] - 0.5), py - 0.5 - 0.08 * (u[3] - 0.5));
    let (sin, cos) = angle.sin_cos();
    let (x, y) = (cos * dx + sin * dy, cos * dy - sin * dx);
    let q = x.hypot(y);
    match k {
        0 => q - r,
        1 => (q - 0.82 * r).abs() - 0.2 * r,
        2 => x.abs().max(y.abs()) - 0.85 * r,
        3 => (0.866_025_4 * x.abs() - 0.5 * y).max(y) - 0.55 * r,
        4 => star(x, y, q, 1.15 * r),
        _ => {
            let bar = |a: f64, b: f64| (a.abs() - 1.1 * r).max(b.abs() - 0.36 * r);
            bar(x, y).min(bar(y, x))
        }
    }
}

/// Five points of radius `outer`: the plane is folded into one half of a point.
fn star(x: f64, y: f64, q: f64, outer: f64) -> f64 {
    let turn = TAU / 5.0;
    let mut b = x.atan2(-y).rem_euclid(turn);
    if b > turn / 2.0 {
        b = turn - b;
    }
    let (p0, p1) = (q * b.cos(), q * b.sin());
    let (sin, cos) = (turn / 2.0).sin_cos();
    let (e0, e1) = (0.45 * outer * cos - outer, 0.45 * outer * sin);
    ((p0 - outer) * e1 - p1 * e0) / e0.hypot(e1)
}

fn texture(k: usize, u: &[f64; 16], x: f64, y: f64) -> f64 {
    let period = 0.16 + 0.14 * u[8];
    let tilt = 0.24 * (u[11] - 0.5);
    let wave = |v: f64, period: f64, phase: f64| ((v / period + phase).rem_euclid(1.0) - 0.5) * period;
    let band = |v: f64, phase: f64| wave(v, period, phase).abs() - 0.25 * period;
    let q = 1.3 * period;
    let (m1, m2) = (wave(x - tilt * y, q, u[10]), wave(y + tilt * x, q, u[9]));
    match k {
        6 => band(y + tilt * x, u[9]),
        7 => band(x + tilt * y, u[10]),
        8 => {
            let (s1, s2) = (m1.abs() - q / 4.0, m2.abs() - q / 4.0);
            -(s1 * s2).signum() * s1.abs().min(s2.abs())
        }
        _ => m1.hypot(m2) - 0.3 * q,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_a_function_of_seed_and_id_alone() {
        let (a, class) = draw(0, 13, 32);
        assert_eq!(class, 3);
        assert_eq!(a, draw(0, 13, 32).0);
        assert_ne!(a, draw(1, 13, 32).0);
        assert_ne!(a, draw(0, 23, 32).0);
    }

    #[test]
    fn every_class_shows_its_hue_on_its_ground() {
        for id in 0..40 {
            let (image, k) = draw(7, id, 64);
            let near = |colour: [f64; 3]| {
                image
                    .data
                    .chunks_exact(3)
                    .filter(|p| (0..3).all(|c| (f64::from(p[c]) - colour[c]).abs() < 110.0))
                    .count()
            };
            assert!(near(HUES[k]) > 64 * 64 / 20, "{} {id}", CLASSES[k]);
        }
    }

    #[test]
    fn the_same_image_is_drawn_at_every_size() {
        let mean = |size: usize| {
            let image = draw(3, 4, size).0;
            image.data.iter().map(|v| f64::from(*v)).sum::<f64>() / image.data.len() as f64
        };
        assert!((mean(32) - mean(128)).abs() < 2.0);
    }
}
