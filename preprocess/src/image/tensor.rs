//! Pixels to tensors in [-1, 1] and back.

use candle_core::{Device, Result, Tensor};

use super::RgbImage;

/// Stacks images of one size: `x = u8 / 127.5 - 1` in f32 (a true division).
///
/// # Shapes
/// Returns `[B, 3, H, W]`, f32.
///
/// # Errors
/// When the list is empty or the sizes differ.
pub fn to_unit(images: &[RgbImage], device: &Device) -> Result<Tensor> {
    let Some(first) = images.first() else {
        candle_core::bail!("a batch needs at least one image");
    };
    let (w, h) = (first.width, first.height);
    let mut values = Vec::with_capacity(images.len() * 3 * w * h);
    for image in images {
        if (image.width, image.height) != (w, h) {
            candle_core::bail!(
                "a batch holds images of one size: {}x{} beside {w}x{h}",
                image.width,
                image.height
            );
        }
        for c in 0..3 {
            values.extend(
                image
                    .data
                    .iter()
                    .skip(c)
                    .step_by(3)
                    .map(|v| f32::from(*v) / 127.5 - 1.0),
            );
        }
    }
    Tensor::from_vec(values, (images.len(), 3, h, w), device)
}

/// Turns images in [-1, 1] into bytes by DiT's rule, `trunc(clip(127.5 v + 128, 0, 255))`; not-a-number becomes 0.
///
/// # Shapes
/// `images`: `[B, 3, H, W]`.
///
/// # Errors
/// When the shape is another one.
pub fn to_rgb(images: &Tensor) -> Result<Vec<RgbImage>> {
    let (batch, channels, height, width) = images.dims4()?;
    if channels != 3 {
        candle_core::bail!("images have 3 channels, not {channels}");
    }
    let values = images
        .to_dtype(candle_core::DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    let area = height * width;
    let image = |b: usize| {
        let mut data = vec![0u8; area * 3];
        for c in 0..3 {
            let plane = &values[(b * 3 + c) * area..(b * 3 + c + 1) * area];
            for (out, v) in data.iter_mut().skip(c).step_by(3).zip(plane) {
                *out = to_byte(*v);
            }
        }
        RgbImage { width, height, data }
    };
    Ok((0..batch).map(image).collect())
}

/// One value by DiT's rule.
pub fn to_byte(v: f32) -> u8 {
    (127.5 * v + 128.0).clamp(0.0, 255.0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_follow_dits_rule() {
        let cases = [
            (-1.0, 0),
            (-0.003_921_57, 127),
            (0.0, 128),
            (0.5, 191),
            (0.99, 254),
            (1.0, 255),
        ];
        for (v, byte) in cases {
            assert_eq!(to_byte(v), byte, "{v}");
        }
    }

    #[test]
    fn pixels_return_through_the_tensor() {
        let data: Vec<u8> = (0..=255).chain(0..=127).collect();
        let image = RgbImage {
            width: 16,
            height: 8,
            data,
        };
        let tensor = to_unit(std::slice::from_ref(&image), &Device::Cpu).unwrap();
        assert_eq!(tensor.dims(), [1, 3, 8, 16]);
        assert_eq!(to_rgb(&tensor).unwrap(), [image]);
    }
}
