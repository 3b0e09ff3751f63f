//! The vectors of one set that are nearest to those of another.

use crate::error::Result;
use crate::metric::precision_recall::{Distances, Set};

/// Neighbours that are told of each vector.
pub const NEAREST: usize = 4;

/// The number of a vector, and its distance in the unit of the features.
pub type Neighbour = (usize, f64);

/// The [`NEAREST`] vectors of `reference` to each of `points`, nearest first, both `[n, dim]` row-major.
///
/// # Errors
/// If a set has fewer vectors than that, or is not made of rows of `dim`.
pub fn nearest(reference: &[f32], points: &[f32], dim: usize) -> Result<Vec<[Neighbour; NEAREST]>> {
    let reference = Set::new(reference, dim, Distances::Single)?;
    let points = Set::new(points, dim, Distances::Single)?;
    let none = [(usize::MAX, f64::INFINITY); NEAREST];
    let mut nearest = points.visit(&reference, none, |nearest, first, distances| {
        for (i, &distance) in distances.iter().enumerate() {
            // Most are farther than all that are known.
            if distance < nearest[NEAREST - 1].1 {
                insert(nearest, (first + i, distance));
            }
        }
    });
    for (_, distance) in nearest.iter_mut().flatten() {
        *distance = distance.sqrt();
    }
    Ok(nearest)
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
        assert!(nearest(&reference[..4], &points, 2).is_err());
    }
}
