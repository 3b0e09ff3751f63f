//! The kernels of the state space models and their gradients, beside the CPU's operation.

use trainer::gpu::kernels::ssm_kernel;
use trainer::ops::ssm_kernel::{Discretization, SsmParams, kernels, kernels_backward};

use crate::device::Runner;

use super::Case;
use super::runner::{Bytes, Launch};
use super::values::{assert_near, largest, wave};

struct Bank {
    channels: usize,
    states: usize,
    length: usize,
    kind: Discretization,
    log_dt: Vec<f32>,
    /// log_a_real, a_imag, b_re, b_im, c_re, c_im
    planes: Vec<Vec<f32>>,
}

impl Bank {
    fn new(channels: usize, states: usize, length: usize, kind: Discretization) -> Self {
        let count = channels * states;
        // Imaginary parts up to pi n, as they are initialised.
        let a_imag = (0..count).map(|i| 3.1 * (i % states) as f32).collect();
        let mut planes: Vec<Vec<f32>> = (0..6).map(|i| wave(count, 0.9 + f64::from(i))).collect();
        planes[1] = a_imag;
        let log_dt = wave(channels, 0.2).iter().map(|v| 1.5 * v - 4.6).collect();
        Self {
            channels,
            states,
            length,
            kind,
            log_dt,
            planes,
        }
    }

    fn params(&self) -> SsmParams<'_> {
        SsmParams {
            log_dt: &self.log_dt,
            log_a_real: &self.planes[0],
            a_imag: &self.planes[1],
            b_re: &self.planes[2],
            b_im: &self.planes[3],
            c_re: &self.planes[4],
            c_im: &self.planes[5],
        }
    }

    fn bank(&self) -> ssm_kernel::Bank {
        ssm_kernel::Bank {
            channels: self.channels,
            states: self.states,
            length: self.length,
            disc: self.kind,
        }
    }

    fn buffers(&self) -> [Bytes; 7] {
        std::array::from_fn(|i| match i {
            0 => self.log_dt[..].into(),
            _ => self.planes[i - 1][..].into(),
        })
    }

    fn forward(&self) -> Launch {
        let out = Bytes::zeros::<f32>(self.channels * self.length);
        self.bank().kernels(self.buffers(), out)
    }

    /// Gradients start at `start`.
    fn backward(&self, dk: &[f32], start: f32, train_b: bool) -> Launch {
        let grads = std::array::from_fn(|i| {
            let states = if i == 0 { 1 } else { self.states };
            vec![start; self.channels * states][..].into()
        });
        self.bank().backward(self.buffers(), dk.into(), grads, train_b)
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let bank = Bank::new(2, 32, 4096, Discretization::Zoh);
    let dk = wave(bank.channels * bank.length, 0.3);
    vec![bank.forward().into(), bank.backward(&dk, 0.0, true).into()]
}

pub(crate) fn kernels_and_their_gradients_are_the_cpus() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    for (channels, states, length, kind) in [
        (3, 32, 1024, Discretization::Zoh),
        (2, 5, 70, Discretization::Bilinear),
        (2, 32, 4096, Discretization::Zoh),
        (1, 32, 16_384, Discretization::Bilinear),
        (2, 2, 1, Discretization::Zoh),
        (2, 33, 333, Discretization::Zoh),
    ] {
        let (bank, what) = (
            Bank::new(channels, states, length, kind),
            format!("{kind:?} {channels} x {states} x {length}"),
        );
        let want = kernels(&bank.params(), kind, length);
        let found = runner.run(&bank.forward()).f32s(7);
        assert_near(&what, &found, &want, 0.0, 2e-6 * largest(&want));

        let dk = wave(channels * length, 5.1);
        let grads = kernels_backward(&bank.params(), kind, length, &dk);
        let run = runner.run(&bank.backward(&dk, 0.25, true));
        let untrained = runner.run(&bank.backward(&dk, 0.25, false));
        let want: Vec<f32> = grads.iter().map(|grad| grad.log_dt + 0.25).collect();
        assert_near(
            &format!("{what}: log_dt"),
            &run.f32s(8),
            &want,
            1e-5,
            1e-5 * largest(&want),
        );
        for plane in 0..6 {
            let states = grads
                .iter()
                .flat_map(|grad| grad.states.iter().map(|state| state[plane] + 0.25));
            let want: Vec<f32> = states.collect();
            let what = format!("{what}: plane {plane}");
            assert_near(&what, &run.f32s(9 + plane), &want, 1e-5, 1e-5 * largest(&want));
            let is_b = plane == 2 || plane == 3;
            let want = if is_b {
                vec![0.25; want.len()]
            } else {
                run.f32s(9 + plane)
            };
            assert_eq!(untrained.f32s(9 + plane), want, "{what} without B");
        }
    }
}
