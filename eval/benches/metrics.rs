//! Speed of the parts of a score on given data, as a line of JSON: seconds, CPU seconds, the answer, the peak of memory.
//!
//! ```text
//! cargo bench --workspace --bench metrics -- inception WEIGHTS IMAGES.npz
//! cargo bench --workspace --bench metrics -- frechet STATISTICS.npz
//! cargo bench --workspace --bench metrics -- manifold FEATURES.npz
//! cargo bench --workspace --bench metrics -- whole WEIGHTS IMAGES.npz REFERENCE.npz
//! ```
//!
//! `RAYON_NUM_THREADS` sets the threads. `benches/metric_peers.py` makes the data and runs the peers.

#[path = "../../preprocess/benches/clock/mod.rs"]
mod clock;

use std::path::Path;
use std::time::Instant;

use clock::cpu_seconds;
use eval::features::{BATCH, Extractor, Keep};
use eval::images::ImageSource;
use eval::inception::weights::WeightSource;
use eval::metric::fid::frechet_distance;
use eval::metric::precision_recall::{Distances, precision_recall};
use eval::npz::NpzReader;
use eval::stats::Gaussian;

type Failure = Box<dyn std::error::Error>;

/// As in the programs: what the system's allocator gives back, it must clear again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["inception", weights, images] => inception(weights, Path::new(images)),
        ["frechet", file] => frechet(Path::new(file)),
        ["manifold", file] => manifold(Path::new(file)),
        ["whole", weights, images, reference] => whole(weights, Path::new(images), Path::new(reference)),
        _ => Ok(()),
    }
}

/// Times `work` and tells it.
#[expect(clippy::print_stdout, reason = "the benchmark's result")]
fn measured(work: impl FnOnce() -> Result<serde_json::Value, Failure>) -> Result<(), Failure> {
    let (cpu, start) = (cpu_seconds(), Instant::now());
    let answer = work()?;
    let (cpu, seconds) = (cpu_seconds() - cpu, start.elapsed().as_secs_f64());
    let peak = trainer::memory::peak_resident_bytes();
    println!(
        "{}",
        serde_json::json!({ "seconds": seconds, "cpu_seconds": cpu, "answer": answer, "peak_bytes": peak })
    );
    Ok(())
}

/// Features of all images, which are in memory.
fn inception(weights: &str, images: &Path) -> Result<(), Failure> {
    let network = weights.parse::<WeightSource>()?.load()?.network;
    let mut batches = Vec::new();
    ImageSource::open(images)?.visit(BATCH, usize::MAX, |batch| {
        batches.push(batch);
        Ok(())
    })?;
    // Weights that are made at the first use are no part of it.
    network.features(&batches[0][..1])?;
    measured(|| {
        let mut sum = 0.0;
        for batch in &batches {
            sum += network
                .features(batch)?
                .pool
                .iter()
                .map(|v| f64::from(*v))
                .sum::<f64>();
        }
        Ok(sum.into())
    })
}

/// The distance of the Gaussians `mu1`, `sigma1` and `mu2`, `sigma2`.
fn frechet(file: &Path) -> Result<(), Failure> {
    let mut reader = NpzReader::open(file)?;
    let mut gaussian = |side: char| -> Result<Gaussian, Failure> {
        let mu = reader.read_f64(&format!("mu{side}"))?.1;
        let sigma = reader.read_f64(&format!("sigma{side}"))?.1;
        let dim = mu.len();
        let sigma = faer::Mat::from_fn(dim, dim, |i, j| sigma[i * dim + j]);
        Ok(Gaussian { mu, sigma })
    };
    let (first, second) = (gaussian('1')?, gaussian('2')?);
    measured(|| Ok(frechet_distance(&first, &second)?.into()))
}

/// Precision and recall of `samples` against `reference`, both `[n, dim]`.
fn manifold(file: &Path) -> Result<(), Failure> {
    let mut reader = NpzReader::open(file)?;
    let (shape, reference) = reader.read_f32("reference")?;
    let samples = reader.read_f32("samples")?.1;
    measured(|| {
        let both = precision_recall(&reference, &samples, shape[1], Distances::Single)?;
        Ok(serde_json::to_value(both)?)
    })
}

/// FID and sFID of an archive against a file of statistics, as `eval fid --metrics fid,sfid` goes about it; the answer tells how
/// long the network took, and how long all that comes after the last image.
fn whole(weights: &str, images: &Path, reference: &Path) -> Result<(), Failure> {
    let network = weights.parse::<WeightSource>()?.load()?.network;
    let keep = Keep {
        pool_rows: 0,
        spatial: true,
        logits: false,
    };
    measured(|| {
        let mut extractor = Extractor::new(&network, keep);
        ImageSource::open(images)?.visit(BATCH, usize::MAX, |batch| extractor.push(&batch))?;
        let (count, in_network) = (extractor.count(), extractor.in_network().as_secs_f64());
        let end = Instant::now();
        let samples = extractor.finish()?;
        let other = eval::reference::load(&ImageSource::open(reference)?, &network, "", keep, |_| {})?;
        let fid = frechet_distance(&other.pool, &samples.pool)?;
        let sfid = match (&other.spatial, &samples.spatial) {
            (Some(theirs), Some(ours)) => frechet_distance(theirs, ours)?,
            _ => return Err("no spatial statistics".into()),
        };
        let end = end.elapsed().as_secs_f64();
        Ok(
            serde_json::json!({ "images": count, "in_network": in_network, "end": end, "fid": fid, "sfid": sfid }),
        )
    })
}
