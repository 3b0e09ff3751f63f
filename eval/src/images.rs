//! Image sets: a folder of pictures, an `.npz` of samples or a dataset of ours, streamed in batches.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;

use preprocess::image::RgbImage;
use preprocess::image::decode::decode_rgb;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use shards::layout::MANIFEST_NAME;
use shards::shuffle::epoch_order;

use crate::dataset_images::DatasetImages;
use crate::error::{Error, Result};
use crate::inception::weights::{hex, sha256_of};
use crate::npz::NpzReader;
use crate::transform::{NPZ_TRANSFORM, UNKNOWN};

/// Name of the images in a NumPy archive.
pub const NPZ_IMAGES: &str = "arr_0";

/// Array of an archive that says what its images are, where they are not what they seem.
pub const NPZ_WARNING: &str = "warning";

/// Array of an archive with the mean of the pool features: the sign of statistics.
pub const NPZ_MEAN: &str = "mu";

/// Batches of an archive that wait for the network at most.
const AHEAD: usize = 2;

/// Images of an archive that are in memory while some are picked.
const PICKED_BATCH: usize = 16;

/// Where images come from.
#[derive(Debug)]
pub enum ImageSource {
    /// Picture files, in the order of their paths; those of several folders (classes) in a fixed shuffled order, since the
    /// first images must stand for all, and the Inception score depends on the order.
    Folder(Vec<PathBuf>),
    /// Array `arr_0` of an archive.
    Npz(PathBuf),
    /// What `preprocess encode` has written.
    Dataset(Box<DatasetImages>),
}

