//! The judge of pictures that a model of the built-in `demo` data set has made: their class, and 64 features.
//!
//! A small convolutional network whose weights are part of the program (`assets/demo-classifier`; trained by
//! `preprocess/assets/tiny-vae/classifier.py`). Frechet distances of its features compare with nothing but one another.

use candle_core::Device;
use half::f16;
use preprocess::dataset::demo;
use preprocess::image::{RgbImage, tensor};
use preprocess::nn::{Activation, Conv2d, FeatureMap, GroupNorm, Output, Padding};
use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};
use crate::inception::spatial_mean;
use crate::stats::Stats;

/// Side of the images that the classifier knows, pixels.
pub const IMAGE_SIZE: usize = 64;
/// Width of the features.
pub const FEATURES: usize = 64;

const CLASSES: usize = demo::CLASSES.len();
/// Output channels of the convolutions.
const WIDTHS: [usize; 4] = [16, 32, 64, FEATURES];
const GROUPS: usize = 8;
const NORM_EPS: f64 = 1e-5;
/// Images that go through the network together.
const BATCH: usize = 32;

const WEIGHTS: &[u8] = include_bytes!("../assets/demo-classifier/model.safetensors");

/// The network with its weights.
pub struct Classifier {
    /// Convolutions of stride 2, each with its norm.
    layers: Vec<(Conv2d, GroupNorm)>,
    /// `[10, 64]`.
    head_weight: Vec<f32>,
    /// `[10]`.
    head_bias: Vec<f32>,
}

/// What the classifier says of a set of labelled images.
#[derive(Debug, Clone)]
pub struct Judgement {
    /// Share of the images whose class is their label, in `[0, 1]`.
    pub accuracy: f64,
    /// One row an image.
    pub features: Vec<[f32; FEATURES]>,
    /// Of the features, for a Frechet distance.
    pub stats: Stats,
}

impl Classifier {
    /// The classifier that is part of the program.
    ///
    /// # Errors
    /// If the embedded file is not this network: never, in a sound build.
    pub fn embedded() -> Result<Self> {
        let file = SafeTensors::deserialize(WEIGHTS).map_err(|error| damaged(&error.to_string()))?;
        let mut inputs = 3;
        let mut layers = Vec::with_capacity(WIDTHS.len());
        for (i, outputs) in WIDTHS.into_iter().enumerate() {
            let shape = [outputs, inputs, 3, 3];
            let weight = values(&file, &format!("conv.{i}.weight"), &shape)?;
            let bias = values(&file, &format!("conv.{i}.bias"), &[outputs])?;
            let conv = Conv2d::new(&weight, shape, bias, 2, Padding::ONE)?;
            let scale = values(&file, &format!("norm.{i}.weight"), &[outputs])?;
            let shift = values(&file, &format!("norm.{i}.bias"), &[outputs])?;
            layers.push((conv, GroupNorm::new(GROUPS, scale, shift, NORM_EPS)?));
            inputs = outputs;
        }
        Ok(Self {
            layers,
            head_weight: values(&file, "head.weight", &[CLASSES, FEATURES])?,
            head_bias: values(&file, "head.bias", &[CLASSES])?,
        })
    }

    /// Features of images of 64 x 64 pixels, one row each.
    ///
    /// # Errors
    /// If an image has another size.
    pub fn features(&self, images: &[RgbImage]) -> Result<Vec<[f32; FEATURES]>> {
        if let Some(other) = images
            .iter()
            .find(|image| (image.width, image.height) != (IMAGE_SIZE, IMAGE_SIZE))
        {
            return Err(Error::Input(format!(
                "an image is {} x {} pixels, the classifier of demo images knows {IMAGE_SIZE} x {IMAGE_SIZE}\n\
                 hint: make the data set with --size {IMAGE_SIZE}",
                other.width, other.height
            )));
        }
        let mut features = Vec::with_capacity(images.len());
        for batch in images.chunks(BATCH) {
            let input: Vec<f32> = tensor::to_unit(batch, &Device::Cpu)?.flatten_all()?.to_vec1()?;
            let shape = [batch.len(), 3, IMAGE_SIZE, IMAGE_SIZE];
            let mut x = FeatureMap::from_nchw(&input, shape, Padding::ONE)?; // [B, 64, 64, 3]
            for (conv, norm) in &self.layers {
                x = conv.forward(&x, Output::default())?; // [B, h / 2, w / 2, C]
                x = norm.forward(&x, Activation::Relu, Padding::ONE)?;
            }
            features.extend(spatial_mean(&x).as_chunks::<FEATURES>().0); // [B, 64]
        }
        Ok(features)
    }

    /// One logit a class, from the features of an image.
    pub fn logits(&self, features: &[f32; FEATURES]) -> [f32; CLASSES] {
        let rows = self.head_weight.as_chunks::<FEATURES>().0;
        std::array::from_fn(|class| {
            let products = rows[class].iter().zip(features).map(|(weight, x)| weight * x);
            products.sum::<f32>() + self.head_bias[class]
        })
    }

    /// The class (see [`demo::CLASSES`]) of an image, from its features.
    pub fn predict(&self, features: &[f32; FEATURES]) -> usize {
        let mut best = (0, f32::NEG_INFINITY);
        for (class, logit) in self.logits(features).into_iter().enumerate() {
            if logit > best.1 {
                best = (class, logit);
            }
        }
        best.0
    }

