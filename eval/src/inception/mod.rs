//! The Inception network of 2015-12-05, whose features FID, sFID and IS are defined on.

pub mod blocks;
pub mod download;
pub mod pth_legacy;
pub mod resize;
pub mod weights;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use preprocess::image::RgbImage;
use preprocess::nn::{Conv2d, FeatureMap, Padding, Pool, Recycler};
use rayon::prelude::*;

use crate::error::{Error, Result};
use blocks::{
    Block, Branch, COLUMN3, COLUMN7, HALVE3, POINT, ROW3, ROW7, SAME3, SAME5, SidePool, TensorSource, VALID3,
    conv_bn, conv_relu,
};

/// Width of the pool features (the 8 x 8 average before the classifier).
pub const POOL_FEATURES: usize = 2048;
/// Width of the spatial features: 17 x 17 pixels of 7 channels, channel fastest.
pub const SPATIAL_FEATURES: usize = 17 * 17 * SPATIAL_CHANNELS;
/// Outputs of the classifier.
pub const CLASSES: usize = 1008;

/// Channels that sFID keeps of Mixed_6d's first branch.
const SPATIAL_CHANNELS: usize = 7;
/// Index of Mixed_6d in [`Inception::mixed`].
const MIXED_6D: usize = 6;

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
    stem: Vec<Conv2d>,
    mixed: Vec<Block>,
    /// `[1008, 2048]`.
    classifier: Vec<f32>,
    recycler: Recycler,
}

