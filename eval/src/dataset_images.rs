//! The images behind a dataset of latents: the originals where they can be had, else what the autoencoder makes of the
//! latents.
//!
//! Samples come in a fixed shuffled order, so that the first ones stand for all classes whatever the order of the
//! shards is.

use std::path::Path;

use candle_core::{Device, Tensor};
use preprocess::dataset::{Dataset as Originals, ImageError, Request};
use preprocess::image::{RgbImage, tensor};
use preprocess::vae::AutoencoderKl;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use shards::dataset::Dataset;
use shards::manifest::{Dtype, Manifest};
use shards::shuffle::epoch_order;

use crate::error::{Error, Result};
use crate::inception::weights::hex;

/// The autoencoder that is the identity: latents are pixels.
const IDENTITY: &str = "none";

/// A dataset, seen as images of one size.
#[derive(Debug)]
pub struct DatasetImages {
    dataset: Dataset,
    /// Positions in the dataset, shuffled.
    order: Vec<u32>,
    pixels: Pixels,
}

/// Gives the images at some positions of a dataset.
type Reader<'a> = Box<dyn Fn(&[u32]) -> Result<Vec<RgbImage>> + 'a>;

#[derive(Debug)]
enum Pixels {
    /// Read or drawn again.
    Original(Originals),
    /// Decoded from the latents, for a reason.
    Decoded(String),
}

impl DatasetImages {
    /// Opens the dataset in `dir` and looks for its originals.
    ///
    /// # Errors
    /// If the dataset is not complete and sound.
    pub fn open(dir: &Path) -> Result<Self> {
        let dataset = Dataset::open(dir)?;
        let pixels = originals(&dataset).map_or_else(Pixels::Decoded, Pixels::Original);
        Ok(Self {
            order: epoch_order(0, 0, dataset.ids()),
            dataset,
            pixels,
        })
    }

    /// The dataset's folder.
    pub fn dir(&self) -> &Path {
        self.dataset.dir()
    }

    /// Number of images.
    pub fn count(&self) -> usize {
        self.dataset.len()
    }

    /// Side of the images, pixels.
    pub fn image_size(&self) -> usize {
        self.manifest().image_size
    }

    /// What the dataset says of itself.
    pub fn manifest(&self) -> &Manifest {
        self.dataset.manifest()
    }

    /// How the images were made, in words.
    pub fn transform(&self) -> String {
        let manifest = self.manifest();
        let made = transform(manifest);
        match &self.pixels {
            Pixels::Original(_) => made,
            Pixels::Decoded(_) => format!("{made}, decoded from latents of {}", manifest.vae.id),
        }
    }

    /// What distinguishes the images from the originals, as the end of a sentence.
    pub fn warning(&self) -> Option<String> {
        let told: Vec<String> = self.difference().into_iter().chain(self.source_note()).collect();
        (!told.is_empty()).then(|| told.join("; they "))
    }

    /// What is to be said of a source beside every number.
    fn source_note(&self) -> Option<String> {
        (self.manifest().source.dataset == "lsun-church").then(|| {
            format!(
                "are {} of LSUN church, for which there is no public reference: its statistics are of this dataset",
                self.count()
            )
        })
    }

    fn difference(&self) -> Option<String> {
        let Pixels::Decoded(why) = &self.pixels else {
            return None;
        };
        let manifest = self.manifest();
        match manifest.store.dtype {
            Dtype::F32 | Dtype::F16 if manifest.vae.id == IDENTITY => None,
            _ if manifest.vae.id == IDENTITY => Some("are stored pixels, slightly rounded".to_owned()),
            _ => Some(format!("are the autoencoder's reconstructions ({why})")),
        }
    }

    /// A hash of everything that decides the pixels, hexadecimal.
    pub fn content_hash(&self) -> String {
        let manifest = self.manifest();
        let mut hasher = Sha256::new();
        hasher.update(&manifest.fingerprint);
        for shard in &manifest.shards {
            hasher.update(&shard.sha256);
        }
        hasher.update(self.transform());
        hex(&hasher.finalize())
    }

    /// Streams the first `limit` images, in some order, through `visit`, `batch` at a time.
    ///
    /// # Errors
    /// If an image or a latent cannot be read, the autoencoder cannot be loaded, or `visit` fails.
    pub fn visit(
        &self,
        batch: usize,
        limit: usize,
        mut visit: impl FnMut(Vec<RgbImage>) -> Result<()>,
    ) -> Result<()> {
        let chosen = self.chosen(limit);
        let reader = self.reader()?;
        for positions in chosen.chunks(batch.max(1)) {
            visit(reader(positions)?)?;
        }
        Ok(())
    }

    /// The images with these numbers, counted as [`Self::visit`] shows all of them.
    ///
    /// # Errors
    /// If there is no such image, or it cannot be read.
    pub fn pick(&self, numbers: &[usize]) -> Result<Vec<RgbImage>> {
        let chosen = self.chosen(usize::MAX);
        let position = |&number: &usize| {
            let found = chosen.get(number).copied();
            found.ok_or_else(|| Error::Input(format!("there is no image {number}")))
        };
        let positions: Vec<u32> = numbers.iter().map(position).collect::<Result<_>>()?;
        self.reader()?(&positions)
    }

