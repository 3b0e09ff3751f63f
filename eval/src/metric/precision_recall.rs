//! Improved precision and recall (Kynkaanniemi et al. 2019), as the ADM evaluator computes them.
//!
//! A set's manifold is the union of balls around its vectors, each as wide as the distance to the third nearest
//! neighbour. Precision is the share of samples inside the reference's manifold, recall the reverse. Distances are
//! squared, `max(|u|^2 - 2 u.v + |v|^2, 0)`, with the products in f32 and the norms in f64.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Neighbours that give a ball its radius.
pub const NEIGHBOURS: usize = 3;

/// Rows of one block of distances; bounds the memory of a comparison to `BLOCK^2` floats.
const BLOCK: usize = 2048;

/// Shares in `[0, 1]`.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct PrecisionRecall {
    /// Share of samples that look real.
    pub precision: f64,
    /// Share of real images that the samples cover.
    pub recall: f64,
}

/// Precision and recall of `samples` against `reference`, both `[n, dim]` row-major.
///
/// # Errors
/// If a set has no more than [`NEIGHBOURS`] vectors, or is not made of rows of `dim`.
pub fn precision_recall(reference: &[f32], samples: &[f32], dim: usize) -> Result<PrecisionRecall> {
    let (reference, samples) = (Set::new(reference, dim)?, Set::new(samples, dim)?);
    let (reference_radii, sample_radii) = (reference.radii(), samples.radii());
    Ok(PrecisionRecall {
        precision: share_inside(&samples, &reference, &reference_radii),
        recall: share_inside(&reference, &samples, &sample_radii),
    })
}

/// Vectors with their squared lengths.
struct Set<'a> {
    /// Row-major `[n, dim]`.
    rows: MatRef<'a, f32>,
    norms: Vec<f64>,
}

impl<'a> Set<'a> {
    fn new(values: &'a [f32], dim: usize) -> Result<Self> {
        if dim == 0 || !values.len().is_multiple_of(dim) || values.len() / dim <= NEIGHBOURS {
            return Err(Error::Input(format!(
                "precision and recall need more than {NEIGHBOURS} images on each side"
            )));
        }
        let rows = MatRef::from_row_major_slice(values, values.len() / dim, dim);
        let norms = values
            .par_chunks_exact(dim)
            .map(|row| row.iter().map(|&v| f64::from(v) * f64::from(v)).sum())
            .collect();
        Ok(Self { rows, norms })
    }

    fn len(&self) -> usize {
        self.norms.len()
    }

    /// Squared distance from each vector to its third nearest neighbour, itself counted as rank 0.
    fn radii(&self) -> Vec<f64> {
        let mut radii = Vec::with_capacity(self.len());
        for start in (0..self.len()).step_by(BLOCK) {
            let rows = BLOCK.min(self.len() - start);
            let mut nearest = vec![[f64::INFINITY; NEIGHBOURS + 1]; rows];
            self.visit_blocks(start, rows, self, |i, _, distance| {
                insert(&mut nearest[i], distance);
            });
            radii.extend(nearest.iter().map(|ranks| ranks[NEIGHBOURS]));
        }
        radii
    }

    /// Calls `visit(row - start, column, distance)` for rows `start..start + rows` against all of `other`.
    fn visit_blocks(
        &self,
        start: usize,
        rows: usize,
        other: &Set<'_>,
        mut visit: impl FnMut(usize, usize, f64),
    ) {
        for other_start in (0..other.len()).step_by(BLOCK) {
            let columns = BLOCK.min(other.len() - other_start);
            let mut products = Mat::<f32>::zeros(columns, rows);
            matmul(
                products.as_mut(),
                Accum::Replace,
                other.rows.subrows(other_start, columns),
                self.rows.subrows(start, rows).transpose(),
                1.0,
                Par::rayon(0),
            );
            for i in 0..rows {
                let norm = self.norms[start + i];
                for j in 0..columns {
                    let distance = norm - 2.0 * f64::from(products[(j, i)]) + other.norms[other_start + j];
                    visit(i, other_start + j, distance.max(0.0));
                }
            }
        }
    }
}

/// Keeps the smallest distances in ascending order.
fn insert(ranks: &mut [f64; NEIGHBOURS + 1], distance: f64) {
    let mut candidate = distance;
    for rank in ranks {
        if candidate < *rank {
            std::mem::swap(rank, &mut candidate);
        }
    }
}

/// Share of `points` that lie in the ball of any of `centres`.
fn share_inside(points: &Set<'_>, centres: &Set<'_>, radii: &[f64]) -> f64 {
    let mut inside = 0;
    for start in (0..points.len()).step_by(BLOCK) {
        let rows = BLOCK.min(points.len() - start);
        let mut hit = vec![false; rows];
        points.visit_blocks(start, rows, centres, |i, j, distance| {
            hit[i] |= distance <= radii[j];
        });
        inside += hit.iter().filter(|hit| **hit).count();
    }
    inside as f64 / points.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::golden;

    fn assert_near(values: &[f64], expected: &[f64]) {
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-5, "{value} {expected}");
        }
    }

    #[test]
    fn golden_radii() {
        let (x, z) = (golden::to_f32(&golden::x(64)), golden::to_f32(&golden::z()));
        assert_near(
            &Set::new(&x, 8).unwrap().radii(),
            &[0.172_197_581, 0.106_314_727, 0.115_821_689],
        );
        assert_near(&Set::new(&z, 8).unwrap().radii(), &[0.142_937_89, 0.323_228_06]);
    }

    #[test]
    fn golden_shares() {
        let x = golden::to_f32(&golden::x(64));
        let against_y = precision_recall(&x, &golden::to_f32(&golden::y()), 8).unwrap();
        assert_eq!(
            against_y,
            PrecisionRecall {
                precision: 0.25,
                recall: 1.0
            }
        );
        let against_z = precision_recall(&x, &golden::to_f32(&golden::z()), 8).unwrap();
        assert_eq!(
            against_z,
            PrecisionRecall {
                precision: 22.0 / 48.0,
                recall: 16.0 / 64.0
            }
        );
    }

    #[test]
    fn more_vectors_than_one_block_give_the_same_radii() {
        let x: Vec<f32> = (0..BLOCK + 700).flat_map(|i| [i as f32, 0.0]).collect();
        let radii = Set::new(&x, 2).unwrap().radii();
        // On a line of unit steps the third nearest is two steps away, three at the ends.
        assert_eq!(radii[0], 9.0);
        assert_eq!(radii[BLOCK], 4.0);
        assert_eq!(radii[BLOCK + 699], 9.0);
    }

    #[test]
    fn too_few_vectors_are_refused() {
        assert!(precision_recall(&[0.0; 6], &[0.0; 80], 2).is_err());
    }
}
