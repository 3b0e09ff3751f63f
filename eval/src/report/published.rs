//! Published results, to be shown beside our own.

use super::Scores;

/// A published row: its name, and FID, sFID, Inception score, precision, recall where they were reported.
pub(super) type PublishedRow = (&'static str, [Option<f64>; 5]);

/// Results of one benchmark, from 50,000 samples.
pub(super) struct Benchmark {
    /// The dataset and its resolution.
    pub(super) name: &'static str,
    /// Peebles and Xie 2023 (DiT); Dhariwal and Nichol 2021 (ADM); Yan, Gu and Rush 2024 (DiffuSSM).
    pub(super) rows: &'static [PublishedRow],
}

const IMAGENET_256: Benchmark = Benchmark {
    name: "ImageNet 256",
    rows: &[
        (
            "DiT-XL/2",
            [Some(9.62), Some(6.85), Some(121.50), Some(0.67), Some(0.67)],
        ),
        (
            "DiT-XL/2, guidance 1.5",
            [Some(2.27), Some(4.60), Some(278.24), Some(0.83), Some(0.57)],
        ),
        (
            "DiffuSSM-XL",
            [Some(9.07), Some(5.52), Some(118.32), Some(0.69), Some(0.64)],
        ),
        (
            "DiffuSSM-XL, guidance 1.5",
            [Some(2.28), Some(4.49), Some(259.13), Some(0.86), Some(0.56)],
        ),
    ],
};

const IMAGENET_512: Benchmark = Benchmark {
    name: "ImageNet 512",
    rows: &[
        (
            "DiT-XL/2, guidance 1.5",
            [Some(3.04), None, Some(240.82), None, None],
        ),
        (
            "DiffuSSM-XL, guidance 1.5",
            [Some(3.41), Some(5.84), None, None, None],
        ),
    ],
};

const LSUN_CHURCH: Benchmark = Benchmark {
    name: "LSUN church 256",
    rows: &[("DiffuSSM", [Some(3.94), None, None, None, None])],
};

const LSUN_BEDROOM: Benchmark = Benchmark {
    name: "LSUN bedroom 256",
    rows: &[
        ("ADM", [Some(1.90), None, None, Some(0.66), Some(0.51)]),
        ("DiffuSSM", [Some(5.43), None, None, None, None]),
    ],
};

/// Whether the name of the reference speaks of `word`.
fn is_about(scores: &Scores, word: &str) -> bool {
    scores.reference.to_lowercase().contains(word)
}

/// The benchmark that `scores` are most like, by the data and the resolution; ImageNet 256 where neither tells.
pub(super) fn benchmark(scores: &[Scores]) -> &'static Benchmark {
    let all = |is: fn(&Scores) -> bool| !scores.is_empty() && scores.iter().all(is);
    if all(|scores| is_about(scores, "church")) {
        &LSUN_CHURCH
    } else if all(|scores| is_about(scores, "bedroom")) {
        &LSUN_BEDROOM
    } else if all(|scores| scores.image_size == [512, 512]) {
        &IMAGENET_512
    } else {
        &IMAGENET_256
    }
}
