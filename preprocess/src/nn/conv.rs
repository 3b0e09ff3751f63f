//! 2-D convolution as a sum of matrix products over shifted views of one padded buffer.
//!
//! Output pixels are numbered along the padded rows of the input, across rows and images; in this numbering pixel `q`
//! needs, for kernel row `ky`, the values that begin `ky` padded rows after its own: one row of `kw * channels` numbers
//! which lie side by side. A tile of consecutive pixels is therefore `kh` matrix products whose left factor is the
//! buffer itself, at an offset and with overlapping rows. Nothing is unfolded or copied; the pixels that fall on the
//! border between rows are computed and thrown away. For a stride `s` the rows are first dealt into `s` buffers (rows
//! `0, s, 2s..`, then `1, s + 1, ..`), after which neighbours are again a constant step apart. Bias, residual and activation
//! are added while the tile is in cache.

mod finish;
mod grid;
mod source;
mod winograd;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use self::finish::finish_row;
use self::grid::{Grid, Layout};
use self::source::{Source, deal_rows};
use self::winograd::Winograd;
use super::activation::Activation;
use super::error::{Error, check_length};
use super::feature_map::{FeatureMap, Padding};
use super::matmul::{Matrix, matmul};

/// Largest number of values in a tile of output: half of a usual second-level cache.
const TILE_VALUES: usize = 1 << 18;
/// Pixels of a tile: enough for the matrix product's kernels, and enough tiles for the threads.
const MIN_TILE_PIXELS: usize = 192;
const MAX_TILE_PIXELS: usize = 1024;
/// A map is divided into this many tiles, if they are then not too small.
const TILES: usize = 16;

thread_local! {
    /// A tile's sums.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A convolution with its weights.
#[derive(Clone, Debug)]
pub struct Conv2d {
    out_channels: usize,
    in_channels: usize,
    kernel: (usize, usize),
    stride: usize,
    padding: Padding,
    /// `[kh][kw][in][out]`.
    weight: Vec<f32>,
    bias: Vec<f32>,
    /// Weights for fewer multiplications, made at the first use; `None` for a layer that multiplies everything.
    winograd: Option<OnceLock<Winograd>>,
}

/// How the result of a convolution is finished and laid out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output<'a> {
    /// Border of the resulting map.
    pub padding: Padding,
    /// Applied last.
    pub activation: Activation,
    /// Added before the activation; shaped as the result, with any border.
    pub residual: Option<&'a FeatureMap>,
}

impl Output<'_> {
    /// A plain result within a border.
    pub fn padded(padding: Padding) -> Self {
        Self {
            padding,
            ..Self::default()
        }
    }
}

impl Conv2d {
    /// A convolution from `weight` `[out, in, kh, kw]` (row-major) and `bias` `[out]`.
    ///
    /// # Errors
    /// When a buffer's length does not fit the shape.
    pub fn new(
        weight: &[f32],
        [out_channels, in_channels, kh, kw]: [usize; 4],
        bias: Vec<f32>,
        stride: usize,
        padding: Padding,
    ) -> Result<Self, Error> {
        check_length(
            "convolution weight",
            out_channels * in_channels * kh * kw,
            weight.len(),
        )?;
        check_length("convolution bias", out_channels, bias.len())?;
        let taps = kh * kw;
        let mut transposed = vec![0.0; weight.len()];
        if out_channels > 0 && in_channels > 0 {
            transposed
                .par_chunks_exact_mut(in_channels * out_channels)
                .enumerate()
                .for_each(|(tap, matrix)| {
                    for (i, row) in matrix.chunks_exact_mut(out_channels).enumerate() {
                        for (o, value) in row.iter_mut().enumerate() {
                            *value = weight[(o * in_channels + i) * taps + tap];
                        }
                    }
                });
        }
        Ok(Self {
            out_channels,
            in_channels,
            kernel: (kh, kw),
            stride: stride.max(1),
            padding,
            weight: transposed,
            bias,
            winograd: None,
        })
    }

    /// Lets the layer use Winograd's minimal filtering where it applies: a third of the time for a large 3x3 layer, four
    /// times the memory for its weights, and roundings of 1e-6 of the output's deviation where the plain sum has 4e-7.
    #[must_use]
    pub fn with_fewer_products(mut self) -> Self {
        if self.kernel == (3, 3)
            && self.stride == 1
            && (self.padding == Padding::ONE || self.padding == Padding::NONE)
            && self.in_channels.min(self.out_channels) >= winograd::LEAST_CHANNELS
        {
            self.winograd = Some(OnceLock::new());
        }
        self
    }

    /// Channels of the output.
    pub fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// The border that an input must have.
    pub fn padding(&self) -> Padding {
        self.padding
    }

    /// Multiply-adds for an output of `pixels` pixels.
    pub fn multiply_adds(&self, pixels: usize) -> usize {
        pixels * self.weight.len()
    }

    /// Height and width of the output for an input of `height` x `width` (without its border).
    ///
    /// # Errors
    /// When the padded image is smaller than the kernel.
    pub fn output_size(&self, height: usize, width: usize) -> Result<(usize, usize), Error> {
        let (kh, kw) = self.kernel;
        let padded_height = height + self.padding.top + self.padding.bottom;
        let padded_width = width + self.padding.left + self.padding.right;
        if padded_height < kh || padded_width < kw {
            return Err(Error::TooSmall {
                height,
                width,
                kernel: self.kernel,
            });
        }
        Ok((
            (padded_height - kh) / self.stride + 1,
            (padded_width - kw) / self.stride + 1,
        ))
    }

