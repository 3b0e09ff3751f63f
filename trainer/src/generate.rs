//! A trained model as a source of images: latents from noise, decoded by the autoencoder of its dataset.
//!
//! Image i depends on (seed, i) alone: neither on the batch that it is drawn in nor on the number of images.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, OnceLock, PoisonError};

use candle_core::{Device, Tensor};
use preprocess::image::{RgbImage, tensor};
use preprocess::vae::AutoencoderKl;
use serde::{Deserialize, Serialize};
use shards::rng::{Philox, Stream};

use crate::checkpoint::{DatasetRecord, flat};
use crate::config::{Config, Precision};
use crate::diffusion::{self, Schedule};
use crate::distributed::HostReducer;
use crate::export;
use crate::gpu::place::Use;
use crate::gpu::{self, DeviceSampler, Place};
use crate::model::{self, DiffuSsm, Inference};
use crate::sampler::{self, Guidance, SampleConfig, Sampler};

/// What can go wrong while sampling.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No checkpoint or export, or a damaged one.
    #[error(transparent)]
    Weights(#[from] export::Error),
    /// Weights or labels that do not fit the model.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// A GPU has failed.
    #[error(transparent)]
    Device(#[from] gpu::DeviceError),
    /// A GPU cannot be used.
    #[error(transparent)]
    Place(#[from] gpu::place::Error),
    /// A number of steps that cannot be.
    #[error(transparent)]
    Diffusion(#[from] diffusion::Error),
    /// The autoencoder cannot be loaded, or does not take the latents.
    #[error(transparent)]
    Vae(#[from] preprocess::vae::Error),
    /// Decoded images of a wrong shape.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A label that the model does not know.
    #[error("--labels: {label} is not in 0..{classes}")]
    Label {
        /// The label.
        label: u32,
        /// Classes of the model.
        classes: usize,
    },
    /// A text that says no labels.
    #[error("`{0}` are no labels: write balanced, random, or class numbers with commas between them")]
    Labels(String),
}

/// Which class each image is of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Labels {
    /// Image i is of class `i mod classes`.
    #[default]
    Balanced,
    /// Drawn uniformly, by (seed, i).
    Random,
    /// These, over and over.
    List(Vec<u32>),
}

impl FromStr for Labels {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "balanced" => Ok(Self::Balanced),
            "random" => Ok(Self::Random),
            list => {
                let labels: Result<Vec<u32>, _> = list.split(',').map(|label| label.trim().parse()).collect();
                labels.map(Self::List).map_err(|_| Error::Labels(text.to_owned()))
            }
        }
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Balanced => f.write_str("balanced"),
            Self::Random => f.write_str("random"),
            Self::List(labels) => {
                let labels: Vec<String> = labels.iter().map(u32::to_string).collect();
                f.write_str(&labels.join(","))
            }
        }
    }
}

impl Labels {
    /// The class of image `index`; 0 for a model without classes.
    pub fn label(&self, seed: u64, index: u64, classes: usize) -> u32 {
        match self {
            _ if classes == 0 => 0,
            Self::Balanced => (index % classes as u64) as u32,
            Self::Random => Philox::new(seed).below(Stream::SampledLabel, index, 0, 0, classes as u32),
            Self::List(list) => list[(index % list.len() as u64) as usize],
        }
    }
}

/// What defines a set of samples, beside the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SamplePlan {
    /// Seed of all noise and of random labels.
    pub seed: u64,
    /// DDPM or DDIM.
    pub sampler: Sampler,
    /// Kept timesteps: a number, or one of ADM's specifications (`ddim50`, `10,15,20`).
    pub steps: String,
    /// Classifier-free guidance.
    pub guidance: Guidance,
    /// Classes.
    pub labels: Labels,
}

impl Default for SamplePlan {
    fn default() -> Self {
        Self {
            seed: 0,
            sampler: Sampler::Ddpm,
            steps: "250".to_owned(),
            guidance: Guidance::default(),
            labels: Labels::Balanced,
        }
    }
}

/// Where the weights are, and what makes latents of them.
enum Form {
    Host(Inference),
    Device {
        sampler: Mutex<DeviceSampler>,
        precision: Precision,
        weights_hash: String,
    },
}

/// A model with weights, ready to sample.
pub struct Generator {
    form: Form,
    weights_hash: OnceLock<String>,
    /// The configuration that it was trained with.
    pub config: Config,
    /// The dataset that it was trained on.
    pub dataset: DatasetRecord,
    /// The training step that the weights are of.
    pub step: u64,
}

