//! How the latents of a dataset are distributed, channel by channel.

use anyhow::Result;
use serde_json::{Value, json};

use super::target::Target;

/// One channel of the means or log-variances.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Channel {
    pub(super) mean: f64,
    pub(super) std: f64,
    pub(super) min: f32,
    pub(super) max: f32,
}

/// Over all views of some samples.
#[derive(Clone, Debug)]
pub(super) struct Statistics {
    pub(super) samples: usize,
    pub(super) mean: Vec<Channel>,
    /// Empty where no log-variance is stored.
    pub(super) logvar: Vec<Channel>,
}

/// Measures `samples` samples, spread evenly over the target.
pub(super) fn measure(target: &Target, samples: usize) -> Result<Statistics> {
    let header = target.header();
    let layout = header.row_layout();
    let channels = layout.shape[0];
    let has_logvar = layout.logvar;
    let (mut mean, mut logvar) = (vec![0f32; layout.elements()], vec![0f32; layout.elements()]);
    let mut means = vec![Sums::default(); channels];
    let mut logvars = vec![Sums::default(); if has_logvar { channels } else { 0 }];
    let chosen = target.spread(samples);
    for &i in &chosen {
        for view in 0..header.views as usize {
            target.read(i, view, &mut mean, has_logvar.then_some(&mut logvar[..]))?;
            for (sums, values) in [(&mut means, &mean), (&mut logvars, &logvar)] {
                for (sums, plane) in sums.iter_mut().zip(values.chunks(layout.channel_elements())) {
                    plane.iter().for_each(|value| sums.add(*value));
                }
            }
        }
    }
    Ok(Statistics {
        samples: chosen.len(),
        mean: means.iter().map(Sums::channel).collect(),
        logvar: logvars.iter().map(Sums::channel).collect(),
    })
}

impl Statistics {
    pub(super) fn json(&self) -> Value {
        let list = |channels: &[Channel]| -> Vec<Value> {
            channels
                .iter()
                .map(|c| json!({ "mean": c.mean, "std": c.std, "min": c.min, "max": c.max }))
                .collect()
        };
        json!({ "samples": self.samples, "mean": list(&self.mean), "logvar": list(&self.logvar) })
    }
}

#[derive(Clone, Copy)]
struct Sums {
    count: f64,
    sum: f64,
    squares: f64,
    min: f32,
    max: f32,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            count: 0.0,
            sum: 0.0,
            squares: 0.0,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
        }
    }
}

impl Sums {
    fn add(&mut self, value: f32) {
        let wide = f64::from(value);
        self.count += 1.0;
        self.sum += wide;
        self.squares += wide * wide;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    fn channel(&self) -> Channel {
        let mean = self.sum / self.count;
        Channel {
            mean,
            std: (self.squares / self.count - mean * mean).max(0.0).sqrt(),
            min: self.min,
            max: self.max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_has_its_moments_and_its_range() {
        let mut sums = Sums::default();
        [1.0, 2.0, 3.0, 6.0].into_iter().for_each(|v| sums.add(v));
        let expected = Channel {
            mean: 3.0,
            std: 3.5f64.sqrt(),
            min: 1.0,
            max: 6.0,
        };
        assert_eq!(sums.channel(), expected);
    }
}
