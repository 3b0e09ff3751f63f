//! What can be wrong with a model or with what it is given.

/// What can be wrong with a model or with what it is given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key of `[model]` that does not fit.
    #[error("model.{key}: {why}")]
    Config {
        /// The key.
        key: &'static str,
        /// What it must be.
        why: String,
    },
    /// A buffer of the wrong length.
    #[error("{what} has {found} elements, expected {expected}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length that the model wants.
        expected: usize,
    },
    /// A label outside of the table.
    #[error("label {label} of image {index} is not in 0..{rows}")]
    Label {
        /// Its place in the batch.
        index: usize,
        /// The label.
        label: u32,
        /// Rows of the label table, the null class included.
        rows: usize,
    },
    /// The initialisation's eigenvalue iteration did not converge.
    #[error("the eigenvalues of the {size} x {size} LegS matrix did not converge; use another model.a_init")]
    Eigen {
        /// Side of the matrix.
        size: usize,
    },
}
