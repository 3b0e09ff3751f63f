//! Datasets of Gaussian latents, for the tests of this folder and for those inside the crate.

use std::{collections::BTreeMap, path::Path};

use shards::{
    error::Result,
    manifest::{Compression, Dtype, Flip, Manifest, ManifestHeader, Source, Store, StoreSettings, VaeRecord},
    rng::{Philox, Stream},
    writer::{DatasetWriter, Moments, Record},
};

/// A header for latents of `shape`.
pub(crate) fn header(shape: [usize; 3], store: StoreSettings) -> ManifestHeader {
    ManifestHeader {
        name: "test".to_owned(),
        source: Source {
            dataset: "demo".to_owned(),
            split: "train".to_owned(),
            ..Source::default()
        },
        image_size: 8 * shape[1],
        transform: "adm-center-crop".to_owned(),
        decoder: "none".to_owned(),
        libraries: BTreeMap::new(),
        vae: VaeRecord {
            id: "test".to_owned(),
            revision: None,
            sha256: None,
            scaling_factor: 0.18215,
            downsampling: 8,
            arithmetic: None,
        },
        store,
        shape,
        num_classes: 10,
        class_names: Vec::new(),
        seed: 7,
        part: None,
    }
}

pub(crate) fn settings(store: Store, dtype: Dtype, flip: Flip, compression: Compression) -> StoreSettings {
    StoreSettings {
        store,
        dtype,
        flip,
        compression,
        frame_samples: 1,
        shard_samples: 4,
    }
}

/// A record of Gaussian latents, a function of its id.
pub(crate) fn record(header: &ManifestHeader, id: u64) -> Record {
    let elements = header.shape.iter().product();
    let views = (0..header.store.views() as u32)
        .map(|view| {
            let mut mean = vec![0.0; elements];
            Philox::new(99).fill_normal(Stream::Demo, id, view, &mut mean);
            let mut logvar = vec![0.0; elements];
            Philox::new(98).fill_normal(Stream::Demo, id, view, &mut logvar);
            for (mean, logvar) in mean.iter_mut().zip(&mut logvar) {
                *mean *= 5.0;
                *logvar = *logvar * 1.5 - 17.0;
            }
            Moments {
                mean,
                logvar: Some(logvar),
            }
        })
        .collect();
    Record {
        id,
        key: format!("class{}/image ü{id}.png", id % 3),
        label: (id % 3) as i64,
        views,
    }
}

pub(crate) fn write(dir: &Path, header: &ManifestHeader, ids: std::ops::Range<u64>) -> Result<Manifest> {
    let mut writer = DatasetWriter::open(dir, header.clone())?;
    for id in ids {
        writer.push(&record(header, id))?;
    }
    writer.finish()
}
