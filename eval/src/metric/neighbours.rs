//! The vectors of one set that are nearest to those of another.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Vectors of one task: its products with all of the reference are in memory.
const ROWS: usize = 64;

/// Neighbours that are told of each vector.
pub const NEAREST: usize = 4;

/// The number of a vector, and its distance in the unit of the features.
pub type Neighbour = (usize, f64);

/// The [`NEAREST`] vectors of `reference` to each of `points`, nearest first, both `[n, dim]` row-major.
///
/// # Errors
/// If the reference has fewer vectors than that, a set is not made of rows of `dim`, or a vector has no finite distances.
pub fn nearest(reference: &[f32], points: &[f32], dim: usize) -> Result<Vec<[Neighbour; NEAREST]>> {
    let is_whole = |rows: &[f32]| dim > 0 && rows.len().is_multiple_of(dim);
    if !is_whole(reference) || !is_whole(points) || reference.len() < NEAREST * dim {
        return Err(Error::Input(format!(
            "{} and {} numbers are no sets of {NEAREST} and more vectors of {dim}",
            reference.len(),
            points.len()
        )));
    }
    let count = reference.len() / dim;
    let all = MatRef::from_row_major_slice(reference, count, dim);
    let norms: Vec<f64> = reference.par_chunks_exact(dim).map(square).collect();
    let tasks = points.par_chunks(ROWS * dim).map(|rows| {
        let points = rows.len() / dim;
        let mut products = Mat::<f32>::zeros(count, points);
        let rows_of = MatRef::from_row_major_slice(rows, points, dim);
        matmul(
            products.as_mut(),
            Accum::Replace,
            all,
            rows_of.transpose(),
            1.0,
            Par::Seq,
        );
        let of_row = |(i, row): (usize, &[f32])| {
            let (norm, mut nearest) = (square(row), [(usize::MAX, f64::INFINITY); NEAREST]);
            for (j, other) in norms.iter().enumerate() {
                let distance = norm - 2.0 * f64::from(products[(j, i)]) + other;
                // Most are farther than all that are known.
                if distance < nearest[NEAREST - 1].1 {
                    insert(&mut nearest, (j, distance));
                }
            }
            if nearest[NEAREST - 1].1.is_infinite() {
                return Err(Error::Numeric(
                    "features are not finite: they have no neighbours".into(),
                ));
            }
            // From products, distances of vectors that lie close together are mostly rounding.
            let mut nearest = nearest.map(|(j, _)| (j, distance(row, &reference[j * dim..][..dim])));
            nearest.sort_by(|a, b| a.1.total_cmp(&b.1));
            Ok(nearest)
        };
        rows.chunks_exact(dim).enumerate().map(of_row).collect()
    });
    Ok(tasks.collect::<Result<Vec<Vec<_>>>>()?.concat())
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squares = a
        .iter()
        .zip(b)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    squares.sum::<f64>().sqrt()
}

fn square(row: &[f32]) -> f64 {
    row.iter().map(|&v| f64::from(v) * f64::from(v)).sum()
}

/// Keeps the nearest in ascending order, of equals the one before.
fn insert(nearest: &mut [Neighbour; NEAREST], mut candidate: Neighbour) {
    for neighbour in nearest {
        if candidate.1 < neighbour.1 {
            std::mem::swap(neighbour, &mut candidate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_come_first_with_their_distances() {
        // Points on a line, in no order, each with a second coordinate of 1.
        let reference: Vec<f32> = [5.0, 0.0, 3.0, 9.0, 1.0, 20.0]
            .iter()
            .flat_map(|&x| [x, 1.0])
            .collect();
        let points: Vec<f32> = [0.4, 19.0, 6.0, 3.0].iter().flat_map(|&x| [x, 1.0]).collect();
        let found = nearest(&reference, &points, 2).unwrap();
        assert_eq!(found[0].map(|(i, _)| i), [1, 4, 2, 0]);
        assert_eq!(found[1].map(|(i, _)| i), [5, 3, 0, 2]);
        assert!((found[1][1].1 - 10.0).abs() < 1e-4, "{:?}", found[1]);
        assert_eq!(found[3][0], (2, 0.0));
        assert!(nearest(&reference[..6], &points, 2).is_err());
        assert!(nearest(&reference, &points[..3], 2).is_err());
        assert!(nearest(&reference, &[f32::NAN, 1.0], 2).is_err());
    }
}
