//! The numbers of one evaluation, with everything that defines them.

use serde::{Deserialize, Serialize};
use shards::manifest::VaeRecord;
use trainer::generate::SamplePlan;

use crate::neighbours::Neighbours;

/// The program whose definitions the numbers follow.
pub const EVALUATOR: &str = concat!("diffussm eval ", env!("CARGO_PKG_VERSION"));

/// The numbers of one sample set. Metrics that were not asked for are absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Frechet distance of the pool features; lower is better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fid: Option<f64>,
    /// Frechet distance of the spatial features; lower is better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sfid: Option<f64>,
    /// Higher is better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inception_score: Option<f64>,
    /// Share of samples that look real.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<f64>,
    /// Share of real images that are covered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall: Option<f64>,
    /// Number of samples.
    pub samples: u64,
    /// Whether the numbers may stand beside published ones.
    pub comparable: bool,
    /// What was scored.
    pub images: String,
    /// What it was scored against.
    pub reference: String,
    /// The network: `sha256:...` of its weights or `random:SEED`.
    pub inception: String,
    /// What its features come from, where it is not the processor's arithmetic: `cuda f32`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arithmetic: Option<String>,
    /// Height and width of the samples in pixels.
    pub image_size: [usize; 2],
    /// What a reader of the numbers must know.
    pub warnings: Vec<String>,
    /// The program and its version.
    #[serde(default)]
    pub evaluator: String,
    /// Arithmetic of the distances of precision and recall: `f32` or `f16`; empty without them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub distances: String,
    /// The reference, as far as it is known.
    #[serde(default)]
    pub against: ReferenceRecord,
    /// What drew the samples; absent for images that were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRecord>,
    /// The reference images that are nearest to the samples, where they were looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neighbours: Option<Neighbours>,
}

/// What identifies a reference.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceRecord {
    /// SHA-256 of the file, of the files of a folder, or of what decides the pixels of a dataset; hexadecimal.
    pub sha256: String,
    /// How its images were made, in words.
    pub transform: String,
    /// The images that its statistics are of, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<u64>,
}

/// What draws samples: weights, and how they are used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// The export, checkpoint or run.
    pub path: String,
    /// Optimiser steps of the weights.
    pub step: u64,
    /// A hash of the weights.
    pub weights: String,
    /// Seed, sampler, steps, guidance, labels.
    pub plan: SamplePlan,
    /// The dataset that it learned from.
    pub dataset: String,
    /// The fingerprint of that dataset.
    pub fingerprint: String,
    /// The autoencoder that decodes.
    pub vae: VaeRecord,
}

impl Scores {
    /// Name and value of each thing that defines the numbers, for people.
    pub fn definition(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![
            ("samples", self.samples.to_string()),
            (
                "image size",
                format!("{} x {}", self.image_size[0], self.image_size[1]),
            ),
        ];
        match &self.model {
            None => rows.push(("images", self.images.clone())),
            Some(model) => rows.extend(model.definition()),
        }
        rows.push(("reference", self.reference.clone()));
        let against = &self.against;
        rows.push(("reference SHA-256", against.sha256.clone()));
        if let Some(images) = against.images {
            rows.push(("reference images", images.to_string()));
        }
        rows.push(("reference transform", against.transform.clone()));
        rows.push(("Inception weights", self.inception.clone()));
        rows.push((
            "Inception arithmetic",
            self.arithmetic.clone().unwrap_or_default(),
        ));
        rows.push(("distances of precision and recall", self.distances.clone()));
        rows.push(("evaluator", self.evaluator.clone()));
        let comparable = if self.comparable { "yes" } else { "no" };
        rows.push(("comparable with published numbers", comparable.to_owned()));
        rows.retain(|(_, value)| !value.is_empty());
        rows
    }
}

impl ModelRecord {
    fn definition(&self) -> Vec<(&'static str, String)> {
        let plan = &self.plan;
        let hash = |hash: &Option<String>| {
            hash.as_ref()
                .map_or_else(String::new, |hash| format!(", sha256 {hash}"))
        };
        vec![
            ("model", self.path.clone()),
            ("training step", self.step.to_string()),
            ("hash of the weights", self.weights.clone()),
            ("seed", plan.seed.to_string()),
            ("sampler", plan.sampler.to_string()),
            ("sampling steps", plan.steps.clone()),
            ("guidance", plan.guidance.to_string()),
            ("labels", plan.labels.to_string()),
            (
                "autoencoder",
                format!("{}{}", self.vae.id, hash(&self.vae.sha256)),
            ),
            (
                "trained on",
                format!("{}, fingerprint {}", self.dataset, self.fingerprint),
            ),
        ]
    }
}