impl Inception {
    /// Builds the network from the tensors that `source` gives.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn new(source: &mut TensorSource<'_>) -> Result<Self> {
        let stem = vec![
            conv_bn(source, "Conv2d_1a_3x3", 3, 32, HALVE3)?,
            conv_bn(source, "Conv2d_2a_3x3", 32, 32, VALID3)?,
            conv_bn(source, "Conv2d_2b_3x3", 32, 64, SAME3)?,
            conv_bn(source, "Conv2d_3b_1x1", 64, 80, POINT)?,
            conv_bn(source, "Conv2d_4a_3x3", 80, 192, VALID3)?,
        ];
        let mixed = vec![
            block_a(source, "Mixed_5b", 192, 32)?,
            block_a(source, "Mixed_5c", 256, 64)?,
            block_a(source, "Mixed_5d", 288, 64)?,
            block_b(source, "Mixed_6a", 288)?,
            block_c(source, "Mixed_6b", 128)?,
            block_c(source, "Mixed_6c", 160)?,
            block_c(source, "Mixed_6d", 160)?,
            block_c(source, "Mixed_6e", 192)?,
            block_d(source, "Mixed_7a")?,
            block_e(source, "Mixed_7b", 1280, SidePool::Average)?,
            block_e(source, "Mixed_7c", 2048, SidePool::Maximum)?,
        ];
        let classifier = source("fc.weight", &[CLASSES, POOL_FEATURES])?;
        // Part of the file, though no metric uses it.
        source("fc.bias", &[CLASSES])?;
        Ok(Self {
            stem,
            mixed,
            classifier,
            recycler: Recycler::default(),
        })
    }

    /// Features of `images`, of any size.
    ///
    /// Each goes through the network alone, as many at a time as there are threads: what a layer leaves is then still in
    /// cache when the next one reads it.
    ///
    /// # Errors
    /// If an image has no pixels.
    pub fn features(&self, images: &[RgbImage]) -> Result<Features> {
        let seen = images
            .par_iter()
            .map(|image| self.recycler.run(|| self.pooled(image)));
        let seen = seen.collect::<Result<Vec<_>>>()?;
        let pool: Vec<f32> = seen.iter().flat_map(|(pool, _)| pool).copied().collect();
        Ok(Features {
            spatial: seen.into_iter().flat_map(|(_, spatial)| spatial).collect(),
            logits: self.logits(&pool),
            pool,
        })
    }

    /// `[2048]` and `[2023]` of one image.
    fn pooled(&self, image: &RgbImage) -> Result<(Vec<f32>, Vec<f32>)> {
        if image.width == 0 || image.height == 0 {
            return Err(Error::Input("an image has no pixels".into()));
        }
        let mut x = resize::network_input(image);
        for (i, conv) in self.stem.iter().enumerate() {
            // Maximum pools follow the third and the fifth convolution.
            let next = self
                .stem
                .get(i + 1)
                .filter(|_| i != 2)
                .map_or(Padding::NONE, Conv2d::padding);
            x = conv_relu(conv, &x, next)?;
            if i == 2 || i == 4 {
                x = Pool::Maximum.forward(&x, 2, 0);
            }
        }
        let mut spatial = Vec::new();
        for (i, block) in self.mixed.iter().enumerate() {
            x = block.forward(&x)?;
            if i == MIXED_6D {
                spatial = first_channels(&x, SPATIAL_CHANNELS);
            }
        }
        Ok((spatial_mean(&x), spatial))
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

/// Pixels in raster order, the first `count` channels of each.
fn first_channels(map: &FeatureMap, count: usize) -> Vec<f32> {
    let [batch, height, _, channels] = map.shape();
    let mut values = Vec::with_capacity(batch * SPATIAL_FEATURES);
    for n in 0..batch {
        for y in 0..height {
            for pixel in map.row(n, y).chunks_exact(channels) {
                values.extend_from_slice(&pixel[..count]);
            }
        }
    }
    values
}

/// Mean over the pixels, `[B, channels]`.
pub(crate) fn spatial_mean(map: &FeatureMap) -> Vec<f32> {
    let [batch, height, width, channels] = map.shape();
    let mut means = vec![0.0; batch * channels];
    for (n, mean) in means.chunks_exact_mut(channels).enumerate() {
        for y in 0..height {
            for pixel in map.row(n, y).chunks_exact(channels) {
                for (sum, value) in mean.iter_mut().zip(pixel) {
                    *sum += value;
                }
            }
        }
        for sum in mean {
            *sum /= (height * width) as f32;
        }
    }
    means
}

/// 35 x 35 pixels; `pool` channels after the pool.
fn block_a(s: &mut TensorSource<'_>, name: &str, inputs: usize, pool: usize) -> Result<Block> {
    Ok(Block {
        branches: vec![
            Branch::new(s, name, inputs, &[("branch1x1", 64, POINT)])?,
            Branch::new(
                s,
                name,
                inputs,
                &[("branch5x5_1", 48, POINT), ("branch5x5_2", 64, SAME5)],
            )?,
            Branch::new(
                s,
                name,
                inputs,
                &[
                    ("branch3x3dbl_1", 64, POINT),
                    ("branch3x3dbl_2", 96, SAME3),
                    ("branch3x3dbl_3", 96, SAME3),
                ],
            )?,
        ],
        pool: SidePool::Average,
        after_pool: Some(conv_bn(s, &format!("{name}.branch_pool"), inputs, pool, POINT)?),
    })
}

/// From 35 x 35 to 17 x 17 pixels.
fn block_b(s: &mut TensorSource<'_>, name: &str, inputs: usize) -> Result<Block> {
    Ok(Block {
        branches: vec![
            Branch::new(s, name, inputs, &[("branch3x3", 384, HALVE3)])?,
            Branch::new(
                s,
                name,
                inputs,
                &[
                    ("branch3x3dbl_1", 64, POINT),
                    ("branch3x3dbl_2", 96, SAME3),
                    ("branch3x3dbl_3", 96, HALVE3),
                ],
            )?,
        ],
        pool: SidePool::HalvingMaximum,
        after_pool: None,
    })
}

/// 17 x 17 pixels, with `c7` channels inside the factorised 7 x 7 convolutions.
fn block_c(s: &mut TensorSource<'_>, name: &str, c7: usize) -> Result<Block> {
    Ok(Block {
        branches: vec![
            Branch::new(s, name, 768, &[("branch1x1", 192, POINT)])?,
            Branch::new(
                s,
                name,
                768,
                &[
                    ("branch7x7_1", c7, POINT),
                    ("branch7x7_2", c7, ROW7),
                    ("branch7x7_3", 192, COLUMN7),
                ],
            )?,
            Branch::new(
                s,
                name,
                768,
                &[
                    ("branch7x7dbl_1", c7, POINT),
                    ("branch7x7dbl_2", c7, COLUMN7),
                    ("branch7x7dbl_3", c7, ROW7),
                    ("branch7x7dbl_4", c7, COLUMN7),
                    ("branch7x7dbl_5", 192, ROW7),
                ],
            )?,
        ],
        pool: SidePool::Average,
        after_pool: Some(conv_bn(s, &format!("{name}.branch_pool"), 768, 192, POINT)?),
    })
}

/// From 17 x 17 to 8 x 8 pixels.
fn block_d(s: &mut TensorSource<'_>, name: &str) -> Result<Block> {
    Ok(Block {
        branches: vec![
            Branch::new(
                s,
                name,
                768,
                &[("branch3x3_1", 192, POINT), ("branch3x3_2", 320, HALVE3)],
            )?,
            Branch::new(
                s,
                name,
                768,
                &[
                    ("branch7x7x3_1", 192, POINT),
                    ("branch7x7x3_2", 192, ROW7),
                    ("branch7x7x3_3", 192, COLUMN7),
                    ("branch7x7x3_4", 192, HALVE3),
                ],
            )?,
        ],
        pool: SidePool::HalvingMaximum,
        after_pool: None,
    })
}

/// 8 x 8 pixels.
fn block_e(s: &mut TensorSource<'_>, name: &str, inputs: usize, pool: SidePool) -> Result<Block> {
    Ok(Block {
        branches: vec![
            Branch::new(s, name, inputs, &[("branch1x1", 320, POINT)])?,
            Branch::with_split(
                s,
                name,
                inputs,
                &[("branch3x3_1", 384, POINT)],
                [("branch3x3_2a", 384, ROW3), ("branch3x3_2b", 384, COLUMN3)],
            )?,
            Branch::with_split(
                s,
                name,
                inputs,
                &[("branch3x3dbl_1", 448, POINT), ("branch3x3dbl_2", 384, SAME3)],
                [("branch3x3dbl_3a", 384, ROW3), ("branch3x3dbl_3b", 384, COLUMN3)],
            )?,
        ],
        pool,
        after_pool: Some(conv_bn(s, &format!("{name}.branch_pool"), inputs, 192, POINT)?),
    })
}

#[cfg(test)]
mod tests {
    use preprocess::nn::synthetic::synthetic_tensor;

    use super::*;

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

    #[test]
    fn golden_features_with_hash_made_weights() {
        let names = names();
        assert_eq!(names.len(), 472);
        let mut floats = 0;
        let network = Inception::new(&mut |name, shape| {
            let ordinal = names.binary_search(&name.to_owned()).unwrap() as u32;
            let values = synthetic_tensor(name, ordinal, shape, 24.0);
            floats += values.len();
            Ok(values)
        })
        .unwrap();
        assert_eq!(floats, 23_885_392);

        let image = resize::tests::test_image(256, 256);
        let features = network
            .features(&[image.clone(), resize::tests::test_image(64, 48), image])
            .unwrap();
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
