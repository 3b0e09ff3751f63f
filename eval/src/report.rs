//! What an evaluation leaves behind: JSON for programs, Markdown for notes, one self-contained HTML page for people.

use std::fmt::Write;

use base64::Engine;
use image::{ExtendedColorType, ImageEncoder};
use preprocess::image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The numbers of one sample set. Metrics that were not asked for are absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Frechet distance of the pool features; lower is better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fid: Option<f64>,
    /// Frechet distance of the spatial features; lower is better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sfid: Option<f64>,
    /// Higher is better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inception_score: Option<f64>,
    /// Share of samples that look real.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<f64>,
    /// Share of real images that are covered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall: Option<f64>,
    /// Number of samples.
    pub samples: u64,
    /// Whether the numbers may stand beside published ones.
    pub comparable: bool,
    /// What was scored.
    pub images: String,
    /// What it was scored against.
    pub reference: String,
    /// The network: `sha256:...` of its weights or `random:SEED`.
    pub inception: String,
    /// Height and width of the samples in pixels.
    pub image_size: [usize; 2],
    /// What a reader of the numbers must know.
    pub warnings: Vec<String>,
}

/// A published row: model, FID, sFID, IS, precision, recall.
type PublishedRow = (&'static str, [f64; 5]);

/// Published results on ImageNet 256 x 256, 50,000 samples (Peebles and Xie 2023; Yan, Gu and Rush 2024).
const PUBLISHED: [PublishedRow; 4] = [
    ("DiT-XL/2", [9.62, 6.85, 121.50, 0.67, 0.67]),
    ("DiT-XL/2, guidance 1.5", [2.27, 4.60, 278.24, 0.83, 0.57]),
    ("DiffuSSM-XL", [9.07, 5.52, 118.32, 0.69, 0.64]),
    ("DiffuSSM-XL, guidance 1.5", [2.28, 4.49, 259.13, 0.86, 0.56]),
];

const HEADINGS: [&str; 6] = ["", "FID", "sFID", "IS", "precision", "recall"];

impl Scores {
    fn cells(&self) -> [String; 5] {
        let cell =
            |value: Option<f64>, digits| value.map_or_else(|| "–".to_owned(), |v| format!("{v:.digits$}"));
        [
            cell(self.fid, 2),
            cell(self.sfid, 2),
            cell(self.inception_score, 2),
            cell(self.precision, 3),
            cell(self.recall, 3),
        ]
    }

    fn name(&self) -> String {
        let mark = if self.comparable { "" } else { " (not comparable)" };
        format!("{}, {} samples{mark}", self.images, self.samples)
    }
}

/// The scores as a Markdown table beside the published rows.
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
        let _ = writeln!(
            text,
            "\n`{}` against `{}`, network `{}`.",
            score.images, score.reference, score.inception
        );
        for warning in &score.warnings {
            let _ = writeln!(text, "\n- {warning}");
        }
    }
    text
}

fn rows(scores: &[Scores]) -> Vec<Vec<String>> {
    let ours = scores
        .iter()
        .map(|score| [vec![score.name()], score.cells().to_vec()].concat());
    let published = PUBLISHED
        .iter()
        .map(|(name, [fid, sfid, is, precision, recall])| {
            vec![
                format!("{name} (published, ImageNet 256)"),
                format!("{fid:.2}"),
                format!("{sfid:.2}"),
                format!("{is:.2}"),
                format!("{precision:.2}"),
                format!("{recall:.2}"),
            ]
        });
    ours.chain(published).collect()
}

/// A picture of the report with its caption.
pub struct Picture<'a> {
    /// Shown below the picture.
    pub caption: &'a str,
    /// The picture as a PNG file.
    pub png: &'a [u8],
}

