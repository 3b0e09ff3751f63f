//! One self-contained HTML page: numbers, warnings, pictures and definitions, nothing to be fetched.

use std::fmt::Write;

use base64::Engine;

use super::{Evaluation, HEADINGS, Picture, Scores, rows};
use crate::neighbours::Neighbours;

const STYLE: &str = "\
:root { color-scheme: light dark; --line: #8884; --faint: #888; --warn: #e8a33d; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
.by { color: var(--faint); margin-top: 0; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.5rem 0; }
.tiles div { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem 1.2rem; min-width: 6rem; }
.tiles b { display: block; font-size: 1.8rem; line-height: 1.2; } .tiles span { color: var(--faint); }
.warnings { border-left: .3rem solid var(--warn); padding: .3rem 1rem .3rem 2rem; margin: 1rem 0; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .25rem .8rem; text-align: right; }
td:first-child, th:first-child, .definition td { text-align: left; } tr + tr { border-top: 1px solid var(--line); }
tr.ours { font-weight: bold; } .definition td { overflow-wrap: anywhere; }
.definition td:first-child { color: var(--faint); white-space: nowrap; }
figure { margin: 1.5rem 0; } figcaption { color: var(--faint); } img { max-width: 100%; }
img.pixels { image-rendering: pixelated; min-width: min(100%, 34rem); }
";

/// One page of some evaluations, beside published results, with `curves` at its end.
pub fn html(title: &str, evaluations: &[Evaluation], curves: &[Picture]) -> String {
    let scores: Vec<Scores> = evaluations
        .iter()
        .map(|evaluation| evaluation.scores.clone())
        .collect();
    let mut body = String::new();
    if let [only] = &scores[..] {
        body.push_str(&tiles(only));
        body.push_str(&warnings(&only.warnings));
    }
    body.push_str(&table(&scores));
    for evaluation in evaluations {
        let scores = &evaluation.scores;
        if evaluations.len() > 1 {
            let _ = writeln!(body, "<h2>{}</h2>", escape(&scores.images));
            body.push_str(&tiles(scores));
            body.push_str(&warnings(&scores.warnings));
        }
        body.push_str(&evaluation.samples.as_ref().map_or_else(String::new, figure));
        if let Some(neighbours) = &scores.neighbours {
            body.push_str(&near(neighbours, evaluation.neighbours.as_ref()));
        }
        body.push_str(&definition(scores));
    }
    if !curves.is_empty() {
        body.push_str("<h2>Curves</h2>\n");
        curves.iter().for_each(|curve| body.push_str(&figure(curve)));
    }
    page(title, &body, &[])
}

/// One page of evaluations that differ in little, which their names tell: a table, `curves`, samples of each, and what
/// defines the first of them.
pub fn series(title: &str, named: &[(String, Evaluation)], curves: &[Picture]) -> String {
    let scores: Vec<Scores> = named
        .iter()
        .map(|(name, evaluation)| Scores {
            images: name.clone(),
            ..evaluation.scores.clone()
        })
        .collect();
    let mut body = String::new();
    let mut told: Vec<&String> = Vec::new();
    for warning in scores.iter().flat_map(|scores| &scores.warnings) {
        if !told.contains(&warning) {
            told.push(warning);
        }
    }
    body.push_str(&warnings(&told));
    body.push_str(&table(&scores));
    curves.iter().for_each(|curve| body.push_str(&figure(curve)));
    for (name, evaluation) in named {
        if let Some(samples) = &evaluation.samples {
            let _ = writeln!(body, "<h2>{}</h2>\n{}", escape(name), figure(samples));
        }
    }
    if let Some((_, first)) = named.first() {
        body.push_str(&definition(&first.scores));
    }
    page(title, &body, &[])
}

fn tiles(scores: &Scores) -> String {
    let mut text = String::from("<div class=\"tiles\">");
    for (name, value) in HEADINGS[1..]
        .iter()
        .zip(scores.cells())
        .filter(|(_, value)| value != super::ABSENT)
    {
        let _ = write!(text, "<div><b>{value}</b><span>{name}</span></div>");
    }
    text.push_str("</div>\n");
    text
}

fn warnings(warnings: &[impl AsRef<str>]) -> String {
    if warnings.is_empty() {
        return String::new();
    }
    let lines: String = warnings
        .iter()
        .map(|warning| format!("<li>{}</li>", escape(warning.as_ref())))
        .collect();
    format!("<ul class=\"warnings\">{lines}</ul>\n")
}

fn table(scores: &[Scores]) -> String {
    let mut text = String::from("<table><tr>");
    for heading in HEADINGS {
        let _ = write!(text, "<th>{heading}</th>");
    }
    text.push_str("</tr>\n");
    for (i, row) in rows(scores).iter().enumerate() {
        let class = if i < scores.len() { " class=\"ours\"" } else { "" };
        let _ = write!(text, "<tr{class}>");
        for cell in row {
            let _ = write!(text, "<td>{}</td>", escape(cell));
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</table>\n");
    text
}

fn near(neighbours: &Neighbours, picture: Option<&Picture>) -> String {
    let mut text = format!(
        "<h2>Are they copies?</h2>\n<p>{}</p>\n",
        escape(&neighbours.to_string())
    );
    text.push_str(&picture.map_or_else(String::new, figure));
    text
}

fn definition(scores: &Scores) -> String {
    let mut text = String::from("<h2>What defines the numbers</h2>\n<table class=\"definition\">");
    for (name, value) in scores.definition() {
        let _ = writeln!(text, "<tr><td>{name}</td><td>{}</td></tr>", escape(&value));
    }
    text.push_str("</table>\n");
    text
}

fn figure(picture: &Picture) -> String {
    let data = base64::engine::general_purpose::STANDARD.encode(&picture.png);
    let caption = escape(&picture.caption);
    let class = if picture.is_of_pixels {
        " class=\"pixels\""
    } else {
        ""
    };
    format!(
        "<figure><img{class} alt=\"{caption}\" src=\"data:image/png;base64,{data}\"><figcaption>{caption}</figcaption></figure>\n"
    )
}

/// A page around `body`, pictures inline below it.
pub fn page(title: &str, body: &str, pictures: &[Picture]) -> String {
    let title = escape(title);
    let pictures: String = pictures.iter().map(figure).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n<style>\n{STYLE}</style></head>\
         <body>\n<h1>{title}</h1>\n<p class=\"by\">{}</p>\n{body}{pictures}</body></html>\n",
        super::EVALUATOR
    )
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
