//! What a dtype, a frame size and a level of compression cost, measured on rows in memory with the writer's and the
//! reader's own code. For `shards study`; no part of the format.

use crate::error::{Error, Result};
use crate::frame::{Decoder, Encoder};
use crate::layout::RowLayout;
use crate::manifest::Compression;
use crate::quantize;

/// One way to store.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// Shape, dtype, log-variance.
    pub layout: RowLayout,
    /// Rows of a frame.
    pub frame_rows: usize,
    /// zstd's level; `None` for raw blocks.
    pub level: Option<i32>,
}

/// What it costs.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Bytes of all frames.
    pub bytes: usize,
    /// Squared errors of the means, summed.
    pub squared_error: f64,
    /// Seconds to quantise and compress all rows.
    pub encode_seconds: f64,
    /// Seconds to decompress them and make f32 of them.
    pub decode_seconds: f64,
}

/// Encodes and decodes `rows` (mean, log-variance), again and again for at least `least_seconds` by the clock `seconds`:
/// clocks of CPU time tick in milliseconds.
///
/// # Errors
/// What a row cannot be stored for, or zstd's complaint.
pub fn measure(
    choice: &Choice,
    rows: &[(Vec<f32>, Option<Vec<f32>>)],
    seconds: &dyn Fn() -> f64,
    least_seconds: f64,
) -> Result<Cost> {
    let layout = choice.layout;
    let (row_bytes, row_cuts) = (layout.row_bytes(), layout.cuts());
    let mut encoder = match choice.level {
        Some(level) => Encoder::with_level(Compression::Zstd, level)?,
        None => Encoder::new(Compression::None)?,
    };
    let refuse = |what| Error::Settings { what };
    let (mut frames, mut squared_error) = (Vec::new(), 0.0);
    let encode_seconds = repeat(seconds, least_seconds, || {
        frames.clear();
        squared_error = 0.0;
        for rows in rows.chunks(choice.frame_rows) {
            let mut content = vec![0; rows.len() * row_bytes];
            for ((mean, logvar), row) in rows.iter().zip(content.chunks_exact_mut(row_bytes)) {
                squared_error +=
                    quantize::encode_row(&layout, mean, logvar.as_deref(), row).map_err(refuse)?;
            }
            let cuts: Vec<usize> = (0..rows.len())
                .flat_map(|row| row_cuts.iter().map(move |cut| row * row_bytes + cut))
                .collect();
            let mut frame = Vec::new();
            encoder.encode(&content, &cuts, &mut frame)?;
            frames.push((rows.len(), frame));
        }
        Ok(())
    })?;
    let mut decoder = Decoder::new();
    let mut content = vec![0; choice.frame_rows * row_bytes];
    let (mut mean, mut logvar) = (vec![0.0; layout.elements()], vec![0.0; layout.elements()]);
    let decode_seconds = repeat(seconds, least_seconds, || {
        for (rows, frame) in &frames {
            let content = &mut content[..rows * row_bytes];
            decoder.decode(frame, content).map_err(refuse)?;
            for row in content.chunks_exact(row_bytes) {
                quantize::decode_mean(&layout, row, &mut mean);
                if layout.logvar {
                    quantize::decode_logvar(&layout, row, &mut logvar);
                }
                std::hint::black_box((&mean, &logvar));
            }
        }
        Ok(())
    })?;
    Ok(Cost {
        bytes: frames.iter().map(|(_, frame)| frame.len()).sum(),
        squared_error,
        encode_seconds,
        decode_seconds,
    })
}

/// Seconds of one pass of `work`.
fn repeat(
    seconds: &dyn Fn() -> f64,
    least_seconds: f64,
    mut work: impl FnMut() -> Result<()>,
) -> Result<f64> {
    let (start, mut passes) = (seconds(), 0.0);
    loop {
        work()?;
        passes += 1.0;
        let spent = seconds() - start;
        if spent >= least_seconds {
            return Ok(spent / passes);
        }
    }
}
