//! Numbers to test with, and comparison.

/// A wave of `len` numbers that no two phases share.
pub(crate) fn wave(len: usize, phase: f64) -> Vec<f32> {
    (0..len)
        .map(|i| ((0.731 * i as f64 + phase).sin() + 0.3 * (2.17 * i as f64 * phase).cos()) as f32)
        .collect()
}

/// The same with large and tiny numbers strewn in.
pub(crate) fn extreme(len: usize, phase: f64) -> Vec<f32> {
    const EXTREMES: [f32; 8] = [1e4, -1e4, 30.0, -30.0, 1e-30, -1e-30, 0.0, -0.0];
    let mut values = wave(len, phase);
    for (i, value) in values.iter_mut().enumerate().skip(3).step_by(5) {
        *value = EXTREMES[i / 5 % EXTREMES.len()];
    }
    values
}

/// The largest absolute value.
pub(crate) fn largest(values: &[f32]) -> f64 {
    values.iter().fold(1e-30, |max, v| f64::from(v.abs()).max(max))
}

/// Asserts that each number is near to its twin: within `relative` of the twin, or `absolute`, added.
pub(crate) fn assert_near(what: &str, got: &[f32], want: &[f32], relative: f64, absolute: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(g) - f64::from(w)).abs();
        let allowed = relative * f64::from(w.abs()) + absolute;
        assert!(
            error <= allowed,
            "{what}[{i}]: {g} is not {w}: off by {error:.2e}, allowed {allowed:.2e}"
        );
    }
}
