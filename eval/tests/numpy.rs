//! Archives from our hand to numpy's and back: `eval reference` writes what ADM's evaluator reads.
//!
//! ```text
//! pip install numpy
//! PYTHON=python3 cargo test --release -p eval --test numpy -- --ignored
//! ```
#![expect(clippy::unwrap_used, reason = "a helper of tests fails as the test does")]

use std::path::Path;
use std::process::Command;

use eval::npz::{NpzReader, NpzWriter};
use preprocess::console::Printer;
use preprocess::image::RgbImage;

/// What `numpy.py` prints.
fn numpy(command: &str, path: &Path) -> Vec<f64> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/numpy.py");
    let done = Command::new(python)
        .args([script, command])
        .arg(path)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout).unwrap();
    text.split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect()
}

fn sum(images: &[RgbImage]) -> f64 {
    images
        .iter()
        .flat_map(|image| &image.data)
        .map(|v| f64::from(*v))
        .sum()
}

#[test]
#[ignore = "needs Python with numpy; the command is at the head of this file"]
fn numpy_reads_our_references_and_we_read_numpys() {
    let folder = tempfile::tempdir().unwrap();
    let images: Vec<RgbImage> = (0..5)
        .map(|id| preprocess::dataset::demo::draw(0, id, 16).0)
        .collect();
    let (source, reference) = (
        folder.path().join("images.npz"),
        folder.path().join("reference.npz"),
    );
    let mut writer = NpzWriter::create(&source).unwrap();
    let header = eval::npz::Header {
        dtype: eval::npz::Dtype::U8,
        shape: vec![5, 16, 16, 3],
    };
    writer.start("arr_0", &header).unwrap();
    for image in &images {
        writer.write(&image.data).unwrap();
    }
    writer.finish().unwrap();
    let (mut printer, _, err) = Printer::captured();
    let (from, to) = (source.display().to_string(), reference.display().to_string());
    let args = [
        "eval",
        "reference",
        &from,
        "--out",
        &to,
        "--inception",
        "random:0",
    ];
    let code = eval::cli::run(args.map(Into::into), &mut printer);
    assert_eq!(code, 0, "{}", err.text());
    assert_eq!(numpy("read", &reference), [5.0, 16.0, 16.0, 3.0, sum(&images)]);

    let expected = numpy("write", folder.path());
    for name in ["stored.npz", "deflated.npz"] {
        let mut reader = NpzReader::open(&folder.path().join(name)).unwrap();
        let mut seen = Vec::new();
        reader
            .visit_images("arr_0", 2, usize::MAX, |batch| {
                seen.extend(batch);
                Ok::<(), eval::npz::Error>(())
            })
            .unwrap();
        let (mu, sigma) = (
            reader.read_f64("mu").unwrap().1,
            reader.read_f64("sigma").unwrap().1,
        );
        let trace: f64 = sigma.iter().step_by(2049).sum();
        let found = [sum(&seen), mu.iter().sum(), trace];
        assert!(
            found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-9 * b),
            "{found:?} {expected:?}"
        );
    }
}