    /// The convolution of every image of `input`, whose border must be at least the padding.
    ///
    /// # Errors
    /// When the input, its border or the residual do not fit the layer.
    pub fn forward(&self, input: &FeatureMap, output: Output<'_>) -> Result<FeatureMap, Error> {
        let [batch, height, width, channels] = input.shape();
        if channels != self.in_channels {
            return Err(Error::Channels {
                layer: "convolution",
                expected: self.in_channels,
                got: channels,
            });
        }
        let (border, padding) = (input.padding(), self.padding);
        if border.top < padding.top
            || border.bottom < padding.bottom
            || border.left < padding.left
            || border.right < padding.right
        {
            return Err(Error::Border {
                expected: padding,
                got: border,
            });
        }
        let (out_height, out_width) = self.output_size(height, width)?;
        let shape = [batch, out_height, out_width, self.out_channels];
        if let Some(residual) = output.residual
            && residual.shape() != shape
        {
            return Err(Error::Residual {
                expected: shape,
                got: residual.shape(),
            });
        }
        let mut out = FeatureMap::unfilled(shape, output.padding);
        if shape.contains(&0) {
            return Ok(out);
        }
        if let Some(winograd) = &self.winograd {
            let winograd = winograd.get_or_init(|| {
                Winograd::new(
                    &self.weight,
                    self.in_channels,
                    self.out_channels,
                    self.padding.top,
                )
            });
            winograd.run(input, &self.bias, output, &mut out);
            return Ok(out);
        }
        let dealt;
        let source = if self.stride == 1 {
            Source::whole(input)
        } else {
            dealt = deal_rows(input, self.stride);
            Source {
                data: &dealt,
                width: input.padded_width().next_multiple_of(self.stride),
                image_rows: input.padded_height().div_ceil(self.stride),
                phase_rows: batch * input.padded_height().div_ceil(self.stride),
            }
        };
        self.run(&source, input, output, &mut out);
        Ok(out)
    }

    /// Cuts the output into tiles and computes them in parallel.
    fn run(&self, source: &Source<'_>, input: &FeatureMap, output: Output<'_>, out: &mut FeatureMap) {
        let [batch, out_height, out_width, _] = out.shape();
        let grid = Grid {
            pitch: source.width / self.stride,
            image: source.image_rows * (source.width / self.stride),
            height: out_height,
            width: out_width,
        };
        let end = (batch - 1) * grid.image + (out_height - 1) * grid.pitch + out_width;
        let most = (TILE_VALUES / self.out_channels).clamp(MIN_TILE_PIXELS, MAX_TILE_PIXELS);
        let tile = end.div_ceil(TILES).clamp(MIN_TILE_PIXELS, most);
        // Tile `i` owns the output from its first pixel to the next tile's first pixel: pixels never go backwards.
        let starts: Vec<usize> = (0..end)
            .step_by(tile)
            .map(|q| {
                let (n, y, x) = grid.next_pixel(q);
                out.offset(n, y, x)
            })
            .collect();
        let layout = Layout::of(out);
        let mut pieces = Vec::with_capacity(starts.len());
        let mut rest = out.data_mut();
        let mut consumed = 0;
        for (i, &start) in starts.iter().enumerate() {
            let stop = starts.get(i + 1).copied().unwrap_or(layout.length);
            let (_, from_start) = rest.split_at_mut(start - consumed);
            let (piece, after) = from_start.split_at_mut(stop - start);
            pieces.push((i * tile..(i * tile + tile).min(end), start, piece));
            rest = after;
            consumed = stop;
        }
        let first = (
            input.padding().top - self.padding.top,
            input.padding().left - self.padding.left,
        );
        pieces.into_par_iter().for_each(|(range, start, piece)| {
            SCRATCH.with_borrow_mut(|scratch| {
                let values = range.len() * self.out_channels;
                if scratch.len() < values {
                    scratch.resize(values, 0.0);
                }
                let products = &mut scratch[..values];
                self.products(source, first, &range, products);
                let mut finish = |q: Range<usize>, (n, y, x): (usize, usize, usize)| {
                    let at = layout.offset(n, y, x) - start;
                    let length = q.len() * self.out_channels;
                    let residual = output
                        .residual
                        .map(|map| &map.data()[map.offset(n, y, x)..][..length]);
                    let from = (q.start - range.start) * self.out_channels;
                    finish_row(
                        &mut piece[at..at + length],
                        &products[from..from + length],
                        &self.bias,
                        residual,
                        output.activation,
                    );
                };
                grid.for_each_run(&range, &mut finish);
            });
        });
    }

    /// The sums over the kernel for the pixels `range`: `[range.len(), out_channels]`.
    fn products(&self, source: &Source<'_>, first: (usize, usize), range: &Range<usize>, out: &mut [f32]) {
        let (kh, kw) = self.kernel;
        let depth = kw * self.in_channels;
        let row_step = self.stride * self.in_channels;
        for (ky, weight) in self
            .weight
            .chunks_exact(depth * self.out_channels)
            .enumerate()
            .take(kh)
        {
            let row = source.row(first.0 + ky, self.stride);
            let start = (row * source.width + first.1) * self.in_channels + range.start * row_step;
            matmul(
                out,
                self.out_channels,
                Matrix::rows(&source.data[start..], row_step),
                Matrix::rows(weight, self.out_channels),
                [range.len(), self.out_channels, depth],
                1.0,
                ky > 0,
            );
        }
    }
}

#[cfg(test)]
mod tests;
