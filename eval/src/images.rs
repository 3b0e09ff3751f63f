//! Image sets: a folder of pictures or an `.npz` of samples, streamed in batches.

use std::path::{Path, PathBuf};

use preprocess::image::RgbImage;
use preprocess::image::decode::decode_rgb;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::npz::NpzReader;

/// Name of the images in a NumPy archive.
pub const NPZ_IMAGES: &str = "arr_0";

/// Where images come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// Picture files, in the order of their paths.
    Folder(Vec<PathBuf>),
    /// Array `arr_0` of an archive.
    Npz(PathBuf),
}

impl ImageSource {
    /// Looks at `path`.
    ///
    /// # Errors
    /// If it does not exist, is a folder without pictures, or is no archive.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = fs_err::metadata(path).map_err(Error::io(path))?;
        if metadata.is_dir() {
            let mut files = Vec::new();
            collect_pictures(path, &mut files)?;
            files.sort();
            if files.is_empty() {
                return Err(Error::format(path, "no PNG, JPEG or WebP picture in this folder"));
            }
            return Ok(Self::Folder(files));
        }
        if has_extension(path, &["npz"]) {
            return Ok(Self::Npz(path.to_owned()));
        }
        Err(Error::format(
            path,
            "give a folder of pictures or an .npz archive",
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
        }
    }
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
mod tests {
    use super::*;

    #[test]
    fn pictures_come_in_the_order_of_their_paths() {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in [("b.png", 2), ("a.PNG", 1), ("sub/c.png", 3)] {
            let path = folder.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            let picture = RgbImage {
                width: 2,
                height: 1,
                data: vec![value; 6],
            };
            fs_err::write(&path, crate::report::encode_png(&picture).unwrap()).unwrap();
        }
        fs_err::write(folder.path().join("notes.txt"), "x").unwrap();
        let source = ImageSource::open(folder.path()).unwrap();
        assert_eq!(source.count().unwrap(), 3);
        let mut seen = Vec::new();
        source
            .visit(2, 3, |images| {
                seen.extend(images.iter().map(|image| image.data[0]));
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, [1, 2, 3]);
    }

    #[test]
    fn nothing_to_see_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(ImageSource::open(folder.path()).is_err());
        assert!(ImageSource::open(&folder.path().join("missing")).is_err());
    }
}
