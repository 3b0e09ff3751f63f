//! Writes latents that are NumPy arrays into a dataset: what `benches/loader_peers.py` compares with other loaders.
//!
//! `import_npy X.npy LABELS.npy LOGVAR.npy OUT STORE DTYPE COMPRESSION VIEWS`: means `[N, C, H, W]` in f16, labels
//! `[N]` in i64, log-variances in f16; `mean bf16 zstd 1` for example. With two views the second is the first, mirrored.
#![expect(clippy::print_stdout, reason = "a program for the terminal")]

use std::{collections::BTreeMap, path::Path};

use half::f16;
use shards::{
    manifest::{Compression, Dtype, Flip, ManifestHeader, Source, Store, StoreSettings, VaeRecord},
    writer::{DatasetWriter, Moments, Record},
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [means, labels, logvars, out, store, dtype, compression, views] = &arguments[..] else {
        return Err("usage: import_npy X.npy LABELS.npy LOGVAR.npy OUT STORE DTYPE COMPRESSION VIEWS".into());
    };
    let (shape, means) = read(means)?;
    let (_, labels) = read(labels)?;
    let (_, logvars) = read(logvars)?;
    let &[samples, c, h, w] = &shape[..] else {
        return Err(format!("the means have shape {shape:?}, expected [N, C, H, W]").into());
    };
    let word = |word: &str| -> Result<serde_json::Value> { Ok(serde_json::Value::String(word.to_owned())) };
    let store = StoreSettings {
        store: serde_json::from_value::<Store>(word(store)?)?,
        dtype: serde_json::from_value::<Dtype>(word(dtype)?)?,
        compression: serde_json::from_value::<Compression>(word(compression)?)?,
        flip: if views == "2" { Flip::Both } else { Flip::None },
        ..StoreSettings::default()
    };
    let header = ManifestHeader {
        name: "npy".to_owned(),
        source: Source {
            dataset: "npy".to_owned(),
            split: "train".to_owned(),
            ..Source::default()
        },
        image_size: 8 * h,
        transform: "none".to_owned(),
        decoder: "none".to_owned(),
        libraries: BTreeMap::new(),
        vae: VaeRecord {
            id: "synthetic".to_owned(),
            revision: None,
            sha256: None,
            scaling_factor: 0.18215,
            downsampling: 8,
            arithmetic: None,
        },
        store,
        shape: [c, h, w],
        num_classes: 1000,
        class_names: Vec::new(),
        seed: 0,
        part: None,
    };
    let mut writer = DatasetWriter::open(Path::new(out), header)?;
    let elements = c * h * w;
    let floats = |bytes: &[u8], i: usize| -> Vec<f32> {
        bytes[2 * elements * i..2 * elements * (i + 1)]
            .as_chunks::<2>()
            .0
            .iter()
            .map(|&bytes| f16::from_le_bytes(bytes).to_f32())
            .collect()
    };
    for i in 0..samples {
        let view = Moments {
            mean: floats(&means, i),
            logvar: Some(floats(&logvars, i)),
        };
        let mut mirrored = view.clone();
        for values in [Some(&mut mirrored.mean), mirrored.logvar.as_mut()]
            .into_iter()
            .flatten()
        {
            values.chunks_mut(w).for_each(<[f32]>::reverse);
        }
        let mut views = vec![view, mirrored];
        views.truncate(store.views());
        writer.push(&Record {
            id: i as u64,
            key: format!("{i:08}"),
            label: i64::from_le_bytes(labels.as_chunks::<8>().0[i]),
            views,
        })?;
    }
    let manifest = writer.finish()?;
    let bytes: u64 = manifest.shards.iter().map(|shard| shard.bytes).sum();
    println!("{} samples, {} bytes each", samples, bytes / samples as u64);
    Ok(())
}

/// Shape and values of a `.npy` file of version 1.
fn read(path: &str) -> Result<(Vec<usize>, Vec<u8>)> {
    let mut bytes = fs_err::read(path)?;
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = String::from_utf8_lossy(&bytes[10..end]).into_owned();
    let shape = header
        .split_once('(')
        .and_then(|(_, rest)| rest.split_once(')'))
        .map(|(shape, _)| shape.split(',').filter_map(|n| n.trim().parse().ok()).collect())
        .ok_or("no shape")?;
    Ok((shape, bytes.split_off(end)))
}
