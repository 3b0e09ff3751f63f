//! What a step promises.

use super::*;
use crate::fit::fixtures;

/// A model of two narrow blocks, and batches of six images.
fn config() -> Config {
    let mut config = fixtures::config(16, 2, 6);
    config.optim.lr = 2e-3;
    config
}

fn batch() -> Batch {
    fixtures::batch(0..6)
}

#[test]
fn micro_batches_add_up_to_the_large_batch() {
    let mut whole = Learner::new(&config()).unwrap();
    let mut split = config();
    split.optim.micro_batch_size = 4;
    let mut parts = Learner::new(&split).unwrap();
    for step in 1..4 {
        let a = whole.step(step, &batch(), 0.5).unwrap();
        let b = parts.step(step, &batch(), 0.5).unwrap();
        assert!((a.loss.mse - b.loss.mse).abs() < 1e-6 * a.loss.mse, "{a:?} {b:?}");
        assert!(
            (a.grad_norm - b.grad_norm).abs() < 1e-5 * a.grad_norm,
            "{a:?} {b:?}"
        );
    }
}

#[test]
fn one_batch_is_learned_by_heart_whatever_the_threads() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let mut learner = Learner::new(&config()).unwrap();
            let losses: Vec<f64> = (1..=60)
                .map(|step| learner.step(step, &batch(), 1.0).unwrap().loss.mse)
                .collect();
            (losses, learner.ema().to_vec())
        })
    };
    let (losses, ema) = run(2);
    assert!(losses[59] < 0.6 * losses[0], "{} to {}", losses[0], losses[59]);
    assert_eq!((losses, ema), run(2));
}

#[test]
fn bf16_trains_like_f32_on_master_weights_in_f32() {
    let run = |precision| {
        let mut config = config();
        config.run.precision = precision;
        let mut learner = Learner::new(&config).unwrap();
        learner.step(1, &batch(), 1.0).unwrap();
        let first = learner.grads.clone();
        let losses: Vec<f64> = (2..=40)
            .map(|step| learner.step(step, &batch(), 1.0).unwrap().loss.mse)
            .collect();
        (first, losses, learner.params.clone())
    };
    let ((grads, losses, _), (grads16, losses16, params16)) = (run(Precision::F32), run(Precision::Bf16));
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    let cosine = dot(&grads, &grads16) / (dot(&grads, &grads) * dot(&grads16, &grads16)).sqrt();
    assert!(cosine > 0.999 && grads != grads16, "cosine {cosine}");
    for (step, (f32_loss, loss)) in losses.iter().zip(&losses16).enumerate() {
        assert!(
            (loss / f32_loss - 1.0).abs() < 0.01,
            "step {step}: {f32_loss}, {loss}"
        );
    }
    let fine = params16.iter().filter(|p| bf16::round(**p) != **p).count();
    assert!(
        10 * fine > 9 * params16.len() / 2,
        "{fine} weights are finer than bf16"
    );
}

#[test]
fn what_is_not_finite_changes_nothing() {
    let mut learner = Learner::new(&config()).unwrap();
    let before = learner.params.clone();
    let mut bad = batch();
    bad.latents[5] = f32::NAN;
    assert!(learner.step(1, &bad, 1.0).unwrap().is_skipped);
    assert_eq!(learner.params, before);
    let mut bad = batch();
    bad.labels[2] = 3;
    assert!(matches!(
        learner.step(1, &bad, 1.0),
        Err(Error::Label { label: 3, .. })
    ));
}
