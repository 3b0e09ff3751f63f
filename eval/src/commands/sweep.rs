//! `eval sweep`: the scores of a model over guidance scales and over the checkpoints of its run, as a table and curves.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use preprocess::console::plot::{Scale, Series};
use preprocess::console::{JsonTarget, Printer, exit};
use serde::Serialize;
use trainer::commands::ranks::{threads_of, with_ranks};
use trainer::commands::sample::DrawArgs;
use trainer::commands::with_threads;
use trainer::distributed::HostReducer;
use trainer::{checkpoint, export};

use super::scoring::{Samples, ScoringArgs, score};
use crate::generated::{GeneratedImages, Model};
use crate::report::{self, Evaluation, Picture, Scores, curves::drawn, folder::square_of_samples};

/// What `eval sweep` accepts.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An export, a checkpoint, or a run for its newest one.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    checkpoint: PathBuf,
    /// Guidance scales; 1: none.
    #[arg(long, value_delimiter = ',', default_value = "1.0,1.25,1.5,2,4")]
    cfg: Vec<f64>,
    /// All checkpoints of the run, not the newest alone.
    #[arg(long)]
    all_checkpoints: bool,
    #[command(flatten)]
    draw: DrawArgs,
    #[command(flatten)]
    scoring: ScoringArgs,
    /// Write sweep.json, sweep.md and sweep.html into this folder.
    #[arg(long, value_name = "DIR", default_value = "sweep")]
    out: PathBuf,
    /// Write the points as JSON, to stdout or to FILE.
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "absent, without a value, with a value")]
    json: Option<Option<PathBuf>>,
}

/// Samples of each point that the page shows.
const SHOWN: usize = 16;

/// One evaluation of the sweep.
#[derive(Debug, Clone, Serialize)]
struct Point {
    /// Optimiser steps of the weights.
    step: u64,
    /// Guidance scale.
    cfg: f64,
    #[serde(flatten)]
    scores: Scores,
    /// The first samples.
    #[serde(skip)]
    picture: Option<Picture>,
}

