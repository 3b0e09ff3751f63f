//! Elementwise functions, written so that the compiler turns them into vector code.

/// What is applied to a layer's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// `max(x, 0)`.
    Relu,
    /// `x / (1 + e^-x)`.
    Silu,
}

impl Activation {
    /// Applies the function to one number; inlined into loops that are compiled for the widest vectors.
    #[inline(always)]
    pub(crate) fn apply(self, x: f32) -> f32 {
        match self {
            Self::None => x,
            Self::Relu => x.max(0.0),
            Self::Silu => silu(x),
        }
    }
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Adding this rounds a small f32 to an integer, which then lies in the low bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts, so that `n * ln 2` is subtracted without loss.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `e^x` to 2 units in the last place, without branches; results outside the range of normal f32 saturate.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Clamped by comparisons that also send a NaN through.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    // Cephes' polynomial for |r| < ln 2 / 2.
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_6e-1;
    let p = p * r + 0.5;
    let p = p * (r * r) + r + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    p * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_good_to_a_few_ulps_over_its_range() {
        for i in -8_600..=8_790 {
            let x = i as f32 * 0.01 + 0.0037;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 3e-7, "{x}: {error:e}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::INFINITY) > 1e38);
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn silu_keeps_signs_and_limits() {
        assert_eq!(silu(0.0), 0.0);
        assert_eq!(silu(100.0), 100.0);
        assert!(silu(-100.0).abs() < 1e-30);
        for i in -100i16..100 {
            let x = f64::from(f32::from(i) * 0.13);
            let exact = x / (1.0 + (-x).exp());
            let tolerance = 3e-7 * exact.abs() + 1e-7;
            assert!((f64::from(silu(x as f32)) - exact).abs() < tolerance);
        }
    }
}
