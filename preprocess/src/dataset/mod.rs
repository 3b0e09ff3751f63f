//! Data sets: an ordered list of (id, key, label), and the image of each, from whatever container it lies in.

pub mod demo;
pub mod folder;
pub mod listing;
pub mod open;

mod container;
mod hub;
mod imagenet;
mod lsun;
#[cfg(feature = "parquet")]
mod parquet;
mod webdataset;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::image::{self, RgbImage, crop};

pub use listing::Listing;
pub use open::Request;

use container::Container;

/// What can be wrong with a source of images.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder that cannot be read, or that is damaged.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Nothing to read.
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
    /// A place that holds none of the containers that are known.
    #[error("{path}: {what}\nhint: {hint}", path = path.display())]
    Unknown {
        /// Where it was looked for.
        path: PathBuf,
        /// What was expected.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A class that is no number of one.
    #[error("{key}: its class is `{found}`, expected a whole number from 0 to 1,048,575")]
    Label {
        /// The image.
        key: String,
        /// What stands there.
        found: String,
    },
    /// Some images have a class and this one has none.
    #[error("{key}: it has no class, though others have; give every image one, or none any")]
    Unlabelled {
        /// The image.
        key: String,
    },
    /// No source was given and none was found.
    #[error("{0}")]
    NoSource(String),
    /// The hub cannot give the data set.
    #[error("{0}")]
    Hub(String),
    /// More images than a listing can count.
    #[error("{images} images are more than can be listed (4,294,967,295)")]
    TooMany {
        /// How many.
        images: usize,
    },
}

/// Why one image could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Its bytes cannot be read: the source is damaged or out of reach.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The bytes are no sound image.
    #[error(transparent)]
    Image(#[from] image::Error),
}

/// How an image becomes a square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    /// ADM's and DiT's centre crop: BOX halvings, BICUBIC, the middle.
    AdmCenterCrop,
    /// ADM's step for LSUN: BOX to the shorter side, the middle. The same bytes for LSUN's own 256 pixels.
    LsunBoxCrop,
}

impl Transform {
    /// Its name in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::AdmCenterCrop => "adm-center-crop",
            Self::LsunBoxCrop => "adm-lsun-box-crop",
        }
    }
}

/// Images that lie somewhere, labelled and in order.
#[derive(Debug)]
pub struct Collection {
    container: &'static str,
    listing: Listing,
    class_names: Vec<String>,
    transform: Transform,
    images: Box<dyn Container>,
}

/// An ordered source of labelled images. Positions are in the order of reading; a record's id is its rank in the
/// canonical order, see [`Listing`].
#[derive(Debug)]
pub enum Dataset {
    /// Drawn by the program.
    Demo(demo::Demo),
    /// Read.
    Images(Collection),
}

impl Dataset {
    /// The number of images.
    pub fn len(&self) -> u64 {
        match self {
            Self::Demo(demo) => demo.count,
            Self::Images(images) => images.listing.len() as u64,
        }
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The record id of the image at `position`.
    pub fn id(&self, position: u64) -> u64 {
        match self {
            Self::Demo(_) => position,
            Self::Images(images) => images.listing.id(position as usize),
        }
    }

    /// Where the image with record id `id` is.
    pub fn position(&self, id: u64) -> Option<u64> {
        match self {
            Self::Demo(demo) => (id < demo.count).then_some(id),
            Self::Images(images) => images.listing.position(id).map(|position| position as u64),
        }
    }

    /// The key of the image at `position`.
    pub fn key(&self, position: u64) -> String {
        match self {
            Self::Demo(_) => format!("demo-{position:08}"),
            Self::Images(images) => images.listing.key(position as usize).to_owned(),
        }
    }

    /// The class of the image at `position`.
    pub fn label(&self, position: u64) -> i64 {
        match self {
            Self::Demo(_) => demo::class(position) as i64,
            Self::Images(images) => images.listing.label(position as usize),
        }
    }

    /// The names of the classes, in label order.
    pub fn class_names(&self) -> Vec<String> {
        match self {
            Self::Demo(_) => demo::CLASSES.map(String::from).to_vec(),
            Self::Images(images) => images.class_names.clone(),
        }
    }

    /// What the images lie in, in words.
    pub fn container(&self) -> &'static str {
        match self {
            Self::Demo(_) => "drawn",
            Self::Images(images) => images.container,
        }
    }

    /// Whether images are read from front to back only: any other order is slow.
    pub fn is_streamed(&self) -> bool {
        matches!(self, Self::Images(images) if images.images.is_streamed())
    }

