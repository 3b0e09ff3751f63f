//! `eval report`: one page of several evaluations, with the curves of their runs.

use std::path::{Path, PathBuf};

use anyhow::Context;
use preprocess::console::Printer;

use crate::report::{self, curves, folder};

/// What `eval report` accepts.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folders with a scores.json, as `eval fid --out` writes them (or holding such a folder as `eval`).
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page to write.
    #[arg(long, value_name = "FILE.html")]
    out: PathBuf,
}

/// Gathers the scores and writes the page.
///
/// # Errors
/// If a folder holds no scores or the page cannot be written.
pub fn run(args: &Args, printer: &mut Printer) -> anyhow::Result<()> {
    let mut evaluations = Vec::new();
    let mut runs = Vec::new();
    for run in &args.runs {
        let evaluation = folder::read(&scores_folder(run))
            .with_context(|| format!("no scores in {}: run `eval fid --out {0}` first", run.display()))?;
        evaluations.push(evaluation);
        runs.push((run.display().to_string(), run.clone()));
    }
    let page = report::html("Evaluations", &evaluations, &curves::of_runs(&runs)?);
    fs_err::write(&args.out, page)?;
    printer.say(format_args!(
        "{}: {} evaluations",
        args.out.display(),
        evaluations.len()
    ));
    Ok(())
}

fn scores_folder(run: &Path) -> PathBuf {
    let inner = run.join("eval");
    if inner.join("scores.json").is_file() {
        inner
    } else {
        run.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Scores;

    #[test]
    fn several_runs_come_on_one_page() {
        let folder = tempfile::tempdir().unwrap();
        let run_folder = folder.path().join("run/eval");
        fs_err::create_dir_all(&run_folder).unwrap();
        let scores = Scores {
            fid: Some(3.25),
            images: "some".into(),
            ..Scores::default()
        };
        fs_err::write(
            run_folder.join("scores.json"),
            serde_json::to_string(&scores).unwrap(),
        )
        .unwrap();
        let out = folder.path().join("page.html");
        let (mut printer, _, _) = Printer::captured();
        let args = Args {
            runs: vec![folder.path().join("run")],
            out: out.clone(),
        };
        run(&args, &mut printer).unwrap();
        assert!(fs_err::read_to_string(out).unwrap().contains("3.25"));
        let missing = Args {
            runs: vec![folder.path().join("none")],
            out: folder.path().join("x"),
        };
        assert!(format!("{:#}", run(&missing, &mut printer).unwrap_err()).contains("eval fid --out"));
    }
}
