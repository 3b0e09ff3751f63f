//! Which stage the others wait for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Time in which each stage's threads worked, as opposed to waited.
pub(super) struct Clocks {
    stages: Vec<(&'static str, usize, AtomicU64)>,
    started: Instant,
}

/// A stage, in the order of the pipeline.
#[derive(Clone, Copy)]
pub(super) enum Stage {
    Fetch,
    Decode,
    Encode,
    Compress,
    Write,
}

impl Clocks {
    /// Names and threads of the stages, in the order of [`Stage`].
    pub(super) fn new(stages: &[(&'static str, usize)]) -> Self {
        let stages = stages
            .iter()
            .map(|&(name, threads)| (name, threads.max(1), AtomicU64::new(0)));
        Self {
            stages: stages.collect(),
            started: Instant::now(),
        }
    }

    /// Does some of a stage's work.
    pub(super) fn time<R>(&self, stage: Stage, work: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = work();
        let nanoseconds = start.elapsed().as_nanos() as u64;
        self.stages[stage as usize]
            .2
            .fetch_add(nanoseconds, Ordering::Relaxed);
        result
    }

    /// The share of the time in which each stage's threads worked.
    pub(super) fn shares(&self) -> Vec<(&'static str, f64)> {
        let elapsed = self.started.elapsed().as_nanos().max(1) as f64;
        let share = |busy: &AtomicU64, threads: usize| {
            busy.load(Ordering::Relaxed) as f64 / (elapsed * threads as f64)
        };
        self.stages
            .iter()
            .map(|(name, threads, busy)| (*name, share(busy, *threads).min(1.0)))
            .collect()
    }

    /// What the progress line says behind the rate.
    pub(super) fn told(&self, rejects: u64) -> String {
        let shares = self.shares();
        let busiest = shares.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let mut text = busiest
            .map(|(name, share)| format!("{name} busy {:.0} %", 100.0 * share))
            .unwrap_or_default();
        if rejects > 0 {
            text.push_str(&format!(", {rejects} rejected"));
        }
        text
    }
}
