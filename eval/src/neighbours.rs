//! Whether samples are copies: the reference images that are nearest to them in the network's features.
//!
//! A model that has learned its images by heart draws samples that lie nearer to them than they lie to each other.

use std::fmt;

use preprocess::console::grid;
use preprocess::image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::metric::neighbours::{NEAREST, Neighbour, nearest};
use crate::report::{Picture, encode_png, folder};

/// Vectors of each side whose distances are summed up: enough for a median and a percentile.
const SUMMED_UP: usize = 1000;
/// Samples whose neighbours are told.
const TOLD: usize = 8;

/// How near samples are to reference images, and some of the nearest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Neighbours {
    /// Reference images that were looked at.
    pub among: usize,
    /// Samples whose nearest image was looked for.
    pub samples: usize,
    /// Median distance of a sample to the nearest reference image, in units of the features.
    pub median: f64,
    /// Median distance of a reference image to the nearest other one.
    pub reference_median: f64,
    /// Share of the samples that are nearer to a reference image than all but 1 % of reference images are to another:
    /// about 0.01 if samples are no copies.
    pub share_very_near: f64,
    /// The samples with the nearest neighbours, of those that are shown.
    pub nearest: Vec<Nearest>,
}

/// A sample with the reference images that are nearest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Nearest {
    /// Which sample.
    pub sample: usize,
    /// Number and distance of the reference images, nearest first.
    pub images: Vec<(usize, f64)>,
}

/// Looks for the neighbours of `samples` in `reference`, features `[n, dim]`; those of the nearest of the first `shown`
/// samples are told. `None` where a set is too small.
///
/// # Errors
/// If a set is not made of whole rows.
pub fn find(reference: &[f32], samples: &[f32], dim: usize, shown: usize) -> Result<Option<Neighbours>> {
    let first = |rows: &[f32]| rows.len().min(SUMMED_UP * dim);
    let among = reference.len() / dim;
    if among.min(samples.len() / dim) <= NEAREST {
        return Ok(None);
    }
    let found = nearest(reference, &samples[..first(samples)], dim)?;
    let own = nearest(reference, &reference[..first(reference)], dim)?;
    let distances = sorted(found.iter().map(|nearest| nearest[0].1));
    // The nearest to a reference image is itself.
    let own = sorted(own.iter().map(|nearest| nearest[1].1));
    let very_near = own[own.len() / 100];
    let mut told: Vec<(usize, [Neighbour; NEAREST])> =
        found.iter().copied().enumerate().take(shown).collect();
    told.sort_by(|(_, a), (_, b)| a[0].1.total_cmp(&b[0].1));
    told.truncate(TOLD);
    Ok(Some(Neighbours {
        among,
        samples: distances.len(),
        median: distances[distances.len() / 2],
        reference_median: own[own.len() / 2],
        share_very_near: distances.iter().filter(|&&distance| distance < very_near).count() as f64
            / distances.len() as f64,
        nearest: told
            .into_iter()
            .map(|(sample, images)| Nearest {
                sample,
                images: images.to_vec(),
            })
            .collect(),
    }))
}

impl fmt::Display for Neighbours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Of {} reference images, the nearest to a sample is {:.2} away (median of {} samples, in the network's features); the \
             nearest to a reference image is {:.2} away. {:.1} % of the samples are nearer to one than all but 1 % of \
             reference images are to another: about 1 % if samples are no copies.",
            self.among,
            self.median,
            self.samples,
            self.reference_median,
            100.0 * self.share_very_near
        )
    }
}

/// The told samples with their neighbours, as one picture: `shown` are the first samples, `pick` gives
/// the reference images with some numbers.
///
/// # Errors
/// If images cannot be read again, or are not of one size.
pub fn picture(
    neighbours: &Neighbours,
    shown: &[RgbImage],
    pick: impl FnOnce(&[usize]) -> Result<Vec<RgbImage>>,
) -> Result<Option<Picture>> {
    let rows: Vec<&Nearest> = neighbours
        .nearest
        .iter()
        .filter(|row| row.sample < shown.len())
        .collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let numbers: Vec<usize> = rows
        .iter()
        .flat_map(|row| row.images.iter().map(|(number, _)| *number))
        .collect();
    let mut images = pick(&numbers)?.into_iter();
    let mut pictures = Vec::new();
    for row in rows {
        pictures.push((shown[row.sample].clone(), format!("sample {}", row.sample)));
        let distances = row.images.iter().map(|(_, distance)| format!("{distance:.2}"));
        pictures.extend(images.by_ref().zip(distances));
    }
    let sheet = grid::captioned(&pictures, NEAREST + 1)
        .map_err(|error| Error::Input(format!("no picture of the neighbours: {error}")))?;
    Ok(Some(folder::neighbours(encode_png(&sheet)?)))
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use shards::rng::{Philox, Stream};

    use super::*;
    use crate::inception::POOL_FEATURES;

    fn features(seed: u64, count: usize) -> Vec<f32> {
        let mut values = vec![0.0; count * POOL_FEATURES];
        Philox::new(seed).fill_normal(Stream::InitialNoise, 0, 0, &mut values);
        values
    }

    #[test]
    fn copies_stand_out() {
        let reference = features(1, 40);
        let fresh = find(&reference, &features(2, 30), POOL_FEATURES, 20)
            .unwrap()
            .unwrap();
        assert_eq!((fresh.among, fresh.samples, fresh.nearest.len()), (40, 30, TOLD));
        assert!(
            (fresh.median / fresh.reference_median - 1.0).abs() < 0.05,
            "{fresh:?}"
        );

        let mut copies = reference[5 * POOL_FEATURES..25 * POOL_FEATURES].to_vec();
        copies.iter_mut().step_by(3).for_each(|value| *value += 0.01);
        let copies = find(&reference, &copies, POOL_FEATURES, 3).unwrap().unwrap();
        assert!(copies.share_very_near == 1.0 && copies.median < 1.0, "{copies:?}");
        let mut samples: Vec<(usize, usize)> =
            copies.nearest.iter().map(|n| (n.sample, n.images[0].0)).collect();
        samples.sort_unstable();
        assert_eq!(samples, [(0, 5), (1, 6), (2, 7)]);
    }

    #[test]
    fn too_few_images_have_none() {
        assert_eq!(
            find(&features(1, 4), &features(2, 30), POOL_FEATURES, 8).unwrap(),
            None
        );
        assert_eq!(find(&[], &features(2, 30), POOL_FEATURES, 8).unwrap(), None);
    }
}
