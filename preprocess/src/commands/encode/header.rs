//! What the manifest says of a dataset before its first sample.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use shards::manifest::{Compression, Dtype, Flip, ManifestHeader, Source, Store, StoreSettings};

use super::EncodeArgs;
use crate::commands::autoencoder;
use crate::dataset::{Dataset, open::Opened};
use crate::vae::AutoencoderKl;

/// How images are decoded: the bytes are those of Pillow, whatever the versions of the libraries.
const DECODER: &str = "libjpeg-turbo islow fancy";

/// The libraries that decode, as they were linked: the build script reads their versions from `Cargo.lock`. Common JPEG
/// files are decoded by this crate itself.
const LIBRARIES: [(&str, &str); 4] = [
    ("preprocess", env!("CARGO_PKG_VERSION")),
    ("mozjpeg-sys", env!("VERSION_OF_MOZJPEG_SYS")),
    ("libwebp-sys", env!("VERSION_OF_LIBWEBP_SYS")),
    ("png", env!("VERSION_OF_PNG")),
];

pub(super) fn header(args: &EncodeArgs, opened: &Opened, vae: &AutoencoderKl) -> Result<ManifestHeader> {
    let (size, source) = (args.size as usize, &opened.dataset);
    let class_names = source.class_names();
    let (decoder, libraries) = match source {
        Dataset::Demo(_) => ("none", BTreeMap::new()),
        Dataset::Images(_) => (
            DECODER,
            LIBRARIES
                .map(|(name, version)| (name.to_owned(), version.to_owned()))
                .into(),
        ),
    };
    Ok(ManifestHeader {
        name: format!("{}-{size}", args.dataset),
        source: Source {
            dataset: args.dataset.clone(),
            split: args.split.clone(),
            path: opened.place.clone(),
            container: Some(source.container().to_owned()),
            limit: args.limit,
            listing: source.listing_hash(),
        },
        image_size: size,
        transform: source.transform().into(),
        decoder: decoder.into(),
        libraries,
        vae: vae.record().clone(),
        store: settings(args, vae)?,
        shape: autoencoder::shape(vae, size),
        num_classes: class_names.len(),
        class_names,
        seed: args.seed,
        part: None,
    })
}

fn settings(args: &EncodeArgs, vae: &AutoencoderKl) -> Result<StoreSettings> {
    let store = match args.store.as_deref() {
        Some("moments") if !autoencoder::has_variance(vae) => {
            bail!("pixels have no variance to store\nhint: --store mean")
        }
        Some("sample") => Store::Sample,
        Some("moments") => Store::Moments,
        None if autoencoder::has_variance(vae) => Store::Moments,
        _ => Store::Mean,
    };
    let dtype = match args.dtype.as_str() {
        "f32" => Dtype::F32,
        "f16" => Dtype::F16,
        "int8" => Dtype::Int8,
        _ => Dtype::Bf16,
    };
    Ok(StoreSettings {
        store,
        dtype,
        flip: if args.flip == "both" {
            Flip::Both
        } else {
            Flip::None
        },
        compression: if args.compression == "zstd" {
            Compression::Zstd
        } else {
            Compression::None
        },
        frame_samples: args.frame_samples,
        shard_samples: args.shard_samples as usize,
    })
}
