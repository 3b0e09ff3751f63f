//! What bf16 does to a training step, on a processor without it: for `run.precision = "bf16"`.
//!
//! Within [`scope`], every matrix product rounds both factors to bf16, sums in f32, and, unless it adds to what is there,
//! rounds its result; activations are rounded where they are stored. Weights, gradients, moments and EMA stay f32
//! (Micikevicius et al. 2018, "Mixed Precision Training"), and so do norms, state space model, residual stream and
//! loss. It says what bf16 changes in the numbers, not in the time.

use std::cell::Cell;

use rayon::prelude::*;

use super::vectorised::vectorised;

/// Numbers of one task.
const CHUNK: usize = 1 << 15;

thread_local! {
    /// Products and activation functions are called by the thread that runs the step, whatever threads they use.
    static IS_ON: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, with rounding where `is_on`.
pub fn scope<R>(is_on: bool, work: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            IS_ON.set(self.0);
        }
    }
    let _restore = Restore(IS_ON.replace(is_on));
    work()
}

/// Whether this thread rounds.
pub(super) fn is_on() -> bool {
    IS_ON.get()
}

/// The nearest bf16 number, ties to even; infinities and NaN stay what they are.
#[inline(always)]
pub fn round(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    f32::from_bits(if x.is_nan() { bits } else { rounded })
}

/// Rounds what is stored, within a [`scope`].
pub(super) fn store(values: &mut [f32]) {
    if is_on() {
        values.par_chunks_mut(CHUNK).for_each(round_all);
    }
}

/// A rounded copy.
pub(super) fn rounded(values: &[f32]) -> Vec<f32> {
    let mut copy = values.to_vec();
    copy.par_chunks_mut(CHUNK).for_each(round_all);
    copy
}

vectorised! {
    fn round_all<'a>(values: &'a mut [f32]) {
        for value in values {
            *value = round(*value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        let edges = [
            0.0,
            -0.0,
            1.0,
            f32::MAX,
            f32::MIN_POSITIVE,
            f32::INFINITY,
            -f32::INFINITY,
        ];
        let ties = [0x3f80_8000, 0x3f81_8000, 0x0000_8000, 0x7f7f_8000].map(f32::from_bits);
        let waves = (0..10_000).map(|i| (0.37 * i as f32).sin() * 2f32.powi(i % 250 - 125));
        for x in edges.into_iter().chain(ties).chain(waves) {
            let expected = half::bf16::from_f32(x).to_f32();
            assert_eq!(round(x).to_bits(), expected.to_bits(), "{x}");
        }
        assert!(round(f32::NAN).is_nan());
    }

    #[test]
    fn only_the_scope_rounds() {
        let x = [1.0 + 1.0 / 512.0];
        let stored = |is_on| {
            scope(is_on, || {
                let mut values = x;
                store(&mut values);
                values
            })
        };
        assert_eq!((stored(true), stored(false)), ([1.0], x));
        assert!(!is_on());
    }
}
