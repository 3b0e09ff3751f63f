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

/// How an axis maps values to places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// Equal differences take equal room.
    #[default]
    Linear,
    /// Equal ratios take equal room; values that are not positive are left out.
    Log,
}

impl Scale {
    /// The value on the axis: itself, or its decimal logarithm.
    fn apply(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.log10(),
        }
    }
}

/// Where the legend stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Corner {
    /// For lines that fall.
    #[default]
    TopRight,
    /// For lines that rise.
    TopLeft,
}

/// The look of a plot. The default: linear axes, ticks at round values, small text, lines without markers.
#[derive(Clone, Debug, Default)]
pub struct Axes {
    /// Of the horizontal axis.
    pub x_scale: Scale,
    /// Of the vertical axis.
    pub y_scale: Scale,
    /// Value and text of each tick of the horizontal axis; empty: round values. A text may have two lines.
    pub x_ticks: Vec<(f64, String)>,
    /// Where the legend stands.
    pub legend: Corner,
    /// Size of the text: 0 and 1 small (7 pixels high), 2 twice as large.
    pub text_scale: usize,
    /// A square at each point.
    pub has_markers: bool,
}

const WIDTH: usize = 960;
const HEIGHT: usize = 540;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 930.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 490.0;
const GRID: [u8; 3] = [225, 225, 225];
const FAINT_GRID: [u8; 3] = [244, 244, 244];
const TEXT: [u8; 3] = [60, 60, 60];
const DARK_TEXT: [u8; 3] = [20, 20, 20];
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
    plot_png(path, title, &Axes::default(), series)
}

/// Draws `series` over axes of the caller's choice.
///
/// # Errors
/// When the file cannot be written.
pub fn plot_png(path: &Path, title: &str, axes: &Axes, series: &[Series]) -> io::Result<()> {
    write_png(&plot(title, axes, series), path)
}

/// The picture of [`line_plot_png`].
pub fn line_plot(title: &str, series: &[Series]) -> RgbImage {
    plot(title, &Axes::default(), series)
}

/// The picture of [`plot_png`].
pub fn plot(title: &str, axes: &Axes, series: &[Series]) -> RgbImage {
    let mut canvas = RgbImage {
        width: WIDTH,
        height: HEIGHT,
        data: vec![255; WIDTH * HEIGHT * 3],
    };
    font::draw(&mut canvas, LEFT as usize, 14, 2, DARK_TEXT, title);
    let lines: Vec<Vec<(f64, f64)>> = series
        .iter()
        .map(|one| {
            let scaled = one
                .points
                .iter()
                .map(|&(x, y)| (axes.x_scale.apply(x), axes.y_scale.apply(y)));
            scaled.filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
        })
        .collect();
    let (x0, x1) = range(lines.iter().flatten().map(|p| p.0));
    let (mut y0, mut y1) = range(lines.iter().flatten().map(|p| p.1));
    if axes.y_scale == Scale::Log {
        (y0, y1) = (y0.floor(), y1.ceil());
    }
    let place_x = |x: f64| LEFT + (x - x0) / (x1 - x0) * (RIGHT - LEFT);
    let place_y = |y: f64| BOTTOM - (y - y0) / (y1 - y0) * (BOTTOM - TOP);
    let scale = axes.text_scale.max(1);

    let x_ticks = if axes.x_ticks.is_empty() {
        round_ticks(axes.x_scale, x0, x1)
    } else {
        let own = axes.x_ticks.iter();
        own.map(|(x, text)| (axes.x_scale.apply(*x), text.clone()))
            .collect()
    };
    for (x, text) in x_ticks {
        let at = place_x(x);
        line(&mut canvas, (at, TOP), (at, BOTTOM), GRID);
        for (row, text) in text.lines().enumerate() {
            let width = text.len() * 6 * scale;
            // The outermost ones stay inside.
            let start = (at as usize)
                .saturating_sub(width / 2)
                .min(WIDTH - width.min(WIDTH));
            let y = 492 + 6 * scale + row * 9 * scale;
            font::draw(&mut canvas, start, y, scale, TEXT, text);
        }
    }
    if axes.y_scale == Scale::Log {
        for y in minor_ticks(y0, y1).map(place_y) {
            line(&mut canvas, (LEFT, y), (RIGHT, y), FAINT_GRID);
        }
    }
    for (y, text) in round_ticks(axes.y_scale, y0, y1) {
        let at = place_y(y);
        line(&mut canvas, (LEFT, at), (RIGHT, at), GRID);
        let start = (LEFT as usize - 8).saturating_sub(text.len() * 6 * scale);
        let y = (at as usize).saturating_sub(3 * scale);
        font::draw(&mut canvas, start, y, scale, TEXT, &text);
    }
    line(&mut canvas, (LEFT, TOP), (LEFT, BOTTOM), TEXT);
    line(&mut canvas, (LEFT, BOTTOM), (RIGHT, BOTTOM), TEXT);

    let longest = series.iter().map(|one| one.name.len()).max().unwrap_or(0);
    for (i, (one, points)) in series.iter().zip(&lines).enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let points: Vec<_> = points.iter().map(|&(x, y)| (place_x(x), place_y(y))).collect();
        draw_line(&mut canvas, &points, colour, axes.has_markers);
        let y = TOP + 8.0 + (16 * scale * i) as f64;
        let x = match axes.legend {
            Corner::TopLeft => LEFT + 12.0,
            Corner::TopRight if scale == 1 => RIGHT - 40.0 - 6.0 * one.name.len() as f64,
            Corner::TopRight => RIGHT - 40.0 - (6 * scale * longest) as f64,
        };
        let middle = y + (3 * scale) as f64;
        draw_line(&mut canvas, &[(x, middle), (x + 20.0, middle)], colour, false);
        font::draw(
            &mut canvas,
            x.max(0.0) as usize + 26,
            y as usize,
            scale,
            DARK_TEXT,
            &one.name,
        );
    }
    canvas
}

