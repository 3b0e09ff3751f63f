//! f32 to what a row stores and back: byte planes of f32, f16, bf16 or int8, and the 8-bit log-variance.

use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::{
    layout::{LOGVAR_MAX, LOGVAR_MIN, RowLayout},
    manifest::Dtype,
    vectorised::vectorised,
};

const LOGVAR_STEP: f32 = (LOGVAR_MAX - LOGVAR_MIN) / 255.0;
const INT8_MAX: f32 = 127.0;

/// The byte that stands for a log-variance; values outside -30..20 are clamped, as the autoencoder does.
pub fn logvar_to_byte(logvar: f32) -> u8 {
    ((logvar.clamp(LOGVAR_MIN, LOGVAR_MAX) - LOGVAR_MIN) / LOGVAR_STEP).round() as u8
}

/// The log-variance that a byte stands for: `-30 + 50 byte / 255`.
pub fn byte_to_logvar(byte: u8) -> f32 {
    LOGVAR_MIN + 50.0 * f32::from(byte) / 255.0
}

/// Writes `mean` and `logvar` into `row` and returns the squared error of the stored mean, summed.
///
/// # Errors
/// Says which element is not finite, or too large for the dtype.
///
/// The caller has checked the lengths: `mean` and `logvar` `[C, H, W]`, `row` `[row_bytes]`.
pub(crate) fn encode_row(
    layout: &RowLayout,
    mean: &[f32],
    logvar: Option<&[f32]>,
    row: &mut [u8],
) -> Result<f64, String> {
    row.fill(0);
    let elements = layout.elements();
    for (what, values) in [("mean", Some(mean)), ("log-variance", logvar)] {
        if let Some(i) = values.and_then(|values| values.iter().position(|value| !value.is_finite())) {
            return Err(format!("element {i} of the {what} is not a finite number"));
        }
    }
    let mut squared_error = 0.0f64;
    let mut error = |stored: f32, value: f32| squared_error += (f64::from(stored) - f64::from(value)).powi(2);
    let planes = layout.mean();
    match layout.dtype {
        Dtype::F32 => {
            for (i, &value) in mean.iter().enumerate() {
                put(&mut row[planes.clone()], elements, i, value.to_le_bytes());
            }
        }
        Dtype::F16 => {
            for (i, &value) in mean.iter().enumerate() {
                let stored = f16::from_f32(value);
                if !stored.is_finite() {
                    return Err(format!("element {i} of the mean is {value}, too large for f16"));
                }
                error(stored.to_f32(), value);
                put(&mut row[planes.clone()], elements, i, stored.to_le_bytes());
            }
        }
        Dtype::Bf16 => {
            for (i, &value) in mean.iter().enumerate() {
                let stored = bf16::from_f32(value);
                if !stored.is_finite() {
                    return Err(format!("element {i} of the mean is {value}, too large for bf16"));
                }
                error(stored.to_f32(), value);
                put(&mut row[planes.clone()], elements, i, stored.to_le_bytes());
            }
        }
        Dtype::Int8 => {
            let (scales, bytes) = row.split_at_mut(planes.start);
            let channel_elements = layout.channel_elements();
            for (channel, values) in mean.chunks(channel_elements).enumerate() {
                let largest = values
                    .iter()
                    .fold(0f32, |largest, value| largest.max(value.abs()));
                let scale = largest / INT8_MAX;
                scales[4 * channel..][..4].copy_from_slice(&scale.to_le_bytes());
                let bytes = &mut bytes[channel * channel_elements..][..channel_elements];
                for (byte, &value) in bytes.iter_mut().zip(values) {
                    let level = if scale > 0.0 { (value / scale).round() } else { 0.0 };
                    let level = level.clamp(-INT8_MAX, INT8_MAX) as i8;
                    error(f32::from(level) * scale, value);
                    *byte = level as u8;
                }
            }
        }
    }
    if let Some(logvar) = logvar {
        for (byte, &value) in row[layout.logvar()].iter_mut().zip(logvar) {
            *byte = logvar_to_byte(value);
        }
    }
    Ok(squared_error)
}

/// Replaces `mean` `[C, H, W]` by what a dataset that stores it as `dtype` gives back, and returns the squared error, summed.
///
/// # Errors
/// Says which element is not finite, or too large for the dtype, or that the length is not the shape's.
pub fn round_trip(shape: [usize; 3], dtype: Dtype, mean: &mut [f32]) -> Result<f64, String> {
    let layout = RowLayout {
        shape,
        dtype,
        logvar: false,
    };
    if mean.len() != layout.elements() {
        return Err(format!("{} elements are not {shape:?}", mean.len()));
    }
    let mut row = vec![0; layout.row_bytes()];
    let squared_error = encode_row(&layout, mean, None, &mut row)?;
    decode_mean(&layout, &row, mean);
    Ok(squared_error)
}

/// Reads the mean of a row back, `[C, H, W]`.
pub(crate) fn decode_mean(layout: &RowLayout, row: &[u8], mean: &mut [f32]) {
    let elements = layout.elements();
    let planes = &row[layout.mean()];
    match layout.dtype {
        Dtype::F32 => {
            let (high, low) = planes.split_at(2 * elements);
            let ((b3, b2), (b1, b0)) = (high.split_at(elements), low.split_at(elements));
            join_f32([b0, b1, b2, b3], mean);
        }
        Dtype::F16 => {
            let (high, low) = planes.split_at(elements);
            join_f16(high, low, mean);
        }
        Dtype::Bf16 => {
            let (high, low) = planes.split_at(elements);
            join_bf16(high, low, mean);
        }
        Dtype::Int8 => {
            let channel_elements = layout.channel_elements();
            let scales = row[..layout.scale_bytes()].as_chunks::<4>().0;
            for ((values, bytes), scale) in mean
                .chunks_mut(channel_elements)
                .zip(planes.chunks(channel_elements))
                .zip(scales)
            {
                scale_int8(bytes, f32::from_le_bytes(*scale), values);
            }
        }
    }
}

