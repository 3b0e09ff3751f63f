//! The Inception network of 2015-12-05, whose features FID, sFID and IS are defined on.
//!
//! On the processor it is made of the layers of [`preprocess::nn`], on a GPU of candle's tensors: one definition of the
//! network over a `Backend`.

pub mod blocks;
pub mod download;
pub mod pth_legacy;
pub mod resize;
pub mod weights;

mod backend;
mod host;
mod network;
mod tensors;

use candle_core::{Device, Tensor};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use preprocess::image::RgbImage;
use preprocess::nn::{FeatureMap, GPU_ARITHMETIC, Recycler};
use rayon::prelude::*;

use crate::error::{Error, Result};
use blocks::TensorSource;
use host::Host;
use network::{Network, SPATIAL_CHANNELS, Seen};
use resize::INPUT_SIZE;
use tensors::Tensors;

pub(crate) use host::spatial_mean;

/// Width of the pool features (the 8 x 8 average before the classifier).
pub const POOL_FEATURES: usize = 2048;
/// Width of the spatial features: 17 x 17 pixels of 7 channels, channel fastest.
pub const SPATIAL_FEATURES: usize = 17 * 17 * SPATIAL_CHANNELS;
/// Outputs of the classifier.
pub const CLASSES: usize = 1008;

/// Features of a batch of `B` images, row-major.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Features {
    /// `[B, 2048]`.
    pub pool: Vec<f32>,
    /// `[B, 2023]`.
    pub spatial: Vec<f32>,
    /// `[B, 1008]`, without the classifier's bias, as the Inception score wants them.
    pub logits: Vec<f32>,
}

/// The network with its weights.
pub struct Inception {
    form: Form,
    /// `[1008, 2048]`.
    classifier: Vec<f32>,
}

enum Form {
    Host(Network<Host>, Recycler),
    Tensors(Network<Tensors>, Device),
}

impl Inception {
    /// Builds the network on the processor from the tensors that `source` gives.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn new(source: &mut TensorSource<'_>) -> Result<Self> {
        Self::on(&Device::Cpu, source)
    }

    /// Builds the network on `device`.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape, or the device has no room.
    pub fn on(device: &Device, source: &mut TensorSource<'_>) -> Result<Self> {
        if device.is_cpu() {
            let network = Network::load(&Host, source)?;
            Self::with_classifier(Form::Host(network, Recycler::default()), source)
        } else {
            Self::in_tensors(device, source)
        }
    }

    /// Builds the form of candle's tensors, whichever the device.
    fn in_tensors(device: &Device, source: &mut TensorSource<'_>) -> Result<Self> {
        let device = device.clone();
        let backend = Tensors { device };
        let network = Network::load(&backend, source)?;
        Self::with_classifier(Form::Tensors(network, backend.device), source)
    }

    fn with_classifier(form: Form, source: &mut TensorSource<'_>) -> Result<Self> {
        let classifier = source("fc.weight", &[CLASSES, POOL_FEATURES])?;
        // Part of the file, though no metric uses it.
        source("fc.bias", &[CLASSES])?;
        Ok(Self { form, classifier })
    }

    /// What features come from, where it is not this workspace's own arithmetic on the processor.
    pub fn arithmetic(&self) -> Option<&'static str> {
        match &self.form {
            Form::Host(..) => None,
            Form::Tensors(..) => Some(GPU_ARITHMETIC),
        }
    }

    /// Features of `images`, of any size.
    ///
    /// On the processor each goes through the network alone, as many at a time as there are threads: what a layer leaves is
    /// then still in cache when the next one reads it. On a GPU all go together.
    ///
    /// # Errors
    /// If an image has no pixels, or the device fails.
    pub fn features(&self, images: &[RgbImage]) -> Result<Features> {
        if images.is_empty() {
            return Ok(Features::default());
        }
        if images.iter().any(|image| image.width == 0 || image.height == 0) {
            return Err(Error::Input("an image has no pixels".into()));
        }
        let Seen { pool, spatial } = match &self.form {
            Form::Host(network, recycler) => {
                let seen = images
                    .par_iter()
                    .map(|image| recycler.run(|| network.forward(resize::network_input(image))));
                let seen = seen.collect::<Result<Vec<_>>>()?;
                Seen {
                    pool: seen.iter().flat_map(|seen| &seen.pool).copied().collect(),
                    spatial: seen.into_iter().flat_map(|seen| seen.spatial).collect(),
                }
            }
            Form::Tensors(network, device) => network.forward(batch(images, device)?)?,
        };
        Ok(Features {
            logits: self.logits(&pool),
            pool,
            spatial,
        })
    }

    /// `pool [B, 2048]` times the classifier, `[B, 1008]`.
    fn logits(&self, pool: &[f32]) -> Vec<f32> {
        let batch = pool.len() / POOL_FEATURES;
        if batch == 0 {
            return Vec::new();
        }
        // Column-major [1008, B] is row-major [B, 1008].
        let mut logits = Mat::<f32>::zeros(CLASSES, batch);
        matmul(
            logits.as_mut(),
            Accum::Replace,
            MatRef::from_row_major_slice(&self.classifier, CLASSES, POOL_FEATURES),
            MatRef::from_column_major_slice(pool, POOL_FEATURES, batch),
            1.0,
            Par::rayon(0),
        );
        (0..batch)
            .flat_map(|b| (0..CLASSES).map(move |c| (c, b)))
            .map(|index| logits[index])
            .collect()
    }
}

