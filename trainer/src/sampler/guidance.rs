//! Classifier-free guidance (Ho and Salimans 2022): `eps_u + w (eps_c - eps_u)`; w = 1 is no guidance.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Batch;

/// Which noise channels are guided; the variance is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuidanceMode {
    /// All of them.
    #[default]
    All,
    /// The first three, as DiT's published code does: for comparison with its numbers.
    Dit3,
}

/// How strongly, on which channels, and where.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guidance {
    /// w; 1 runs the conditional branch alone.
    pub scale: f64,
    /// Which channels.
    pub mode: GuidanceMode,
    /// Guide only where `lo < sigma <= hi` (Kynkaanniemi et al. 2024), `sigma = sqrt(1 / abar - 1)`.
    pub interval: Option<(f64, f64)>,
}

impl Default for Guidance {
    fn default() -> Self {
        Self {
            scale: 1.0,
            mode: GuidanceMode::All,
            interval: None,
        }
    }
}

impl fmt::Display for Guidance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scale == 1.0 {
            return f.write_str("none");
        }
        let channels = match self.mode {
            GuidanceMode::All => "all channels",
            GuidanceMode::Dit3 => "three channels, as DiT",
        };
        write!(f, "scale {}, {channels}", self.scale)?;
        match self.interval {
            Some((low, high)) => write!(f, ", where {low} < sigma <= {high}"),
            None => Ok(()),
        }
    }
}

impl Guidance {
    /// Whether a step at noise level `sigma` is guided, in a model with or without a label that stands for none.
    pub(crate) fn applies(&self, sigma: f64, null_label: Option<u32>) -> bool {
        let is_inside = self
            .interval
            .is_none_or(|(low, high)| low < sigma && sigma <= high);
        null_label.is_some() && is_inside && self.scale != 1.0
    }

    /// The model's output, guided, for all images of a batch at one timestep.
    pub(super) fn evaluate<E>(
        &self,
        sigma: f64,
        timestep: u32,
        x: &[f32],
        batch: &Batch<'_>,
        model: &mut impl FnMut(&[f32], &[f32], &[u32]) -> Result<Vec<f32>, E>,
    ) -> Result<Vec<f32>, E> {
        let count = batch.indices.len();
        let null = match batch.null_label {
            Some(null) if self.applies(sigma, batch.null_label) => null,
            _ => return model(x, &vec![timestep as f32; count], batch.labels),
        };
        let labels: Vec<u32> = batch
            .labels
            .iter()
            .copied()
            .chain(std::iter::repeat_n(null, count))
            .collect();
        let mut output = model(x, &vec![timestep as f32; 2 * count], &labels)?;
        let width = output.len() / (2 * count);
        let guided = batch.area
            * match self.mode {
                GuidanceMode::All => batch.channels,
                GuidanceMode::Dit3 => batch.channels.min(3),
            };
        let (conditional, unconditional) = output.split_at_mut(count * width);
        for (c, u) in conditional
            .chunks_exact_mut(width)
            .zip(unconditional.chunks_exact(width))
        {
            for (c, u) in c[..guided].iter_mut().zip(u) {
                *c = (f64::from(*u) + self.scale * (f64::from(*c) - f64::from(*u))) as f32;
            }
        }
        output.truncate(count * width);
        Ok(output)
    }
}
