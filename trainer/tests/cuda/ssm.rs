//! The kernels of the state space models and their gradients, beside the CPU's operation.

use trainer::ops::ssm_kernel::{Discretization, SsmParams, kernels, kernels_backward};
use trainer::roofline::work;

use super::Case;
use super::emulator::{Emulator, Launch};
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

    fn log_r(&self) -> usize {
        (self.length.ilog2().div_ceil(2) as usize).max(4)
    }

    fn launch(&self, name: &str, last: usize) -> Launch {
        let rows = self.length.div_ceil(1 << self.log_r());
        let shared = self.states * 16 * 20 + rows.next_multiple_of(4) * self.states * 8 + last;
        let launch = Launch::new(name, (self.channels, 1), 256)
            .shared(shared)
            .arg(&self.log_dt[..]);
        self.planes
            .iter()
            .fold(launch, |launch, plane| launch.arg(&plane[..]))
    }

    fn with_shape(&self, launch: Launch) -> Launch {
        let kind = i32::from(self.kind == Discretization::Bilinear);
        let launch = launch
            .arg(self.states as i32)
            .arg(self.length as i32)
            .arg(self.log_r() as i32);
        launch.arg(kind)
    }

    fn forward(&self) -> Launch {
        let near = self.states * (8 << self.log_r());
        let out = vec![0f32; self.channels * self.length];
        self.with_shape(self.launch("ssm_kernels_f32", near).arg(&out[..]))
    }

    /// Gradients start at `start`.
    fn backward(&self, dk: &[f32], start: f32, train_b: bool) -> Launch {
        let rows = self.length.div_ceil(1 << self.log_r());
        let launch = self
            .launch("ssm_kernels_backward_f32", rows * (4 << self.log_r()))
            .arg(dk);
        let launch = launch.arg(&vec![start; self.channels][..]);
        let plane = vec![start; self.channels * self.states];
        let launch = (0..6).fold(launch, |launch, _| launch.arg(&plane[..]));
        self.with_shape(launch).arg(i32::from(train_b))
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let bank = Bank::new(2, 32, 4096, Discretization::Zoh);
    let Bank {
        channels,
        states,
        length,
        ..
    } = bank;
    vec![
        Case::new(bank.forward(), work::ssm_kernels(channels, states, length)),
        Case::new(
            bank.backward(&wave(channels * length, 0.3), 0.0, true),
            work::ssm_kernels_backward(channels, states, length),
        ),
    ]
}

#[test]
fn kernels_and_their_gradients_are_the_cpus() {
    let Some(mut emulator) = Emulator::start() else {
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
        let found = emulator.run(&bank.forward()).f32s(7);
        assert_near(&what, &found, &want, 0.0, 2e-6 * largest(&want));

        let dk = wave(channels * length, 5.1);
        let grads = kernels_backward(&bank.params(), kind, length, &dk);
        let run = emulator.run(&bank.backward(&dk, 0.25, true));
        let untrained = emulator.run(&bank.backward(&dk, 0.25, false));
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
