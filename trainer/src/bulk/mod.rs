//! Many samples, in parts that are written as they are finished: what was killed goes on, and processes share the work.
//!
//! A folder holds `samples.json`, which tells what the images are of, and `part-00000.npz`, `part-00001.npz`, .. with
//! [`PART_IMAGES`] images and labels each, the last with fewer. An image depends on what `samples.json` says and on its
//! index alone, so neither batches nor processes show in the parts, and a larger set goes on from a smaller one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use preprocess::image::RgbImage;
use preprocess::npz::{self, Dtype, Header, NpzReader, NpzWriter};
use preprocess::vae::AutoencoderKl;
use serde_json::Value;
use shards::disk;
use shards::lock::FolderLock;

use crate::distributed::Group;
use crate::generate::{self, Generator, SamplePlan};

/// Images of a part: a kill loses less than so many.
pub const PART_IMAGES: u64 = 64;
/// File that tells what the images are of.
const DEFINITION: &str = "samples.json";
const IMAGES: &str = "arr_0";
const LABELS: &str = "arr_1";

/// Why samples cannot be drawn or put together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Sampling failed.
    #[error(transparent)]
    Generate(#[from] generate::Error),
    /// A part cannot be read or written.
    #[error(transparent)]
    Npz(#[from] npz::Error),
    /// A file or folder cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Another process draws into the folder.
    #[error(transparent)]
    Locked(#[from] shards::error::Error),
    /// The folder has samples of something else.
    #[error(
        "{} holds other samples: {key} was {was}, now it is {now}\nhint: choose another place, or remove that folder",
        path.display()
    )]
    Other {
        /// The folder.
        path: PathBuf,
        /// What differs, dotted.
        key: String,
        /// Its value there.
        was: String,
        /// Its value now.
        now: String,
    },
    /// An image is not of the dataset's size.
    #[error("an image of {width} x {height} pixels where {side} x {side} was expected")]
    Size {
        /// Pixels.
        width: usize,
        /// Pixels.
        height: usize,
        /// Pixels of the dataset's images.
        side: usize,
    },
}

/// A set of samples in parts.
pub struct SampleSet<'a> {
    dir: PathBuf,
    generator: &'a Generator,
    plan: &'a SamplePlan,
    count: u64,
    /// In the first process.
    _lock: Option<FolderLock>,
}

impl<'a> SampleSet<'a> {
    /// Opens or makes the folder `dir` for the first `count` images of `plan`. All processes of `group` call it.
    ///
    /// # Errors
    /// [`Error::Other`] when the folder has samples of something else; [`Error::Locked`].
    pub fn open(
        dir: &Path,
        generator: &'a Generator,
        plan: &'a SamplePlan,
        count: u64,
        group: &mut (impl Group + ?Sized),
    ) -> Result<Self, Error> {
        let mut lock = None;
        if group.rank() == 0 {
            disk::create_dir_all(dir)?;
            lock = Some(FolderLock::acquire(dir, "draws samples")?);
            let definition = generator.definition(plan);
            let path = dir.join(DEFINITION);
            if path.exists() {
                let found = serde_json::from_slice(&fs_err::read(&path)?).unwrap_or(Value::Null);
                check_same(dir, &found, &definition)?;
            } else {
                disk::replace_unsynced(&path, format!("{definition:#}\n").as_bytes())?;
            }
        }
        // The others do not look before the first has.
        group.barrier();
        Ok(Self {
            dir: dir.to_owned(),
            generator,
            plan,
            count,
            _lock: lock,
        })
    }

    /// The numbers of all parts.
    pub fn parts(&self) -> Range<u64> {
        0..self.count.div_ceil(PART_IMAGES)
    }

    /// The file of a part.
    pub fn path(&self, part: u64) -> PathBuf {
        self.dir.join(format!("part-{part:05}.npz"))
    }

    fn indices(&self, part: u64) -> Range<u64> {
        part * PART_IMAGES..((part + 1) * PART_IMAGES).min(self.count)
    }

    /// How many images of the set a part has.
    pub fn images_of(&self, part: u64) -> usize {
        let indices = self.indices(part);
        (indices.end - indices.start) as usize
    }

    /// Whether a part is there, with all of its images.
    fn is_done(&self, part: u64) -> bool {
        let found = NpzReader::open(&self.path(part)).and_then(|mut reader| reader.image_shape(IMAGES));
        found.is_ok_and(|[count, ..]| count >= self.images_of(part))
    }

