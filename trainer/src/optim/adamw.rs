//! AdamW (Loshchilov and Hutter 2019) with bias correction, fused with the EMA of the weights.
//!
//! `m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; p -= lr (m / (1 - b1^k)) / (sqrt(v / (1 - b2^k)) + eps)`, after
//! `p *= 1 - lr decay`; then `ema = d ema + (1 - d) p`. Everything f32; 36 bytes a parameter are moved.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::ops::profile::{Clock, Op};
use crate::ops::vectorised::vectorised;

/// Elements handled by one task.
const CHUNK: usize = 1 << 15;

/// The constants of the optimiser; the defaults are DiT's recipe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the bias-corrected second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Decay of the moving average of the weights, a step.
    pub ema_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            ema_decay: 0.9999,
        }
    }
}

/// The factors of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Learning rate.
    pub lr: f64,
    /// Learning rate of dt, A and B of the state space models, which have no weight decay either.
    pub ssm_lr: f64,
    /// Every gradient is multiplied by it first (clipping, averaging over micro-batches).
    pub grad_scale: f32,
}

/// The factors of one step as `kernels/adamw.cu` takes them: `1 - beta1`, `1 - beta2`, `lr / (1 - beta1^k)`,
/// `sqrt(1 / (1 - beta2^k))`, eps, `1 - lr decay`, `1 - ema_decay`, and the third again for dt, A and B.
pub type DeviceRates = [f32; 8];

impl AdamWConfig {
    /// The factors of step number `step` (from 1), without the gradients' own.
    pub fn device_rates(&self, step: u64, lr: f64, ssm_lr: f64) -> DeviceRates {
        let of = |lr| Factors::new(self, step, lr, self.weight_decay, 1.0);
        let (factors, ssm) = (of(lr), of(ssm_lr));
        [
            1.0 - factors.beta1,
            1.0 - factors.beta2,
            factors.rate,
            factors.root,
            factors.eps,
            factors.keep,
            factors.ema_rate,
            ssm.rate,
        ]
    }
}

/// The state: both moments, in the layout of the parameters.
#[derive(Clone, Debug)]
pub struct AdamW {
    /// The constants.
    pub config: AdamWConfig,
    /// First moment.
    pub first: Vec<f32>,
    /// Second moment.
    pub second: Vec<f32>,
    /// Where dt, A and B lie, ascending.
    ssm: Vec<Range<usize>>,
}

impl AdamW {
    /// Zero moments for `len` parameters; `ssm` lists, in ascending order, where dt, A and B of the state space
    /// models lie among them.
    pub fn new(config: AdamWConfig, len: usize, ssm: Vec<Range<usize>>) -> Self {
        Self {
            config,
            first: vec![0.0; len],
            second: vec![0.0; len],
            ssm,
        }
    }

    /// Step number `step` (from 1): updates `params` with `grads`, then `ema` with `params`.
    pub fn step(&mut self, step: u64, rates: Rates, params: &mut [f32], grads: &[f32], ema: &mut [f32]) {
        let _clock = Clock::start(Op::Optimizer);
        let factors = Factors::new(
            &self.config,
            step,
            rates.lr,
            self.config.weight_decay,
            rates.grad_scale,
        );
        let ssm_factors = Factors::new(&self.config, step, rates.ssm_lr, 0.0, rates.grad_scale);
        let ssm = &self.ssm;
        params
            .par_chunks_mut(CHUNK)
            .zip(self.first.par_chunks_mut(CHUNK))
            .zip(self.second.par_chunks_mut(CHUNK))
            .zip(ema.par_chunks_mut(CHUNK))
            .zip(grads.par_chunks(CHUNK))
            .enumerate()
            .for_each(|(chunk, ((((p, m), v), e), g))| {
                let start = chunk * CHUNK;
                let mut next = ssm.partition_point(|range| range.end <= start);
                let mut at = 0;
                while at < p.len() {
                    // From here to the next border between the two kinds of parameters.
                    let (begin, end) = ssm
                        .get(next)
                        .map_or((usize::MAX, usize::MAX), |r| (r.start, r.end));
                    let inside = start + at >= begin;
                    let border = if inside { end } else { begin };
                    let stop = p.len().min(border - start);
                    let span = at..stop;
                    let factors = if inside { &ssm_factors } else { &factors };
                    next += usize::from(inside);
                    at = stop;
                    Arch::new().dispatch(Update {
                        factors,
                        p: &mut p[span.clone()],
                        m: &mut m[span.clone()],
                        v: &mut v[span.clone()],
                        e: &mut e[span.clone()],
                        g: &g[span],
                    });
                }
            });
    }
}

/// The constants of one step in f32.
struct Factors {
    beta1: f32,
    beta2: f32,
    rate: f32,
    root: f32,
    eps: f32,
    keep: f32,
    ema_rate: f32,
    grad_scale: f32,
}

impl Factors {
    fn new(config: &AdamWConfig, step: u64, lr: f64, weight_decay: f64, grad_scale: f32) -> Self {
        let correction1 = 1.0 - config.beta1.powf(step as f64);
        let correction2 = 1.0 - config.beta2.powf(step as f64);
        Self {
            beta1: config.beta1 as f32,
            beta2: config.beta2 as f32,
            rate: (lr / correction1) as f32,
            root: (1.0 / correction2).sqrt() as f32,
            eps: config.eps as f32,
            keep: (1.0 - lr * weight_decay) as f32,
            ema_rate: (1.0 - config.ema_decay) as f32,
            grad_scale,
        }
    }
}

/// Updates parameters of one kind.
struct Update<'a> {
    factors: &'a Factors,
    p: &'a mut [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    e: &'a mut [f32],
    g: &'a [f32],
}