    /// Classes and features of a set in one pass; `labels` are the classes that the images should show.
    ///
    /// # Errors
    /// If an image is not of 64 x 64 pixels, or if there is not one label for each image.
    pub fn judge(&self, images: &[RgbImage], labels: &[usize]) -> Result<Judgement> {
        if images.len() != labels.len() || images.is_empty() {
            return Err(Error::Input(format!(
                "{} images and {} labels: the classifier needs one label for each image, and one image or more",
                images.len(),
                labels.len()
            )));
        }
        let features = self.features(images)?;
        let mut stats = Stats::new(FEATURES);
        stats.push(features.as_flattened())?;
        let pairs = features.iter().zip(labels);
        let right = pairs.filter(|(row, label)| self.predict(row) == **label).count();
        Ok(Judgement {
            accuracy: right as f64 / images.len() as f64,
            features,
            stats,
        })
    }

    /// Share of the images that show the class of their label, in `[0, 1]`.
    ///
    /// # Errors
    /// As [`Self::judge`].
    pub fn accuracy(&self, images: &[RgbImage], labels: &[usize]) -> Result<f64> {
        Ok(self.judge(images, labels)?.accuracy)
    }
}

fn damaged(what: &str) -> Error {
    Error::Input(format!("the embedded classifier is damaged: {what}"))
}

/// The tensor `name` of `shape`, f16 in the file.
fn values(file: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let tensor = file
        .tensor(name)
        .map_err(|error| damaged(&format!("`{name}`: {error}")))?;
    if tensor.dtype() != Dtype::F16 || tensor.shape() != shape {
        return Err(damaged(&format!(
            "`{name}` is {:?} {:?}, expected F16 {shape:?}",
            tensor.dtype(),
            tensor.shape()
        )));
    }
    let halves = tensor.data().as_chunks::<2>().0;
    Ok(halves
        .iter()
        .map(|bytes| f16::from_le_bytes(*bytes).to_f32())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inception::resize::tests::test_image;
    use crate::metric::fid::frechet_distance;

    #[derive(serde::Deserialize)]
    struct Golden {
        features: Vec<f32>,
        logits: Vec<f32>,
    }

    /// Images `ids` of the demo set with their classes.
    fn drawn(seed: u64, ids: std::ops::Range<u64>) -> (Vec<RgbImage>, Vec<usize>) {
        ids.map(|id| demo::draw(seed, id, IMAGE_SIZE)).unzip()
    }

    fn largest_difference(values: &[f32], expected: &[f32]) -> f32 {
        assert_eq!(values.len(), expected.len());
        let differences = values.iter().zip(expected).map(|(a, b)| (a - b).abs());
        differences.fold(0.0, f32::max)
    }

    #[test]
    fn features_and_logits_are_those_of_the_training_script() {
        let golden = include_str!("../assets/demo-classifier/golden.json");
        let golden: Golden = serde_json::from_str(golden).unwrap();
        let classifier = Classifier::embedded().unwrap();
        // Second in a batch: neighbours must not matter.
        let images = [demo::draw(0, 0, IMAGE_SIZE).0, test_image(IMAGE_SIZE, IMAGE_SIZE)];
        let features = classifier.features(&images).unwrap();
        let difference = largest_difference(&features[1], &golden.features);
        assert!(difference < 1e-4, "features differ by {difference}");
        let difference = largest_difference(&classifier.logits(&features[1]), &golden.logits);
        assert!(difference < 1e-4, "logits differ by {difference}");
    }

    #[test]
    fn drawn_images_are_recognised() {
        let (images, labels) = drawn(5, 0..100);
        let accuracy = Classifier::embedded()
            .unwrap()
            .accuracy(&images, &labels)
            .unwrap();
        assert!(accuracy >= 0.97, "{accuracy}");
    }

    #[test]
    fn images_of_missing_classes_are_further_away_than_other_drawings() {
        let classifier = Classifier::embedded().unwrap();
        let judge =
            |(images, labels): (Vec<RgbImage>, Vec<usize>)| classifier.judge(&images, &labels).unwrap();
        let gaussian = |judgement: Judgement| judgement.stats.finish().unwrap();
        let reference = gaussian(judge(drawn(1, 0..200)));
        let alike = gaussian(judge(drawn(2, 0..200)));
        let (images, labels) = drawn(2, 0..400);
        let (images, labels) = images
            .into_iter()
            .zip(labels)
            .filter(|(_, label)| *label < 5)
            .unzip();
        let half = gaussian(judge((images, labels)));
        let near = frechet_distance(&reference, &alike).unwrap();
        let far = frechet_distance(&reference, &half).unwrap();
        assert!(near * 3.0 < far, "{near} {far}");
    }

    #[test]
    fn other_sizes_and_missing_labels_are_refused() {
        let classifier = Classifier::embedded().unwrap();
        let message = classifier
            .features(&[demo::draw(0, 0, 32).0])
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("32 x 32") && message.contains("hint"),
            "{message}"
        );
        let (images, labels) = drawn(0, 0..3);
        assert!(classifier.accuracy(&images, &labels[1..]).is_err());
        assert!(classifier.accuracy(&[], &[]).is_err());
    }
}
