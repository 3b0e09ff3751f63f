//! Curves of runs: the loss, and the Frechet distances of training.

use std::path::{Path, PathBuf};

use preprocess::console::plot::{Axes, Scale, Series, plot};
use trainer::commands::plot::points;
use trainer::fit::{PLOTTED_POINTS, smoothed};

use super::{Picture, encode_png};
use crate::error::Result;

/// What is drawn of a run, where it is there: key of its metrics, and the title.
const CURVES: [(&str, &str); 2] = [
    ("loss", "Training loss by step"),
    ("frechet", "Frechet distance in training by step"),
];

/// A line for each run in each picture, under the names given.
///
/// # Errors
/// When a picture cannot be encoded.
pub fn of_runs(runs: &[(String, PathBuf)]) -> Result<Vec<Picture>> {
    let mut pictures = Vec::new();
    for (key, title) in CURVES {
        let lines: Vec<Series> = runs
            .iter()
            .filter_map(|(name, run)| line(name, run, key))
            .collect();
        if !lines.is_empty() {
            // The first steps would leave no room for the rest of a linear axis.
            pictures.push(drawn(title, Scale::Log, &lines)?);
        }
    }
    Ok(pictures)
}

/// A run's line; a run without the metric, or with a single point of it, has none.
fn line(name: &str, run: &Path, key: &str) -> Option<Series> {
    let points = points(run, key, 0).ok().filter(|points| points.len() > 1)?;
    Some(Series {
        name: name.to_owned(),
        points: smoothed(&points, PLOTTED_POINTS),
    })
}

/// A plot as a picture.
///
/// # Errors
/// When it cannot be encoded.
pub fn drawn(title: &str, y_scale: Scale, lines: &[Series]) -> Result<Picture> {
    let axes = Axes {
        y_scale,
        ..Axes::default()
    };
    Ok(Picture::drawing(title, encode_png(&plot(title, &axes, lines))?))
}
