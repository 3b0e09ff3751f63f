//! `shards bench`: how fast training batches can be loaded.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use shards::dataset::Dataset;
use shards::loader::{Cache, Loader, LoaderConfig};
use shards::reader::ShardReader;
use shards::shuffle;

use crate::console::count::{bytes, with_commas};
use crate::console::{JsonTarget, Printer, Progress, exit};

/// Loads whole epochs as a training run does, posterior noise included, and measures the time.
#[derive(Debug, clap::Args)]
pub(super) struct BenchArgs {
    /// A dataset's folder
    dataset: PathBuf,
    /// Samples of a batch
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: u32,
    /// Passes over the dataset; the first may wait for the disk
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Keep the decoded dataset in memory
    #[arg(long, value_parser = ["ram"])]
    cache: Option<String>,
    /// Load the means alone, without posterior noise
    #[arg(long)]
    mean: bool,
    /// Processes that share each batch
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    ranks: u32,
    /// Which of them this is, from 0
    #[arg(long, default_value_t = 0)]
    rank: u32,
    /// Write the data as JSON to stdout, or into FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
}

/// Runs the command.
pub(super) fn run(args: &BenchArgs, printer: &mut Printer) -> Result<u8> {
    let json: &JsonTarget = &args.json;
    printer.set_json(json);
    let dataset = Arc::new(Dataset::open(&args.dataset)?);
    let batch = (args.batch as usize).min(dataset.len());
    if batch < args.batch as usize {
        printer.note(format_args!(
            "the dataset has {batch} samples: that is the batch, instead of {}",
            args.batch
        ));
    }
    let workers = args.workers as usize;
    let config = LoaderConfig {
        batch_size: batch,
        workers,
        prefetch: 2 * workers,
        sample_posterior: !args.mean,
        rank: args.rank as usize,
        ranks: args.ranks as usize,
        cache: if args.cache.is_some() {
            Cache::Ram
        } else {
            Cache::None
        },
        ..LoaderConfig::default()
    };
    let opened = Instant::now();
    let mut loader = Loader::new(Arc::clone(&dataset), config)?;
    let open_seconds = opened.elapsed().as_secs_f64();
    let (started, cpu_started) = (Instant::now(), cpu_seconds());
    let per_epoch = loader.batches_per_epoch();
    let of_rank = shuffle::rank_slice(&vec![(); batch], args.rank as usize, args.ranks as usize).len();
    let total = per_epoch * u64::from(args.epochs) * of_rank as u64;
    let mut progress = Progress::new(printer, "bench", "samples", 0, Some(total));
    let (mut rates, mut cpu_rates) = (Vec::new(), Vec::new());
    let mut done = 0;
    for _ in 0..args.epochs {
        let (epoch, cpu_epoch) = (Instant::now(), cpu_seconds());
        for loaded in loader.by_ref().take(per_epoch as usize) {
            done += loaded?.ids.len() as u64;
            progress.set(printer, done, "");
        }
        let samples = (per_epoch * of_rank as u64) as f64;
        rates.push(samples / epoch.elapsed().as_secs_f64().max(1e-9));
        let cpu = cpu_epoch.zip(cpu_seconds()).map(|(start, end)| end - start);
        cpu_rates.push(cpu.map(|cpu| samples / cpu.max(1e-9)));
    }
    let seconds = started.elapsed().as_secs_f64().max(1e-9);
    let cpu = cpu_started
        .zip(cpu_seconds())
        .map(|(start, end)| (end - start).max(1e-9));
    progress.finish();
    let stored: u64 = dataset.shards().iter().map(ShardReader::file_bytes).sum();
    let samples_per_second = done as f64 / seconds;
    let bytes_per_sample = stored as f64 / dataset.len() as f64;
    let per_cpu_second = cpu.map(|cpu| done as f64 / cpu);
    let per_cpu = per_cpu_second.map_or_else(String::new, |rate| {
        format!(
            " ({} a second of processor time)",
            with_commas(rate.round() as u64)
        )
    });
    printer.say(format_args!(
        "{} samples/s{per_cpu} with {workers} workers, batches of {batch}; a sample is {} on disk, {} with all views",
        with_commas(samples_per_second.round() as u64),
        bytes((bytes_per_sample / dataset.views() as f64).round() as u64),
        bytes(bytes_per_sample.round() as u64)
    ));
    let report = json!({
        "samples_per_second": samples_per_second,
        "samples_per_cpu_second": per_cpu_second,
        "bytes_per_sample": bytes_per_sample,
        "samples": done,
        "seconds": seconds,
        "open_seconds": open_seconds,
        "batch": batch,
        "workers": workers,
        "epochs": args.epochs,
        "ranks": args.ranks,
        "rank": args.rank,
        "cache": args.cache,
        "samples_per_second_by_epoch": rates,
        "samples_per_cpu_second_by_epoch": cpu_rates,
    });
    printer.json(json, &report)?;
    Ok(exit::DONE)
}

/// Processor time of this process, all threads; what a busy machine does not change much.
#[cfg(unix)]
fn cpu_seconds() -> Option<f64> {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Some(time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64)
}

#[cfg(not(unix))]
fn cpu_seconds() -> Option<f64> {
    None
}