/// A line of two pixels through `points`; a single one is a dash.
fn draw_line(canvas: &mut RgbImage, points: &[(f64, f64)], colour: [u8; 3], has_markers: bool) {
    for pair in points.windows(2) {
        line(canvas, pair[0], pair[1], colour);
        let below = |(x, y): (f64, f64)| (x, y + 1.0);
        line(canvas, below(pair[0]), below(pair[1]), colour);
    }
    if let [only] = points {
        line(canvas, (only.0 - 2.0, only.1), (only.0 + 2.0, only.1), colour);
    }
    if has_markers {
        for (x, y) in points {
            for row in -3..=4 {
                let y = y + f64::from(row);
                line(canvas, (x - 3.0, y), (x + 4.0, y), colour);
            }
        }
    }
}

/// Places and texts of round values between two places of an axis.
fn round_ticks(scale: Scale, low: f64, high: f64) -> Vec<(f64, String)> {
    match scale {
        Scale::Linear => ticks(low, high)
            .into_iter()
            .map(|value| (value, number(value)))
            .collect(),
        Scale::Log => {
            let powers = (low.ceil().max(-300.0) as i32)..=(high.floor().min(300.0) as i32);
            let every = (powers.clone().count() / 8).max(1);
            let text = |power: i32| (f64::from(power), number(10f64.powi(power)));
            powers.step_by(every).map(text).collect()
        }
    }
}

/// Places of 2 to 9 times each power of ten.
fn minor_ticks(low: f64, high: f64) -> impl Iterator<Item = f64> {
    let powers = (low.max(-20.0) as i32)..(high.min(20.0) as i32);
    powers.flat_map(|power| (2..10).map(move |m| f64::from(power) + f64::from(m).log10()))
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
    fn logarithmic_axes_leave_out_what_has_no_logarithm() {
        let axes = Axes {
            x_scale: Scale::Log,
            y_scale: Scale::Log,
            x_ticks: vec![(1.0, "one\nline two".into()), (1e3, "thousand".into())],
            legend: Corner::TopLeft,
            text_scale: 2,
            has_markers: true,
        };
        for points in [
            vec![(0.0, 1.0), (-1.0, 2.0)],
            vec![(1.0, 1e-300), (1e3, 1e300)],
            vec![(1.0, 3.0), (1e3, 5e6)],
        ] {
            let series = Series {
                name: "a".into(),
                points,
            };
            assert_eq!(plot("cost", &axes, &[series]).data.len(), WIDTH * HEIGHT * 3);
        }
        let texts: Vec<String> = round_ticks(Scale::Log, 0.0, 3.2)
            .into_iter()
            .map(|t| t.1)
            .collect();
        assert_eq!(texts, ["1", "10", "100", "1000"]);
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 1.0), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(number(0.6000000000000001), "0.6");
        assert_eq!(number(2e7), "2.0e7");
    }
}
