//! The folder of a run: `config.toml metrics.jsonl loss.png samples/ checkpoints/`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use preprocess::console::plot::{Series, line_plot_png};
use serde::{Deserialize, Serialize};
use shards::lock::FolderLock;

use super::Error;
use crate::checkpoint::disk;

/// Stretches of a plotted line.
const PLOTTED_POINTS: usize = 400;
const METRICS: &str = "metrics.jsonl";

/// A line of `metrics.jsonl`: means over the steps since the line before, but for `step`, `epoch`, `lr` and the counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Optimiser steps done.
    pub step: u64,
    /// Epochs, with the part of the current one.
    pub epoch: f64,
    /// `mse + vb`
    pub loss: f64,
    /// Squared error of the noise.
    pub mse: f64,
    /// Variational bound, bits a dimension.
    pub vb: f64,
    /// Norm of the gradients, before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Images trained on a second, in this process.
    pub images_per_second: f64,
    /// Images trained on.
    pub images_seen: u64,
    /// Steps left out so far because loss or gradients were not finite.
    pub skipped_steps: u64,
}

/// A run's folder, locked against a second process.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
    _lock: FolderLock,
}

impl RunFolder {
    /// Opens or makes `dir`.
    ///
    /// # Errors
    /// [`shards::error::Error::Locked`] while another process trains there.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        fs_err::create_dir_all(dir.join("checkpoints"))?;
        Ok(Self {
            dir: dir.to_owned(),
            _lock: FolderLock::acquire(dir, "trains")?,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Writes `config.toml`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_config(&self, text: &str) -> Result<(), Error> {
        Ok(disk::replace(&self.dir.join("config.toml"), text.as_bytes())?)
    }

    fn metrics_file(&self) -> PathBuf {
        self.dir.join(METRICS)
    }

    /// All lines of `metrics.jsonl`; a half line at the end, left by a kill, is passed over.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn metrics(&self) -> Result<Vec<Metrics>, Error> {
        read_metrics(&self.dir)
    }

    /// Takes back the lines after step `step`: a resumed run writes them again.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn rewind(&self, step: u64) -> Result<(), Error> {
        let mut text = String::new();
        for line in self.metrics()?.iter().filter(|line| line.step <= step) {
            text.push_str(&to_line(line)?);
        }
        Ok(disk::replace(&self.metrics_file(), text.as_bytes())?)
    }

    /// Appends a line to `metrics.jsonl`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn append(&self, metrics: &Metrics) -> Result<(), Error> {
        let mut file = fs_err::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.metrics_file())?;
        Ok(file.write_all(to_line(metrics)?.as_bytes())?)
    }
}

/// What [`RunFolder::metrics`] reads from the run `dir`.
fn read_metrics(dir: &Path) -> Result<Vec<Metrics>, Error> {
    let path = dir.join(METRICS);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let lines = BufReader::new(fs_err::File::open(path)?).lines();
    let mut all = Vec::new();
    for line in lines {
        all.extend(serde_json::from_str::<Metrics>(&line?));
    }
    Ok(all)
}

/// Draws `loss.png` of the run `dir` from its `metrics.jsonl`.
///
/// # Errors
/// Those of the file system.
pub(super) fn plot(dir: &Path) -> Result<(), Error> {
    let all = read_metrics(dir)?;
    let series = [
        series("mse + vb", &all, |m| m.loss),
        series("mse", &all, |m| m.mse),
    ];
    let path = dir.join("loss.png");
    let aside = disk::partial(&path);
    line_plot_png(&aside, "training loss by step", &series)?;
    Ok(disk::rename(&aside, &path)?)
}

fn to_line(metrics: &Metrics) -> Result<String, Error> {
    let line = serde_json::to_string(metrics).map_err(std::io::Error::other)?;
    Ok(line + "\n")
}

/// The means of at most [`PLOTTED_POINTS`] stretches of equal length.
fn series(name: &str, all: &[Metrics], value: impl Fn(&Metrics) -> f64) -> Series {
    let width = all.len().div_ceil(PLOTTED_POINTS).max(1);
    let point = |part: &[Metrics]| {
        let mean = part.iter().map(&value).sum::<f64>() / part.len() as f64;
        (part[part.len() / 2].step as f64, mean)
    };
    Series {
        name: name.to_owned(),
        points: all.chunks(width).map(point).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64) -> Metrics {
        Metrics {
            step,
            epoch: 0.5,
            loss: 1.0 / step as f64,
            mse: 0.1 + 0.2,
            vb: 0.0,
            grad_norm: 1.0,
            lr: 1e-4,
            images_per_second: 3.0,
            images_seen: step,
            skipped_steps: 0,
        }
    }

    #[test]
    fn lines_after_a_step_are_taken_back_and_half_lines_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::open(dir.path()).unwrap();
        for step in 1..=5 {
            folder.append(&line(step)).unwrap();
        }
        let mut file = fs_err::OpenOptions::new()
            .append(true)
            .open(dir.path().join("metrics.jsonl"))
            .unwrap();
        file.write_all(b"{\"step\": 6, \"ep").unwrap();
        assert_eq!(folder.metrics().unwrap().len(), 5);
        folder.rewind(3).unwrap();
        assert_eq!(folder.metrics().unwrap(), [line(1), line(2), line(3)]);
        plot(dir.path()).unwrap();
        assert!(dir.path().join("loss.png").is_file());
    }

    #[test]
    fn a_second_process_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunFolder::open(dir.path()).unwrap();
        let error = RunFolder::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("trains there since"), "{error}");
        drop(first);
        RunFolder::open(dir.path()).unwrap();
    }
}
