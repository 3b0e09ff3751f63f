//! `shards inspect`: where a dataset or a shard comes from and what it holds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};
use shards::manifest::Manifest;
use shards::reader::ShardReader;

use crate::console::count::{bytes, parse_count, with_commas};
use crate::console::{JsonTarget, Printer, exit};

use super::picture;
use super::statistics::{self, Channel, Statistics};
use super::target::Target;

/// Shards that the table lists: more are in the JSON data.
const LISTED_SHARDS: usize = 12;
/// Classes that are listed, the most frequent first.
const LISTED_CLASSES: usize = 10;

/// Tells where a dataset or a shard comes from, what it holds and how its latents are distributed.
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// A dataset's folder, or one shard
    path: PathBuf,
    /// Write a picture of some latents: decoded, where the autoencoder is on this machine, else their channels
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
    /// Latents in the picture
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    count: u32,
    /// The autoencoder that decodes them: a hub id, a folder, a file, `tiny` or `none` [default: the dataset's]
    #[arg(long)]
    vae: Option<String>,
    /// Samples that are measured, spread evenly
    #[arg(long, default_value = "1000", value_parser = parse_count)]
    samples: u64,
    /// Write the data as JSON to stdout, or into FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
}

/// Runs the command.
pub(super) fn run(args: &InspectArgs, printer: &mut Printer) -> Result<u8> {
    let json: &JsonTarget = &args.json;
    printer.set_json(json);
    let target = Target::open(&args.path)?;
    let statistics = statistics::measure(&target, args.samples as usize)?;
    let sizes = Sizes::of(&target);
    let labels = Labels::of(&target);

    let kind = if target.is_dataset() { "dataset" } else { "shard" };
    printer.say(format_args!("{kind:<9} {}", args.path.display()));
    if let Some(manifest) = target.manifest() {
        say_provenance(manifest, printer);
    }
    say_contents(&target, &sizes, printer);
    say_shards(&target, printer);
    labels.say(printer);
    say_statistics(&statistics, printer);

    let mut value = json!({
        "path": args.path,
        "kind": kind,
        "samples": target.len(),
        "views": target.header().views,
        "shape": target.header().shape,
        "store": target.header().store,
        "dtype": target.header().dtype,
        "frame_samples": target.header().frame_rows,
        "fingerprint": target.header().fingerprint,
        "format_version": target.header().format_version,
        "bytes": sizes.file,
        "bytes_per_sample": sizes.per_sample,
        "compression_ratio": sizes.compression_ratio,
        "ratio_to_f32": sizes.ratio_to_f32,
        "shards": shards_json(&target),
        "labels": labels.json(),
        "statistics": statistics.json(),
        "manifest": target.manifest().map(manifest_json),
    });
    if let Some(png) = &args.png {
        let count = args.count as usize;
        let decoded = picture::draw(png, &target, count, args.vae.as_deref(), &statistics, printer)?;
        let what = if decoded {
            "decoded images"
        } else {
            "latent channels"
        };
        printer.say(format_args!("wrote {} ({what})", png.display()));
        value["png"] = json!({ "path": png, "decoded": decoded });
    }
    printer.json(json, &value)?;
    Ok(exit::DONE)
}

/// The manifest without its list of shards, which stands beside it.
fn manifest_json(manifest: &Manifest) -> Value {
    let mut value = json!(manifest);
    if let Some(object) = value.as_object_mut() {
        object.remove("shards");
    }
    value
}

struct Sizes {
    file: u64,
    per_sample: f64,
    compression_ratio: f64,
    ratio_to_f32: f64,
}

impl Sizes {
    fn of(target: &Target) -> Self {
        let header = target.header();
        let layout = header.row_layout();
        let file = target.file_bytes();
        let content: u64 = target.shards().iter().map(ShardReader::content_bytes).sum();
        let values = layout.elements() * if layout.logvar { 2 } else { 1 };
        let per_sample = file as f64 / target.len() as f64;
        Self {
            file,
            per_sample,
            compression_ratio: content as f64 / file as f64,
            ratio_to_f32: (4 * values * header.views as usize) as f64 / per_sample,
        }
    }
}

