//! Mean and covariance of feature vectors, streamed in blocks and accumulated in f64.
//!
//! Blocks are merged by the pairwise update of Chan, Golub and LeVeque (1979), so that nothing but one block and one
//! matrix is ever in memory, and so that the statistics of two halves can be merged into those of the whole.

use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, Par};

use crate::error::{Error, Result};

/// Rows that are collected before one update of the covariance.
const BLOCK_ROWS: usize = 256;

/// Mean and covariance of a finished set.
#[derive(Debug, Clone)]
pub struct Gaussian {
    /// Mean, `[dim]`.
    pub mu: Vec<f64>,
    /// Covariance with the N - 1 denominator, `[dim, dim]`.
    pub sigma: Mat<f64>,
}

/// Running sums of a set of feature vectors.
#[derive(Debug, Clone)]
pub struct Stats {
    dim: usize,
    count: u64,
    mean: Vec<f64>,
    /// Sum of outer products of deviations from the mean, `[dim, dim]`; the lower triangle alone.
    scatter: Mat<f64>,
    /// Rows that wait for the next update, row-major.
    pending: Vec<f32>,
}

impl Stats {
    /// No vectors yet, `dim` wide.
    pub fn new(dim: usize) -> Self {
        Self {
            dim,
            count: 0,
            mean: vec![0.0; dim],
            scatter: Mat::zeros(dim, dim),
            pending: Vec::with_capacity(BLOCK_ROWS * dim),
        }
    }

    /// Vectors seen so far.
    pub fn count(&self) -> u64 {
        self.count + (self.pending.len() / self.dim) as u64
    }

    /// Adds rows, `[n, dim]` row-major.
    ///
    /// # Errors
    /// If `rows` is not a whole number of vectors.
    pub fn push(&mut self, rows: &[f32]) -> Result<()> {
        if !rows.len().is_multiple_of(self.dim) {
            return Err(Error::Input(format!(
                "{} values are not rows of {}",
                rows.len(),
                self.dim
            )));
        }
        for row in rows.chunks_exact(self.dim) {
            self.pending.extend_from_slice(row);
            if self.pending.len() == BLOCK_ROWS * self.dim {
                self.flush();
            }
        }
        Ok(())
    }

    /// Adds everything that `other` has seen.
    ///
    /// # Errors
    /// If the vectors of the two have different widths.
    pub fn merge(&mut self, mut other: Self) -> Result<()> {
        if other.dim != self.dim {
            return Err(Error::Input(format!(
                "features are {} and {} wide",
                self.dim, other.dim
            )));
        }
        self.flush();
        other.flush();
        self.merge_moments(other.count, &other.mean, &other.scatter);
        Ok(())
    }

    /// Mean and covariance of everything seen.
    ///
    /// # Errors
    /// If fewer than two vectors were seen.
    pub fn finish(mut self) -> Result<Gaussian> {
        self.flush();
        if self.count < 2 {
            return Err(Error::Input(format!(
                "a covariance needs two images or more, not {}",
                self.count
            )));
        }
        let scale = 1.0 / (self.count as f64 - 1.0);
        let sigma = Mat::from_fn(self.dim, self.dim, |i, j| {
            self.scatter[(i.max(j), i.min(j))] * scale
        });
        Ok(Gaussian { mu: self.mean, sigma })
    }

    fn flush(&mut self) {
        let rows = self.pending.len() / self.dim;
        if rows == 0 {
            return;
        }
        let mut mean = vec![0.0; self.dim];
        for row in self.pending.chunks_exact(self.dim) {
            for (sum, &value) in mean.iter_mut().zip(row) {
                *sum += f64::from(value);
            }
        }
        for sum in &mut mean {
            *sum /= rows as f64;
        }
        let centred = Mat::from_fn(rows, self.dim, |i, j| {
            f64::from(self.pending[i * self.dim + j]) - mean[j]
        });
        self.pending.clear();
        let mut scatter = Mat::zeros(self.dim, self.dim);
        let par = Par::rayon(0);
        triangular::matmul(
            scatter.as_mut(),
            BlockStructure::TriangularLower,
            Accum::Replace,
            centred.transpose(),
            BlockStructure::Rectangular,
            centred.as_ref(),
            BlockStructure::Rectangular,
            1.0,
            par,
        );
        self.merge_moments(rows as u64, &mean, &scatter);
    }

    fn merge_moments(&mut self, count: u64, mean: &[f64], scatter: &Mat<f64>) {
        if count == 0 {
            return;
        }
        let total = (self.count + count) as f64;
        let weight = self.count as f64 * count as f64 / total;
        let delta: Vec<f64> = mean.iter().zip(&self.mean).map(|(new, old)| new - old).collect();
        for (j, &delta_j) in delta.iter().enumerate() {
            let sums = &mut self.scatter.col_as_slice_mut(j)[j..];
            let added = scatter.col_as_slice(j)[j..].iter().zip(&delta[j..]);
            for (sum, (added, delta_i)) in sums.iter_mut().zip(added) {
                *sum += added + weight * delta_i * delta_j;
            }
        }
        for (old, delta) in self.mean.iter_mut().zip(&delta) {
            *old += delta * count as f64 / total;
        }
        self.count += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::golden;

    #[test]
    fn golden_mean_and_covariance() {
        let mut stats = Stats::new(8);
        stats.push(&golden::to_f32(&golden::x(64))).unwrap();
        let gaussian = stats.finish().unwrap();
        assert!((gaussian.mu[0] - 0.030_888_415_778).abs() < 1e-7);
        assert!((gaussian.sigma[(0, 0)] - 0.511_656_622_159).abs() < 1e-6);
        assert!((gaussian.sigma[(0, 1)] + 0.027_456_989_981).abs() < 1e-6);
    }

    #[test]
    fn halves_merge_into_the_whole() {
        let rows: Vec<f32> = (0..700 * 5)
            .map(|i| ((i * 37 % 101) as f32).sin() + 3.0)
            .collect();
        let mut whole = Stats::new(5);
        whole.push(&rows).unwrap();
        let (mut left, mut right) = (Stats::new(5), Stats::new(5));
        left.push(&rows[..300 * 5]).unwrap();
        right.push(&rows[300 * 5..]).unwrap();
        left.merge(right).unwrap();
        assert_eq!(left.count(), 700);
        let (whole, merged) = (whole.finish().unwrap(), left.finish().unwrap());
        for i in 0..5 {
            assert!((whole.mu[i] - merged.mu[i]).abs() < 1e-12);
            for j in 0..5 {
                assert!((whole.sigma[(i, j)] - merged.sigma[(i, j)]).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn one_image_has_no_covariance() {
        let mut stats = Stats::new(2);
        stats.push(&[1.0, 2.0]).unwrap();
        assert!(stats.finish().is_err());
    }
}
