//! Parquet files with a column of images and, as a rule, one of labels: what Hugging Face's datasets are kept in.

use std::path::{Path, PathBuf};

use super::container::parquet::{self as container, Images, list};
use super::container::streamed::Streamed;
use super::{Collection, Error, Listing, Transform};

/// Opens parquet files, in the order given. A key is the image's own path, or file and row where it has none.
///
/// # Errors
/// When a file is damaged or has no images, or when only some rows have a label.
pub(super) fn open(files: Vec<PathBuf>) -> Result<Collection, Error> {
    let stems: Vec<String> = files.iter().map(|path| super::stem(path)).collect();
    let (mut listing, mut labelled) = (Listing::default(), None);
    let (mut failed, mut row_in_file) = (None, (0, 0));
    let files = list(files, |file, row| {
        row_in_file = if row_in_file.0 == file {
            (file, row_in_file.1 + 1)
        } else {
            (file, 1)
        };
        let key = row
            .path
            .unwrap_or_else(|| format!("{}/{:08}", stems[file], row_in_file.1 - 1));
        let label = match row.label.map_or(Ok(0), |label| super::to_label(label, &key)) {
            _ if *labelled.get_or_insert(row.label.is_some()) != row.label.is_some() => {
                failed.get_or_insert(Error::Unlabelled { key: key.clone() });
                0
            }
            Ok(label) => label,
            Err(error) => {
                failed.get_or_insert(error);
                0
            }
        };
        listing.push(&key, label);
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let mut class_names = if labelled == Some(true) {
        super::numbered_classes(&listing)
    } else {
        vec!["all".to_owned()]
    };
    if class_names.len() <= files.class_names.len() && labelled == Some(true) {
        class_names.clone_from(&files.class_names);
    }
    Ok(Collection {
        container: "parquet files",
        listing: listing.in_storage_order()?,
        class_names,
        transform: Transform::AdmCenterCrop,
        images: Box::new(Streamed::new(Images::new(files))),
    })
}

/// Rows of a file.
pub(super) fn rows(path: &Path) -> std::io::Result<u64> {
    container::rows(path)
}
