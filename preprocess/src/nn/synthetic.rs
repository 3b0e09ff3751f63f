//! Weights made of a hash, so that a whole network can be checked against published numbers without its weights.
//!
//! A tensor is a function of its name, of its ordinal among the network's sorted names, of its shape and of one gain:
//! the murmur3 finaliser of the flat index, spread over a range that keeps activations near one.

use rayon::prelude::*;

/// Distance between the counters of neighbouring tensors (2^32 / golden ratio).
const ORDINAL_STEP: u32 = 0x9E37_79B9;

/// The weights of tensor `name`, row-major (convolutions as `[out, in, kh, kw]`).
///
/// `ordinal` is the tensor's place among the network's tensor names, sorted bytewise, from 0. Matrices and kernels
/// have variance `gain / 12 / fan_in`; norms, biases and running statistics are near their usual values.
pub fn synthetic_tensor(name: &str, ordinal: u32, shape: &[usize], gain: f64) -> Vec<f32> {
    let count = shape.iter().product::<usize>();
    let (offset, scale) = if name.ends_with("running_var") {
        (1.0, 0.4)
    } else if name.ends_with("running_mean") {
        (0.0, 0.2)
    } else if shape.len() >= 2 {
        let fan_in = shape[1..].iter().product::<usize>();
        (0.0, (gain / fan_in as f64).sqrt())
    } else if name.ends_with(".weight") {
        (1.0, 0.4)
    } else {
        (0.0, 0.2)
    };
    let first = ordinal.wrapping_mul(ORDINAL_STEP);
    (0..count)
        .into_par_iter()
        .with_min_len(1 << 14)
        .map(|index| (offset + scale * centred(first.wrapping_add(index as u32))) as f32)
        .collect()
}

/// A hash of `counter` in `[-0.5, 0.5)`.
fn centred(counter: u32) -> f64 {
    let mut hash = counter;
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^= hash >> 16;
    f64::from(hash) / 4_294_967_296.0 - 0.5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_of_two_tensors_match_the_golden_values() {
        let bias = synthetic_tensor("decoder.conv_in.bias", 0, &[512], 12.0);
        let kernel = synthetic_tensor("encoder.conv_in.weight", 139, &[128, 3, 3, 3], 12.0);
        let golden = [
            (&bias, [-0.1, -0.036_480_23, -0.061_753_05]),
            (&kernel, [-0.071_322_69, -0.095_420_03, -0.004_391_55]),
        ];
        for (values, expected) in golden {
            for (value, expected) in values.iter().zip(expected) {
                assert!((value - expected).abs() < 1e-8, "{value} {expected}");
            }
        }
    }
}
