//! The other side of a comparison: statistics from a file, or computed from images.
//!
//! What was computed of a dataset of ours is kept in its folder (see [`crate::reference_cache`]).

use std::path::Path;

use faer::Mat;

use crate::error::{Error, Result};
use crate::features::{BATCH, Extractor, Keep, Summary};
use crate::images::{ImageSource, NPZ_IMAGES, NPZ_MEAN, NPZ_WARNING};
use crate::inception::{Inception, POOL_FEATURES, SPATIAL_FEATURES};
use crate::npz::{Dtype, Header, NpzReader, NpzWriter};
use crate::reference_cache;
use crate::stats::Gaussian;
use crate::transform::NPZ_TRANSFORM;

/// Images whose features represent the reference in precision and recall, and that a reference file carries.
pub const REFERENCE_IMAGES: usize = 10_000;
/// Array that tells which network the statistics of our own files come from.
pub(crate) const NETWORK: &str = "network";

/// Extracts the features of the first `limit` images of `source`; `seen` is told the number done so far and shown each
/// batch.
///
/// # Errors
/// If an image cannot be read, or the images have different sizes.
pub fn summarise(
    network: &Inception,
    source: &ImageSource,
    keep: Keep,
    limit: usize,
    mut seen: impl FnMut(u64, &[preprocess::image::RgbImage]),
) -> Result<Summary> {
    let mut extractor = Extractor::new(network, keep);
    source.visit_ahead(BATCH, limit, |images| {
        extractor.push(&images)?;
        seen(extractor.count(), &images);
        Ok(())
    })?;
    extractor.finish()
}

/// Looks at the statistics of a reference file, which take a moment, before minutes of work; other sources are not touched.
///
/// # Errors
/// If a file with `mu` lacks what `keep` asks for, is damaged, or is of another network's features.
pub fn check(source: &ImageSource, keep: Keep) -> Result<()> {
    let ImageSource::Npz(path) = source else {
        return Ok(());
    };
    let mut reader = NpzReader::open(path)?;
    if !reader.has(NPZ_MEAN) {
        return Ok(());
    }
    let spatial = keep.spatial.then_some(("mu_s", "sigma_s", SPATIAL_FEATURES));
    for (mu, sigma, width) in [(NPZ_MEAN, "sigma", POOL_FEATURES)].into_iter().chain(spatial) {
        let found = gaussian(&mut reader, path, mu, sigma)?.mu.len();
        if found != width {
            return Err(Error::format(
                path,
                format!(
                    "features of `{mu}` are {found} wide, the Inception network's {width}: these are statistics of another"
                ),
            ));
        }
    }
    Ok(())
}

/// Reads a reference: an `.npz` with statistics, or images, or a dataset.
///
/// # Errors
/// If it cannot be read, lacks what `keep` asks for, or was made with another network than `network_id`.
pub fn load(
    source: &ImageSource,
    network: &Inception,
    network_id: &str,
    keep: Keep,
    mut seen: impl FnMut(u64),
) -> Result<Summary> {
    if let ImageSource::Npz(file) = source {
        let mut reader = NpzReader::open(file)?;
        if reader.has(NPZ_MEAN) {
            return from_statistics(&mut reader, file, source, network, network_id, keep, seen);
        }
    }
    let mut compute = |keep| summarise(network, source, keep, usize::MAX, |count, _| seen(count));
    match source {
        ImageSource::Dataset(dataset) => reference_cache::get(dataset, network_id, compute),
        ImageSource::Folder(_) | ImageSource::Npz(_) => compute(keep),
    }
}

fn from_statistics(
    reader: &mut NpzReader,
    path: &Path,
    source: &ImageSource,
    network: &Inception,
    network_id: &str,
    keep: Keep,
    mut seen: impl FnMut(u64),
) -> Result<Summary> {
    if reader.has(NETWORK) {
        let made_with = reader.read_text(NETWORK)?;
        if weights_of(&made_with) != weights_of(network_id) {
            return Err(Error::format(
                path,
                format!(
                    "these statistics were made with the network {made_with}, the samples are seen by {network_id}; \
                     use the same --inception on both sides"
                ),
            ));
        }
    }
    let pool = gaussian(reader, path, NPZ_MEAN, "sigma")?;
    let spatial = if keep.spatial {
        Some(gaussian(reader, path, "mu_s", "sigma_s")?)
    } else {
        None
    };
    let has_images = reader.has(NPZ_IMAGES);
    let size = if has_images {
        let [_, height, width] = reader.image_shape(NPZ_IMAGES)?;
        Some((height, width))
    } else {
        None
    };
    let mut pool_rows = Vec::new();
    if keep.pool_rows > 0 {
        if !has_images {
            return Err(Error::format(
                path,
                "holds no images (`arr_0`), which precision and recall need; leave them out with --metrics fid,sfid,is",
            ));
        }
        source.visit_ahead(BATCH, keep.pool_rows, |images| {
            pool_rows.extend(network.features(&images)?.pool);
            seen((pool_rows.len() / POOL_FEATURES) as u64);
            Ok(())
        })?;
    }
    Ok(Summary {
        count: 0,
        size,
        pool,
        spatial,
        pool_rows,
        inception_score: None,
    })
}

