//! The Frechet distance of two Gaussians (Heusel et al. 2017, equation 6): FID on pool features, sFID on spatial ones.
//!
//! `|mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)`. The trace of the root is the sum of the roots of the eigenvalues of
//! `L^T S1 L`, where `S2 = L L^T`: a factor and eigenvalues alone, instead of the root of a general matrix.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt_pivoting::factor::{
    PivLltParams, cholesky_in_place, cholesky_in_place_scratch,
};
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, Par, Side};

use crate::error::{Error, Result};
use crate::stats::Gaussian;

/// Frechet distance of two Gaussians, in squared units of the features.
///
/// # Errors
/// If their widths differ, or if an eigenvalue problem has no finite answer.
pub fn frechet_distance(first: &Gaussian, second: &Gaussian) -> Result<f64> {
    if first.mu.len() != second.mu.len() {
        return Err(Error::Input(format!(
            "features are {} and {} wide: both sides must come from the same network and tap",
            first.mu.len(),
            second.mu.len()
        )));
    }
    let means: f64 = first
        .mu
        .iter()
        .zip(&second.mu)
        .map(|(a, b)| (a - b) * (a - b))
        .sum();
    let traces = trace(&first.sigma) + trace(&second.sigma);
    let distance = means + traces - 2.0 * trace_of_root_of_product(&first.sigma, &second.sigma)?;
    if distance.is_finite() {
        // Rounding may take the distance of equal sets a little below.
        Ok(distance.max(0.0))
    } else {
        Err(Error::Numeric(
            "the Frechet distance is not finite: look for infinite features".into(),
        ))
    }
}

fn trace(matrix: &Mat<f64>) -> f64 {
    (0..matrix.nrows()).map(|i| matrix[(i, i)]).sum()
}

/// `tr (a b)^(1/2)` of two covariances.
///
/// With `b = L L^T`, the eigenvalues of `a b` are those of `L^T a L`, which is symmetric, and as small as the rank of `b`.
fn trace_of_root_of_product(a: &Mat<f64>, b: &Mat<f64>) -> Result<f64> {
    let factor = Factor::of(b)?;
    let (dim, rank) = (b.nrows(), factor.rank);
    let par = Par::rayon(0);
    let a = Mat::from_fn(dim, dim, |i, j| a[(factor.order[i], factor.order[j])]);
    let mut half = Mat::zeros(dim, dim);
    triangular::matmul(
        half.as_mut(),
        BlockStructure::Rectangular,
        Accum::Replace,
        a.as_ref(),
        BlockStructure::Rectangular,
        factor.lower.as_ref(),
        BlockStructure::TriangularLower,
        1.0,
        par,
    );
    let mut product = Mat::zeros(dim, dim);
    triangular::matmul(
        product.as_mut(),
        BlockStructure::TriangularLower,
        Accum::Replace,
        factor.lower.transpose(),
        BlockStructure::TriangularUpper,
        half.as_ref(),
        BlockStructure::Rectangular,
        1.0,
        par,
    );
    let eigenvalues = product
        .submatrix(0, 0, rank, rank)
        .self_adjoint_eigenvalues(Side::Lower)
        .map_err(no_convergence)?;
    Ok(eigenvalues.iter().map(|value| value.max(0.0).sqrt()).sum())
}

/// `P m P^T = L L^T` of a positive semidefinite matrix `m`: Cholesky's factor with complete pivoting (Higham 1990), which ends
/// where what is left is rounding.
struct Factor {
    /// Rows of `m` in the order of the factor's.
    order: Vec<usize>,
    /// `L`, lower triangular, zero from column `rank` on.
    lower: Mat<f64>,
    rank: usize,
}

impl Factor {
    fn of(matrix: &Mat<f64>) -> Result<Self> {
        let dim = matrix.nrows();
        let mut lower = matrix.clone();
        let (mut order, mut inverse) = (vec![0_usize; dim], vec![0_usize; dim]);
        let par = Par::rayon(0);
        let mut memory = MemBuffer::new(cholesky_in_place_scratch::<usize, f64>(
            dim,
            par,
            PivLltParams::default().into(),
        ));
        let (info, _) = cholesky_in_place(
            lower.as_mut(),
            &mut order,
            &mut inverse,
            par,
            MemStack::new(&mut memory),
            PivLltParams::default().into(),
        )
        .map_err(no_convergence)?;
        let rank = info.rank;
        for j in 0..dim {
            let first_kept = if j < rank { j } else { dim };
            lower.col_mut(j).subrows_mut(0, first_kept).fill(0.0);
        }
        Ok(Self { order, lower, rank })
    }
}

fn no_convergence(error: impl std::fmt::Debug) -> Error {
    Error::Numeric(format!(
        "the eigenvalues of a covariance could not be found ({error:?}): look for infinite features"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::golden;

    /// Statistics straight in f64, as the golden numbers were made.
    fn gaussian(rows: &[f64]) -> Gaussian {
        let n = rows.len() / 8;
        let mu: Vec<f64> = (0..8)
            .map(|j| (0..n).map(|i| rows[i * 8 + j]).sum::<f64>() / n as f64)
            .collect();
        let sigma = Mat::from_fn(8, 8, |a, b| {
            (0..n)
                .map(|i| (rows[i * 8 + a] - mu[a]) * (rows[i * 8 + b] - mu[b]))
                .sum::<f64>()
                / (n as f64 - 1.0)
        });
        Gaussian { mu, sigma }
    }

    #[test]
    fn golden_distance() {
        let (x, y) = (gaussian(&golden::x(64)), gaussian(&golden::y()));
        assert!((trace(&x.sigma) - 4.151_806_433_003).abs() < 1e-10);
        assert!((trace(&y.sigma) - 4.104_103_436_081).abs() < 1e-10);
        let distance = frechet_distance(&x, &y).unwrap();
        assert!((distance - 0.328_424_008_133).abs() < 1e-9, "{distance}");
    }

    #[test]
    fn golden_distance_of_fewer_images_than_dimensions() {
        let distance = frechet_distance(&gaussian(&golden::x(5)), &gaussian(&golden::y())).unwrap();
        assert!((distance - 2.910_450_35).abs() < 1e-6, "{distance}");
    }

    #[test]
    fn a_set_is_at_no_distance_from_itself() {
        let x = gaussian(&golden::x(64));
        assert!(frechet_distance(&x, &x).unwrap().abs() < 1e-9);
    }

    #[test]
    fn different_widths_and_infinite_features_are_refused() {
        let x = gaussian(&golden::x(64));
        let narrow = Gaussian {
            mu: vec![0.0; 2],
            sigma: Mat::zeros(2, 2),
        };
        assert!(frechet_distance(&x, &narrow).is_err());
        let mut infinite = x.clone();
        infinite.mu[0] = f64::INFINITY;
        assert!(frechet_distance(&x, &infinite).is_err());
    }
}
