//! The images behind a dataset of latents: the originals where they can be had, else what the autoencoder makes of the
//! latents.
//!
//! Samples come in a fixed shuffled order, so that the first ones stand for all classes whatever the order of the
//! shards is.

use std::path::Path;

use candle_core::{Device, Tensor};
use preprocess::dataset::demo::Demo;
use preprocess::dataset::folder::Folder;
use preprocess::dataset::{Dataset as Originals, ImageError};
use preprocess::image::{RgbImage, tensor};
use preprocess::vae::AutoencoderKl;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use shards::dataset::Dataset;
use shards::manifest::{Dtype, Manifest};
use shards::shuffle::epoch_order;

use crate::error::{Error, Result};
use crate::inception::weights::hex;

/// How `preprocess encode` names the crop that [`Originals::load`] makes.
const FOLDER_TRANSFORM: &str = "adm-center-crop";
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

    fn manifest(&self) -> &Manifest {
        self.dataset.manifest()
    }

    /// How the images were made, in words.
    pub fn transform(&self) -> String {
        let manifest = self.manifest();
        let made = format!("{} {}", manifest.transform, manifest.image_size);
        match &self.pixels {
            Pixels::Original(_) => made,
            Pixels::Decoded(_) => format!("{made}, decoded from latents of {}", manifest.vae.id),
        }
    }

    /// What distinguishes the images from the originals, as the end of a sentence.
    pub fn warning(&self) -> Option<String> {
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

    /// Streams the first `limit` images through `visit`, `batch` at a time.
    ///
    /// # Errors
    /// If an image or a latent cannot be read, the autoencoder cannot be loaded, or `visit` fails.
    pub fn visit(
        &self,
        batch: usize,
        limit: usize,
        mut visit: impl FnMut(Vec<RgbImage>) -> Result<()>,
    ) -> Result<()> {
        let autoencoder = match &self.pixels {
            Pixels::Original(_) => None,
            Pixels::Decoded(why) => Some(self.autoencoder(why)?),
        };
        for positions in self.order[..limit.min(self.order.len())].chunks(batch.max(1)) {
            visit(match (&self.pixels, &autoencoder) {
                (Pixels::Original(originals), _) => self.load(originals, positions)?,
                (Pixels::Decoded(_), Some(autoencoder)) => self.decode(autoencoder, positions)?,
                (Pixels::Decoded(_), None) => Vec::new(),
            })?;
        }
        Ok(())
    }

    fn load(&self, originals: &Originals, positions: &[u32]) -> Result<Vec<RgbImage>> {
        let load = |&position: &u32| {
            let position = position as usize;
            let key = self.dataset.key(position)?;
            let failed = |error: ImageError| {
                let path = Path::new(&self.manifest().source.path).join(key);
                Error::format(&path, error.to_string())
            };
            originals
                .load(self.dataset.id(position)?, self.image_size())
                .map_err(failed)
        };
        positions.par_iter().map(load).collect()
    }

    fn decode(&self, autoencoder: &AutoencoderKl, positions: &[u32]) -> Result<Vec<RgbImage>> {
        let elements = self.dataset.elements();
        let mut latents = vec![0.0; positions.len() * elements];
        for (latent, &position) in latents.chunks_exact_mut(elements).zip(positions) {
            self.dataset.read(position as usize, 0, latent, None)?;
        }
        let [channels, height, width] = self.manifest().shape;
        let latents = Tensor::from_vec(latents, (positions.len(), channels, height, width), &Device::Cpu)?;
        Ok(tensor::to_rgb(&autoencoder.decode(&latents)?)?)
    }

    /// The autoencoder that made the latents; the very same weights, where the dataset has their hash.
    fn autoencoder(&self, why: &str) -> Result<AutoencoderKl> {
        AutoencoderKl::from_record(&self.manifest().vae, &Device::Cpu).map_err(|error| {
            Error::format(
                self.dir(),
                format!(
                    "no images to compare with: the originals cannot be had ({why}), and the autoencoder `{}` that would \
                     decode the latents cannot be loaded ({error})\n\
                     hint: put the originals back to `{}`, or give the images themselves as a folder",
                    self.manifest().vae.id,
                    self.manifest().source.path
                ),
            )
        })
    }
}

