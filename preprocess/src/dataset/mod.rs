//! Data sets: an ordered list of (key, label), and the cropped image of each.

pub mod demo;
pub mod folder;

use std::path::PathBuf;

use crate::image::{self, RgbImage, crop};

/// What can be wrong with a source of images.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder that cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A folder without a single JPEG, PNG or WebP file.
    #[error("{path}: no JPEG, PNG or WebP file, neither here nor in the folders one level below", path = path.display())]
    NoImages {
        /// The folder.
        path: PathBuf,
    },
    /// A file name that is not UTF-8.
    #[error("{path}: the name is not UTF-8; rename the file", path = path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
}

/// Why one image could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The bytes are no sound image.
    #[error(transparent)]
    Image(#[from] image::Error),
}

/// An ordered source of labelled images; a record's id is its rank.
#[derive(Debug)]
pub enum Dataset {
    /// Drawn by the program.
    Demo(demo::Demo),
    /// Files below a folder.
    Folder(folder::Folder),
}

impl Dataset {
    /// The number of images.
    pub fn len(&self) -> u64 {
        match self {
            Self::Demo(demo) => demo.count,
            Self::Folder(folder) => folder.len() as u64,
        }
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key of image `id`.
    pub fn key(&self, id: u64) -> String {
        match self {
            Self::Demo(_) => format!("demo-{id:08}"),
            Self::Folder(folder) => folder.key(id as usize),
        }
    }

    /// The class of image `id`.
    pub fn label(&self, id: u64) -> i64 {
        match self {
            Self::Demo(_) => demo::class(id) as i64,
            Self::Folder(folder) => folder.label(id as usize),
        }
    }

    /// The names of the classes, in label order.
    pub fn class_names(&self) -> Vec<String> {
        match self {
            Self::Demo(_) => demo::CLASSES.map(String::from).to_vec(),
            Self::Folder(folder) => folder.class_names().to_vec(),
        }
    }

    /// The image `id`, cropped to `size` x `size`.
    ///
    /// # Errors
    /// When the file cannot be read or decoded.
    pub fn load(&self, id: u64, size: usize) -> Result<RgbImage, ImageError> {
        match self {
            Self::Demo(demo) => Ok(demo::draw(demo.seed, id, size).0),
            Self::Folder(folder) => {
                let bytes = fs_err::read(folder.path(id as usize))?;
                Ok(crop::decode_and_crop(&bytes, size)?)
            }
        }
    }
}
