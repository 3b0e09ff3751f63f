//! Samples of a trained model as a set of images: drawn in parts that stay beside the model, and so do their features.
//!
//! A killed evaluation goes on where it was, one with other metrics has nothing to draw, and processes share the work.

use std::hash::Hasher as _;
use std::path::{Path, PathBuf};

use preprocess::image::RgbImage;
use preprocess::vae::AutoencoderKl;
use trainer::bulk::SampleSet;
use trainer::distributed::HostReducer;
use trainer::generate::{Generator, Labels, SamplePlan};
use trainer::gpu::Place;
use trainer::gpu::place::Use;
use trainer::{checkpoint, export};
use xxhash_rust::xxh64::Xxh64;

use crate::error::Result;
use crate::feature_parts::FeatureParts;
use crate::features::{BATCH, Collector, Keep, Summary};
use crate::inception::Inception;
use crate::report::ModelRecord;
use crate::transform;

/// Folder of the samples beside the checkpoints of a run, or in an export.
const FOLDER: &str = "scored";

/// A trained model with its autoencoder.
pub struct Model {
    generator: Generator,
    vae: AutoencoderKl,
    path: PathBuf,
    /// Folder of its samples.
    home: PathBuf,
}

/// The first `count` samples of a model under a plan.
pub struct GeneratedImages<'a> {
    model: &'a Model,
    plan: SamplePlan,
    count: usize,
    batch: usize,
    folder: PathBuf,
}

/// What an evaluation tells of its progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// So many of this process's images are drawn, of so many.
    Drawn(u64, u64),
    /// The features of so many of them are there, of so many.
    Seen(u64, u64),
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("path", &self.path)
            .field("step", &self.generator.step)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for GeneratedImages<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GeneratedImages")
            .field("model", &self.model)
            .field("plan", &self.plan)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl Model {
    /// The checkpoint, run, folder of runs, or export at `path`, to be sampled at `place`. Its samples are kept below `work`, or
    /// beside the model.
    ///
    /// # Errors
    /// If there is no sound one, its autoencoder cannot be loaded, or a GPU cannot be used.
    pub fn open(
        path: &Path,
        work: Option<&Path>,
        (place, wish): (Place, Use),
        group: &mut HostReducer,
    ) -> Result<Self> {
        let generator = Generator::open(path)?.at(place, wish, group)?;
        let vae = generator.autoencoder_at(place, group)?;
        let home = match work {
            Some(work) => work.to_owned(),
            None => home(path)?.join(FOLDER),
        };
        Ok(Self {
            generator,
            vae,
            path: path.to_owned(),
            home,
        })
    }

    /// The training step that the weights are of.
    pub fn step(&self) -> u64 {
        self.generator.step
    }

    /// The folder of the dataset that it learned from.
    pub fn dataset(&self) -> &Path {
        Path::new(&self.generator.dataset.path)
    }

    /// How the images that the model learned from were made, where their dataset is still there.
    pub fn transform(&self) -> Option<String> {
        transform::of_dataset(self.dataset(), &self.generator.dataset.fingerprint)
    }

    /// The run that it is of, if it is of one.
    pub fn run(&self) -> Option<PathBuf> {
        run_of(&self.path)
    }
}

impl<'a> GeneratedImages<'a> {
    /// `count` samples of `model`; `batch` go through it together.
    pub fn new(model: &'a Model, plan: SamplePlan, count: usize, batch: usize) -> Self {
        let generator = &model.generator;
        let mut hash = Xxh64::new(0);
        hash.write(generator.definition(&plan).to_string().as_bytes());
        let name = format!("step-{:07}-{:08x}", generator.step, hash.finish() >> 32);
        Self {
            model,
            plan,
            count,
            batch: batch.max(1),
            folder: model.home.join(name),
        }
    }

