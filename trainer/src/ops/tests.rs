//! Every operation beside its slow f64 twin: values, and gradients against central differences of the twin.
//!
//! Sizes are odd, larger than one task, and no multiples of the vectors' lanes.

use super::bias_gelu::{Gelu, bias_backward, bias_gelu, gelu_backward};
use super::gate::{gate, gate_backward};
use super::long_conv::LongConv;
use super::norm_modulate::{norm_modulate, norm_modulate_backward};
use super::reference;
use super::ssm_kernel::{Discretization, SsmParams, kernels, kernels_backward};

/// A wave of `len` numbers that no two calls share.
fn wave(len: usize, phase: f64) -> Vec<f32> {
    (0..len)
        .map(|i| ((0.731 * i as f64 + phase).sin() + 0.3 * (2.17 * i as f64 * phase).cos()) as f32)
        .collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Largest difference over largest value.
fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1e-30, |max: f64, w| max.max(w.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*g) - w).abs() / scale;
        assert!(
            error < tolerance,
            "{what}[{i}]: {g} is not {w} ({error:.1e} of the largest)"
        );
    }
}

/// The gradient of `f` at `x` by central differences.
fn differences(x: &[f32], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut x = wide(x);
    (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + STEP;
            let above = f(&x);
            x[i] = at - STEP;
            let below = f(&x);
            x[i] = at;
            (above - below) / (2.0 * STEP)
        })
        .collect()
}

#[test]
fn the_fft_convolution_is_the_direct_sum_and_so_is_its_gradient() {
    // One channel more than a task's block, twice the length of a power of two and lengths that are none.
    for (batch, length, dim, sum) in [
        (2, 7, 17, false),
        (1, 12, 5, true),
        (3, 1, 2, false),
        (2, 9, 33, true),
    ] {
        let u = wave(batch * length * dim, 0.4);
        let k = wave(2 * dim * length, 1.1);
        let skip = wave(2 * dim, 2.3);
        let conv = LongConv::new(length);
        let mut y = vec![0.0; batch * length * if sum { dim } else { 2 * dim }];
        let spectra = conv.spectra(&k);
        conv.forward(&u, &spectra, &skip, sum, &mut y);
        let twin = |u: &[f64], k: &[f64], skip: &[f64]| reference::long_conv(u, k, skip, length, sum);
        assert_close("y", &y, &twin(&wide(&u), &wide(&k), &wide(&skip)), 1e-5);

        let up = wave(y.len(), 3.7);
        let (mut du, mut dk, mut d_skip) = (vec![0.0; u.len()], vec![0.0; k.len()], vec![0.5; skip.len()]);
        conv.backward(&u, &spectra, &skip, sum, &up, &mut du, &mut dk, &mut d_skip);
        let up = wide(&up);
        let (uw, kw, sw) = (wide(&u), wide(&k), wide(&skip));
        assert_close(
            "du",
            &du,
            &differences(&u, |u| dot(&twin(u, &kw, &sw), &up)),
            1e-5,
        );
        assert_close(
            "dk",
            &dk,
            &differences(&k, |k| dot(&twin(&uw, k, &sw), &up)),
            1e-5,
        );
        let mut want = differences(&skip, |skip| dot(&twin(&uw, &kw, skip), &up));
        want.iter_mut().for_each(|w| *w += 0.5); // gradients of parameters are added
        assert_close("d_skip", &d_skip, &want, 1e-5);
    }
}

#[test]
fn the_factored_kernel_is_the_vandermonde_sum_and_so_is_its_gradient() {
    let (channels, states) = (3, 4);
    for (kind, length) in [
        (Discretization::Zoh, 13),
        (Discretization::Bilinear, 70),
        (Discretization::Zoh, 1),
    ] {
        let count = channels * states;
        let log_dt: Vec<f32> = wave(channels, 0.2).iter().map(|v| 0.5 * v - 2.5).collect();
        let planes: Vec<Vec<f32>> = (0..6).map(|i| wave(count, 0.9 + f64::from(i))).collect();
        let p = SsmParams {
            log_dt: &log_dt,
            log_a_real: &planes[0],
            a_imag: &planes[1],
            b_re: &planes[2],
            b_im: &planes[3],
            c_re: &planes[4],
            c_im: &planes[5],
        };
        // One channel's parameters in a row: log_dt, then six numbers a state.
        let flat = |channel: usize| -> Vec<f32> {
            let state = |n: usize| planes.iter().map(move |plane| plane[channel * states + n]);
            std::iter::once(log_dt[channel])
                .chain((0..states).flat_map(state))
                .collect()
        };
        let twin = |flat: &[f64]| {
            let states: Vec<[f64; 6]> = flat[1..].as_chunks::<6>().0.to_vec();
            reference::ssm_kernel(flat[0], &states, kind, length)
        };
        let got = kernels(&p, kind, length);
        let up = wave(got.len(), 5.1);
        let grads = kernels_backward(&p, kind, length, &up);
        for (channel, grad) in grads.iter().enumerate() {
            let span = channel * length..(channel + 1) * length;
            assert_close("kernel", &got[span.clone()], &twin(&wide(&flat(channel))), 1e-5);
            let up = wide(&up[span]);
            let want = differences(&flat(channel), |flat| dot(&twin(flat), &up));
            let found: Vec<f32> = std::iter::once(grad.log_dt)
                .chain(grad.states.iter().flatten().copied())
                .collect();
            assert_close("gradient", &found, &want, 1e-4);
        }
    }
}

