//! Parity with torch-fidelity's Inception network, on random weights and pictures that `torch_fidelity.py` makes.
//!
//! ```text
//! pip install torch torchvision safetensors torch-fidelity
//! PYTHON=python3 cargo test --release -p eval --test torch_fidelity -- --ignored
//! ```

use std::process::Command;

use eval::images::ImageSource;
use eval::inception::weights::WeightSource;
use eval::npz::NpzReader;

/// Largest difference over the largest value.
fn relative_difference(values: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(values.len(), expected.len());
    let scale = expected
        .iter()
        .fold(0.0, |most: f64, value| most.max(value.abs()));
    let pairs = values.iter().zip(expected);
    pairs.fold(0.0, |most: f64, (a, b)| most.max((f64::from(*a) - b).abs())) / scale
}

#[test]
#[ignore = "needs Python with torch-fidelity; the command is at the head of this file"]
fn features_are_those_of_torch_fidelity_from_each_format_of_weights() {
    let folder = tempfile::tempdir().unwrap();
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/torch_fidelity.py");
    let status = Command::new(python).arg(script).arg(folder.path()).status();
    assert!(status.unwrap().success());

    let mut images = Vec::new();
    let gather = |batch| {
        images.extend(batch);
        Ok(())
    };
    let source = ImageSource::open(&folder.path().join("images.npz")).unwrap();
    source.visit(2, usize::MAX, gather).unwrap();
    let mut golden = NpzReader::open(&folder.path().join("features.npz")).unwrap();
    let (pool, logits) = (
        golden.read_f64("pool").unwrap().1,
        golden.read_f64("logits").unwrap().1,
    );
    for file in ["legacy.pth", "zipped.pth", "weights.safetensors"] {
        let inception = WeightSource::File(folder.path().join(file)).load().unwrap();
        assert!(!inception.comparable && inception.id.starts_with("sha256:"));
        let features = inception.network.features(&images).unwrap();
        let differences = (
            relative_difference(&features.pool, &pool),
            relative_difference(&features.logits, &logits),
        );
        assert!(
            differences.0 < 1e-4 && differences.1 < 1e-4,
            "{file}: {differences:?}"
        );
    }
}