impl Generator {
    /// The weights of an export; or the averaged ones of a checkpoint, of a run's newest checkpoint, or of the newest run
    /// below a folder.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let weights = export::open(path)?;
        Self::new(weights.config, weights.dataset, weights.step, weights.values)
    }

    /// A model with the given weights.
    ///
    /// # Errors
    /// When they do not fit the architecture.
    pub fn new(config: Config, dataset: DatasetRecord, step: u64, weights: Vec<f32>) -> Result<Self, Error> {
        let model = Inference::new(DiffuSsm::new(config.model.clone())?, weights)?;
        Ok(Self {
            form: Form::Host(model),
            weights_hash: OnceLock::new(),
            config,
            dataset,
            step,
        })
    }

    /// The same at `place`, in one of the processes of `reducer`, each of which may do this.
    ///
    /// # Errors
    /// When a GPU cannot be used, or the model does not fit it.
    pub fn at(self, place: Place, wish: Use, reducer: &mut HostReducer) -> Result<Self, Error> {
        let (Some(device), Form::Host(model)) = (place.open(wish, reducer)?, &self.form) else {
            return Ok(self);
        };
        let weights = model.weights();
        let mut config = self.config.clone();
        config.run.precision = wish.precision;
        let form = Form::Device {
            sampler: Mutex::new(DeviceSampler::new(&config, device, &weights)??),
            precision: wish.precision,
            weights_hash: flat::hash(&weights),
        };
        Ok(Self { form, ..self })
    }

    /// A hash of the weights.
    pub fn weights_hash(&self) -> &str {
        match &self.form {
            // Asked for more than once, and gigabytes for the largest models.
            Form::Host(model) => self.weights_hash.get_or_init(|| flat::hash(&model.weights())),
            Form::Device { weights_hash, .. } => weights_hash,
        }
    }

    /// The arithmetic that images depend on, where it is not that of the processor.
    fn arithmetic(&self) -> Option<String> {
        match &self.form {
            Form::Host(_) => None,
            Form::Device { precision, .. } => Some(format!("cuda {}", precision.name())),
        }
    }

    /// Everything that the images of `plan` depend on, beside their indices: weights by their hash, architecture,
    /// autoencoder, plan.
    pub fn definition(&self, plan: &SamplePlan) -> serde_json::Value {
        let mut definition = serde_json::json!({
            "step": self.step,
            "weights": self.weights_hash(),
            "model": self.config.model,
            "num_timesteps": self.config.diffusion.num_timesteps,
            "vae": self.dataset.vae,
            "image_size": self.dataset.image_size,
            "plan": plan,
        });
        if let Some(arithmetic) = self.arithmetic() {
            definition["arithmetic"] = arithmetic.into();
        }
        definition
    }

    /// The autoencoder of the dataset that the model learned from.
    ///
    /// # Errors
    /// When it cannot be loaded any more.
    pub fn autoencoder(&self) -> Result<AutoencoderKl, Error> {
        Ok(AutoencoderKl::from_record(&self.dataset.vae, &Device::Cpu)?)
    }

    /// The same at a place.
    ///
    /// # Errors
    /// When it cannot be loaded any more, or a GPU cannot be used.
    pub fn autoencoder_at(&self, place: Place, reducer: &HostReducer) -> Result<AutoencoderKl, Error> {
        let device = place.candle_device(reducer)?;
        Ok(AutoencoderKl::from_record(&self.dataset.vae, &device)?)
    }

    /// The class of image `index` under `plan`.
    ///
    /// # Errors
    /// When a listed class is none of the model's.
    pub fn label(&self, plan: &SamplePlan, index: u64) -> Result<u32, Error> {
        let classes = self.config.model.num_classes;
        let label = plan.labels.label(plan.seed, index, classes);
        if classes > 0 && label as usize >= classes {
            return Err(Error::Label { label, classes });
        }
        Ok(label)
    }

    /// Latents of the images with these indices, `[B, C, H, W]`, scaled as the model sees them.
    ///
    /// # Errors
    /// When `plan` asks for steps or labels that cannot be.
    pub fn latents(&self, plan: &SamplePlan, indices: &[u64]) -> Result<Vec<f32>, Error> {
        let model = &self.config.model;
        let schedule = Schedule::linear(self.config.diffusion.num_timesteps).respaced(&plan.steps)?;
        let labels = indices
            .iter()
            .map(|&index| self.label(plan, index))
            .collect::<Result<Vec<u32>, Error>>()?;
        let batch = sampler::Batch {
            indices,
            labels: &labels,
            null_label: model.null_label(),
            channels: model.in_channels,
            area: model.input_size * model.input_size,
        };
        let config = SampleConfig {
            seed: plan.seed,
            sampler: plan.sampler,
            guidance: plan.guidance,
        };
        match &self.form {
            Form::Host(model) => Ok(sampler::sample(&schedule, &config, &batch, |x, t, y| {
                model.forward(x, t, y)
            })?),
            Form::Device { sampler, .. } => {
                let mut sampler = sampler.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(sampler.sample(&schedule, &config, &batch)?)
            }
        }
    }

    /// The images with these indices, decoded by `vae`.
    ///
    /// # Errors
    /// Those of [`Generator::latents`], and when the latents are none of the autoencoder's.
    pub fn images(
        &self,
        plan: &SamplePlan,
        vae: &AutoencoderKl,
        indices: &[u64],
    ) -> Result<Vec<RgbImage>, Error> {
        let model = &self.config.model;
        let mut latents = self.latents(plan, indices)?;
        let scale = vae.scaling_factor() as f32;
        for value in &mut latents {
            *value /= scale;
        }
        let shape = (
            indices.len(),
            model.in_channels,
            model.input_size,
            model.input_size,
        );
        let latents = Tensor::from_vec(latents, shape, &Device::Cpu)?;
        Ok(tensor::to_rgb(&vae.decode(&latents)?.to_device(&Device::Cpu)?)?)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::ModelConfig;

    /// A small model of pictures of 4 x 4 pixels.
    pub(crate) fn generator() -> Generator {
        let config = Config {
            model: ModelConfig {
                hidden_size: 16,
                depth: 1,
                state_size: 4,
                input_size: 4,
                in_channels: 3,
                num_classes: 3,
                freq_dim: 16,
                ..ModelConfig::default()
            },
            ..Config::default()
        };
        let model = DiffuSsm::new(config.model.clone()).unwrap();
        // The last layer of a new model is zero: shaken, so that the output depends on everything.
        let weights: Vec<f32> = model
            .init(1)
            .unwrap()
            .iter()
            .enumerate()
            .map(|(i, w)| w + 0.05 * (i as f32).sin())
            .collect();
        Generator::new(config, DatasetRecord::of_pixels(4), 0, weights).unwrap()
    }

    #[test]
    fn an_image_does_not_depend_on_its_batch() {
        let generator = generator();
        let vae = generator.autoencoder().unwrap();
        for (sampler, scale) in [
            (Sampler::Ddpm, 1.5),
            (Sampler::Ddpm, 1.0),
            (Sampler::Ddim { eta: 0.0 }, 1.5),
        ] {
            let plan = SamplePlan {
                steps: "5".to_owned(),
                sampler,
                guidance: Guidance {
                    scale,
                    ..Guidance::default()
                },
                ..SamplePlan::default()
            };
            let indices = [0, 1, 2, 3, 4, 5, 6];
            for (index, latents) in indices
                .iter()
                .zip(generator.latents(&plan, &indices).unwrap().chunks(48))
            {
                assert!(
                    generator.latents(&plan, &[*index]).unwrap() == latents,
                    "image {index}"
                );
            }
            let all = generator.images(&plan, &vae, &indices).unwrap();
            let alone = generator.images(&plan, &vae, &[4]).unwrap();
            assert_eq!(all[4..5], alone);
            let some = generator.images(&plan, &vae, &[6, 2]).unwrap();
            assert_eq!((&all[6], &all[2]), (&some[0], &some[1]));
        }
    }

    #[test]
    fn labels_are_balanced_random_or_listed() {
        let labels = |text: &str| -> Vec<u32> {
            let labels: Labels = text.parse().unwrap();
            (0..6).map(|i| labels.label(3, i, 3)).collect()
        };
        assert_eq!(labels("balanced"), [0, 1, 2, 0, 1, 2]);
        assert_eq!(labels("2, 0"), [2, 0, 2, 0, 2, 0]);
        assert!(labels("random").iter().all(|&label| label < 3));
        assert!("cat".parse::<Labels>().is_err());
        let plan = SamplePlan {
            labels: Labels::List(vec![7]),
            ..SamplePlan::default()
        };
        assert!(matches!(
            generator().latents(&plan, &[0]),
            Err(Error::Label { label: 7, .. })
        ));
    }
}