#[test]
fn gelu_and_gate_are_their_formulas_and_so_are_their_gradients() {
    let (rows, cols) = (70, 37);
    for kind in [Gelu::Tanh, Gelu::Erf] {
        let scaled = |phase: f64| -> Vec<f32> { wave(rows * cols, phase).iter().map(|v| 3.0 * v).collect() };
        let (x, bias) = (scaled(0.3), wave(cols, 0.8));
        let with_bias = |x: &[f64], bias: &[f64]| -> Vec<f64> {
            x.iter().enumerate().map(|(i, x)| x + bias[i % cols]).collect()
        };
        let activated = |x: &[f64], bias: &[f64]| -> Vec<f64> {
            with_bias(x, bias)
                .iter()
                .map(|x| reference::gelu(kind, *x))
                .collect()
        };
        let (mut pre, mut out) = (x.clone(), vec![0.0; x.len()]);
        bias_gelu(kind, &mut pre, &bias, &mut out);
        assert_close("gelu", &out, &activated(&wide(&x), &wide(&bias)), 1e-5);
        let up = wave(x.len(), 1.9);
        let mut d = up.clone();
        gelu_backward(kind, &pre, &mut d);
        let slope = |x: f64| (reference::gelu(kind, x + 1e-5) - reference::gelu(kind, x - 1e-5)) / 2e-5;
        let want: Vec<f64> = pre
            .iter()
            .zip(&up)
            .map(|(x, up)| slope(f64::from(*x)) * f64::from(*up))
            .collect();
        assert_close("d gelu", &d, &want, 1e-5);
        let mut d_bias = vec![0.0; cols];
        bias_backward(&d, &mut d_bias);
        let sums: Vec<f64> = (0..cols)
            .map(|c| d.iter().skip(c).step_by(cols).map(|&d| f64::from(d)).sum())
            .collect();
        assert_close("d bias", &d_bias, &sums, 1e-5);

        let (y, bias_y) = (scaled(2.6), wave(cols, 4.4));
        let (mut a, mut b) = (x.clone(), y.clone());
        gate(kind, &mut a, &bias, &mut b, &bias_y, &mut out);
        let pairs = activated(&wide(&x), &wide(&bias))
            .into_iter()
            .zip(activated(&wide(&y), &wide(&bias_y)));
        let products: Vec<f64> = pairs.map(|(a, b)| a * b).collect();
        assert_close("gate", &out, &products, 1e-5);
        let (before_a, before_b) = (wide(&a), wide(&b));
        gate_backward(kind, &mut a, &mut b, &up);
        let grad = |x: &[f64], other: &[f64]| -> Vec<f64> {
            let each = x.iter().zip(other).zip(&up);
            each.map(|((x, other), up)| slope(*x) * reference::gelu(kind, *other) * f64::from(*up))
                .collect()
        };
        assert_close("d a", &a, &grad(&before_a, &before_b), 1e-5);
        assert_close("d b", &b, &grad(&before_b, &before_a), 1e-5);
    }
}

#[test]
fn the_modulated_norm_is_its_formula_and_so_is_its_gradient() {
    let (batch, per_image, dim, eps) = (2, 35, 19, 1e-6);
    for with_scale in [true, false] {
        let x = wave(batch * per_image * dim, 0.6);
        let modulation = wave(batch * dim * 2, 1.4);
        let (mut h, mut stats) = (vec![0.0; x.len()], vec![(0.0, 0.0); batch * per_image]);
        norm_modulate(&x, &modulation, batch, with_scale, eps as f32, &mut h, &mut stats);
        let twin = |x: &[f64], m: &[f64]| reference::norm_modulate(x, m, batch, dim, with_scale, eps);
        let (xw, mw) = (wide(&x), wide(&modulation));
        assert_close("h", &h, &twin(&xw, &mw), 1e-5);

        let up = wave(x.len(), 2.2);
        let (mut dx, mut d_modulation) = (vec![0.25; x.len()], vec![0.0; modulation.len()]);
        norm_modulate_backward(
            &x,
            &modulation,
            batch,
            with_scale,
            &stats,
            &up,
            &mut dx,
            &mut d_modulation,
        );
        let up = wide(&up);
        let mut want = differences(&x, |x| dot(&twin(x, &mw), &up));
        want.iter_mut().for_each(|w| *w += 0.25); // the residual's gradient is there already
        assert_close("dx", &dx, &want, 1e-5);
        let want = differences(&modulation, |m| dot(&twin(&xw, m), &up));
        assert_close("d modulation", &d_modulation, &want, 1e-5);
    }
}
