//! Statistics and features of an image set, gathered in one pass.

use std::time::{Duration, Instant};

use preprocess::image::RgbImage;

use crate::error::{Error, Result};
use crate::inception::{CLASSES, Features, Inception, POOL_FEATURES, SPATIAL_FEATURES};
use crate::metric::inception_score::{SPLIT_SIZE, inception_score};
use crate::stats::{Gaussian, Stats};

/// Images that go through the network together; no number depends on it beyond rounding.
pub const BATCH: usize = 16;

/// What is kept of the images that pass by.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Pool features of the first so many images, for precision and recall.
    pub pool_rows: usize,
    /// Spatial statistics, for sFID.
    pub spatial: bool,
    /// Logits, for the Inception score.
    pub logits: bool,
}

/// Sums up features batch by batch.
pub struct Collector {
    keep: Keep,
    pool: Stats,
    spatial: Stats,
    pool_rows: Vec<f32>,
    logits: Vec<f32>,
}

/// Sums up the features of images batch by batch.
pub struct Extractor<'a> {
    network: &'a Inception,
    size: Option<(usize, usize)>,
    collector: Collector,
    in_network: Duration,
}

/// Everything that the metrics need to know about an image set.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Images seen.
    pub count: u64,
    /// Height and width of the images, where they are known.
    pub size: Option<(usize, usize)>,
    /// Statistics of the pool features.
    pub pool: Gaussian,
    /// Statistics of the spatial features.
    pub spatial: Option<Gaussian>,
    /// Pool features of the first images, `[n, 2048]`.
    pub pool_rows: Vec<f32>,
    /// Inception score.
    pub inception_score: Option<f64>,
}

impl Collector {
    /// Starts with no image.
    pub fn new(keep: Keep) -> Self {
        Self {
            keep,
            pool: Stats::new(POOL_FEATURES),
            spatial: Stats::new(if keep.spatial { SPATIAL_FEATURES } else { 1 }),
            pool_rows: Vec::new(),
            logits: Vec::new(),
        }
    }

    /// Adds the features of some images.
    ///
    /// # Errors
    /// If they are no whole number of rows.
    pub fn push(&mut self, features: &Features) -> Result<()> {
        self.pool.push(&features.pool)?;
        let room = (self.keep.pool_rows * POOL_FEATURES).saturating_sub(self.pool_rows.len());
        self.pool_rows
            .extend_from_slice(&features.pool[..room.min(features.pool.len())]);
        if self.keep.spatial {
            self.spatial.push(&features.spatial)?;
        }
        if self.keep.logits {
            self.logits.extend_from_slice(&features.logits);
        }
        Ok(())
    }

    /// Closes the set, whose images have height and width `size`.
    ///
    /// # Errors
    /// If there were fewer than two images.
    pub fn finish(self, size: Option<(usize, usize)>) -> Result<Summary> {
        Ok(Summary {
            count: self.pool.count(),
            size,
            pool: self.pool.finish()?,
            spatial: if self.keep.spatial {
                Some(self.spatial.finish()?)
            } else {
                None
            },
            pool_rows: self.pool_rows,
            inception_score: if self.keep.logits {
                Some(inception_score(&self.logits, CLASSES, SPLIT_SIZE)?)
            } else {
                None
            },
        })
    }
}

impl<'a> Extractor<'a> {
    /// Starts with no image.
    pub fn new(network: &'a Inception, keep: Keep) -> Self {
        Self {
            network,
            size: None,
            collector: Collector::new(keep),
            in_network: Duration::ZERO,
        }
    }

    /// Adds images, all of one size.
    ///
    /// # Errors
    /// If an image has another size than those before.
    pub fn push(&mut self, images: &[RgbImage]) -> Result<()> {
        for image in images {
            let (height, width) = *self.size.get_or_insert((image.height, image.width));
            if (image.height, image.width) != (height, width) {
                return Err(Error::Input(format!(
                    "an image is {} x {}, those before are {height} x {width}: a set must have one size",
                    image.height, image.width
                )));
            }
        }
        let start = Instant::now();
        let features = self.network.features(images)?;
        self.in_network += start.elapsed();
        self.collector.push(&features)
    }

    /// Time that the network took so far.
    pub fn in_network(&self) -> Duration {
        self.in_network
    }

    /// Images seen so far.
    pub fn count(&self) -> u64 {
        self.collector.pool.count()
    }

    /// Closes the set.
    ///
    /// # Errors
    /// If there were fewer than two images.
    pub fn finish(self) -> Result<Summary> {
        self.collector.finish(self.size)
    }
}
