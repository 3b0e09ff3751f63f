//! From what the user typed to a data set: `--dataset`, `--source`, `--split`, and the places that are looked at when
//! no source is given.

use std::path::{Path, PathBuf};

use shards::manifest::ManifestHeader;

use super::{Collection, Dataset, Error, demo::Demo, folder, hub, imagenet, lsun, webdataset};

/// Data sets by name.
pub const NAMES: [&str; 7] = [
    "imagenet",
    "lsun-church",
    "lsun-bedroom",
    "folder",
    "parquet",
    "webdataset",
    "demo",
];
/// What `--source` is called when the hub is meant.
pub const HUB: &str = "hub";
/// Where ImageNet lies, if the user has told once and for all.
pub const IMAGENET_DIR: &str = "IMAGENET_DIR";
/// Where LSUN lies.
pub const LSUN_DIR: &str = "LSUN_DIR";
/// Images of the demo data set when no limit is given.
const DEMO_IMAGES: u64 = 4000;

/// What to open.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// One of [`NAMES`].
    pub dataset: String,
    /// A file, a folder, [`HUB`], or nothing: then the data set's own places.
    pub source: Option<PathBuf>,
    /// `train`, `validation`, ...
    pub split: String,
    /// So many images are enough.
    pub limit: Option<u64>,
    /// Seed of the demo images.
    pub seed: u64,
}

/// A data set and the place that it was found at.
#[derive(Debug)]
pub struct Opened {
    /// The data set.
    pub dataset: Dataset,
    /// Where it lies: a path, `hub:owner/name@commit`, or nothing for what is drawn.
    pub place: String,
}

impl Request {
    /// What gives the images of a dataset of shards again: from where they were taken, or from `source`.
    pub fn again(manifest: &ManifestHeader, source: Option<&Path>) -> Self {
        let recorded = Path::new(&manifest.source.path);
        let place = if manifest.source.path.starts_with("hub:") {
            Path::new(HUB)
        } else {
            recorded
        };
        let is_drawn = manifest.source.dataset == "demo";
        Self {
            dataset: manifest.source.dataset.clone(),
            source: (!is_drawn).then(|| source.unwrap_or(place).to_owned()),
            split: manifest.source.split.clone(),
            limit: if is_drawn {
                Some(u64::MAX)
            } else {
                manifest.source.limit
            },
            seed: manifest.seed,
        }
    }

    /// Opens the data set; `note` is told of waits (downloads).
    ///
    /// # Errors
    /// When nothing is there, or what is there is none of the containers that are known, or damaged.
    pub fn open(&self, note: &mut dyn FnMut(String)) -> Result<Opened, Error> {
        if self.dataset == "demo" {
            if self.source.is_some() {
                let text = "the demo data set is drawn by the program\nhint: leave --source out";
                return Err(Error::NoSource(text.to_owned()));
            }
            let (seed, count) = (self.seed, self.limit.unwrap_or(DEMO_IMAGES));
            let dataset = Dataset::Demo(Demo { seed, count });
            return Ok(Opened {
                dataset,
                place: String::new(),
            });
        }
        if !NAMES.contains(&self.dataset.as_str()) {
            let text = format!(
                "`{}` is no data set that is known\nhint: --dataset {}",
                self.dataset,
                NAMES.join(", ")
            );
            return Err(Error::NoSource(text));
        }
        let hub = Path::new(HUB);
        let source = self
            .source
            .clone()
            .or_else(|| self.environment())
            .unwrap_or_else(|| hub.to_owned());
        let (found, place) = if source != hub {
            (self.open_at(&source)?, source.display().to_string())
        } else if self.dataset != "imagenet" {
            return Err(Error::NoSource(self.where_is_it()));
        } else {
            self.open_hub(note).map_err(|error| match error {
                Error::Hub(reason) if self.source.is_none() => Error::NoSource(format!(
                    "where is ImageNet? ${IMAGENET_DIR} is not set, and the hub gave nothing: {reason}\n\
                     hint: --source DIR or FILE: class folders, ILSVRC2012_img_train.tar, parquet or WebDataset files"
                )),
                other => other,
            })?
        };
        Ok(Opened {
            dataset: Dataset::Images(found),
            place,
        })
    }

    #[cfg(feature = "parquet")]
    fn open_hub(&self, note: &mut dyn FnMut(String)) -> Result<(Collection, String), Error> {
        let fetched = hub::fetch(
            &hub::IMAGENET,
            &self.split,
            self.limit,
            super::parquet::rows,
            note,
        )?;
        Ok((imagenet::parquet(fetched.files)?, fetched.place))
    }

    #[cfg(not(feature = "parquet"))]
    fn open_hub(&self, _note: &mut dyn FnMut(String)) -> Result<(Collection, String), Error> {
        Err(no_parquet(Path::new(HUB)))
    }

    fn open_at(&self, source: &Path) -> Result<Collection, Error> {
        match self.dataset.as_str() {
            "imagenet" => imagenet::open(source, &self.split),
            "lsun-church" => lsun::open(source, "church_outdoor", &self.split),
            "lsun-bedroom" => lsun::open(source, "bedroom", &self.split),
            "webdataset" => webdataset::open(&webdataset::archives(source, &self.split)?),
            #[cfg(feature = "parquet")]
            "parquet" => super::parquet::open(super::files_of_split(source, "parquet", &self.split)?),
            #[cfg(not(feature = "parquet"))]
            "parquet" => Err(no_parquet(source)),
            _ => folder::open(source),
        }
    }

    /// The folder that the environment names for the data set.
    fn environment(&self) -> Option<PathBuf> {
        let variable = match self.dataset.as_str() {
            "imagenet" => IMAGENET_DIR,
            "lsun-church" | "lsun-bedroom" => LSUN_DIR,
            _ => return None,
        };
        std::env::var_os(variable)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    }

    /// What to say when no source was given, or the hub for a data set that it does not have.
    fn where_is_it(&self) -> String {
        let (name, split) = (&self.dataset, &self.split);
        let category = match name.as_str() {
            "lsun-church" => "church_outdoor",
            "lsun-bedroom" => "bedroom",
            _ => return format!("where are the images?\nhint: --dataset {name} --source DIR"),
        };
        format!(
            "where is LSUN? ${LSUN_DIR} is not set\n\
             hint: --source DIR or FILE: {category}_{split}_lmdb, or the .zip as it is downloaded\n\
             hint: it is at http://dl.yf.io/lsun/scenes/{category}_{split}_lmdb.zip, and nothing needs to be unpacked"
        )
    }
}

#[cfg(not(feature = "parquet"))]
pub(super) fn no_parquet(path: &Path) -> Error {
    Error::Unknown {
        path: path.to_owned(),
        what: "this program was built without its feature `parquet`".to_owned(),
        hint: "cargo build --release --features parquet".to_owned(),
    }
}
