//! Improved precision and recall (Kynkaanniemi et al. 2019), as the ADM evaluator computes them.
//!
//! A set's manifold is the union of balls around its vectors, each as wide as the distance to the third nearest
//! neighbour. Precision is the share of samples inside the reference's manifold, recall the reverse. Distances are
//! squared, `max(|u|^2 - 2 u.v + |v|^2, 0)`, with the products in f32 and the norms in f64, or all of it in f16.

use std::borrow::Cow;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use half::f16;
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Neighbours that give a ball its radius.
pub const NEIGHBOURS: usize = 3;

/// Vectors of one task, and those of the other side that it takes at a time: a thread holds `ROWS x COLUMNS` products.
const ROWS: usize = 128;
const COLUMNS: usize = 2048;

/// Shares in `[0, 1]`.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct PrecisionRecall {
    /// Share of samples that look real.
    pub precision: f64,
    /// Share of real images that the samples cover.
    pub recall: f64,
}

/// Arithmetic of the distances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Distances {
    /// Products in f32, norms in f64.
    #[default]
    Single,
    /// Features, products, norms and sums rounded to f16, as ADM's evaluator has them; [`Distances::Single`] where a norm
    /// is beyond f16, as there.
    Half,
}

impl Distances {
    /// The field's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "f32",
            Self::Half => "f16",
        }
    }
}

/// Precision and recall of `samples` against `reference`, both `[n, dim]` row-major.
///
/// # Errors
/// If a set has no more than [`NEIGHBOURS`] vectors, or is not made of rows of `dim`.
pub fn precision_recall(
    reference: &[f32],
    samples: &[f32],
    dim: usize,
    mut distances: Distances,
) -> Result<PrecisionRecall> {
    let sets = |distances| -> Result<[Set<'_>; 2]> {
        Ok([
            Set::new(reference, dim, distances)?,
            Set::new(samples, dim, distances)?,
        ])
    };
    let mut both = sets(distances)?;
    if distances == Distances::Half
        && both
            .iter()
            .any(|set| set.norms.iter().any(|norm| !norm.is_finite()))
    {
        distances = Distances::Single;
        both = sets(distances)?;
    }
    let [reference, samples] = both;
    let (reference_radii, sample_radii) = (reference.radii(), samples.radii());
    Ok(PrecisionRecall {
        precision: share_inside(&samples, &reference, &reference_radii),
        recall: share_inside(&reference, &samples, &sample_radii),
    })
}

/// Vectors with their squared lengths.
pub(super) struct Set<'a> {
    /// Row-major `[n, dim]`.
    values: Cow<'a, [f32]>,
    dim: usize,
    norms: Vec<f64>,
    distances: Distances,
}

fn rounded(value: f64) -> f64 {
    f64::from(f16::from_f64(value))
}

impl<'a> Set<'a> {
    pub(super) fn new(values: &'a [f32], dim: usize, distances: Distances) -> Result<Self> {
        if dim == 0 || !values.len().is_multiple_of(dim) || values.len() / dim <= NEIGHBOURS {
            return Err(Error::Input(format!(
                "precision and recall need more than {NEIGHBOURS} images on each side"
            )));
        }
        let values = match distances {
            Distances::Single => Cow::Borrowed(values),
            Distances::Half => values
                .par_iter()
                .map(|&value| f16::from_f32(value).to_f32())
                .collect(),
        };
        let norms = values.par_chunks_exact(dim).map(|row| match distances {
            Distances::Single => row.iter().map(|&v| f64::from(v) * f64::from(v)).sum(),
            Distances::Half => rounded(row.iter().map(|&v| rounded(f64::from(v * v))).sum()),
        });
        let norms = norms.collect();
        Ok(Self {
            values,
            dim,
            norms,
            distances,
        })
    }

    fn len(&self) -> usize {
        self.norms.len()
    }

