//! The Frechet distance of samples during a run: the program `eval` draws them from the averaged weights and scores them.
//!
//! It is a process of its own, since the metrics stand above the trainer; what it needs of the run is an export.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shards::disk;

use super::{Error, Event, RunFolder};
use crate::checkpoint::{State, WeightKind};
use crate::config::{Config, RunConfig};
use crate::distributed::Launch;
use crate::export::{self, ExportConfig, WeightDtype};
use crate::gpu::Place;

/// File of the distances.
pub const FRECHET: &str = "frechet.jsonl";
/// The export, in a folder beside the checkpoints while it is measured.
const MODEL: &str = "model";
/// Images that are sampled together at most.
const MAX_BATCH: usize = 256;
/// How often the program is asked whether it is done.
const POLL: Duration = Duration::from_millis(50);

/// A line of `frechet.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distance {
    /// Optimiser steps done.
    pub step: u64,
    /// The distance to the dataset's images.
    pub frechet: f64,
    /// Samples that were drawn.
    pub samples: u64,
    /// The network whose features are compared.
    pub inception: String,
    /// Whether the network is the published one.
    pub comparable: bool,
}

/// What `eval fid --json` says.
#[derive(Deserialize)]
struct Scores {
    fid: f64,
    samples: u64,
    inception: String,
    comparable: bool,
}

/// The program that measures.
pub(super) struct Frechet {
    program: PathBuf,
    place: Place,
}

impl Frechet {
    /// Looks for the program beside this one, where the configuration asks for distances; it will work at `place`, too.
    ///
    /// # Errors
    /// [`Error::NoEval`].
    pub(super) fn find(run: &RunConfig, place: Place) -> Result<Option<Self>, Error> {
        if run.frechet_every == 0 {
            return Ok(None);
        }
        let beside = std::env::current_exe()?.with_file_name(format!("eval{}", std::env::consts::EXE_SUFFIX));
        if beside.is_file() {
            Ok(Some(Self {
                program: beside,
                place,
            }))
        } else {
            Err(Error::NoEval { path: beside })
        }
    }

    /// Measures the averaged weights, while training waits; a failure is told and not the run's, a wish to stop ends it.
    pub(super) fn measure(
        &self,
        folder: &RunFolder,
        state: &State,
        ema: &[f32],
        stop: &AtomicBool,
        listener: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Error> {
        let aside = folder.path().join(format!("frechet-{:07}", state.step));
        disk::remove_dir_all(&aside)?;
        disk::create_dir_all(&aside)?;
        let config = ExportConfig::new(state, WeightKind::Ema, WeightDtype::F32);
        let done = export::write(&aside.join(MODEL), &config, ema)
            .map_err(|error| error.to_string())
            .and_then(|()| self.run(&aside, &state.config, &state.dataset.path, stop));
        disk::remove_dir_all(&aside)?;
        match done {
            Ok(Some(scores)) => {
                let distance = Distance {
                    step: state.step,
                    frechet: scores.fid,
                    samples: scores.samples,
                    inception: scores.inception,
                    comparable: scores.comparable,
                };
                folder.append_distance(&distance)?;
                listener(Event::Scored(&distance));
            }
            Ok(None) => {}
            Err(error) => listener(Event::Note(&format!(
                "no Frechet distance at step {}: {error}",
                state.step
            ))),
        }
        Ok(())
    }

    /// The scores of the model in `aside`; `None` when the run was asked to stop.
    fn run(
        &self,
        aside: &Path,
        config: &Config,
        dataset: &str,
        stop: &AtomicBool,
    ) -> Result<Option<Scores>, String> {
        let text = |error: std::io::Error| error.to_string();
        let (answer, log) = (aside.join("scores.json"), aside.join("log.txt"));
        let said = fs_err::File::create(&log).map_err(text)?.into_file();
        let mut command = self.command(&aside.join(MODEL), config, dataset);
        command.arg("--json").arg(&answer);
        let spawned = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn();
        let mut child = spawned.map_err(|error| format!("{}: {error}", self.program.display()))?;
        let status = loop {
            if stop.load(Ordering::Relaxed) {
                // One that has ended by itself cannot be killed any more.
                let _ = child.kill();
                child.wait().map_err(text)?;
                return Ok(None);
            }
            match child.try_wait().map_err(text)? {
                Some(status) => break status,
                None => std::thread::sleep(POLL),
            }
        };
        if !status.success() {
            let said = fs_err::read_to_string(&log).map_err(text)?;
            return Err(format!(
                "{} ended with {status}:\n{}",
                self.program.display(),
                said.trim()
            ));
        }
        let answer = fs_err::read(&answer).map_err(text)?;
        let scores = serde_json::from_slice(&answer);
        scores.map(Some).map_err(|error| {
            format!(
                "{} answered otherwise than expected: {error}",
                self.program.display()
            )
        })
    }

    fn command(&self, model: &Path, config: &Config, dataset: &str) -> Command {
        let run = &config.run;
        let mut command = Command::new(&self.program);
        command
            .args(["fid", "--quiet", "--metrics", "fid", "--sampler", "ddim"])
            .arg("--checkpoint")
            .arg(model)
            .args(["--reference", dataset, "--inception", &run.frechet_inception])
            .args(["--samples", &run.frechet_samples.to_string()])
            .args(["--steps", &run.sample_steps.to_string()])
            .args(["--seed", &run.global_seed.to_string()])
            .args(["--batch", &config.optim.micro_batch().min(MAX_BATCH).to_string()]);
        if let Place::Gpu(number) = self.place {
            // Without a number: that of the first process, which asks.
            let device = format!("cuda:{}", number.unwrap_or(0));
            command.args(["--device", &device, "--precision", run.precision.name()]);
        }
        if run.threads > 0 {
            command.env("RAYON_NUM_THREADS", run.threads.to_string());
        }
        // It is none of the processes that a launcher started.
        for name in Launch::variables() {
            command.env_remove(name);
        }
        command
    }
}
