//! Statistics of a dataset of ours, kept in its folder: computing them takes minutes, reading them a moment.
//!
//! `reference-<network>.npz` holds the arrays of a reference file, with the features of the first images in place of the
//! images, and a hash of everything that decides the pixels. It serves every metric, whichever is asked for first; a file
//! that is damaged or of other pixels is replaced.

use std::path::{Path, PathBuf};

use crate::dataset_images::DatasetImages;
use crate::error::Result;
use crate::features::{Keep, Summary};
use crate::inception::POOL_FEATURES;
use crate::npz::{NpzReader, NpzWriter};
use crate::reference::{NETWORK, REFERENCE_IMAGES, gaussian, write_statistics};

/// Pool features of the first images, `[n, 2048]` f32.
const FEATURES: &str = "features";
/// [`DatasetImages::content_hash`] of the dataset when the file was made.
const CONTENT: &str = "content";

/// What is kept of `dataset`, or what `compute` gives, which is then kept.
///
/// # Errors
/// Those of `compute`.
pub fn get(
    dataset: &DatasetImages,
    network_id: &str,
    compute: impl FnOnce(Keep) -> Result<Summary>,
) -> Result<Summary> {
    let path = path(dataset, network_id);
    let content = dataset.content_hash();
    if path.is_file()
        && let Ok(Some(summary)) = read(&path, dataset, network_id, &content)
    {
        return Ok(summary);
    }
    let summary = compute(Keep {
        pool_rows: REFERENCE_IMAGES,
        spatial: true,
        logits: false,
    })?;
    // A folder that cannot be written (or a full disk) costs time later, but is no reason to fail now.
    if write(&path, &summary, network_id, &content).is_err() {
        let _ = fs_err::remove_file(path.with_extension("npz.part"));
    }
    Ok(summary)
}

/// Where the statistics of `dataset`, seen by the network `network_id`, are kept.
pub fn path(dataset: &DatasetImages, network_id: &str) -> PathBuf {
    let name = format!("reference-{}.npz", network_id.replace(':', "-"));
    dataset.dir().join(name)
}

/// The kept statistics; `None` if they are of something else.
fn read(path: &Path, dataset: &DatasetImages, network_id: &str, content: &str) -> Result<Option<Summary>> {
    let mut reader = NpzReader::open(path)?;
    if reader.read_text(NETWORK)? != network_id || reader.read_text(CONTENT)? != content {
        return Ok(None);
    }
    let (shape, pool_rows) = reader.read_f32(FEATURES)?;
    if shape != [REFERENCE_IMAGES.min(dataset.count()), POOL_FEATURES] {
        return Ok(None);
    }
    let size = dataset.image_size();
    Ok(Some(Summary {
        count: dataset.count() as u64,
        size: Some((size, size)),
        pool: gaussian(&mut reader, path, "mu", "sigma")?,
        spatial: Some(gaussian(&mut reader, path, "mu_s", "sigma_s")?),
        pool_rows,
        inception_score: None,
    }))
}

fn write(path: &Path, summary: &Summary, network_id: &str, content: &str) -> Result<()> {
    let mut writer = NpzWriter::create(path)?;
    write_statistics(&mut writer, summary, network_id)?;
    writer.text(CONTENT, content)?;
    let rows = &summary.pool_rows;
    writer.array_f32(FEATURES, &[rows.len() / POOL_FEATURES, POOL_FEATURES], rows)?;
    Ok(writer.finish()?)
}