/// A curve's name and what it shows of the scores.
type Curve = (&'static str, fn(&Scores) -> Option<f64>);

const CURVES: [Curve; 5] = [
    ("FID", |scores| scores.fid),
    ("sFID", |scores| scores.sfid),
    ("Inception score", |scores| scores.inception_score),
    ("precision", |scores| scores.precision),
    ("recall", |scores| scores.recall),
];

/// Scores every point; what was scored before is not drawn again.
///
/// # Errors
/// As `eval fid`; finished points stay.
pub fn run(args: &Args, printer: &mut Printer) -> Result<()> {
    printer.set_json(&args.json);
    if args.cfg.is_empty() {
        bail!("--cfg: at least one guidance scale is needed");
    }
    with_ranks(printer, |printer, group| {
        let threads = threads_of(0, group);
        let points = with_threads(threads, || points(args, printer, group))?;
        if group.rank() == 0 {
            save(args, &points, printer)?;
        }
        Ok(exit::DONE)
    })
    .map(|_| ())
}

fn points(args: &Args, printer: &mut Printer, group: &mut HostReducer) -> Result<Vec<Point>> {
    let inception = args.scoring.load(group.rank())?;
    let place = args.scoring.place(&args.draw, group.rank())?;
    let paths = models(args)?;
    let all = paths.len() * args.cfg.len();
    let (mut points, mut reference) = (Vec::new(), None);
    for (number, path) in paths.iter().enumerate() {
        let model = Model::open(path, args.scoring.work.as_deref(), place, group)?;
        let step = model.step();
        for (i, &cfg) in args.cfg.iter().enumerate() {
            if group.rank() == 0 {
                let point = number * args.cfg.len() + i + 1;
                printer.note(format_args!(
                    "point    {point} of {all}: step {step}, guidance {cfg}"
                ));
            }
            let (count, batch) = (args.scoring.samples(), args.draw.batch as usize);
            let samples = Samples::Model(GeneratedImages::new(&model, args.draw.plan(cfg)?, count, batch));
            if let Some(scored) = score(
                &samples,
                &args.scoring,
                false,
                &mut reference,
                &inception,
                printer,
                group,
            )? {
                points.push(Point {
                    step,
                    cfg,
                    scores: scored.scores,
                    picture: Some(square_of_samples(&scored.shown[..scored.shown.len().min(SHOWN)])?),
                });
            }
        }
    }
    Ok(points)
}

/// The models of the sweep.
fn models(args: &Args) -> Result<Vec<PathBuf>> {
    if !args.all_checkpoints {
        return Ok(vec![args.checkpoint.clone()]);
    }
    if export::is_export(&args.checkpoint) {
        bail!(
            "--all-checkpoints: {} is an export, which has none",
            args.checkpoint.display()
        );
    }
    let newest = checkpoint::find(&args.checkpoint)?;
    let run = newest.parent().and_then(Path::parent).context("a run's folder")?;
    Ok(checkpoint::list(run)
        .into_iter()
        .map(|(_, folder)| folder)
        .collect())
}

fn save(args: &Args, points: &[Point], printer: &mut Printer) -> Result<()> {
    let target: &JsonTarget = &args.json;
    let table = table(points);
    printer.say(&table);
    let json = serde_json::to_value(points)?;
    let pictures: Vec<Picture> = curves(points)
        .iter()
        .map(|(title, series)| drawn(title, Scale::Linear, series))
        .collect::<Result<_, _>>()?;
    let scores: Vec<Scores> = points.iter().map(|point| point.scores.clone()).collect();
    let evaluation = |point: &Point| Evaluation {
        scores: point.scores.clone(),
        samples: point.picture.clone(),
        neighbours: None,
    };
    let named: Vec<(String, Evaluation)> = points
        .iter()
        .map(|point| {
            (
                format!("step {}, guidance {}", point.step, point.cfg),
                evaluation(point),
            )
        })
        .collect();
    fs_err::create_dir_all(&args.out)?;
    fs_err::write(args.out.join("sweep.json"), format!("{json:#}\n"))?;
    fs_err::write(
        args.out.join("sweep.md"),
        format!("{table}\n\n{}", report::markdown(&scores)),
    )?;
    fs_err::write(
        args.out.join("sweep.html"),
        report::series("Sweep", &named, &pictures),
    )?;
    printer.note(format_args!("report: {}", args.out.join("sweep.html").display()));
    printer
        .json(target, &json)
        .context("the JSON file cannot be written")
}

/// Steps, scales and scores, as Markdown.
fn table(points: &[Point]) -> String {
    let mut lines = vec![
        format!(
            "| step | guidance | {} |",
            CURVES.map(|(name, _)| name).join(" | ")
        ),
        format!("|{}", " --- |".repeat(2 + CURVES.len())),
    ];
    for point in points {
        let cells = CURVES.map(|(_, value)| {
            value(&point.scores).map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
        });
        lines.push(format!(
            "| {} | {} | {} |",
            point.step,
            point.cfg,
            cells.join(" | ")
        ));
    }
    lines.join("\n")
}

/// A picture of each metric over guidance scales and one over steps, where there are several of them.
fn curves(points: &[Point]) -> Vec<(String, Vec<Series>)> {
    let distinct = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values.dedup();
        values
    };
    let scales = distinct(points.iter().map(|point| point.cfg).collect());
    let steps = distinct(points.iter().map(|point| point.step as f64).collect());
    let mut curves = Vec::new();
    for (name, value) in CURVES {
        let mut add =
            |over: &str, lines: &[f64], line: fn(&Point) -> f64, place: fn(&Point) -> f64, label: &str| {
                let series: Vec<Series> = lines
                    .iter()
                    .map(|&wanted| {
                        let mut points: Vec<(f64, f64)> = points
                            .iter()
                            .filter(|point| line(point) == wanted)
                            .filter_map(|point| Some((place(point), value(&point.scores)?)))
                            .collect();
                        points.sort_by(|a, b| a.0.total_cmp(&b.0));
                        Series {
                            name: format!("{label} {wanted}"),
                            points,
                        }
                    })
                    .filter(|series| series.points.len() > 1)
                    .collect();
                if !series.is_empty() {
                    curves.push((format!("{name} by {over}"), series));
                }
            };
        add(
            "guidance",
            &steps,
            |point| point.step as f64,
            |point| point.cfg,
            "step",
        );
        add(
            "step",
            &scales,
            |point| point.cfg,
            |point| point.step as f64,
            "guidance",
        );
    }
    curves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(step: u64, cfg: f64, fid: f64) -> Point {
        let scores = Scores {
            fid: Some(fid),
            ..Scores::default()
        };
        Point {
            step,
            cfg,
            scores,
            picture: None,
        }
    }

    #[test]
    fn curves_go_over_what_there_are_several_of() {
        let titles = |points: &[Point]| -> Vec<String> {
            curves(points).into_iter().map(|(title, _)| title).collect()
        };
        assert!(titles(&[point(10, 1.0, 5.0)]).is_empty());
        assert_eq!(
            titles(&[point(10, 2.0, 5.0), point(10, 1.0, 6.0)]),
            ["FID by guidance"]
        );
        let points = [
            point(10, 1.0, 9.0),
            point(10, 2.0, 8.0),
            point(20, 1.0, 5.0),
            point(20, 2.0, 3.0),
        ];
        let all = curves(&points);
        assert_eq!(all.len(), 2);
        let (title, series) = &all[1];
        assert_eq!((title.as_str(), series.len()), ("FID by step", 2));
        assert_eq!(
            (series[1].name.as_str(), &series[1].points[..]),
            ("guidance 2", &[(10.0, 8.0), (20.0, 3.0)][..])
        );
        assert!(
            table(&points).contains("| 20 | 2 | 3.000 | – |"),
            "{}",
            table(&points)
        );
    }
}