    /// Draws what is missing, `batch` images at a time, each process of `group` its share of the parts; `done` hears how
    /// many of the images of this process are there, and how many it has. Returns when all of them are there.
    ///
    /// # Errors
    /// Those of sampling and of the file system; finished parts stay.
    pub fn draw(
        &self,
        vae: &AutoencoderKl,
        batch: usize,
        group: &mut (impl Group + ?Sized),
        mut done: impl FnMut(u64, u64),
    ) -> Result<(), Error> {
        let (rank, ranks) = (group.rank() as u64, group.ranks() as u64);
        let mine = self.parts().filter(|part| part % ranks == rank);
        let (there, missing): (Vec<u64>, Vec<u64>) = mine.partition(|&part| self.is_done(part));
        let images = |parts: &[u64]| -> u64 { parts.iter().map(|&part| self.images_of(part) as u64).sum() };
        let mut drawn = images(&there);
        let total = drawn + images(&missing);
        done(drawn, total);
        let indices: Vec<u64> = missing.iter().flat_map(|&part| self.indices(part)).collect();
        let mut parts = missing.into_iter().peekable();
        let mut waiting: Vec<RgbImage> = Vec::new();
        for indices in indices.chunks(batch.max(1)) {
            waiting.extend(self.generator.images(self.plan, vae, indices)?);
            drawn += indices.len() as u64;
            while let Some(&part) = parts.peek() {
                let length = self.images_of(part);
                if waiting.len() < length {
                    break;
                }
                self.write(part, &waiting[..length])?;
                waiting.drain(..length);
                parts.next();
            }
            done(drawn, total);
        }
        group.barrier();
        Ok(())
    }

    fn write(&self, part: u64, images: &[RgbImage]) -> Result<(), Error> {
        let mut writer = NpzWriter::create(&self.path(part))?;
        writer.start(IMAGES, &self.image_header(images.len()))?;
        for image in images {
            self.write_image(&mut writer, image)?;
        }
        self.write_labels(&mut writer, self.indices(part))?;
        Ok(writer.finish()?)
    }

    fn image_header(&self, count: usize) -> Header {
        let side = self.generator.dataset.image_size;
        Header {
            dtype: Dtype::U8,
            shape: vec![count, side, side, 3],
        }
    }

    fn write_image(&self, writer: &mut NpzWriter, image: &RgbImage) -> Result<(), Error> {
        let side = self.generator.dataset.image_size;
        let &RgbImage { width, height, .. } = image;
        if (width, height) != (side, side) {
            return Err(Error::Size { width, height, side });
        }
        Ok(writer.write(&image.data)?)
    }

    fn write_labels(&self, writer: &mut NpzWriter, indices: Range<u64>) -> Result<(), Error> {
        let header = Header {
            dtype: Dtype::I64,
            shape: vec![(indices.end - indices.start) as usize],
        };
        writer.start(LABELS, &header)?;
        for index in indices {
            let label = i64::from(self.generator.label(self.plan, index)?);
            writer.write(&label.to_le_bytes())?;
        }
        Ok(())
    }

    /// Shows the images of a part in their order, `batch` at a time.
    ///
    /// # Errors
    /// Those of the part and of `visit`.
    pub fn visit_part<E: From<npz::Error>>(
        &self,
        part: u64,
        batch: usize,
        visit: impl FnMut(Vec<RgbImage>) -> Result<(), E>,
    ) -> Result<(), E> {
        NpzReader::open(&self.path(part))?.visit_images(IMAGES, batch, self.images_of(part), visit)
    }

    /// Writes all parts as one sample file of ADM: `arr_0` [N, H, W, 3], `arr_1` [N] labels. It appears when it is complete.
    ///
    /// # Errors
    /// Those of the parts and of the file system.
    pub fn assemble(&self, out: &Path) -> Result<(), Error> {
        let mut writer = NpzWriter::create(out)?;
        writer.start(IMAGES, &self.image_header(self.count as usize))?;
        for part in self.parts() {
            self.visit_part(part, PART_IMAGES as usize, |images| {
                images
                    .iter()
                    .try_for_each(|image| self.write_image(&mut writer, image))
            })?;
        }
        self.write_labels(&mut writer, 0..self.count)?;
        Ok(writer.finish()?)
    }

    /// Removes the folder.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn remove(self) -> Result<(), Error> {
        let dir = self.dir.clone();
        drop(self);
        Ok(disk::remove_dir_all(&dir)?)
    }
}

/// Refuses a folder whose definition differs.
fn check_same(dir: &Path, found: &Value, wanted: &Value) -> Result<(), Error> {
    let (mut was, mut now) = (BTreeMap::new(), BTreeMap::new());
    flatten("", found, &mut was);
    flatten("", wanted, &mut now);
    let keys = was.keys().chain(now.keys());
    let text = |value: Option<&String>| value.map_or_else(|| "nothing".to_owned(), Clone::clone);
    match keys.into_iter().find(|key| was.get(*key) != now.get(*key)) {
        None => Ok(()),
        Some(key) => Err(Error::Other {
            path: dir.to_owned(),
            key: key.clone(),
            was: text(was.get(key)),
            now: text(now.get(key)),
        }),
    }
}

/// The leaves of a JSON value by their dotted names.
fn flatten(prefix: &str, value: &Value, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let name = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                flatten(&name, value, leaves);
            }
        }
        leaf => {
            leaves.insert(prefix.to_owned(), leaf.to_string());
        }
    }
}

#[cfg(test)]
mod tests;
