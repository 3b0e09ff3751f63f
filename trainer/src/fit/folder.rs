//! The folder of a run: `config.toml metrics.jsonl frechet.jsonl loss.png samples/ tensorboard/ checkpoints/`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use preprocess::console::grid::{grid, write_png};
use preprocess::console::plot::{Series, line_plot_png};
use preprocess::image::RgbImage;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shards::disk;
use shards::lock::FolderLock;

use super::Error;
use super::frechet::{Distance, FRECHET};
use super::tensorboard::EventFile;

/// Stretches of a plotted line.
pub const PLOTTED_POINTS: usize = 400;
/// File of the losses.
pub const METRICS: &str = "metrics.jsonl";

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
    /// What this process tells TensorBoard.
    events: Option<EventFile>,
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
            events: None,
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
        Ok(disk::replace_unsynced(
            &self.dir.join("config.toml"),
            text.as_bytes(),
        )?)
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

    /// Takes back the lines and events after step `step`: a resumed run writes them again.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn rewind(&mut self, step: u64) -> Result<(), Error> {
        keep_lines(&self.metrics_file(), |line: &Metrics| line.step <= step)?;
        keep_lines(&self.dir.join(FRECHET), |line: &Distance| line.step <= step)?;
        self.events = Some(EventFile::create(&self.dir.join("tensorboard"), step + 1)?);
        Ok(())
    }

    /// Appends a line to `metrics.jsonl`, and what it says to TensorBoard's events.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn append(&self, metrics: &Metrics) -> Result<(), Error> {
        append_line(&self.metrics_file(), metrics)?;
        if let Some(events) = &self.events {
            let values = [
                ("loss", metrics.loss),
                ("mse", metrics.mse),
                ("vb", metrics.vb),
                ("grad_norm", metrics.grad_norm),
                ("lr", metrics.lr),
                ("images_per_second", metrics.images_per_second),
            ];
            events.scalars(metrics.step, &values)?;
        }
        Ok(())
    }

    /// Appends a line to `frechet.jsonl`, and the distance to TensorBoard's events.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn append_distance(&self, distance: &Distance) -> Result<(), Error> {
        append_line(&self.dir.join(FRECHET), distance)?;
        if let Some(events) = &self.events {
            events.scalars(distance.step, &[("frechet", distance.frechet)])?;
        }
        Ok(())
    }

    /// Writes a grid of samples of step `step` as PNG, and shows it to TensorBoard; answers the file.
    ///
    /// # Errors
    /// Those of the file system, and when the images are not of one size.
    pub fn write_samples(&self, step: u64, images: &[RgbImage], columns: usize) -> Result<PathBuf, Error> {
        let path = self.dir.join("samples").join(format!("step-{step:07}.png"));
        let whole = grid(images, columns)?;
        write_png(&whole, &path)?;
        if let Some(events) = &self.events {
            let (width, height) = (whole.width as u32, whole.height as u32);
            events.image(step, "samples", width, height, &fs_err::read(&path)?)?;
        }
        Ok(path)
    }
}

/// What [`RunFolder::metrics`] reads from the run `dir`.
fn read_metrics(dir: &Path) -> Result<Vec<Metrics>, Error> {
    let path = dir.join(METRICS);
    if !path.exists() {
        return Ok(Vec::new());
    }
    Ok(json_lines(&path)?)
}

/// The lines of a file that are a `T` in JSON: a kill leaves half a line at the end.
///
/// # Errors
/// Those of the file system.
pub fn json_lines<T: DeserializeOwned>(path: &Path) -> std::io::Result<Vec<T>> {
    let mut all = Vec::new();
    for line in BufReader::new(fs_err::File::open(path)?).lines() {
        all.extend(serde_json::from_str::<T>(&line?));
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

fn to_line(value: &impl Serialize) -> Result<String, Error> {
    let line = serde_json::to_string(value).map_err(std::io::Error::other)?;
    Ok(line + "\n")
}

fn append_line(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let line = to_line(value)?;
    let mut file = fs_err::OpenOptions::new().create(true).append(true).open(path)?;
    Ok(file.write_all(line.as_bytes())?)
}

/// Writes a file of lines again with those that are to be kept, if there is such a file.
fn keep_lines<T: Serialize + DeserializeOwned>(
    path: &Path,
    is_kept: impl Fn(&T) -> bool,
) -> Result<(), Error> {
    if !path.exists() {
        return Ok(());
    }
    let mut text = String::new();
    for line in json_lines::<T>(path)?.iter().filter(|line| is_kept(line)) {
        text.push_str(&to_line(line)?);
    }
    Ok(disk::replace_unsynced(path, text.as_bytes())?)
}

fn series(name: &str, all: &[Metrics], value: impl Fn(&Metrics) -> f64) -> Series {
    let points: Vec<(f64, f64)> = all.iter().map(|line| (line.step as f64, value(line))).collect();
    Series {
        name: name.to_owned(),
        points: smoothed(&points, PLOTTED_POINTS),
    }
}

/// The means of at most `count` stretches of `points` of equal length, each at the middle of its stretch.
pub fn smoothed(points: &[(f64, f64)], count: usize) -> Vec<(f64, f64)> {
    let width = points.len().div_ceil(count.max(1)).max(1);
    let mean = |part: &[(f64, f64)]| {
        let sum: f64 = part.iter().map(|point| point.1).sum();
        (part[part.len() / 2].0, sum / part.len() as f64)
    };
    points.chunks(width).map(mean).collect()
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
        let mut folder = RunFolder::open(dir.path()).unwrap();
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
