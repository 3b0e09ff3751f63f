//! Speed of decoding and cropping from memory on one thread, and the digests of the pixels, as lines of JSON.
//!
//! `cargo bench --workspace --bench crop -- FOLDER [--size 256] [--repeats 5] [--digests]`. See `benches/crop_pillow.py`.

use std::path::PathBuf;
use std::time::Instant;

use preprocess::image::crop::decode_and_crop;
use preprocess::image::decode::decode_rgb;
use sha2::Digest;

type Failure = Box<dyn std::error::Error>;

#[expect(clippy::print_stdout, reason = "the benchmark's result")]
fn main() -> Result<(), Failure> {
    let (mut folder, mut size, mut repeats, mut digests) = (None, 256, 5, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bench" => {}
            "--size" => size = args.next().ok_or("--size N")?.parse()?,
            "--repeats" => repeats = args.next().ok_or("--repeats N")?.parse()?,
            "--digests" => digests = true,
            _ => folder = Some(PathBuf::from(arg)),
        }
    }
    let Some(folder) = folder else {
        return Ok(());
    };
    let mut files: Vec<_> = std::fs::read_dir(folder)?
        .map(|e| e.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|f| f.is_file());
    files.sort();
    let contents: Vec<_> = files.iter().map(std::fs::read).collect::<Result<_, _>>()?;
    if digests {
        for (file, bytes) in files.iter().zip(&contents) {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let line = match (decode_rgb(bytes), decode_and_crop(bytes, size)) {
                (Ok(whole), Ok(crop)) => {
                    serde_json::json!({ "file": name, "width": whole.width, "height": whole.height,
                        "pixels": sha(&whole.data), "crop": sha(&crop.data) })
                }
                (Err(error), Err(_)) => serde_json::json!({ "file": name, "error": error.to_string() }),
                (whole, crop) => {
                    serde_json::json!({ "file": name, "disagree": [whole.is_ok(), crop.is_ok()] })
                }
            };
            println!("{line}");
        }
        return Ok(());
    }
    for _ in 0..repeats {
        let (start, wall) = (cpu_seconds(), Instant::now());
        for bytes in &contents {
            let _ = std::hint::black_box(decode_and_crop(bytes, size));
        }
        let (cpu, wall) = (cpu_seconds() - start, wall.elapsed().as_secs_f64());
        println!(
            "{}",
            serde_json::json!({ "images": files.len(), "cpu_seconds": cpu, "seconds": wall })
        );
    }
    Ok(())
}

fn sha(data: &[u8]) -> String {
    sha2::Sha256::digest(data)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// CPU seconds of this thread (on Linux; elsewhere 0, and the wall's seconds must do).
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) * 1e-9
}
