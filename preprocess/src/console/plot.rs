//! Line plots as PNG files, drawn without any font or library of the system.

use std::io;
use std::path::Path;

use super::font;
use super::grid::write_png;
use crate::image::RgbImage;

/// One line of a plot.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Shown in the legend.
    pub name: String,
    /// Points `(x, y)` in drawing order; those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: usize = 960;
const HEIGHT: usize = 540;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 930.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 490.0;
const COLOURS: [[u8; 3]; 6] = [
    [31, 119, 180],
    [255, 127, 14],
    [44, 160, 44],
    [214, 39, 40],
    [148, 103, 189],
    [140, 86, 75],
];

/// Draws `series` with axes, ticks and a legend.
///
/// # Errors
/// When the file cannot be written.
pub fn line_plot_png(path: &Path, title: &str, series: &[Series]) -> io::Result<()> {
    write_png(&line_plot(title, series), path)
}

/// The picture of [`line_plot_png`].
pub fn line_plot(title: &str, series: &[Series]) -> RgbImage {
    let mut canvas = RgbImage {
        width: WIDTH,
        height: HEIGHT,
        data: vec![255; WIDTH * HEIGHT * 3],
    };
    font::draw(&mut canvas, LEFT as usize, 14, 2, [20, 20, 20], title);
    let finite = || {
        series
            .iter()
            .flat_map(|s| &s.points)
            .filter(|(x, y)| x.is_finite() && y.is_finite())
    };
    let (x0, x1) = range(finite().map(|p| p.0));
    let (y0, y1) = range(finite().map(|p| p.1));
    let place_x = |x: f64| LEFT + (x - x0) / (x1 - x0) * (RIGHT - LEFT);
    let place_y = |y: f64| BOTTOM - (y - y0) / (y1 - y0) * (BOTTOM - TOP);

    for x in ticks(x0, x1) {
        let at = place_x(x);
        line(&mut canvas, (at, TOP), (at, BOTTOM), [225, 225, 225]);
        let text = number(x);
        font::draw(
            &mut canvas,
            (at as usize).saturating_sub(text.len() * 3),
            498,
            1,
            [60, 60, 60],
            &text,
        );
    }
    for y in ticks(y0, y1) {
        let at = place_y(y);
        line(&mut canvas, (LEFT, at), (RIGHT, at), [225, 225, 225]);
        let text = number(y);
        let start = (LEFT as usize - 8).saturating_sub(text.len() * 6);
        font::draw(
            &mut canvas,
            start,
            (at as usize).saturating_sub(3),
            1,
            [60, 60, 60],
            &text,
        );
    }
    line(&mut canvas, (LEFT, TOP), (LEFT, BOTTOM), [60, 60, 60]);
    line(&mut canvas, (LEFT, BOTTOM), (RIGHT, BOTTOM), [60, 60, 60]);

    for (i, one) in series.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let points: Vec<_> = one
            .points
            .iter()
            .filter(|(x, y)| x.is_finite() && y.is_finite())
            .map(|&(x, y)| (place_x(x), place_y(y)))
            .collect();
        for pair in points.windows(2) {
            line(&mut canvas, pair[0], pair[1], colour);
            line(
                &mut canvas,
                (pair[0].0, pair[0].1 + 1.0),
                (pair[1].0, pair[1].1 + 1.0),
                colour,
            );
        }
        if let [only] = points[..] {
            line(
                &mut canvas,
                (only.0 - 2.0, only.1),
                (only.0 + 2.0, only.1),
                colour,
            );
        }
        let y = TOP + 8.0 + 16.0 * i as f64;
        let x = RIGHT - 40.0 - 6.0 * one.name.len() as f64;
        line(&mut canvas, (x, y + 3.0), (x + 20.0, y + 3.0), colour);
        line(&mut canvas, (x, y + 4.0), (x + 20.0, y + 4.0), colour);
        font::draw(
            &mut canvas,
            x.max(0.0) as usize + 26,
            y as usize,
            1,
            [20, 20, 20],
            &one.name,
        );
    }
    canvas
}

/// The smallest and the largest value, never equal.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| {
        (a.min(v), b.max(v))
    });
    if low > high {
        (0.0, 1.0)
    } else if high - low < 1e-12 * high.abs().max(1e-300) {
        (low - 0.5 * low.abs().max(1.0), high + 0.5 * high.abs().max(1.0))
    } else {
        (low, high)
    }
}

/// Round values between two limits, about six of them.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let raw = (high - low) / 6.0;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|m| m * power)
        .into_iter()
        .find(|s| *s >= raw)
        .unwrap_or(raw);
    let first = (low / step).ceil();
    (0..12)
        .map(|i| (first + f64::from(i)) * step)
        .take_while(|t| *t <= high + 1e-9 * step)
        .collect()
}

/// A tick's label in few characters.
fn number(value: f64) -> String {
    let size = value.abs();
    if size < 1e-12 {
        "0".into()
    } else if !(1e-3..1e6).contains(&size) {
        format!("{value:.1e}")
    } else {
        let text = format!("{value:.4}");
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    }
}

fn line(canvas: &mut RgbImage, from: (f64, f64), to: (f64, f64), colour: [u8; 3]) {
    let steps = (to.0 - from.0)
        .abs()
        .max((to.1 - from.1).abs())
        .ceil()
        .clamp(1.0, 4096.0) as usize;
    for i in 0..=steps {
        let t = i as f64 / steps as f64;
        let x = (from.0 + t * (to.0 - from.0)).round();
        let y = (from.1 + t * (to.1 - from.1)).round();
        if x >= 0.0 && y >= 0.0 && (x as usize) < canvas.width && (y as usize) < canvas.height {
            let at = (y as usize * canvas.width + x as usize) * 3;
            canvas.data[at..at + 3].copy_from_slice(&colour);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_data_still_gives_a_picture() {
        let cases = [
            vec![],
            vec![(0.0, 1.0)],
            vec![(0.0, f64::NAN), (1.0, 2.0), (2.0, 2.0)],
            vec![(1.0, 1e300), (2.0, -1e300)],
        ];
        for points in cases {
            let plot = line_plot(
                "loss",
                &[Series {
                    name: "train".into(),
                    points,
                }],
            );
            assert_eq!(plot.data.len(), WIDTH * HEIGHT * 3);
        }
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 1.0), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(number(0.6000000000000001), "0.6");
        assert_eq!(number(2e7), "2.0e7");
    }
}
