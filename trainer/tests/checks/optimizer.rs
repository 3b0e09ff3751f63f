//! AdamW with the moving average, and the norm of the gradients, beside the CPU's.

use half::bf16;
use trainer::gpu::kernels::{
    self,
    optimizer::{adamw, grad_scale, norm_parts, sum_of_squares},
};
use trainer::optim::{AdamW, AdamWConfig, Rates, grad_norm};

use crate::device::Runner;

use super::Case;
use super::runner::{Bytes, Launch};
use super::values::{assert_near, wave};

struct State {
    params: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    ema: Vec<f32>,
}

impl State {
    fn new(len: usize) -> Self {
        Self {
            params: wave(len, 0.4),
            first: vec![0.0; len],
            second: vec![0.0; len],
            ema: wave(len, 0.9),
        }
    }

    fn launch(
        &self,
        grads: &[f32],
        ssm: &[i64],
        scale: f32,
        step: u64,
        config: &AdamWConfig,
        with_copy: bool,
    ) -> Launch {
        let len = grads.len();
        let state = kernels::optimizer::State {
            params: self.params[..].into(),
            first: self.first[..].into(),
            second: self.second[..].into(),
            ema: self.ema[..].into(),
            grads: grads.into(),
            copy: with_copy.then(|| Bytes::zeros::<u16>(len)),
        };
        let rates = config.device_rates(step, RATES.lr, RATES.ssm_lr);
        adamw(
            len,
            state,
            ssm.into(),
            ssm.len() / 2,
            [scale][..].into(),
            rates[..].into(),
        )
    }
}

const RATES: Rates = Rates {
    lr: 1e-2,
    ssm_lr: 1e-3,
    grad_scale: 0.5,
};

fn squares(grads: &[f32]) -> Launch {
    let partial = Bytes::zeros::<f64>(norm_parts(grads.len()));
    sum_of_squares(grads.len(), grads.into(), partial)
}

fn scale(partial: &[f64], losses: &[f64], max_norm: f64) -> Launch {
    grad_scale(
        [partial.len(), losses.len()],
        partial.into(),
        losses.into(),
        Bytes::zeros::<f64>(1),
        Bytes::zeros::<f32>(1),
        max_norm,
    )
}

pub(crate) fn cases() -> Vec<Case> {
    let len = 8192;
    let (state, grads, config) = (State::new(len), wave(len, 0.2), AdamWConfig::default());
    let adamw = |with_copy| state.launch(&grads, &[3, 5, 4000, 4100], 1.0, 1, &config, with_copy);
    vec![
        adamw(false).into(),
        adamw(true).into(),
        squares(&grads).into(),
        scale(&[1.0; 300], &[0.5; 64], 1.0).into(),
    ]
}

pub(crate) fn three_steps_are_the_cpus() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    let config = AdamWConfig {
        weight_decay: 0.1,
        ema_decay: 0.9,
        ..AdamWConfig::default()
    };
    // Ranges that begin and end within packs, touch the borders of blocks, and cover one whole.
    for (len, ranges) in [
        (13_001, vec![3..5, 5..6, 4093..4099, 8190..12_300]),
        (5, vec![]),
        (4096, std::iter::once(0..4096).collect()),
    ] {
        let mut state = State::new(len);
        let mut optimizer = AdamW::new(config, len, ranges.clone());
        let (mut params, mut ema) = (state.params.clone(), state.ema.clone());
        let ssm: Vec<i64> = ranges
            .iter()
            .flat_map(|range| [range.start as i64, range.end as i64])
            .collect();
        for step in 1..=3 {
            let grads = wave(len, 0.3 * step as f64);
            let run = runner.run(&state.launch(&grads, &ssm, RATES.grad_scale, step, &config, true));
            let plain = runner.run(&state.launch(&grads, &ssm, RATES.grad_scale, step, &config, false));
            optimizer.step(step, RATES, &mut params, &grads, &mut ema);
            state = State {
                params: run.f32s(0),
                first: run.f32s(1),
                second: run.f32s(2),
                ema: run.f32s(3),
            };
            for (what, got, want) in [
                ("params", &state.params, &params),
                ("first", &state.first, &optimizer.first),
                ("second", &state.second, &optimizer.second),
                ("ema", &state.ema, &ema),
            ] {
                assert_near(&format!("{what} of step {step}"), got, want, 1e-6, 1e-7);
            }
            let copy: Vec<u16> = state
                .params
                .iter()
                .map(|&p| bf16::from_f32(p).to_bits())
                .collect();
            assert_eq!(run.get::<u16>(5), copy);
            assert_eq!(plain.buffers[..4], run.buffers[..4]);
        }
        let skipped = runner.run(&state.launch(&wave(len, 0.1), &ssm, f32::NAN, 4, &config, false));
        assert_eq!(
            skipped.f32s(0),
            state.params,
            "a step with a scale that is not a number"
        );
    }
}

pub(crate) fn the_norm_of_the_gradients_decides_the_scale() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    let mut grads = wave((1 << 16) + 1003, 0.8);
    let partial = runner.run(&squares(&grads)).get::<f64>(1);
    let norm = grad_norm(&grads);
    for (max_norm, losses, want) in [
        (0.0, vec![], 1.0),
        (2.0 * norm, vec![1.0, 0.25], 1.0),
        (1.0, vec![1.0], (1.0 / norm) as f32),
        (1.0, vec![0.5, f64::NAN], f32::NAN),
        (1.0, vec![f64::INFINITY], f32::NAN),
    ] {
        let run = runner.run(&scale(&partial, &losses, max_norm));
        let (found, scale) = (run.get::<f64>(2)[0], run.f32s(3)[0]);
        assert!((found - norm).abs() < 1e-12 * norm, "{found} is not {norm}");
        assert!(
            scale == want || scale.is_nan() && want.is_nan(),
            "{scale} is not {want}"
        );
    }
    grads[70] = f32::INFINITY;
    let partial = runner.run(&squares(&grads)).get::<f64>(1);
    assert!(runner.run(&scale(&partial, &[], 0.0)).f32s(3)[0].is_nan());
}
