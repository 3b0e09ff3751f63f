//! The files of an evaluation: `scores.json`, `report.md`, `report.html` and the pictures.

use std::path::Path;

use preprocess::console::grid;
use preprocess::image::RgbImage;

use super::{Evaluation, Picture, Scores, encode_png, html, markdown};
use crate::error::{Error, Result};

const SCORES: &str = "scores.json";
const SAMPLES: &str = "grid.png";
const NEIGHBOURS: &str = "neighbours.png";
const SAMPLES_CAPTION: &str = "The first samples";
const NEIGHBOURS_CAPTION: &str =
    "A sample a row, beside it the nearest reference images with their distances";

/// The picture of the first samples, as a square of them.
///
/// # Errors
/// When there are none, or of several sizes.
pub fn square_of_samples(images: &[RgbImage]) -> Result<Picture> {
    let columns = (images.len() as f64).sqrt().ceil() as usize;
    let square = grid::grid(images, columns.max(1)).map_err(|error| Error::Input(error.to_string()))?;
    Ok(samples(encode_png(&square)?))
}

/// The picture of the first samples.
pub fn samples(png: Vec<u8>) -> Picture {
    Picture::of_pixels(SAMPLES_CAPTION, png)
}

/// The picture of samples and their neighbours.
pub fn neighbours(png: Vec<u8>) -> Picture {
    Picture::of_pixels(NEIGHBOURS_CAPTION, png)
}

/// Writes an evaluation into `folder`, the page with `curves` at its end.
///
/// # Errors
/// When the folder cannot be written.
pub fn save(folder: &Path, evaluation: &Evaluation, curves: &[Picture]) -> Result<()> {
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs_err::write(&path, bytes).map_err(Error::io(&path))
    };
    fs_err::create_dir_all(folder).map_err(Error::io(folder))?;
    let scores = &evaluation.scores;
    let json = serde_json::to_string_pretty(scores).map_err(|error| Error::Input(error.to_string()))?;
    write(SCORES, json.as_bytes())?;
    let mut text = markdown(std::slice::from_ref(scores));
    for (name, picture) in [
        (SAMPLES, &evaluation.samples),
        (NEIGHBOURS, &evaluation.neighbours),
    ] {
        match picture {
            Some(picture) => {
                write(name, &picture.png)?;
                text.push_str(&format!("\n![{}]({name})\n", picture.caption));
            }
            // Not one of an evaluation before.
            None => drop(fs_err::remove_file(folder.join(name))),
        }
    }
    write("report.md", text.as_bytes())?;
    let page = html("Evaluation", std::slice::from_ref(evaluation), curves);
    write("report.html", page.as_bytes())
}

/// The evaluation that [`save`] has written into `folder`.
///
/// # Errors
/// When there is none, or its scores are none.
pub fn read(folder: &Path) -> Result<Evaluation> {
    let path = folder.join(SCORES);
    let text = fs_err::read(&path).map_err(Error::io(&path))?;
    let scores: Scores = serde_json::from_slice(&text)
        .map_err(|error| Error::format(&path, format!("this is no scores file ({error})")))?;
    let picture = |name: &str, picture: fn(Vec<u8>) -> Picture| {
        let png = fs_err::read(folder.join(name));
        png.ok().map(picture)
    };
    Ok(Evaluation {
        scores,
        samples: picture(SAMPLES, samples),
        neighbours: picture(NEIGHBOURS, neighbours),
    })
}