    /// Streams the first `limit` originals through `visit`, `batch` at a time, each batch with the autoencoder's latents as the
    /// dataset has them, `[B, C, H, W]`.
    ///
    /// # Errors
    /// If the originals cannot be had, an image or a latent cannot be read, or `visit` fails.
    pub fn visit_with_latents(
        &self,
        batch: usize,
        limit: usize,
        mut visit: impl FnMut(Vec<RgbImage>, Tensor) -> Result<()>,
    ) -> Result<()> {
        let originals = match &self.pixels {
            Pixels::Original(originals) => originals,
            Pixels::Decoded(why) => {
                let what = format!(
                    "reconstructions are compared with the originals, which cannot be had ({why})
                     hint: put them back to `{}`",
                    self.manifest().source.path
                );
                return Err(Error::format(self.dir(), what));
            }
        };
        for positions in self.chosen(limit).chunks(batch.max(1)) {
            visit(self.load(originals, positions)?, self.latents(positions)?)?;
        }
        Ok(())
    }

    /// The positions of the first `limit` images, in the order that suits the source.
    fn chosen(&self, limit: usize) -> Vec<u32> {
        let mut chosen = self.order[..limit.min(self.order.len())].to_vec();
        if let Pixels::Original(originals) = &self.pixels
            && originals.is_streamed()
        {
            chosen.sort_by_cached_key(|&position| {
                self.dataset
                    .id(position as usize)
                    .ok()
                    .and_then(|id| originals.position(id))
            });
        }
        chosen
    }

    /// What gives the images at some positions.
    fn reader(&self) -> Result<Reader<'_>> {
        Ok(match &self.pixels {
            Pixels::Original(originals) => Box::new(move |positions| self.load(originals, positions)),
            Pixels::Decoded(why) => {
                let autoencoder = self.autoencoder().map_err(|error| self.no_images(why, &error))?;
                Box::new(move |positions| self.decode(&autoencoder, positions))
            }
        })
    }

    fn load(&self, originals: &Originals, positions: &[u32]) -> Result<Vec<RgbImage>> {
        let load = |&position: &u32| {
            let position = position as usize;
            let key = self.dataset.key(position)?;
            let failed = |error: ImageError| {
                let path = Path::new(&self.manifest().source.path).join(key);
                Error::format(&path, error.to_string())
            };
            // That every sample has its place was found when the originals were opened.
            let place = originals.position(self.dataset.id(position)?).unwrap_or_default();
            originals.load(place, self.image_size()).map_err(failed)
        };
        positions.par_iter().map(load).collect()
    }

    fn decode(&self, autoencoder: &AutoencoderKl, positions: &[u32]) -> Result<Vec<RgbImage>> {
        Ok(tensor::to_rgb(&autoencoder.decode(&self.latents(positions)?)?)?)
    }

    /// What the dataset stores of the samples' first views, unscaled, `[B, C, H, W]`.
    fn latents(&self, positions: &[u32]) -> Result<Tensor> {
        let elements = self.dataset.elements();
        let mut latents = vec![0.0; positions.len() * elements];
        for (latent, &position) in latents.chunks_exact_mut(elements).zip(positions) {
            self.dataset.read(position as usize, 0, latent, None)?;
        }
        let [channels, height, width] = self.manifest().shape;
        Ok(Tensor::from_vec(
            latents,
            (positions.len(), channels, height, width),
            &Device::Cpu,
        )?)
    }

    /// The autoencoder that made the latents: the very same weights, where the dataset has their hash.
    ///
    /// # Errors
    /// If it cannot be loaded, or is another one now.
    pub fn autoencoder(&self) -> Result<AutoencoderKl> {
        Ok(AutoencoderKl::from_record(&self.manifest().vae, &Device::Cpu)?)
    }

    fn no_images(&self, why: &str, error: &Error) -> Error {
        Error::format(
            self.dir(),
            format!(
                "no images to compare with: the originals cannot be had ({why}), and the autoencoder that would decode \
                 the latents cannot be loaded ({error})\n\
                 hint: put the originals back to `{}`, or give the images themselves as a folder",
                self.manifest().source.path
            ),
        )
    }
}

/// How the pixels behind a dataset were made, in words.
pub fn transform(manifest: &Manifest) -> String {
    format!("{} {}", manifest.transform, manifest.image_size)
}

/// The source of the dataset, if it is there and has the same image at the place of every sample; else the reason.
fn originals(dataset: &Dataset) -> std::result::Result<Originals, String> {
    let manifest = dataset.manifest();
    if manifest.source.path.starts_with("hub:") {
        return Err("images of the hub are not fetched again".to_owned());
    }
    let originals = Request::again(manifest, None)
        .open(&mut |_| {})
        .map_err(|error| error.to_string())?
        .dataset;
    if originals.transform() != manifest.transform {
        return Err(format!("they were cropped otherwise: {}", manifest.transform));
    }
    for position in 0..dataset.len() {
        let sample = || -> shards::error::Result<_> {
            Ok((
                dataset.id(position)?,
                dataset.key(position)?,
                dataset.label(position)?,
            ))
        };
        let (id, key, label) = sample().map_err(|error| error.to_string())?;
        let same = |&place: &u64| originals.key(place) == key && originals.label(place) == label;
        if originals.position(id).filter(same).is_none() {
            return Err(format!("the source has changed: {key} is not where it was"));
        }
    }
    Ok(originals)
}

#[cfg(test)]
mod tests;
