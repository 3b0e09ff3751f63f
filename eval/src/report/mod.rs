//! What an evaluation leaves behind: JSON for programs, Markdown for notes, one self-contained HTML page for people.

pub mod curves;
pub mod folder;
mod html;
mod published;
mod scores;

use std::fmt::Write;

use preprocess::console::grid;
use preprocess::image::RgbImage;

pub use html::{html, page, series};
pub use scores::{EVALUATOR, ModelRecord, ReferenceRecord, Scores};

use crate::error::{Error, Result};

const HEADINGS: [&str; 6] = ["", "FID", "sFID", "IS", "precision", "recall"];
/// Stands for a number that there is not.
const ABSENT: &str = "–";

/// A picture of the report with its caption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Shown below the picture.
    pub caption: String,
    /// The picture as a PNG file.
    pub png: Vec<u8>,
    /// Whether it is small images, whose pixels may be seen, and not a drawing.
    pub is_of_pixels: bool,
}

impl Picture {
    /// A picture of small images.
    pub fn of_pixels(caption: &str, png: Vec<u8>) -> Self {
        Self {
            caption: caption.to_owned(),
            png,
            is_of_pixels: true,
        }
    }

    /// A plot.
    pub fn drawing(caption: &str, png: Vec<u8>) -> Self {
        Self {
            caption: caption.to_owned(),
            png,
            is_of_pixels: false,
        }
    }
}

/// An evaluation with its pictures.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The numbers.
    pub scores: Scores,
    /// The first samples.
    pub samples: Option<Picture>,
    /// The samples that are nearest to reference images, with these.
    pub neighbours: Option<Picture>,
}

impl Scores {
    fn cells(&self) -> [String; 5] {
        cells([
            self.fid,
            self.sfid,
            self.inception_score,
            self.precision,
            self.recall,
        ])
    }

    fn name(&self) -> String {
        let mark = if self.comparable { "" } else { " (not comparable)" };
        format!("{}, {} samples{mark}", self.images, self.samples)
    }
}

fn cells(values: [Option<f64>; 5]) -> [String; 5] {
    let cell = |(value, digits): (Option<f64>, usize)| {
        value.map_or_else(|| ABSENT.to_owned(), |value| format!("{value:.digits$}"))
    };
    let [fid, sfid, is, precision, recall] = values;
    [(fid, 2), (sfid, 2), (is, 2), (precision, 3), (recall, 3)].map(cell)
}

fn rows(scores: &[Scores]) -> Vec<Vec<String>> {
    let ours = scores
        .iter()
        .map(|score| [vec![score.name()], score.cells().to_vec()].concat());
    let benchmark = published::benchmark(scores);
    let published = benchmark.rows.iter().map(|(name, values)| {
        let name = format!("{name} (published, {})", benchmark.name);
        [vec![name], cells(*values).to_vec()].concat()
    });
    ours.chain(published).collect()
}

/// The scores as a Markdown table beside the published rows, with what defines them.
pub fn markdown(scores: &[Scores]) -> String {
    let mut text = format!(
        "|{}|\n|{}\n",
        HEADINGS.join(" | "),
        " --- |".repeat(HEADINGS.len())
    );
    for row in rows(scores) {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    for score in scores {
        let _ = writeln!(text, "\n`{}`", score.images);
        for warning in &score.warnings {
            let _ = writeln!(text, "\n- {warning}");
        }
        if let Some(neighbours) = &score.neighbours {
            let _ = writeln!(text, "\n{neighbours}");
        }
        text.push_str("\n| | |\n| --- | --- |\n");
        for (name, value) in score.definition() {
            let _ = writeln!(text, "| {name} | {value} |");
        }
    }
    text
}

/// A picture as the bytes of a PNG file.
///
/// # Errors
/// If the picture's sides and bytes do not fit each other.
pub fn encode_png(picture: &RgbImage) -> Result<Vec<u8>> {
    if picture.data.len() != picture.width * picture.height * 3 {
        return Err(Error::Input("a picture's bytes do not fit its sides".into()));
    }
    grid::encode_png(picture)
        .map_err(|error| Error::Input(format!("a picture cannot be written as PNG ({error})")))
}

#[cfg(test)]
mod tests;