/// The network's input, `[B, 3, 299, 299]` on `device`: resized here, for the same input in either form.
fn batch(images: &[RgbImage], device: &Device) -> Result<Tensor> {
    let inputs = images.par_iter().map(resize::network_input);
    let inputs: Vec<_> = inputs.collect();
    let values: Vec<f32> = inputs.iter().flat_map(FeatureMap::data).copied().collect();
    let shape = (images.len(), INPUT_SIZE, INPUT_SIZE, 3);
    let pixels = Tensor::from_vec(values, shape, device)?;
    Ok(pixels.permute((0, 3, 1, 2))?.contiguous()?)
}

#[cfg(test)]
mod tests {
    use preprocess::nn::synthetic::synthetic_tensor;

    use super::*;

    /// Of the largest value: the layers' sums are of up to 4,032 products in another order, on the host partly by Winograd's
    /// filtering, whose roundings are 1e-6 of a layer's deviation; some forty layers follow each other.
    const FORMS_TOLERANCE: f32 = 2e-5;

    /// The network's tensor names in bytewise order.
    fn names() -> Vec<String> {
        let mut names = Vec::new();
        Inception::new(&mut |name, shape| {
            names.push(name.to_owned());
            Ok(vec![1.0; shape.iter().product()])
        })
        .unwrap();
        names.sort();
        names
    }

    fn assert_near(values: &[f32], expected: &[f32]) {
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-4, "{value} {expected}");
        }
    }

    fn mean(values: &[f32]) -> f64 {
        values.iter().copied().map(f64::from).sum::<f64>() / values.len() as f64
    }

    /// Builds a network with the golden weights.
    fn golden(build: impl Fn(&mut TensorSource<'_>) -> Result<Inception>) -> Inception {
        let names = names();
        assert_eq!(names.len(), 472);
        let mut floats = 0;
        let network = build(&mut |name, shape| {
            let ordinal = names.binary_search(&name.to_owned()).unwrap() as u32;
            let values = synthetic_tensor(name, ordinal, shape, 24.0);
            floats += values.len();
            Ok(values)
        })
        .unwrap();
        assert_eq!(floats, 23_885_392);
        network
    }

    /// Three images, of two sizes.
    fn images() -> [RgbImage; 3] {
        let image = resize::tests::test_image(256, 256);
        [image.clone(), resize::tests::test_image(64, 48), image]
    }

    #[test]
    fn golden_features_with_hash_made_weights() {
        check(&golden(Inception::new));
    }

    #[test]
    fn golden_features_in_tensors_which_are_those_of_the_host_but_for_rounding() {
        let tensors = golden(|source| Inception::in_tensors(&Device::Cpu, source));
        assert_eq!(tensors.arithmetic(), Some(GPU_ARITHMETIC));
        check(&tensors);
        let (ours, theirs) = (
            golden(Inception::new).features(&images()).unwrap(),
            tensors.features(&images()).unwrap(),
        );
        for (what, a, b) in [
            ("pool", &ours.pool, &theirs.pool),
            ("spatial", &ours.spatial, &theirs.spatial),
            ("logits", &ours.logits, &theirs.logits),
        ] {
            assert_eq!(a.len(), b.len(), "{what}");
            let scale = a.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
            let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= FORMS_TOLERANCE * scale, "{what}: {worst} of {scale}");
        }
    }

    #[test]
    fn an_image_without_pixels_is_refused_and_no_image_has_no_features() {
        let network = golden(Inception::new);
        let empty = RgbImage {
            width: 0,
            height: 3,
            data: Vec::new(),
        };
        assert!(network.features(&[empty]).is_err());
        assert_eq!(network.features(&[]).unwrap(), Features::default());
    }

    #[cfg(feature = "cuda")]
    #[test]
    #[ignore = "needs a GPU"]
    fn golden_features_on_a_gpu() {
        check(&golden(|source| {
            Inception::on(&Device::new_cuda(0).unwrap(), source)
        }));
    }

    fn check(network: &Inception) {
        let features = network.features(&images()).unwrap();
        let pool = &features.pool[2 * POOL_FEATURES..];
        assert_near(pool, &[0.154_627, 2.932_728, 0.643_626, 0.079_454]);
        assert_near(&pool[2046..], &[2.369_501, 2.701_112]);
        assert!((mean(pool) - 1.248_610_94).abs() < 1e-5);

        let spatial = &features.spatial[..SPATIAL_FEATURES];
        assert_near(
            spatial,
            &[2.587_758, 0.0, 3.029_583, 0.0, 0.404_937, 0.0, 0.0, 2.071_166],
        );
        assert_near(&spatial[1000..], &[0.0, 2.244_069, 0.0, 4.621_697]);
        assert_near(&spatial[2020..], &[0.104_159, 0.451_057, 0.0]);
        assert!((mean(spatial) - 0.969_711_94).abs() < 1e-5);

        let logits = &features.logits[..CLASSES];
        assert_near(logits, &[-2.677_299, -0.002_158, 0.415_002]);
        assert_near(&logits[1007..], &[-4.791_351]);
    }
}