/// Samples of each class.
struct Labels {
    counts: BTreeMap<i64, u64>,
    names: Vec<String>,
    classes: Option<usize>,
}

impl Labels {
    fn of(target: &Target) -> Self {
        let mut counts = BTreeMap::new();
        for label in target.shards().iter().flat_map(ShardReader::labels) {
            *counts.entry(*label).or_insert(0) += 1;
        }
        let manifest = target.manifest();
        Self {
            counts,
            names: manifest.map_or_else(Vec::new, |manifest| manifest.class_names.clone()),
            classes: manifest.map(|manifest| manifest.num_classes),
        }
    }

    fn range(&self) -> (u64, u64) {
        let least = self.counts.values().min().copied().unwrap_or(0);
        (least, self.counts.values().max().copied().unwrap_or(0))
    }

    fn name(&self, label: i64) -> Option<&str> {
        let name = usize::try_from(label)
            .ok()
            .and_then(|place| self.names.get(place))?;
        Some(name)
    }

    fn say(&self, printer: &mut Printer) {
        let (least, most) = self.range();
        let of = self
            .classes
            .map(|classes| format!(" of {classes}"))
            .unwrap_or_default();
        printer.say(format_args!(
            "labels    {}{of} classes, {} to {} samples each",
            self.counts.len(),
            with_commas(least),
            with_commas(most)
        ));
        let mut frequent: Vec<(i64, u64)> = self
            .counts
            .iter()
            .map(|(label, count)| (*label, *count))
            .collect();
        frequent.sort_by_key(|(label, count)| (u64::MAX - count, *label));
        for (label, count) in frequent.iter().take(LISTED_CLASSES) {
            let bar = "#".repeat((20 * count).div_ceil(most.max(1)) as usize);
            let name = self.name(*label).unwrap_or_default();
            printer.say(format_args!(
                "  {label:>6} {:>9}  {bar:<20}  {name}",
                with_commas(*count)
            ));
        }
        if LISTED_CLASSES < frequent.len() {
            printer.say(format_args!(
                "  and {} more classes",
                frequent.len() - LISTED_CLASSES
            ));
        }
    }

    fn json(&self) -> Value {
        let (least, most) = self.range();
        let counts: Vec<Value> = self
            .counts
            .iter()
            .map(|(label, count)| json!({ "label": label, "name": self.name(*label), "samples": count }))
            .collect();
        json!({ "classes": self.counts.len(), "least": least, "most": most, "counts": counts })
    }
}

fn say_provenance(manifest: &Manifest, printer: &mut Printer) {
    let source = &manifest.source;
    let limit = source
        .limit
        .map(|limit| format!(", the first {}", with_commas(limit)))
        .unwrap_or_default();
    let mut path = if source.path.is_empty() {
        String::new()
    } else {
        format!(" from {}", source.path)
    };
    if let Some(container) = &source.container {
        path.push_str(&format!(" ({container})"));
    }
    printer.say(format_args!("name      {}", manifest.name));
    printer.say(format_args!(
        "source    {}, split {}{limit}{path}",
        source.dataset, source.split
    ));
    if let Some(listing) = &source.listing {
        printer.say(format_args!(
            "listing   sha256 {} of all ids, labels and keys",
            short(Some(listing))
        ));
    }
    if let Some(part) = manifest.part {
        printer.say(format_args!(
            "part      {part}: `shards merge` joins it with the others"
        ));
    }
    printer.say(format_args!(
        "images    {} px, transform {}, decoder {}",
        manifest.image_size, manifest.transform, manifest.decoder
    ));
    if !manifest.libraries.is_empty() {
        let libraries: Vec<String> = manifest
            .libraries
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        printer.say(format_args!("decoded   by {}", libraries.join(", ")));
    }
    let vae = &manifest.vae;
    let arithmetic = vae
        .arithmetic
        .as_ref()
        .map_or_else(String::new, |arithmetic| format!(", run on {arithmetic}"));
    printer.say(format_args!(
        "vae       {}, revision {}, sha256 {}, 1/{} of the side, scaling factor {}{arithmetic}",
        vae.id,
        short(vae.revision.as_deref()),
        short(vae.sha256.as_deref()),
        vae.downsampling,
        vae.scaling_factor
    ));
    let store = &manifest.store;
    printer.say(format_args!(
        "store     {}, {}, flip {}, compression {}, {} rows a frame, {} samples a shard",
        word(&json!(store.store)),
        word(&json!(store.dtype)),
        word(&json!(store.flip)),
        word(&json!(store.compression)),
        store.frame_samples,
        with_commas(store.shard_samples as u64)
    ));
    printer.say(format_args!(
        "error     {:.3e} rms of the stored values (quantization)",
        manifest.quantization_error
    ));
    printer.say(format_args!(
        "made by   version {}, format {}, seed {}, fingerprint {}",
        manifest.tool_version,
        manifest.format_version,
        manifest.seed,
        short(Some(&manifest.fingerprint))
    ));
}