impl ImageSource {
    /// Looks at `path`.
    ///
    /// # Errors
    /// If it does not exist, is a folder without pictures, a damaged dataset, or no archive.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = fs_err::metadata(path).map_err(Error::io(path))?;
        if path.join(MANIFEST_NAME).is_file() {
            return Ok(Self::Dataset(Box::new(DatasetImages::open(path)?)));
        }
        if metadata.is_dir() {
            let mut files = Vec::new();
            collect_pictures(path, &mut files)?;
            if files.is_empty() {
                return Err(Error::format(path, "no PNG, JPEG or WebP picture in this folder"));
            }
            files.sort();
            if files.iter().any(|file| file.parent() != files[0].parent()) {
                files = shuffled(&files);
            }
            return Ok(Self::Folder(files));
        }
        if has_extension(path, &["npz"]) {
            return Ok(Self::Npz(path.to_owned()));
        }
        Err(Error::format(
            path,
            "give a folder of pictures, an .npz archive, or a dataset's folder",
        ))
    }

    /// Number of images.
    ///
    /// # Errors
    /// If the archive cannot be read.
    pub fn count(&self) -> Result<usize> {
        match self {
            Self::Folder(files) => Ok(files.len()),
            Self::Npz(path) => Ok(NpzReader::open(path)?.image_shape(NPZ_IMAGES)?[0]),
            Self::Dataset(dataset) => Ok(dataset.count()),
        }
    }

    /// How the images were made, in words.
    ///
    /// # Errors
    /// If the archive cannot be read.
    pub fn transform(&self) -> Result<String> {
        match self {
            Self::Folder(_) => Ok(UNKNOWN.to_owned()),
            Self::Npz(path) => {
                let mut reader = NpzReader::open(path)?;
                if reader.has(NPZ_TRANSFORM) {
                    Ok(reader.read_text(NPZ_TRANSFORM)?)
                } else {
                    Ok(UNKNOWN.to_owned())
                }
            }
            Self::Dataset(dataset) => Ok(dataset.transform()),
        }
    }

    /// SHA-256 of the archive, of the hashes of a folder's files one after the other, or of what decides the pixels of a
    /// dataset; hexadecimal.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn content_hash(&self) -> Result<String> {
        match self {
            Self::Folder(files) => {
                let hashes: Result<Vec<_>> = files.par_iter().map(|file| sha256_of(file)).collect();
                let mut all = Sha256::new();
                hashes?.iter().for_each(|hash| all.update(hash));
                Ok(hex(&all.finalize()))
            }
            Self::Npz(path) => sha256_of(path),
            Self::Dataset(dataset) => Ok(dataset.content_hash()),
        }
    }

    /// Whether this is an archive with statistics.
    ///
    /// # Errors
    /// If the archive cannot be read.
    pub fn has_statistics(&self) -> Result<bool> {
        match self {
            Self::Npz(path) => Ok(NpzReader::open(path)?.has(NPZ_MEAN)),
            Self::Folder(_) | Self::Dataset(_) => Ok(false),
        }
    }

    /// What a reader of the numbers must know of the images, as the end of a sentence that begins with "images".
    ///
    /// # Errors
    /// If the archive cannot be read.
    pub fn warning(&self) -> Result<Option<String>> {
        match self {
            Self::Folder(_) => Ok(None),
            Self::Npz(path) => {
                let mut reader = NpzReader::open(path)?;
                if reader.has(NPZ_WARNING) {
                    Ok(Some(reader.read_text(NPZ_WARNING)?))
                } else {
                    Ok(None)
                }
            }
            Self::Dataset(dataset) => Ok(dataset.warning()),
        }
    }

    /// What a reader must know when these are samples: compression is none of the model's doing.
    pub fn compression_warning(&self) -> Option<String> {
        let Self::Folder(files) = self else { return None };
        let compressed = files
            .iter()
            .filter(|file| has_extension(file, &["jpg", "jpeg", "webp"]));
        let count = compressed.count();
        (count > 0).then(|| {
            format!(
                "come from files with lossy compression ({count} of {}), which changes every score: keep samples as PNG or .npz",
                files.len()
            )
        })
    }

    /// The images with these numbers, counted as [`Self::visit`] shows them without a limit.
    ///
    /// # Errors
    /// If there is no such image, or it cannot be read.
    pub fn pick(&self, numbers: &[usize]) -> Result<Vec<RgbImage>> {
        let missing = |number| Error::Input(format!("there is no image {number}"));
        match self {
            Self::Folder(files) => {
                let file = |&number: &usize| files.get(number).ok_or_else(|| missing(number));
                numbers
                    .par_iter()
                    .map(|number| read_picture(file(number)?))
                    .collect()
            }
            Self::Npz(path) => {
                let limit = numbers.iter().max().map_or(0, |last| last + 1);
                let mut picked: Vec<Option<RgbImage>> = vec![None; numbers.len()];
                let mut first = 0;
                NpzReader::open(path)?.visit_images(
                    NPZ_IMAGES,
                    PICKED_BATCH,
                    limit,
                    |images| -> Result<()> {
                        for (picked, &number) in picked.iter_mut().zip(numbers) {
                            if let Some(image) = number.checked_sub(first).and_then(|at| images.get(at)) {
                                *picked = Some(image.clone());
                            }
                        }
                        first += images.len();
                        Ok(())
                    },
                )?;
                let all = picked.into_iter().zip(numbers);
                all.map(|(image, &number)| image.ok_or_else(|| missing(number)))
                    .collect()
            }
            Self::Dataset(dataset) => dataset.pick(numbers),
        }
    }

    /// Streams the first `limit` images through `visit`, `batch` at a time.
    ///
    /// # Errors
    /// If an image cannot be read, or `visit` fails.
    pub fn visit(
        &self,
        batch: usize,
        limit: usize,
        mut visit: impl FnMut(Vec<RgbImage>) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Folder(files) => {
                for chunk in files[..limit.min(files.len())].chunks(batch.max(1)) {
                    visit(
                        chunk
                            .par_iter()
                            .map(|file| read_picture(file))
                            .collect::<Result<_>>()?,
                    )?;
                }
                Ok(())
            }
            Self::Npz(path) => NpzReader::open(path)?.visit_images(NPZ_IMAGES, batch, limit, visit),
            Self::Dataset(dataset) => dataset.visit(batch, limit, visit),
        }
    }

    /// As [`Self::visit`]; an archive, which one thread unpacks, is read [`AHEAD`] batches ahead of `visit`.
    ///
    /// # Errors
    /// If an image cannot be read, or `visit` fails.
    pub fn visit_ahead(
        &self,
        batch: usize,
        limit: usize,
        mut visit: impl FnMut(Vec<RgbImage>) -> Result<()>,
    ) -> Result<()> {
        let Self::Npz(path) = self else {
            // The other sources use all threads to decode.
            return self.visit(batch, limit, visit);
        };
        thread::scope(|scope| {
            let (send, receive) = sync_channel(AHEAD);
            let reader = scope.spawn(move || {
                NpzReader::open(path)?.visit_images(NPZ_IMAGES, batch, limit, |images| {
                    // Nobody receives any more after an error of `visit`, which is the one to be told.
                    send.send(images)
                        .map_err(|_| Error::Input("the images are not wanted any more".to_owned()))
                })
            });
            for images in receive {
                visit(images)?;
            }
            reader.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

/// The files in an order that depends on nothing but their number.
fn shuffled(files: &[PathBuf]) -> Vec<PathBuf> {
    let ids: Vec<u64> = (0..files.len() as u64).collect();
    let order = epoch_order(0, 0, &ids);
    order.into_iter().map(|i| files[i as usize].clone()).collect()
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|found| {
            extensions
                .iter()
                .any(|extension| found.eq_ignore_ascii_case(extension))
        })
}

/// All pictures below `folder`.
fn collect_pictures(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs_err::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.is_dir() {
            collect_pictures(&path, files)?;
        } else if has_extension(&path, &["png", "jpg", "jpeg", "webp"]) {
            files.push(path);
        }
    }
    Ok(())
}

fn read_picture(path: &Path) -> Result<RgbImage> {
    let bytes = fs_err::read(path).map_err(Error::io(path))?;
    decode_rgb(&bytes).map_err(|error| Error::format(path, error.to_string()))
}

#[cfg(test)]
mod tests;