    /// How images become squares: the name in manifests.
    pub fn transform(&self) -> &'static str {
        match self {
            Self::Demo(_) => "drawn",
            Self::Images(images) => images.transform.name(),
        }
    }

    /// A hash of ids, labels and keys in the order of reading; `None` for what is drawn.
    pub fn listing_hash(&self) -> Option<String> {
        match self {
            Self::Demo(_) => None,
            Self::Images(images) => Some(images.listing.hash()),
        }
    }

    /// The encoded image at `position`; empty for what is drawn.
    ///
    /// # Errors
    /// When the source cannot be read there; the images behind may be sound, but nothing tells.
    pub fn fetch(&self, position: u64) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Demo(_) => Ok(Vec::new()),
            Self::Images(images) => {
                let position = position as usize;
                images.images.read(position, images.listing.key(position))
            }
        }
    }

    /// What [`Dataset::fetch`] gave for `position`, as a square of `size` x `size` pixels.
    ///
    /// # Errors
    /// When the bytes are no sound image.
    pub fn decode(&self, position: u64, bytes: &[u8], size: usize) -> Result<RgbImage, image::Error> {
        match self {
            Self::Demo(demo) => Ok(demo::draw(demo.seed, position, size).0),
            Self::Images(images) => match images.transform {
                Transform::AdmCenterCrop => crop::decode_and_crop(bytes, size),
                Transform::LsunBoxCrop => image::lsun::decode_and_crop(bytes, size),
            },
        }
    }

    /// Fetches and decodes the image at `position`.
    ///
    /// # Errors
    /// Those of both.
    pub fn load(&self, position: u64, size: usize) -> Result<RgbImage, ImageError> {
        let bytes = self.fetch(position)?;
        Ok(self.decode(position, &bytes, size)?)
    }
}

/// Whether a file's name ends as those of images do. What the file is, its first bytes say.
fn is_image_name(name: &str) -> bool {
    let known = ["jpg", "jpeg", "png", "webp"];
    Path::new(name)
        .extension()
        .and_then(OsStr::to_str)
        .is_some_and(|e| known.iter().any(|k| e.eq_ignore_ascii_case(k)))
}

/// A class as labels are kept.
fn to_label(label: i64, key: &str) -> Result<i32, Error> {
    match label {
        0..=0xF_FFFF => Ok(label as i32),
        _ => Err(Error::Label {
            key: key.to_owned(),
            found: label.to_string(),
        }),
    }
}

/// Names for classes that are only numbers.
fn numbered_classes(listing: &Listing) -> Vec<String> {
    let last = (0..listing.len()).map(|position| listing.label(position)).max();
    (0..=last.unwrap_or(0)).map(|label| label.to_string()).collect()
}

/// A file's name without its extension.
fn stem(path: &Path) -> String {
    path.file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Other names of a split.
fn split_names(split: &str) -> Vec<&str> {
    match split {
        "val" | "validation" | "valid" => vec!["validation", "val", "valid"],
        other => vec![other],
    }
}

/// The file `path`, or the files with an extension in the folder `path` or in its `data`, sorted: those whose names
/// begin with the split or contain it, or all where no name tells a split.
fn files_of_split(path: &Path, extension: &str, split: &str) -> Result<Vec<PathBuf>, Error> {
    if fs_err::metadata(path)?.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    for folder in [path.to_owned(), path.join("data"), path.join(split)] {
        if !folder.is_dir() {
            continue;
        }
        let mut all = folder::names(&folder, folder::Kind::Files)?;
        all.retain(|name| Path::new(name).extension().is_some_and(|e| e == extension));
        let names = |all: &[String], split: &str| -> Vec<String> {
            let any = split_names(split);
            let tells = |name: &&String| {
                any.iter()
                    .any(|split| name.split(['-', '_', '.']).any(|part| part == *split))
            };
            all.iter().filter(tells).cloned().collect()
        };
        let of_split = names(&all, split);
        let of_others = ["train", "val", "test"]
            .iter()
            .any(|other| !names(&all, other).is_empty());
        let chosen = if !of_split.is_empty() || of_others {
            of_split
        } else {
            all
        };
        if !chosen.is_empty() {
            return Ok(chosen.into_iter().map(|name| folder.join(name)).collect());
        }
    }
    Err(Error::Unknown {
        path: path.to_owned(),
        what: format!("no file `*.{extension}` of the split `{split}`, neither here nor in `data`"),
        hint: "see --source and --split".to_owned(),
    })
}
