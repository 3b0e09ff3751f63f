//! The Frechet distance of two Gaussians (Heusel et al. 2017, equation 6): FID on pool features, sFID on spatial ones.
//!
//! `|mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)`. The trace of the root is the sum of the roots of the
//! eigenvalues of `R S2 R`, where `R` is the symmetric root of `S1`: two symmetric problems instead of one general one.

use faer::linalg::matmul::matmul;
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
fn trace_of_root_of_product(a: &Mat<f64>, b: &Mat<f64>) -> Result<f64> {
    let root = symmetric_root(a)?;
    let par = Par::rayon(0);
    let mut half = Mat::zeros(a.nrows(), a.ncols());
    matmul(half.as_mut(), Accum::Replace, root.as_ref(), b.as_ref(), 1.0, par);
    let mut product = Mat::zeros(a.nrows(), a.ncols());
    matmul(
        product.as_mut(),
        Accum::Replace,
        half.as_ref(),
        root.as_ref(),
        1.0,
        par,
    );
    let eigenvalues = product
        .self_adjoint_eigenvalues(Side::Lower)
        .map_err(no_convergence)?;
    Ok(eigenvalues.iter().map(|value| value.max(0.0).sqrt()).sum())
}

/// The symmetric square root, with negative eigenvalues (rounding) taken as 0.
fn symmetric_root(matrix: &Mat<f64>) -> Result<Mat<f64>> {
    let eigen = matrix.self_adjoint_eigen(Side::Lower).map_err(no_convergence)?;
    let vectors = eigen.U();
    let values = eigen.S().column_vector();
    let scaled = Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| {
        vectors[(i, j)] * values[j].max(0.0).sqrt()
    });
    let mut root = Mat::zeros(matrix.nrows(), matrix.ncols());
    matmul(
        root.as_mut(),
        Accum::Replace,
        scaled.as_ref(),
        vectors.transpose(),
        1.0,
        Par::rayon(0),
    );
    Ok(root)
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