/// Reads the log-variance of a row that has one back, `[C, H, W]`.
pub(crate) fn decode_logvar(layout: &RowLayout, row: &[u8], logvar: &mut [f32]) {
    for (value, &byte) in logvar.iter_mut().zip(&row[layout.logvar()]) {
        *value = byte_to_logvar(byte);
    }
}

vectorised! {
    /// Planes from the lowest byte to the highest.
    fn join_f32<'a>(planes: [&'a [u8]; 4], out: &'a mut [f32]) {
        let [b0, b1, b2, b3] = planes;
        for ((((value, &b0), &b1), &b2), &b3) in out.iter_mut().zip(b0).zip(b1).zip(b2).zip(b3) {
            *value = f32::from_le_bytes([b0, b1, b2, b3]);
        }
    }
}

vectorised! {
    fn join_bf16<'a>(high: &'a [u8], low: &'a [u8], out: &'a mut [f32]) {
        for ((value, &high), &low) in out.iter_mut().zip(high).zip(low) {
            *value = f32::from_bits((u32::from(high) << 24) | (u32::from(low) << 16));
        }
    }
}

/// The conversion has instructions of its own, which `half` chooses once for a slice.
fn join_f16(high: &[u8], low: &[u8], out: &mut [f32]) {
    const AT_ONCE: usize = 64;
    let mut words = [f16::ZERO; AT_ONCE];
    for ((out, high), low) in out
        .chunks_mut(AT_ONCE)
        .zip(high.chunks(AT_ONCE))
        .zip(low.chunks(AT_ONCE))
    {
        let words = &mut words[..out.len()];
        for ((word, &high), &low) in words.iter_mut().zip(high).zip(low) {
            *word = f16::from_le_bytes([low, high]);
        }
        words.convert_to_f32_slice(out);
    }
}

vectorised! {
    fn scale_int8<'a>(bytes: &'a [u8], scale: f32, out: &'a mut [f32]) {
        for (value, &byte) in out.iter_mut().zip(bytes) {
            *value = f32::from(byte as i8) * scale;
        }
    }
}

/// Puts little-endian `bytes` into planes, the highest byte into the first.
fn put<const N: usize>(planes: &mut [u8], elements: usize, i: usize, bytes: [u8; N]) {
    for (plane, byte) in bytes.into_iter().rev().enumerate() {
        planes[plane * elements + i] = byte;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored(dtype: Dtype, mean: &[f32]) -> (Vec<f32>, f64) {
        let mut back = mean.to_vec();
        let error = round_trip([2, 1, mean.len() / 2], dtype, &mut back).unwrap();
        (back, error)
    }

    proptest! {
        #[test]
        fn every_dtype_keeps_its_precision(mean in proptest::collection::vec(-60.0f32..60.0, 8)) {
            for (dtype, relative) in [
                (Dtype::F32, 0.0),
                (Dtype::F16, 1.0 / 2048.0),
                (Dtype::Bf16, 1.0 / 256.0),
                (Dtype::Int8, 0.0),
            ] {
                let (back, error) = stored(dtype, &mean);
                let mut sum = 0.0;
                for (channel, (values, stored)) in mean.chunks(4).zip(back.chunks(4)).enumerate() {
                    let largest = values.iter().fold(0f32, |a, b| a.max(b.abs()));
                    for (value, stored) in values.iter().zip(stored) {
                        let bound = match dtype {
                            Dtype::Int8 => largest / 254.0 * 1.0001,
                            _ => value.abs() * relative + if relative > 0.0 { 1e-7 } else { 0.0 },
                        };
                        prop_assert!((value - stored).abs() <= bound, "{dtype:?} {channel} {value} {stored}");
                        sum += (f64::from(*value) - f64::from(*stored)).powi(2);
                    }
                }
                prop_assert!((sum - error).abs() <= 1e-12 + 1e-9 * sum);
            }
        }
    }

    #[test]
    fn logvar_bytes_cover_the_clamp_range() {
        assert_eq!((logvar_to_byte(-30.0), logvar_to_byte(20.0)), (0, 255));
        assert_eq!((logvar_to_byte(-99.0), logvar_to_byte(99.0)), (0, 255));
        assert_eq!((byte_to_logvar(0), byte_to_logvar(255)), (-30.0, 20.0));
        for byte in 0..=255 {
            assert_eq!(logvar_to_byte(byte_to_logvar(byte)), byte);
        }
    }

    #[test]
    fn refuses_what_a_dtype_cannot_hold() {
        let layout = RowLayout {
            shape: [1, 1, 1],
            dtype: Dtype::F16,
            logvar: false,
        };
        let mut row = vec![0; layout.row_bytes()];
        assert!(encode_row(&layout, &[70_000.0], None, &mut row).is_err());
        assert!(encode_row(&layout, &[f32::NAN], None, &mut row).is_err());
        assert!(round_trip([1, 1, 2], Dtype::F32, &mut [0.0]).is_err());
    }
}