/// One page with everything inside, `scores` beside the published rows.
pub fn html(title: &str, scores: &[Scores], pictures: &[Picture<'_>]) -> String {
    let mut body = String::from("<table><tr>");
    for heading in HEADINGS {
        let _ = write!(body, "<th>{heading}</th>");
    }
    body.push_str("</tr>");
    for (i, row) in rows(scores).iter().enumerate() {
        let class = if i < scores.len() { " class=\"ours\"" } else { "" };
        let _ = write!(body, "<tr{class}>");
        for cell in row {
            let _ = write!(body, "<td>{}</td>", escape(cell));
        }
        body.push_str("</tr>\n");
    }
    body.push_str("</table>\n");
    for score in scores {
        let _ = writeln!(
            body,
            "<p><code>{}</code> ({} x {} pixels) against <code>{}</code>, network <code>{}</code>.</p><ul>",
            escape(&score.images),
            score.image_size[0],
            score.image_size[1],
            escape(&score.reference),
            escape(&score.inception)
        );
        for warning in &score.warnings {
            let _ = writeln!(body, "<li>{}</li>", escape(warning));
        }
        body.push_str("</ul>\n");
    }
    page(title, &body, pictures)
}

/// A page around `body`, pictures inline below it.
pub fn page(title: &str, body: &str, pictures: &[Picture<'_>]) -> String {
    let title = escape(title);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>\n\
         body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}\n\
         table {{ border-collapse: collapse; }} th, td {{ padding: .3rem .8rem; text-align: right; }}\n\
         td:first-child {{ text-align: left; }} tr.ours {{ font-weight: bold; }}\n\
         tr + tr {{ border-top: 1px solid #ccc; }} figure {{ margin: 2rem 0; }} img {{ max-width: 100%; }}\n\
         </style></head><body><h1>{title}</h1>\n{body}"
    );
    for picture in pictures {
        let data = base64::engine::general_purpose::STANDARD.encode(picture.png);
        let caption = escape(picture.caption);
        let _ = writeln!(
            page,
            "<figure><img alt=\"{caption}\" src=\"data:image/png;base64,{data}\"><figcaption>{caption}</figcaption></figure>"
        );
    }
    page.push_str("</body></html>\n");
    page
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// A picture as the bytes of a PNG file.
///
/// # Errors
/// If the picture's sides and bytes do not fit each other.
pub fn encode_png(picture: &RgbImage) -> Result<Vec<u8>> {
    if picture.data.len() != picture.width * picture.height * 3 {
        return Err(Error::Input("a picture's bytes do not fit its sides".into()));
    }
    let mut bytes = Vec::new();
    image::codecs::png::PngEncoder::new(&mut bytes)
        .write_image(
            &picture.data,
            picture.width as u32,
            picture.height as u32,
            ExtendedColorType::Rgb8,
        )
        .map_err(|error| Error::Input(format!("a picture cannot be written as PNG ({error})")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores() -> Scores {
        Scores {
            fid: Some(12.345),
            samples: 100,
            images: "a<b".into(),
            warnings: vec!["only 100 samples".into()],
            ..Scores::default()
        }
    }

    #[test]
    fn incomparable_numbers_are_marked_wherever_they_are_printed() {
        assert!(markdown(&[scores()]).contains("100 samples (not comparable) | 12.35"));
        assert!(html("x", &[scores()], &[]).contains("not comparable"));
        let json = serde_json::to_value(scores()).unwrap();
        assert_eq!(
            (json["comparable"].as_bool(), json.get("sfid")),
            (Some(false), None)
        );
    }

    #[test]
    fn the_page_needs_nothing_else_and_escapes_names() {
        let picture = RgbImage {
            width: 2,
            height: 1,
            data: vec![1, 2, 3, 4, 5, 6],
        };
        let png = encode_png(&picture).unwrap();
        let page = html(
            "t",
            &[scores()],
            &[Picture {
                caption: "c",
                png: &png,
            }],
        );
        assert!(page.contains("a&lt;b") && page.contains("data:image/png;base64,iVBORw0KGgo"));
        assert!(!page.contains("http"));
        assert!(
            encode_png(&RgbImage {
                width: 3,
                height: 1,
                data: vec![0]
            })
            .is_err()
        );
    }
}