impl WithSimd for Update<'_> {
    type Output = ();

    /// Vectors by hand, everything read before anything is written: the compiler does not see that the five slices are
    /// apart, and would read again what it has just written, which takes longer than all the rest.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            factors,
            p,
            m,
            v,
            e,
            g,
        } = self;
        let splat = |value: f32| simd.splat_f32s(value);
        let rise1 = splat(1.0 - factors.beta1);
        let rise2 = splat(1.0 - factors.beta2);
        let [rate, root, eps] = [-factors.rate, factors.root, factors.eps].map(splat);
        let [keep, ema_rate, scale] = [factors.keep, factors.ema_rate, factors.grad_scale].map(splat);
        let add = |a, b, c| simd.mul_add_e_f32s(a, b, c);
        let (p, p_rest) = S::as_mut_simd_f32s(p);
        let (m, m_rest) = S::as_mut_simd_f32s(m);
        let (v, v_rest) = S::as_mut_simd_f32s(v);
        let (e, e_rest) = S::as_mut_simd_f32s(e);
        let (g, g_rest) = S::as_simd_f32s(g);
        for ((((p, m), v), e), g) in p.iter_mut().zip(m).zip(v).zip(e).zip(g) {
            let g = simd.mul_f32s(*g, scale);
            let first = add(rise1, simd.sub_f32s(g, *m), *m);
            let second = add(rise2, simd.sub_f32s(simd.mul_f32s(g, g), *v), *v);
            let size = add(simd.sqrt_f32s(second), root, eps);
            let param = add(*p, keep, simd.div_f32s(simd.mul_f32s(rate, first), size));
            let mean = add(ema_rate, simd.sub_f32s(param, *e), *e);
            (*m, *v, *p, *e) = (first, second, param, mean);
        }
        let rest = p_rest.iter_mut().zip(m_rest).zip(v_rest).zip(e_rest).zip(g_rest);
        for ((((p, m), v), e), g) in rest {
            let g = g * factors.grad_scale;
            *m += (1.0 - factors.beta1) * (g - *m);
            *v += (1.0 - factors.beta2) * (g * g - *v);
            *p = *p * factors.keep - factors.rate * *m / (v.sqrt() * factors.root + factors.eps);
            *e += factors.ema_rate * (*p - *e);
        }
    }
}

/// Numbers that are summed side by side.
const LANES: usize = 16;

/// The Euclidean norm of all gradients, summed in f64 in a fixed order.
pub fn grad_norm(grads: &[f32]) -> f64 {
    let _clock = Clock::start(Op::Optimizer);
    let parts: Vec<f64> = grads
        .par_chunks(CHUNK)
        .map(|chunk| {
            let mut sum = 0.0;
            add_squares(chunk, &mut sum);
            sum
        })
        .collect();
    parts.into_iter().sum::<f64>().sqrt()
}

vectorised! {
    fn add_squares<'a>(values: &'a [f32], sum: &'a mut f64) {
        let mut lanes = [0f64; LANES];
        let (whole, rest) = values.as_chunks::<LANES>();
        for values in whole {
            for (lane, &value) in lanes.iter_mut().zip(values) {
                *lane += f64::from(value) * f64::from(value);
            }
        }
        let rest = rest.iter().map(|&value| f64::from(value) * f64::from(value));
        *sum += lanes.iter().sum::<f64>() + rest.sum::<f64>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_steps_match_pytorch() {
        let mut p = [1.0f32, -2.0, 0.5];
        let mut ema = p;
        let config = AdamWConfig {
            ema_decay: 0.5,
            ..AdamWConfig::default()
        };
        let mut optimizer = AdamW::new(config, 3, Vec::new());
        let mut mean = p.map(f64::from);
        for step in 1..=3 {
            let grads = [2.0 * 0.5 * p[0], 2.0 * p[1], 2e-6 * p[2]];
            let rates = Rates {
                lr: 1e-4,
                ssm_lr: 1e-4,
                grad_scale: 1.0,
            };
            optimizer.step(step, rates, &mut p, &grads, &mut ema);
            for (m, p) in mean.iter_mut().zip(p) {
                *m = 0.5 * *m + 0.5 * f64::from(p);
            }
        }
        let golden = [
            0.999_700_000_958_634,
            -1.999_700_000_478_43,
            0.499_702_972_463_057,
        ];
        for i in 0..3 {
            assert!(
                (f64::from(p[i]) - golden[i]).abs() < 2e-7,
                "{} {}",
                p[i],
                golden[i]
            );
            assert!((f64::from(ema[i]) - mean[i]).abs() < 1e-6);
        }
    }

    #[test]
    fn the_state_space_parameters_have_their_own_rate_and_no_decay() {
        let config = AdamWConfig {
            weight_decay: 0.5,
            ..AdamWConfig::default()
        };
        let len = CHUNK + 100;
        let ssm = vec![3..5, CHUNK - 2..CHUNK + 7];
        let mut optimizer = AdamW::new(config, len, ssm.clone());
        let mut params = vec![1f32; len];
        let mut ema = params.clone();
        let rates = Rates {
            lr: 0.1,
            ssm_lr: 0.01,
            grad_scale: 1.0,
        };
        optimizer.step(1, rates, &mut params, &vec![2.0; len], &mut ema);
        for (i, p) in params.iter().enumerate() {
            let want = if ssm.iter().any(|range| range.contains(&i)) {
                0.99
            } else {
                1.0 - 0.05 - 0.1
            };
            assert!((p - want).abs() < 1e-6, "{i}: {p} is not {want}");
        }
    }
}
