//! Nearest-neighbour enlargement by two.

use super::feature_map::{FeatureMap, Padding};

/// Every pixel of `input` four times, `[n, 2h, 2w, c]`, within a new border.
pub fn nearest_x2(input: &FeatureMap, padding: Padding) -> FeatureMap {
    let [batch, height, width, channels] = input.shape();
    let mut out = FeatureMap::zeros([batch, 2 * height, 2 * width, channels], padding);
    out.for_each_row_mut(|n, y, row| {
        let pairs = row.chunks_exact_mut(2 * channels);
        for (pair, pixel) in pairs.zip(input.row(n, y / 2).chunks_exact(channels)) {
            let (left, right) = pair.split_at_mut(channels);
            left.copy_from_slice(pixel);
            right.copy_from_slice(pixel);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pixel_becomes_four() {
        let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let map = FeatureMap::from_nchw(&values, [1, 1, 2, 3], Padding::ONE).unwrap();
        let large = nearest_x2(&map, Padding::ONE).to_nchw();
        let first = [1.0, 1.0, 2.0, 2.0, 3.0, 3.0];
        let second = [4.0, 4.0, 5.0, 5.0, 6.0, 6.0];
        assert_eq!(large, [first, first, second, second].concat());
    }
}
