//! The metrics that diffusion models are compared by, on feature vectors.

pub mod fid;
pub mod inception_score;
pub mod neighbours;
pub mod precision_recall;

#[cfg(test)]
pub(crate) mod golden {
    //! The feature sets that the published numbers of these tests were computed from.

    fn set(rows: usize, value: impl Fn(f64, f64) -> f64) -> Vec<f64> {
        (0..rows * 8)
            .map(|k| value((k / 8) as f64, (k % 8) as f64))
            .collect()
    }

    pub(crate) fn x(rows: usize) -> Vec<f64> {
        set(rows, |i, j| {
            (0.37 * (i + 1.0) * (j + 1.0)).sin() + 0.1 * (0.5 * i + j).cos()
        })
    }

    pub(crate) fn y() -> Vec<f64> {
        set(48, |i, j| {
            (0.41 * (i + 1.0) * (j + 1.0) + 0.3).sin() + 0.1 * (0.5 * i + j).cos() + 0.2
        })
    }

    pub(crate) fn z() -> Vec<f64> {
        set(48, |i, j| {
            (0.9 * (i + 1.0) * (j + 1.0) + 0.2).sin() + 0.1 * (0.5 * i + j).cos()
        })
    }

    pub(crate) fn to_f32(values: &[f64]) -> Vec<f32> {
        values.iter().map(|&value| value as f32).collect()
    }
}
