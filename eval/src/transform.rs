//! How the images of the two sides were made: a score tells of the model only where that is the same.
//!
//! Datasets, reference files of ours and models of a dataset that is still there know it; folders and other archives do not.

use std::path::Path;

use shards::manifest::Manifest;

use crate::dataset_images;
use crate::error::Result;
use crate::images::ImageSource;

/// Array of a reference file with the words of [`ImageSource::transform`].
pub const NPZ_TRANSFORM: &str = "transform";
/// What is said of images whose making is not known.
pub const UNKNOWN: &str = "as given";

/// How the images of `source` were cropped and sized, where it is known.
///
/// # Errors
/// If an archive cannot be read.
pub fn of_images(source: &ImageSource) -> Result<Option<String>> {
    Ok(match source {
        ImageSource::Folder(_) => None,
        ImageSource::Dataset(dataset) => Some(dataset_images::transform(dataset.manifest())),
        ImageSource::Npz(_) => {
            let text = source.transform()?;
            // Whether they went through an autoencoder is another matter, and has a warning of its own.
            let crop = text.split_once(", decoded").map_or(&*text, |(crop, _)| crop);
            (crop != UNKNOWN).then(|| crop.to_owned())
        }
    })
}

/// How the dataset in `dir` was cropped and sized, if it is still the one with `fingerprint`.
pub fn of_dataset(dir: &Path, fingerprint: &str) -> Option<String> {
    let manifest = Manifest::read(dir).ok()?;
    (manifest.fingerprint == fingerprint).then(|| dataset_images::transform(&manifest))
}

/// What a reader must know if both are known and differ.
pub fn warning(samples: Option<&str>, reference: Option<&str>) -> Option<String> {
    let (samples, reference) = (samples?, reference?);
    (samples != reference).then(|| {
        format!(
            "the reference's images were made otherwise (`{reference}`) than the samples or what the model learned from \
             (`{samples}`), which changes every score: make a reference of the same transform with `eval reference`"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_differences_are_told() {
        assert_eq!(warning(Some("a 16"), Some("a 16")), None);
        assert_eq!(warning(None, Some("a 16")), None);
        assert_eq!(warning(Some("a 16"), None), None);
        let told = warning(Some("a 16"), Some("b 16")).unwrap();
        assert!(told.contains("`a 16`") && told.contains("`b 16`"), "{told}");
    }
}