/// The source of the dataset, if it is there and has the same image at the place of every sample; else the reason.
fn originals(dataset: &Dataset) -> std::result::Result<Originals, String> {
    let manifest = dataset.manifest();
    let originals = match manifest.source.dataset.as_str() {
        "demo" => Originals::Demo(Demo {
            seed: manifest.seed,
            count: u64::MAX,
        }),
        "folder" if manifest.transform == FOLDER_TRANSFORM => {
            let folder = Folder::open(Path::new(&manifest.source.path));
            Originals::Folder(folder.map_err(|error| error.to_string())?)
        }
        other => return Err(format!("images of `{other}` are not read again")),
    };
    for position in 0..dataset.len() {
        let sample = || -> shards::error::Result<_> {
            Ok((
                dataset.id(position)?,
                dataset.key(position)?,
                dataset.label(position)?,
            ))
        };
        let (id, key, label) = sample().map_err(|error| error.to_string())?;
        if id >= originals.len() || originals.key(id) != key || originals.label(id) != label {
            return Err(format!("the source has changed: {key} is not where it was"));
        }
    }
    Ok(originals)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use preprocess::console::{Printer, grid};
    use preprocess::dataset::demo;
    use shards::manifest::{Flip, ManifestHeader, Source, Store, StoreSettings, VaeRecord};
    use shards::writer::{DatasetWriter, Moments, Record};

    use super::*;

    fn encode(args: &[&str], out: &Path) {
        let (mut printer, _, err) = Printer::captured();
        let out = out.display().to_string();
        let common = [
            "preprocess",
            "encode",
            "--size",
            "16",
            "--shard-samples",
            "8",
            "--out",
            &out,
        ];
        let args = common.iter().chain(args).map(OsString::from);
        assert_eq!(preprocess::cli::run(args, &mut printer), 0, "{}", err.text());
    }

    fn all(images: &DatasetImages) -> Vec<RgbImage> {
        let mut seen = Vec::new();
        images
            .visit(3, usize::MAX, |batch| {
                seen.extend(batch);
                Ok(())
            })
            .unwrap();
        seen
    }

    /// The pictures in the order of the dataset.
    fn unshuffled(images: &DatasetImages) -> Vec<RgbImage> {
        let mut pairs: Vec<_> = images.order.iter().copied().zip(all(images)).collect();
        pairs.sort_by_key(|pair| pair.0);
        pairs.into_iter().map(|pair| pair.1).collect()
    }

    #[test]
    fn demo_images_are_drawn_again() {
        let dir = tempfile::tempdir().unwrap();
        let args = [
            "--dataset",
            "demo",
            "--vae",
            "none",
            "--limit",
            "20",
            "--seed",
            "4",
        ];
        encode(&args, dir.path());
        let images = DatasetImages::open(dir.path()).unwrap();
        assert_eq!((images.count(), images.image_size()), (20, 16));
        assert_eq!(
            (images.transform(), images.warning()),
            ("drawn 16".to_owned(), None)
        );
        let drawn: Vec<_> = (0..20).map(|id| demo::draw(4, id, 16).0).collect();
        assert_eq!(unshuffled(&images), drawn);
        // Shuffled: not the first class first.
        assert_ne!(all(&images), drawn);
    }

    #[test]
    fn a_folder_is_read_again_and_its_latents_are_decoded_when_it_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (photos, out) = (dir.path().join("photos"), dir.path().join("out"));
        for (class, id) in [("a", 0), ("a", 1), ("b", 2), ("b", 3)] {
            fs_err::create_dir_all(photos.join(class)).unwrap();
            let image = demo::draw(0, id, 16).0;
            grid::write_png(&image, &photos.join(format!("{class}/{id}.png"))).unwrap();
        }
        let source = photos.display().to_string();
        let args = [
            "--dataset",
            "folder",
            "--source",
            &source,
            "--vae",
            "none",
            "--dtype",
            "bf16",
        ];
        encode(&args, &out);
        let images = DatasetImages::open(&out).unwrap();
        let drawn: Vec<_> = (0..4).map(|id| demo::draw(0, id, 16).0).collect();
        assert_eq!(unshuffled(&images), drawn);
        assert_eq!(images.warning(), None);
        let before = images.content_hash();

        fs_err::remove_file(photos.join("a/1.png")).unwrap();
        let images = DatasetImages::open(&out).unwrap();
        assert!(images.warning().unwrap().contains("rounded"));
        assert_ne!(images.content_hash(), before);
        for (decoded, drawn) in unshuffled(&images).iter().zip(&drawn) {
            let mut bytes = decoded.data.iter().zip(&drawn.data);
            assert!(bytes.all(|(a, b)| a.abs_diff(*b) <= 1));
        }
    }

    /// A dataset whose source is not read again, of two latents that the autoencoder `vae` is said to have made.
    fn foreign(dir: &Path, vae: &str) -> DatasetImages {
        let header = ManifestHeader {
            name: "test".to_owned(),
            source: Source {
                dataset: "elsewhere".to_owned(),
                ..Source::default()
            },
            image_size: 4,
            transform: FOLDER_TRANSFORM.to_owned(),
            decoder: "none".to_owned(),
            vae: VaeRecord {
                id: vae.to_owned(),
                revision: None,
                sha256: None,
                scaling_factor: 0.5,
                downsampling: 1,
            },
            store: StoreSettings {
                store: Store::Mean,
                dtype: Dtype::F32,
                flip: Flip::None,
                ..StoreSettings::default()
            },
            shape: [3, 4, 4],
            num_classes: 1,
            class_names: Vec::new(),
            seed: 0,
        };
        let mut writer = DatasetWriter::open(dir, header).unwrap();
        for id in 0..2 {
            let moments = Moments {
                mean: vec![0.25 * id as f32; 48],
                logvar: None,
            };
            let record = Record {
                id,
                key: id.to_string(),
                label: 0,
                views: vec![moments],
            };
            writer.push(&record).unwrap();
        }
        writer.finish().unwrap();
        DatasetImages::open(dir).unwrap()
    }

    #[test]
    fn latents_are_decoded_unscaled() {
        let dir = tempfile::tempdir().unwrap();
        let images = foreign(dir.path(), IDENTITY);
        assert_eq!(images.warning(), None);
        let bytes: Vec<u8> = unshuffled(&images).iter().map(|image| image.data[0]).collect();
        assert_eq!(bytes, [128, 159]);
    }

    #[test]
    fn an_autoencoder_that_cannot_be_loaded_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let images = foreign(dir.path(), "/missing/vae.safetensors");
        assert!(images.warning().unwrap().contains("reconstructions"));
        let message = images.visit(1, 1, |_| Ok(())).unwrap_err().to_string();
        for part in ["elsewhere", "/missing/vae.safetensors", "hint"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
