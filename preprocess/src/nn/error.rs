//! What can be wrong with the shapes given to a layer.

/// A layer was given numbers that do not fit it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A flat buffer does not hold as many values as its shape says.
    #[error("{what}: {got} values given, {expected} expected")]
    Length {
        /// The buffer.
        what: &'static str,
        /// Values the shape asks for.
        expected: usize,
        /// Values given.
        got: usize,
    },
    /// The input has another number of channels than the layer.
    #[error("{layer}: the input has {got} channels, the layer {expected}")]
    Channels {
        /// The layer.
        layer: &'static str,
        /// Channels of the layer.
        expected: usize,
        /// Channels of the input.
        got: usize,
    },
    /// The border of the input is narrower than the convolution reaches.
    #[error("convolution: the input's border {got:?} is narrower than the padding {expected:?}")]
    Border {
        /// Padding of the convolution.
        expected: super::Padding,
        /// Border of the input.
        got: super::Padding,
    },
    /// The image, with its padding, is smaller than the kernel.
    #[error("convolution: a {height} x {width} image is too small for a {kernel:?} kernel")]
    TooSmall {
        /// Rows of the input.
        height: usize,
        /// Columns of the input.
        width: usize,
        /// Rows and columns of the kernel.
        kernel: (usize, usize),
    },
    /// The residual has another shape than the output.
    #[error("convolution: the residual is {got:?}, the output {expected:?} (batch, height, width, channels)")]
    Residual {
        /// Shape of the output.
        expected: [usize; 4],
        /// Shape of the residual.
        got: [usize; 4],
    },
    /// The groups do not divide the channels.
    #[error("group norm: {channels} channels do not divide into {groups} groups")]
    Groups {
        /// Channels of the layer.
        channels: usize,
        /// Groups asked for.
        groups: usize,
    },
}

/// Checks the length of a flat buffer.
pub(crate) fn check_length(what: &'static str, expected: usize, got: usize) -> Result<(), Error> {
    if expected == got {
        Ok(())
    } else {
        Err(Error::Length { what, expected, got })
    }
}
