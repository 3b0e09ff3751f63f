//! Single-head attention between the pixels of an image (Vaswani et al. 2017, eq. 1).

use rayon::prelude::*;

use super::activation::exp;
use super::error::{Error, check_length};
use super::matmul::{Matrix, matmul};

/// Values of a block of scores: it stays in the second-level cache.
const BLOCK_VALUES: usize = 1 << 18;
/// Most queries of a block, so that there are blocks for all threads.
const BLOCK_QUERIES: usize = 128;

/// `softmax(q kT / sqrt(dim)) v`, `[tokens, dim]`, from `qkv`, whose rows are `[q | k | v]`: `[tokens, 3 * dim]`.
///
/// Memory is a block of scores a thread, never `tokens * tokens`.
///
/// # Errors
/// When `qkv` is not `tokens * 3 * dim` long.
pub fn attention(qkv: &[f32], tokens: usize, dim: usize) -> Result<Vec<f32>, Error> {
    check_length("attention input", tokens * 3 * dim, qkv.len())?;
    let mut out = vec![0.0; tokens * dim];
    if out.is_empty() {
        return Ok(out);
    }
    let step = 3 * dim;
    let queries = (BLOCK_VALUES / tokens).clamp(8, BLOCK_QUERIES);
    let scale = 1.0 / (dim as f64).sqrt();
    out.par_chunks_mut(queries * dim).enumerate().for_each_init(
        Vec::new,
        |scores: &mut Vec<f32>, (block, out)| {
            let rows = out.len() / dim;
            scores.resize(queries * tokens, 0.0);
            let scores = &mut scores[..rows * tokens];
            let query = Matrix::rows(&qkv[block * queries * step..], step);
            let key = Matrix::transposed(&qkv[dim..], step);
            matmul(
                scores,
                tokens,
                query,
                key,
                [rows, tokens, dim],
                scale as f32,
                false,
            );
            for row in scores.chunks_exact_mut(tokens) {
                pulp::Arch::new().dispatch(Softmax { row });
            }
            let value = Matrix::rows(&qkv[2 * dim..], step);
            matmul(
                out,
                dim,
                Matrix::rows(scores, tokens),
                value,
                [rows, dim, tokens],
                1.0,
                false,
            );
        },
    );
    Ok(out)
}

/// `e^x / sum e^x` of one row, in place.
struct Softmax<'a> {
    row: &'a mut [f32],
}

/// Partial sums: wide enough for the widest vectors.
const LANES: usize = 16;

impl pulp::WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let largest = self
            .row
            .iter()
            .fold(f32::NEG_INFINITY, |a, &b| if a < b { b } else { a });
        for value in self.row.iter_mut() {
            *value = exp(*value - largest);
        }
        let mut sums = [0.0f32; LANES];
        let chunks = self.row.chunks_exact(LANES);
        let rest: f32 = chunks.remainder().iter().sum();
        for chunk in chunks {
            for (sum, value) in sums.iter_mut().zip(chunk) {
                *sum += value;
            }
        }
        let inverse = 1.0 / (sums.iter().sum::<f32>() + rest);
        for value in self.row.iter_mut() {
            *value *= inverse;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::synthetic::synthetic_tensor;

    #[test]
    fn matches_the_definition_in_f64() {
        for (tokens, dim) in [(1, 4), (37, 8), (300, 16)] {
            let qkv = synthetic_tensor("qkv", 5, &[tokens * 3 * dim], 12.0);
            let qkv: Vec<f32> = qkv.iter().map(|v| v * 30.0).collect();
            let out = attention(&qkv, tokens, dim).unwrap();
            let at = |token: usize, part: usize, d: usize| f64::from(qkv[(token * 3 + part) * dim + d]);
            for i in 0..tokens {
                let scores: Vec<f64> = (0..tokens)
                    .map(|j| (0..dim).map(|d| at(i, 0, d) * at(j, 1, d)).sum::<f64>() / (dim as f64).sqrt())
                    .collect();
                let largest = scores.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
                for d in 0..dim {
                    let expected: f64 = (0..tokens)
                        .map(|j| (scores[j] - largest).exp() / sum * at(j, 2, d))
                        .sum();
                    assert!((f64::from(out[i * dim + d]) - expected).abs() < 2e-5);
                }
            }
        }
        assert!(attention(&[0.0; 5], 1, 2).is_err());
    }
}