    fn rows(&self, start: usize, count: usize) -> MatRef<'_, f32> {
        MatRef::from_row_major_slice(
            &self.values[start * self.dim..][..count * self.dim],
            count,
            self.dim,
        )
    }

    /// Squared distance from each vector to its third nearest neighbour, itself counted as rank 0.
    fn radii(&self) -> Vec<f64> {
        let nearest = self.visit(self, [f64::INFINITY; NEIGHBOURS + 1], |nearest, _, distances| {
            for &distance in distances {
                // Most are farther than all that are known.
                if distance < nearest[NEIGHBOURS] {
                    insert(nearest, distance);
                }
            }
        });
        nearest.iter().map(|ranks| ranks[NEIGHBOURS]).collect()
    }

    /// What becomes of `start` for each vector when `visit` has seen its distances to all of `other`, some at a time: the
    /// number of the first of them, and the distances.
    pub(super) fn visit<R: Copy + Send + Sync>(
        &self,
        other: &Self,
        start: R,
        visit: impl Fn(&mut R, usize, &[f64]) + Sync,
    ) -> Vec<R> {
        let tasks: Vec<Vec<R>> = (0..self.len())
            .step_by(ROWS)
            .collect::<Vec<_>>()
            .into_par_iter()
            .map(|first| {
                let rows = ROWS.min(self.len() - first);
                let mut results = vec![start; rows];
                let mut products = Mat::<f32>::zeros(COLUMNS, rows);
                let mut distances = vec![0.0; COLUMNS];
                for other_first in (0..other.len()).step_by(COLUMNS) {
                    let columns = COLUMNS.min(other.len() - other_first);
                    matmul(
                        products.as_mut().subrows_mut(0, columns),
                        Accum::Replace,
                        other.rows(other_first, columns),
                        self.rows(first, rows).transpose(),
                        1.0,
                        Par::Seq,
                    );
                    for (i, result) in results.iter_mut().enumerate() {
                        let norm = self.norms[first + i];
                        let others = &other.norms[other_first..][..columns];
                        let distances = &mut distances[..columns];
                        for ((j, distance), other_norm) in distances.iter_mut().enumerate().zip(others) {
                            let product = f64::from(products[(j, i)]);
                            *distance = self.distance(norm, product, *other_norm);
                        }
                        visit(result, other_first, distances);
                    }
                }
                results
            })
            .collect();
        tasks.concat()
    }

    #[inline(always)]
    fn distance(&self, norm: f64, product: f64, other_norm: f64) -> f64 {
        let distance = match self.distances {
            Distances::Single => norm - 2.0 * product + other_norm,
            Distances::Half => rounded(rounded(norm - 2.0 * rounded(product)) + other_norm),
        };
        distance.max(0.0)
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
    let inside = points.visit(centres, false, |inside, first, distances| {
        let radii = &radii[first..][..distances.len()];
        *inside |= distances
            .iter()
            .zip(radii)
            .fold(false, |any, (distance, radius)| any | (distance <= radius));
    });
    inside.iter().filter(|inside| **inside).count() as f64 / points.len() as f64
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
            &Set::new(&x, 8, Distances::Single).unwrap().radii(),
            &[0.172_197_581, 0.106_314_727, 0.115_821_689],
        );
        assert_near(
            &Set::new(&z, 8, Distances::Single).unwrap().radii(),
            &[0.142_937_89, 0.323_228_06],
        );
    }

    #[test]
    fn golden_shares() {
        let x = golden::to_f32(&golden::x(64));
        let against_y = precision_recall(&x, &golden::to_f32(&golden::y()), 8, Distances::Single).unwrap();
        assert_eq!(
            against_y,
            PrecisionRecall {
                precision: 0.25,
                recall: 1.0
            }
        );
        let against_z = precision_recall(&x, &golden::to_f32(&golden::z()), 8, Distances::Single).unwrap();
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
        let x: Vec<f32> = (0..COLUMNS + 700).flat_map(|i| [i as f32, 0.0]).collect();
        let radii = Set::new(&x, 2, Distances::Single).unwrap().radii();
        // On a line of unit steps the third nearest is two steps away, three at the ends.
        assert_eq!(radii[0], 9.0);
        assert_eq!(radii[COLUMNS], 4.0);
        assert_eq!(radii[COLUMNS + 699], 9.0);
    }

    #[test]
    fn too_few_vectors_are_refused() {
        assert!(precision_recall(&[0.0; 6], &[0.0; 80], 2, Distances::Single).is_err());
    }

    #[test]
    fn half_precision_rounds_every_step_and_gives_way_where_it_overflows() {
        let x = golden::to_f32(&golden::x(64));
        let y = golden::to_f32(&golden::y());
        let half = |a: &[f32], b: &[f32]| precision_recall(a, b, 8, Distances::Half).unwrap();
        let single = |a: &[f32], b: &[f32]| precision_recall(a, b, 8, Distances::Single).unwrap();
        let set = Set::new(&x, 8, Distances::Half).unwrap();
        assert!(set.norms.iter().chain(&set.radii()).all(|&v| rounded(v) == v));
        let (rough, fine) = (half(&x, &y), single(&x, &y));
        assert!((rough.precision - fine.precision).abs() < 0.05 && (rough.recall - fine.recall).abs() < 0.05);
        // 2,049 has no f16: the vectors fall together with their neighbours at 2,048.
        let close: Vec<f32> = (0..6).flat_map(|i| [2048.0 + i as f32, 0.0]).collect();
        assert_eq!(Set::new(&close, 2, Distances::Half).unwrap().values[2], 2048.0);
        // Squares beyond 65,504: all in single precision.
        let large: Vec<f32> = x.iter().map(|v| 1000.0 * v).collect();
        let far: Vec<f32> = y.iter().map(|v| 1000.0 * v).collect();
        assert_eq!(half(&large, &far), single(&large, &far));
    }
}
