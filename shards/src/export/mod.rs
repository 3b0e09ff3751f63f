//! A dataset as plain f32 arrays, in key order: streamed, so that it may be larger than memory.

mod dit;

pub use dit::{FEATURES, LABELS, Latent};

use std::{
    io::{BufWriter, Write},
    path::Path,
};

use serde_json::json;

use crate::{
    dataset::Dataset,
    disk,
    error::{Error, Result},
};

/// Samples of a dataset, sorted by source key.
#[derive(Debug)]
pub struct Export<'a> {
    dataset: &'a Dataset,
    order: Vec<usize>,
}

/// Which array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The means, or the samples that are stored instead.
    Mean,
    /// The log-variances.
    Logvar,
}

impl<'a> Export<'a> {
    /// The first `limit` samples of `dataset`, in key order.
    ///
    /// # Errors
    /// [`Error::Settings`] when the limit is zero.
    pub fn new(dataset: &'a Dataset, limit: Option<usize>) -> Result<Self> {
        if limit == Some(0) {
            return Err(Error::Settings {
                what: "nothing to export: the limit is 0".to_owned(),
            });
        }
        let mut keys = (0..dataset.len())
            .map(|i| Ok((dataset.key(i)?, i)))
            .collect::<Result<Vec<_>>>()?;
        keys.sort_unstable();
        keys.truncate(limit.unwrap_or(usize::MAX));
        let order = keys.into_iter().map(|(_, i)| i).collect();
        Ok(Self { dataset, order })
    }

    /// Samples.
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Samples, views, channels, height, width.
    pub fn shape(&self) -> [usize; 5] {
        let [c, h, w] = self.dataset.manifest().shape;
        [self.order.len(), self.dataset.views(), c, h, w]
    }

    /// The arrays `[N, V, C, H, W]` that the dataset holds.
    pub fn parts(&self) -> &'static [Part] {
        if self.dataset.has_logvar() {
            &[Part::Mean, Part::Logvar]
        } else {
            &[Part::Mean]
        }
    }

    /// The labels, `[N]`.
    ///
    /// # Errors
    /// Those of [`Dataset::label`].
    pub fn labels(&self) -> Result<Vec<i64>> {
        self.order.iter().map(|&i| self.dataset.label(i)).collect()
    }

    /// The source keys as a JSON array of strings.
    ///
    /// # Errors
    /// Those of [`Dataset::key`].
    pub fn keys_json(&self) -> Result<String> {
        let keys = self
            .order
            .iter()
            .map(|&i| self.dataset.key(i))
            .collect::<Result<Vec<_>>>()?;
        Ok(json!(keys).to_string())
    }

    /// Hands the values of an array to `write`, one view `[C, H, W]` after the other.
    ///
    /// # Errors
    /// Those of [`Dataset::read`] and of `write`.
    pub fn stream<E: From<Error>>(
        &self,
        part: Part,
        mut write: impl FnMut(&[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let elements = self.dataset.elements();
        let (mut mean, mut logvar) = (vec![0.0; elements], vec![0.0; elements]);
        for &i in &self.order {
            for view in 0..self.dataset.views() {
                let logvar_too = (part == Part::Logvar).then_some(&mut logvar[..]);
                self.dataset.read(i, view, &mut mean, logvar_too)?;
                write(if part == Part::Mean { &mean } else { &logvar })?;
            }
        }
        Ok(())
    }

    /// Writes `mean`, `logvar` and `label` as safetensors, with the metadata `keys`: a JSON array of the source keys.
    ///
    /// # Errors
    /// Those of the file system and of [`Dataset::read`].
    pub fn write_safetensors(&self, path: &Path) -> Result<()> {
        let partial = disk::partial(path);
        let mut file = BufWriter::with_capacity(1 << 20, fs_err::File::create(&partial)?);
        self.write_to(&mut file)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        Ok(fs_err::rename(partial, path)?)
    }

    /// Labels come first: they are the widest, so that every tensor is aligned.
    fn write_to(&self, file: &mut impl Write) -> Result<()> {
        let shape = self.shape();
        let mut end = 8 * shape[0];
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".to_owned(), json!({ "keys": self.keys_json()? }));
        header.insert(
            "label".to_owned(),
            json!({ "dtype": "I64", "shape": [shape[0]], "data_offsets": [0, end] }),
        );
        for part in self.parts() {
            let start = end;
            end += 4 * shape.iter().product::<usize>();
            header.insert(
                part.name().to_owned(),
                json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }),
            );
        }
        let mut header = serde_json::Value::Object(header).to_string();
        while !header.len().is_multiple_of(8) {
            header.push(' ');
        }
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        for label in self.labels()? {
            file.write_all(&label.to_le_bytes())?;
        }
        for &part in self.parts() {
            self.stream(part, |values| {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                Ok::<_, Error>(file.write_all(&bytes)?)
            })?;
        }
        Ok(())
    }
}

impl Part {
    /// The array's name in an export.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Logvar => "logvar",
        }
    }
}