    /// Number of samples.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.model
    }

    /// The folder that keeps the samples.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What defines the samples, in words.
    pub fn description(&self) -> String {
        let SamplePlan {
            seed,
            sampler,
            steps,
            guidance,
            labels,
        } = &self.plan;
        format!(
            "{} at step {}, {sampler} with {steps} steps, guidance {guidance}, labels {labels}, seed {seed}",
            self.model.path.display(),
            self.model.step()
        )
    }

    /// What defines the samples.
    pub fn record(&self) -> ModelRecord {
        let generator = &self.model.generator;
        let dataset = &generator.dataset;
        ModelRecord {
            path: self.model.path.display().to_string(),
            step: generator.step,
            weights: generator.weights_hash().to_owned(),
            plan: self.plan.clone(),
            dataset: dataset.path.clone(),
            fingerprint: dataset.fingerprint.clone(),
            vae: dataset.vae.clone(),
        }
    }

    /// What a reader of the numbers must know of the labels.
    pub fn warning(&self) -> Option<String> {
        label_warning(
            &self.plan.labels,
            self.count,
            self.model.generator.config.model.num_classes,
        )
    }

    /// Draws what is missing, lets `network` see what it has not seen, and sums it up, together with the first `shown`
    /// images; `None` in all processes of `group` but the first.
    ///
    /// # Errors
    /// Those of sampling, of the network and of the file system; finished parts stay.
    pub fn summarise(
        &self,
        network: &Inception,
        network_id: &str,
        keep: Keep,
        shown: usize,
        group: &mut HostReducer,
        mut told: impl FnMut(Stage),
    ) -> Result<Option<(Summary, Vec<RgbImage>)>> {
        let set = SampleSet::open(
            &self.folder,
            &self.model.generator,
            &self.plan,
            self.count as u64,
            group,
        )?;
        set.draw(&self.model.vae, self.batch, group, |done, total| {
            told(Stage::Drawn(done, total));
        })?;
        let parts = FeatureParts::new(&set, network, network_id);
        parts.complete(group, |done, total| told(Stage::Seen(done, total)))?;
        if group.rank() > 0 {
            return Ok(None);
        }
        let mut collector = Collector::new(keep);
        parts.visit(|features| collector.push(&features))?;
        let mut images = Vec::new();
        for part in set.parts().take(shown.div_ceil(BATCH)) {
            set.visit_part(part, BATCH, |part| {
                images.extend(part);
                Ok::<(), crate::error::Error>(())
            })?;
        }
        images.truncate(shown);
        let side = self.model.generator.dataset.image_size;
        Ok(Some((collector.finish(Some((side, side)))?, images)))
    }
}

fn label_warning(labels: &Labels, count: usize, classes: usize) -> Option<String> {
    match labels {
        _ if classes < 2 => None,
        Labels::Balanced if !count.is_multiple_of(classes) => Some(format!(
            "{count} samples are not the same number of each of {classes} classes"
        )),
        Labels::List(list) => Some(format!(
            "the samples are of a list of {} labels, not of all {classes} classes alike",
            list.len()
        )),
        Labels::Balanced | Labels::Random => None,
    }
}

/// Where the files of a model go: an export, the run of a checkpoint, or a checkpoint that is of no run.
fn home(path: &Path) -> Result<PathBuf> {
    if export::is_export(path) {
        return Ok(path.to_owned());
    }
    match run_of(path) {
        Some(run) => Ok(run),
        None => Ok(checkpoint::find(path).map_err(export::Error::from)?),
    }
}

/// The run of the checkpoint that `path` stands for.
fn run_of(path: &Path) -> Option<PathBuf> {
    let checkpoint = checkpoint::find(path).ok()?;
    let checkpoints = checkpoint
        .parent()
        .filter(|parent| parent.ends_with("checkpoints"))?;
    checkpoints.parent().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_are_not_balanced_are_warned_of() {
        let warning = |labels, count, classes| label_warning(&labels, count, classes).is_some();
        assert!(!warning(Labels::Balanced, 50_000, 1000));
        assert!(warning(Labels::Balanced, 50_001, 1000));
        assert!(warning(Labels::List(vec![1, 2]), 50_000, 1000));
        assert!(!warning(Labels::Random, 777, 1000));
        assert!(!warning(Labels::List(vec![0]), 777, 0));
    }
}
