//! Improved precision and recall (Kynkaanniemi et al. 2019), as the ADM evaluator computes them.
//!
//! A set's manifold is the union of balls around its vectors, each as wide as the distance to the third nearest
//! neighbour. Precision is the share of samples inside the reference's manifold, recall the reverse. Distances are
//! squared, `max(|u|^2 - 2 u.v + |v|^2, 0)`, with the products in f32 and the norms in f64, or all of it in f16.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use half::f16;
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Neighbours that give a ball its radius.
pub const NEIGHBOURS: usize = 3;

/// Vectors of each side whose products a thread holds at a time.
const TILE: usize = 512;

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
    let (in_samples, in_reference) = inside(&reference, &reference.radii(), &samples, &samples.radii());
    Ok(PrecisionRecall {
        precision: share(&in_reference),
        recall: share(&in_samples),
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
    ///
    /// A tile of products serves both its vectors and those of its mirror image.
    fn radii(&self) -> Vec<f64> {
        let starts: Vec<usize> = (0..self.len()).step_by(TILE).collect();
        let pairs = starts.iter().enumerate().flat_map(|(i, &first)| {
            let others = starts[i..].iter();
            others.map(move |&other| (first, other))
        });
        let found = visit_tiles(
            &pairs.collect::<Vec<_>>(),
            || Nearest::new(self.len()),
            |nearest: &mut Nearest, tile, (first, other_first)| {
                tile.multiply(self, first, self, other_first);
                for (i, products) in tile.rows().enumerate() {
                    let norm = self.norms[first + i];
                    let columns = other_first..other_first + products.len();
                    for (&product, j) in products.iter().zip(columns.clone()) {
                        nearest.see(first + i, self.distance(norm, product, self.norms[j]));
                    }
                    if first != other_first {
                        for (&product, j) in products.iter().zip(columns) {
                            nearest.see(j, self.distance(self.norms[j], product, norm));
                        }
                    }
                }
            },
        );
        let merged = found.into_iter().reduce(Nearest::merge);
        merged.map_or_else(Vec::new, |nearest| nearest.farthest)
    }

    /// From a vector of squared length `norm` to one of `other_norm`, squared.
    #[inline(always)]
    fn distance(&self, norm: f64, product: f32, other_norm: f64) -> f64 {
        let product = f64::from(product);
        let distance = match self.distances {
            Distances::Single => norm - 2.0 * product + other_norm,
            Distances::Half => rounded(rounded(norm - 2.0 * rounded(product)) + other_norm),
        };
        distance.max(0.0)
    }
}

/// The smallest distances of each vector so far.
struct Nearest {
    ranks: Vec<[f64; NEIGHBOURS + 1]>,
    /// The last of each vector's, side by side: most distances are larger, which is all that must be known of them.
    farthest: Vec<f64>,
}

impl Nearest {
    fn new(count: usize) -> Self {
        Self {
            ranks: vec![[f64::INFINITY; NEIGHBOURS + 1]; count],
            farthest: vec![f64::INFINITY; count],
        }
    }

    #[inline(always)]
    fn see(&mut self, vector: usize, distance: f64) {
        if distance < self.farthest[vector] {
            insert(&mut self.ranks[vector], distance);
            self.farthest[vector] = self.ranks[vector][NEIGHBOURS];
        }
    }

    fn merge(mut self, other: Self) -> Self {
        for (vector, ranks) in other.ranks.into_iter().enumerate() {
            for distance in ranks {
                self.see(vector, distance);
            }
        }
        self
    }
}

/// Products of some vectors with some others.
struct Tile {
    products: Mat<f32>,
    rows: usize,
    columns: usize,
}

impl Tile {
    fn new() -> Self {
        Self {
            products: Mat::zeros(TILE, TILE),
            rows: 0,
            columns: 0,
        }
    }

    /// The products of up to [`TILE`] vectors of `a` from `first` on with as many of `b` from `other_first` on.
    fn multiply(&mut self, a: &Set<'_>, first: usize, b: &Set<'_>, other_first: usize) {
        self.rows = TILE.min(a.len() - first);
        self.columns = TILE.min(b.len() - other_first);
        // Column-major: the products of one vector of `a` lie side by side.
        matmul(
            self.products
                .as_mut()
                .submatrix_mut(0, 0, self.columns, self.rows),
            Accum::Replace,
            b.rows(other_first, self.columns),
            a.rows(first, self.rows).transpose(),
            1.0,
            Par::Seq,
        );
    }

    /// For each vector of `a`, the products with all of `b`.
    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        (0..self.rows).map(|i| &self.products.col_as_slice(i)[..self.columns])
    }
}

/// Lets every thread take tiles as long as there are any, and answers what each has gathered.
fn visit_tiles<R: Send>(
    tiles: &[(usize, usize)],
    start: impl Fn() -> R + Sync,
    visit: impl Fn(&mut R, &mut Tile, (usize, usize)) + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    rayon::broadcast(|_| {
        let (mut gathered, mut tile) = (start(), Tile::new());
        while let Some(&place) = tiles.get(next.fetch_add(1, Ordering::Relaxed)) {
            visit(&mut gathered, &mut tile, place);
        }
        gathered
    })
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

/// Which vectors of `a` lie in a ball of `b`, and which of `b` in a ball of `a`. Distances go from `a` to `b`.
fn inside(a: &Set<'_>, a_radii: &[f64], b: &Set<'_>, b_radii: &[f64]) -> (Vec<bool>, Vec<bool>) {
    let starts = |set: &Set<'_>| (0..set.len()).step_by(TILE);
    let pairs: Vec<_> = starts(a).flat_map(|i| starts(b).map(move |j| (i, j))).collect();
    let found = visit_tiles(
        &pairs,
        || (vec![false; a.len()], vec![false; b.len()]),
        |(a_inside, b_inside), tile, (first, other_first)| {
            tile.multiply(a, first, b, other_first);
            for (i, products) in tile.rows().enumerate() {
                let i = first + i;
                let (norm, radius) = (a.norms[i], a_radii[i]);
                let columns = other_first..other_first + products.len();
                let b_side = b.norms[columns.clone()].iter().zip(&b_radii[columns.clone()]);
                for ((&product, (&other_norm, &other_radius)), b_inside) in
                    products.iter().zip(b_side).zip(&mut b_inside[columns])
                {
                    let distance = a.distance(norm, product, other_norm);
                    a_inside[i] |= distance <= other_radius;
                    *b_inside |= distance <= radius;
                }
            }
        },
    );
    let merge = |(mut a, mut b): (Vec<bool>, Vec<bool>), (more_a, more_b): (Vec<bool>, Vec<bool>)| {
        for (all, more) in [(&mut a, more_a), (&mut b, more_b)] {
            all.iter_mut().zip(more).for_each(|(all, more)| *all |= more);
        }
        (a, b)
    };
    found.into_iter().reduce(merge).unwrap_or_default()
}

fn share(inside: &[bool]) -> f64 {
    inside.iter().filter(|inside| **inside).count() as f64 / inside.len() as f64
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
        let x: Vec<f32> = (0..TILE + 700).flat_map(|i| [i as f32, 0.0]).collect();
        let radii = Set::new(&x, 2, Distances::Single).unwrap().radii();
        // On a line of unit steps the third nearest is two steps away, three at the ends.
        assert_eq!(radii[0], 9.0);
        assert_eq!(radii[TILE], 4.0);
        assert_eq!(radii[TILE + 699], 9.0);
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