fn say_contents(target: &Target, sizes: &Sizes, printer: &mut Printer) {
    let header = target.header();
    printer.say(format_args!(
        "samples   {} with {} views of {:?}, {}, {}",
        with_commas(target.len() as u64),
        header.views,
        header.shape,
        word(&json!(header.store)),
        word(&json!(header.dtype))
    ));
    printer.say(format_args!(
        "size      {} in {} shards, {} a sample, {:.2} times smaller by compression, {:.2} times smaller than f32",
        bytes(sizes.file),
        target.shards().len(),
        bytes(sizes.per_sample.round() as u64),
        sizes.compression_ratio,
        sizes.ratio_to_f32
    ));
}

fn say_shards(target: &Target, printer: &mut Printer) {
    let all = target.shards();
    let name = |shard: &ShardReader| {
        let name = shard.path().file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    for (number, shard) in all.iter().enumerate() {
        if LISTED_SHARDS < all.len() && (LISTED_SHARDS - 2..all.len() - 1).contains(&number) {
            if number == LISTED_SHARDS - 2 {
                printer.say(format_args!(
                    "  and {} more shards",
                    all.len() - LISTED_SHARDS + 1
                ));
            }
            continue;
        }
        printer.say(format_args!(
            "  {} {:>9} samples {:>10} {:>10} a sample",
            name(shard),
            with_commas(shard.len() as u64),
            bytes(shard.file_bytes()),
            bytes(shard.file_bytes() / shard.len().max(1) as u64)
        ));
    }
}

fn shards_json(target: &Target) -> Vec<Value> {
    let entries = target.manifest().map_or(&[][..], |manifest| &manifest.shards);
    target
        .shards()
        .iter()
        .map(|shard| {
            let file = shard.path().file_name().unwrap_or_default().to_string_lossy();
            let entry = entries.iter().find(|entry| entry.file == file);
            json!({
                "file": file,
                "samples": shard.len(),
                "bytes": shard.file_bytes(),
                "bytes_per_sample": shard.file_bytes() as f64 / shard.len().max(1) as f64,
                "sha256": entry.map(|entry| &entry.sha256),
            })
        })
        .collect()
}

fn say_statistics(statistics: &Statistics, printer: &mut Printer) {
    printer.say(format_args!(
        "channel          mean        std        min        max   (unscaled, {} samples)",
        with_commas(statistics.samples as u64)
    ));
    let rows = |what: &str, channels: &[Channel], printer: &mut Printer| {
        for (number, c) in channels.iter().enumerate() {
            printer.say(format_args!(
                "  {what} {number:<3} {:>10.4} {:>10.4} {:>10.4} {:>10.4}",
                c.mean, c.std, c.min, c.max
            ));
        }
    };
    rows("mean  ", &statistics.mean, printer);
    rows("logvar", &statistics.logvar, printer);
}

/// The first characters of a hash.
fn short(hash: Option<&str>) -> String {
    hash.map_or("-".to_string(), |hash| hash.chars().take(12).collect())
}

/// A setting as it is written on the command line.
fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}
