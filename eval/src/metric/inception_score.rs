//! The Inception score (Salimans et al. 2016): confident and varied predictions score high.
//!
//! `exp E_i KL(p(y|x_i) || p(y))` over consecutive chunks of 5,000 images in file order, averaged over the chunks, as
//! in the ADM evaluator. The score depends on the order of the images: a file sorted by class scores too low.

use crate::error::{Error, Result};

/// Images in one chunk of the ADM evaluator.
pub const SPLIT_SIZE: usize = 5000;

/// Inception score of `logits` (`[n, classes]` row-major, without the bias of the last layer).
///
/// # Errors
/// If there is no image, or a logit is not finite.
pub fn inception_score(logits: &[f32], classes: usize, split_size: usize) -> Result<f64> {
    if logits.is_empty() || classes == 0 || split_size == 0 {
        return Err(Error::Input(
            "the Inception score needs at least one image".into(),
        ));
    }
    let chunks: Vec<f64> = logits
        .chunks(split_size * classes)
        .map(|chunk| score_of_chunk(chunk, classes))
        .collect();
    let score = chunks.iter().sum::<f64>() / chunks.len() as f64;
    if score.is_finite() {
        Ok(score)
    } else {
        Err(Error::Numeric(
            "the Inception score is not finite: look for infinite logits".into(),
        ))
    }
}

fn score_of_chunk(logits: &[f32], classes: usize) -> f64 {
    let images = (logits.len() / classes) as f64;
    let mut marginal = vec![0.0_f64; classes];
    let mut negative_entropy = 0.0;
    for row in logits.chunks_exact(classes) {
        let peak = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let log_sum = row.iter().map(|&v| f64::from(v - peak).exp()).sum::<f64>().ln();
        for (sum, &logit) in marginal.iter_mut().zip(row) {
            let log_p = f64::from(logit - peak) - log_sum;
            let p = log_p.exp();
            *sum += p / images;
            negative_entropy += p * log_p;
        }
    }
    // E_i sum_j p_ij ln pbar_j = sum_j pbar_j ln pbar_j; an underflowed pbar_j adds 0.
    let cross: f64 = marginal.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum();
    (negative_entropy / images - cross).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits() -> Vec<f32> {
        (0..120)
            .map(|k| (3.0 * (0.9 * f64::from(k / 10) * f64::from(k % 10 + 1)).sin()) as f32)
            .collect()
    }

    #[test]
    fn golden_scores_in_one_chunk_and_in_chunks_of_five() {
        let whole = inception_score(&logits(), 10, SPLIT_SIZE).unwrap();
        assert!((whole - 1.919_783_163_324).abs() < 1e-6, "{whole}");
        let chunks = inception_score(&logits(), 10, 5).unwrap();
        assert!((chunks - 1.815_839_268_597).abs() < 1e-6, "{chunks}");
    }

    #[test]
    fn equal_predictions_score_one() {
        let score = inception_score(&[0.5, -1.0, 200.0].repeat(7), 3, SPLIT_SIZE).unwrap();
        assert!((score - 1.0).abs() < 1e-12);
    }

    #[test]
    fn nothing_and_infinity_are_refused() {
        assert!(inception_score(&[], 10, SPLIT_SIZE).is_err());
        assert!(inception_score(&[f32::NAN, 0.0], 2, SPLIT_SIZE).is_err());
    }
}
