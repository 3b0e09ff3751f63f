//! Datasets of made-up latents of any shape: no images, no autoencoder.

use std::collections::BTreeMap;
use std::path::Path;

use shards::manifest::{ManifestHeader, Source, StoreSettings, VaeRecord};
use shards::rng::{Philox, Stream};
use shards::writer::{DatasetWriter, Moments, Record};

/// Writes `count` samples of `shape` `[C, H, W]` into `dir`, labels going round the `classes`.
pub(crate) fn write(dir: &Path, shape: [usize; 3], classes: usize, count: u64) {
    let store = StoreSettings {
        flip: shards::manifest::Flip::None,
        ..StoreSettings::default()
    };
    let header = ManifestHeader {
        name: "made-up".to_owned(),
        source: Source {
            dataset: "made-up".to_owned(),
            split: "train".to_owned(),
            ..Source::default()
        },
        image_size: shape[1],
        transform: "none".to_owned(),
        decoder: "none".to_owned(),
        libraries: BTreeMap::new(),
        vae: VaeRecord {
            id: "none".to_owned(),
            revision: None,
            sha256: None,
            scaling_factor: 1.0,
            downsampling: 1,
            arithmetic: None,
        },
        store,
        shape,
        num_classes: classes,
        class_names: Vec::new(),
        seed: 0,
        part: None,
    };
    let mut writer = DatasetWriter::open(dir, header).unwrap();
    for id in 0..count {
        let mut mean = vec![0.0; shape.iter().product()];
        Philox::new(5).fill_normal(Stream::Demo, id, 0, &mut mean);
        let logvar = Some(vec![-8.0; mean.len()]);
        writer
            .push(&Record {
                id,
                key: format!("{id:06}"),
                label: (id % classes.max(1) as u64) as i64,
                views: vec![Moments { mean, logvar }],
            })
            .unwrap();
    }
    writer.finish().unwrap();
}