/// The part of a network's name that tells its weights (see [`LoadedInception::features_id`]).
///
/// [`LoadedInception::features_id`]: crate::inception::weights::LoadedInception::features_id
fn weights_of(network_id: &str) -> &str {
    network_id.split('+').next().unwrap_or_default()
}

/// What a reader of the numbers must know if the statistics of `source` come from the weights of the network `network_id` in
/// another arithmetic: such features differ by rounding.
///
/// # Errors
/// If the archive cannot be read.
pub fn arithmetic_warning(source: &ImageSource, network_id: &str) -> Result<Option<String>> {
    let ImageSource::Npz(path) = source else {
        return Ok(None);
    };
    let mut reader = NpzReader::open(path)?;
    if !reader.has(NPZ_MEAN) || !reader.has(NETWORK) {
        return Ok(None);
    }
    let made_with = reader.read_text(NETWORK)?;
    let arithmetic = |id: &str| match id.split_once('+') {
        Some((_, arithmetic)) => arithmetic.to_owned(),
        None => "cpu".to_owned(),
    };
    let (theirs, ours) = (arithmetic(&made_with), arithmetic(network_id));
    Ok((theirs != ours).then(|| {
        format!(
            "the reference's statistics were computed in the arithmetic {theirs}, the samples' in {ours}: the scores differ by \
             rounding from those of one arithmetic"
        )
    }))
}

/// Mean and covariance by their names.
pub(crate) fn gaussian(reader: &mut NpzReader, path: &Path, mu: &str, sigma: &str) -> Result<Gaussian> {
    let (mu_shape, mu_values) = reader.read_f64(mu)?;
    let (sigma_shape, sigma_values) = reader.read_f64(sigma)?;
    let dim = mu_values.len();
    if mu_shape != [dim] || sigma_shape != [dim, dim] {
        return Err(Error::format(
            path,
            format!(
                "`{mu}` is {mu_shape:?} and `{sigma}` is {sigma_shape:?}; a mean of D numbers and a covariance of D x D were \
                 expected"
            ),
        ));
    }
    for (name, values) in [(mu, &mu_values), (sigma, &sigma_values)] {
        if let Some(i) = values.iter().position(|value| !value.is_finite()) {
            return Err(Error::format(
                path,
                format!("number {i} of `{name}` is {}: these are no statistics", values[i]),
            ));
        }
    }
    Ok(Gaussian {
        mu: mu_values,
        sigma: Mat::from_fn(dim, dim, |i, j| sigma_values[i * dim + j]),
    })
}

/// Writes statistics and the first images of `source` in the layout of ADM's reference files.
///
/// # Errors
/// If the file cannot be written or the images cannot be read again.
pub fn save(
    path: &Path,
    summary: &Summary,
    source: &ImageSource,
    network_id: &str,
    transform: &str,
) -> Result<()> {
    let mut writer = NpzWriter::create(path)?;
    write_statistics(&mut writer, summary, network_id)?;
    writer.text(NPZ_TRANSFORM, transform)?;
    if let Some(warning) = source.warning()? {
        writer.text(NPZ_WARNING, &warning)?;
    }
    if let Some((height, width)) = summary.size {
        let count = REFERENCE_IMAGES.min(usize::try_from(summary.count).unwrap_or(usize::MAX));
        writer.start(
            NPZ_IMAGES,
            &Header {
                dtype: Dtype::U8,
                shape: vec![count, height, width, 3],
            },
        )?;
        source.visit(BATCH, count, |images| {
            images.iter().try_for_each(|image| Ok(writer.write(&image.data)?))
        })?;
    }
    Ok(writer.finish()?)
}

/// Writes the Gaussians and the network's name.
pub(crate) fn write_statistics(writer: &mut NpzWriter, summary: &Summary, network_id: &str) -> Result<()> {
    let mut statistics = |mu: &str, sigma: &str, gaussian: &Gaussian| {
        let dim = gaussian.mu.len();
        writer.array_f64(mu, &[dim], gaussian.mu.iter().copied())?;
        let values = (0..dim)
            .flat_map(|i| (0..dim).map(move |j| (i, j)))
            .map(|index| gaussian.sigma[index]);
        writer.array_f64(sigma, &[dim, dim], values)
    };
    statistics(NPZ_MEAN, "sigma", &summary.pool)?;
    if let Some(spatial) = &summary.spatial {
        statistics("mu_s", "sigma_s", spatial)?;
    }
    Ok(writer.text(NETWORK, network_id)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_in_another_arithmetic_are_told_and_those_of_other_weights_are_of_another_network() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reference.npz");
        let mut writer = NpzWriter::create(&path).unwrap();
        writer.array_f64(NPZ_MEAN, &[1], std::iter::once(0.5)).unwrap();
        writer.text(NETWORK, "random:1+cuda-f32").unwrap();
        writer.finish().unwrap();
        let source = ImageSource::open(&path).unwrap();
        assert_eq!(arithmetic_warning(&source, "random:1+cuda-f32").unwrap(), None);
        let warning = arithmetic_warning(&source, "random:1").unwrap().unwrap();
        assert!(
            warning.contains("cuda-f32") && warning.contains("cpu"),
            "{warning}"
        );
        assert_eq!(weights_of("random:1+cuda-f32"), weights_of("random:1"));
        assert_ne!(weights_of("random:1+cuda-f32"), weights_of("random:2"));
    }
}
