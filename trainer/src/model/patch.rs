//! Images to tokens and back. A token is M neighbouring patches of the raster sequence, side by side.

use super::config::ModelConfig;

/// `x` `[B, C, H, W]` -> tokens `[B, J, M C P P]`: each patch flattened as (C, P, P).
pub(super) fn tokens(config: &ModelConfig, x: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    for_each_element(
        config,
        config.in_channels,
        true,
        |token, pixel| out[token] = x[pixel],
        x.len(),
    );
    out
}

/// The gradient of [`tokens`]: `[B, J, M C P P]` -> `[B, C, H, W]`.
pub(super) fn tokens_backward(config: &ModelConfig, d_tokens: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; d_tokens.len()];
    for_each_element(
        config,
        config.in_channels,
        true,
        |token, pixel| out[pixel] = d_tokens[token],
        d_tokens.len(),
    );
    out
}

/// Tokens `[B, J, M P P Cout]` -> `[B, Cout, H, W]`: each patch is (P, P, Cout), DiT's order.
pub(super) fn images(config: &ModelConfig, tokens: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; tokens.len()];
    for_each_element(
        config,
        config.out_channels(),
        false,
        |token, pixel| out[pixel] = tokens[token],
        tokens.len(),
    );
    out
}

/// The gradient of [`images`].
pub(super) fn images_backward(config: &ModelConfig, d_images: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; d_images.len()];
    let count = d_images.len();
    for_each_element(
        config,
        config.out_channels(),
        false,
        |token, pixel| out[token] = d_images[pixel],
        count,
    );
    out
}

/// Calls `f(index among the tokens, index among the pixels)` for every element.
fn for_each_element(
    config: &ModelConfig,
    channels: usize,
    channels_first: bool,
    mut f: impl FnMut(usize, usize),
    count: usize,
) {
    let (p, grid, side) = (config.patch_size, config.grid(), config.input_size);
    for image in 0..count / (channels * side * side) {
        let base = image * channels * side * side;
        for position in 0..grid * grid {
            let (row, column) = (position / grid, position % grid);
            for c in 0..channels {
                for y in 0..p {
                    for x in 0..p {
                        let inside = if channels_first {
                            (c * p + y) * p + x
                        } else {
                            (y * p + x) * channels + c
                        };
                        let token = base + position * channels * p * p + inside;
                        let pixel = base + (c * side + row * p + y) * side + column * p + x;
                        f(token, pixel);
                    }
                }
            }
        }
    }
}

/// DiT's fixed table `[grid^2, D]`: the first half encodes the column, the second the row; sines before cosines.
pub(super) fn sincos_table(dim: usize, grid: usize) -> Vec<f32> {
    let quarter = dim / 4;
    let mut table = Vec::with_capacity(grid * grid * dim);
    for row in 0..grid {
        for column in 0..grid {
            for position in [column, row] {
                let angle = |k: usize| position as f64 / 10_000f64.powf(k as f64 / quarter as f64);
                table.extend((0..quarter).map(|k| angle(k).sin() as f32));
                table.extend((0..quarter).map(|k| angle(k).cos() as f32));
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpatchify_orders_features_as_dit_does() {
        let config = ModelConfig {
            input_size: 4,
            patch_size: 2,
            in_channels: 2,
            downscale: 1,
            learn_sigma: false,
            ..ModelConfig::default()
        };
        let tokens: Vec<f32> = (0..32).map(|i| i as f32).collect();
        let image = images(&config, &tokens);
        assert_eq!(image[..8], [0., 2., 8., 10., 4., 6., 12., 14.]);
        assert_eq!(image[16..20], [1., 3., 9., 11.]);
        assert_eq!(images_backward(&config, &image), tokens);
    }

    #[test]
    fn sincos_table_has_columns_first() {
        let table = sincos_table(8, 3);
        let (sin, cos) = (1f64.sin() as f32, 1f64.cos() as f32);
        for (got, want) in table[8..16]
            .iter()
            .zip([sin, 0.009_999_833, cos, 0.999_95, 0., 0., 1., 1.])
        {
            assert!((got - want).abs() < 1e-7);
        }
        assert_eq!(table[24..28], [0., 0., 1., 1.]);
    }
}
