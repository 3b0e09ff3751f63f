//! `trainer plot`: curves of one or several runs in one picture.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use preprocess::console::plot::{Series, line_plot_png};
use preprocess::console::{JsonTarget, Printer, exit};
use serde_json::{Map, Value};

use crate::fit::{FRECHET, METRICS, PLOTTED_POINTS, json_lines, smoothed};

/// Draws the loss, or another key of metrics.jsonl or frechet.jsonl, of one or several runs.
#[derive(Debug, clap::Args)]
pub struct PlotArgs {
    /// Runs, or their metrics.jsonl
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// What to draw: loss, mse, vb, grad_norm, lr, images_per_second, frechet, ..
    #[arg(long, default_value = "loss")]
    key: String,
    /// The picture
    #[arg(long, short, value_name = "FILE.png", default_value = "plot.png")]
    out: PathBuf,
    /// Means that a curve consists of at most; fewer make it smoother
    #[arg(long, default_value_t = PLOTTED_POINTS as u64, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    points: u64,
    /// Leave out what comes before this step
    #[arg(long, default_value_t = 0, value_name = "STEP")]
    from: u64,
    /// Write the data as JSON to stdout, or into FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
}

/// Runs the command.
///
/// # Errors
/// When a run has no metrics or not this key, or the picture cannot be written.
pub fn run(args: &PlotArgs, printer: &mut Printer) -> Result<u8> {
    let json: &JsonTarget = &args.json;
    printer.set_json(json);
    if args.out.extension().is_none_or(|extension| extension != "png") {
        bail!("--out {}: the name must end in .png", args.out.display());
    }
    let mut series = Vec::new();
    let mut report = Vec::new();
    for (run, name) in args.runs.iter().zip(names(&args.runs)) {
        let points = points(run, &args.key, args.from)?;
        if let Some((step, last)) = points.last() {
            report
                .push(serde_json::json!({ "run": run, "points": points.len(), "step": step, "last": last }));
            series.push(Series {
                name: format!("{name} ({last:.4})"),
                points: smoothed(&points, args.points as usize),
            });
        }
    }
    if series.is_empty() {
        bail!("--from {}: no run has a later step", args.from);
    }
    line_plot_png(&args.out, &format!("{} by step", args.key), &series)?;
    printer.say(format_args!(
        "wrote {} of {} runs to {}",
        args.key,
        series.len(),
        args.out.display()
    ));
    let report = serde_json::json!({ "out": args.out, "key": args.key, "runs": report });
    printer.json(json, &report)?;
    Ok(exit::DONE)
}

/// What each run is called in the legend: its folder, or its whole path where two folders are called alike.
fn names(runs: &[PathBuf]) -> Vec<String> {
    let short = |run: &Path| {
        let folder = if run.is_file() { run.parent() } else { Some(run) };
        let name = folder.and_then(Path::file_name);
        name.map_or_else(
            || run.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        )
    };
    let all: Vec<String> = runs.iter().map(|run| short(run)).collect();
    let is_alone = |name: &String| all.iter().filter(|other| *other == name).count() == 1;
    runs.iter()
        .zip(&all)
        .map(|(run, name)| {
            if is_alone(name) {
                name.clone()
            } else {
                run.display().to_string()
            }
        })
        .collect()
}

/// Step and value of every line of a run's metrics that has the key, from step `from` on.
///
/// # Errors
/// When the run has no metrics or not this key.
pub fn points(run: &Path, key: &str, from: u64) -> Result<Vec<(f64, f64)>> {
    let path = if run.is_dir() {
        run.join(if key == "frechet" { FRECHET } else { METRICS })
    } else {
        run.to_owned()
    };
    if !path.is_file() {
        bail!(
            "{} is missing\nhint: name the folder of a run, such as runs/demo-64-demo; run.frechet_every writes {FRECHET}",
            path.display()
        );
    }
    let lines: Vec<Map<String, Value>> = json_lines(&path)?;
    let number = |line: &Map<String, Value>, key: &str| line.get(key).and_then(Value::as_f64);
    let mut points: Vec<(f64, f64)> = lines
        .iter()
        .filter_map(|line| Some((number(line, "step")?, number(line, key)?)))
        .collect();
    if points.is_empty() {
        let known = lines.last().into_iter().flatten();
        let numbers = known.filter(|(_, value)| value.is_number());
        let keys: Vec<&str> = numbers.map(|(key, _)| key.as_str()).collect();
        bail!(
            "--key {key}: no line of {} has it; it has {}",
            path.display(),
            if keys.is_empty() {
                "no lines".to_owned()
            } else {
                keys.join(", ")
            }
        );
    }
    points.retain(|(step, _)| *step >= from as f64);
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_called_by_their_folders_unless_these_are_alike() {
        let names = |runs: &[&str]| names(&runs.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["runs/a", "runs/b/"]), ["a", "b"]);
        assert_eq!(names(&["x/a", "y/a", "b"]), ["x/a", "y/a", "b"]);
    }
}
