//! The whole of a dataset as plain f32 arrays, in key order.

use std::path::Path;

use safetensors::{Dtype, tensor::TensorView};

use crate::{
    dataset::Dataset,
    error::{Error, Result},
};

/// A dataset in memory, sorted by source key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Export {
    /// Samples, views, channels, height, width.
    pub shape: [usize; 5],
    /// `[N, V, C, H, W]`.
    pub mean: Vec<f32>,
    /// `[N, V, C, H, W]`, where it is stored.
    pub logvar: Option<Vec<f32>>,
    /// `[N]`.
    pub label: Vec<i64>,
    /// `[N]`.
    pub keys: Vec<String>,
}

impl Export {
    /// Reads the first `limit` samples of `dataset`, in key order.
    ///
    /// # Errors
    /// Those of [`Dataset::read`].
    pub fn read(dataset: &Dataset, limit: Option<usize>) -> Result<Self> {
        let keys = (0..dataset.len())
            .map(|i| Ok((dataset.key(i)?, i)))
            .collect::<Result<Vec<_>>>()?;
        let mut keys = keys;
        keys.sort_unstable();
        keys.truncate(limit.unwrap_or(usize::MAX));
        let (views, elements, [c, h, w]) = (dataset.views(), dataset.elements(), dataset.manifest().shape);
        let total = keys.len() * views * elements;
        let mut export = Self {
            shape: [keys.len(), views, c, h, w],
            mean: vec![0.0; total],
            logvar: dataset.has_logvar().then(|| vec![0.0; total]),
            ..Self::default()
        };
        for (row, &(key, i)) in keys.iter().enumerate() {
            for view in 0..views {
                let place = (row * views + view) * elements..(row * views + view + 1) * elements;
                let logvar = export.logvar.as_mut().map(|logvar| &mut logvar[place.clone()]);
                dataset.read(i, view, &mut export.mean[place.clone()], logvar)?;
            }
            export.label.push(dataset.label(i)?);
            export.keys.push(key.to_owned());
        }
        Ok(export)
    }

    /// Writes `mean`, `logvar` and `label` as safetensors, with the metadata `keys`: a JSON array of the source keys.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_safetensors(&self, path: &Path) -> Result<()> {
        let failed = |what: String| Error::Settings {
            what: format!("cannot export to {}: {what}", path.display()),
        };
        let keys = serde_json::to_string(&self.keys).map_err(|error| failed(error.to_string()))?;
        let view = |dtype, shape: Vec<usize>, data| {
            TensorView::new(dtype, shape, data).map_err(|error| failed(error.to_string()))
        };
        let latents = self.shape.to_vec();
        let mut tensors = vec![
            (
                "mean",
                view(Dtype::F32, latents.clone(), bytemuck::cast_slice(&self.mean))?,
            ),
            (
                "label",
                view(
                    Dtype::I64,
                    vec![self.label.len()],
                    bytemuck::cast_slice(&self.label),
                )?,
            ),
        ];
        if let Some(logvar) = &self.logvar {
            tensors.push(("logvar", view(Dtype::F32, latents, bytemuck::cast_slice(logvar))?));
        }
        let metadata = std::collections::HashMap::from([("keys".to_owned(), keys)]);
        let bytes =
            safetensors::serialize(tensors, Some(metadata)).map_err(|error| failed(error.to_string()))?;
        Ok(fs_err::write(path, bytes)?)
    }
}
