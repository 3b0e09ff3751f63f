//! `ssm_kernel.cu`.

use super::THREADS;
use crate::gpu::launch::Launch;
use crate::ops::profile::Op;
use crate::ops::ssm_kernel::{Discretization, inner_length};
use crate::roofline::{Work, work};

/// Squares of a step that a block keeps of each state, and two numbers more, of 16 bytes each.
const NUMBERS_OF_STATE: usize = 20;

/// A bank of channels.
#[derive(Clone, Copy, Debug)]
pub struct Bank {
    /// Channels of both directions.
    pub channels: usize,
    /// Conjugate pairs of each.
    pub states: usize,
    /// Samples of a kernel.
    pub length: usize,
    /// How it is discretised.
    pub disc: Discretization,
}

impl Bank {
    fn inner(&self) -> usize {
        inner_length(self.length)
    }

    fn rows(&self) -> usize {
        self.length.div_ceil(self.inner())
    }

    fn launch<B>(&self, name: &str, last: usize, work: Work) -> Launch<B> {
        let far = self.rows().next_multiple_of(4) * self.states * 8;
        Launch::new(Op::SsmKernel, name, (self.channels, 1), THREADS, work)
            .shared(self.states * 16 * NUMBERS_OF_STATE + far + last)
    }

    fn ints(&self) -> [usize; 4] {
        let kind = usize::from(self.disc == Discretization::Bilinear);
        [self.states, self.length, self.inner().ilog2() as usize, kind]
    }

    /// `kernels` `[channels, length]`; `params`: log_dt `[channels]`, log_a_real, a_imag, b_re, b_im, c_re, c_im
    /// `[channels, states]`.
    pub fn kernels<B>(&self, params: [B; 7], kernels: B) -> Launch<B> {
        let work = work::ssm_kernels(self.channels, self.states, self.length);
        self.launch("ssm_kernels_f32", self.states * self.inner() * 8, work)
            .buffers(params)
            .buffers([kernels])
            .ints(self.ints())
    }

    /// Adds to `grads`, in the order of `params`, given `dk` `[channels, length]`; those of B stay without `train_b`.
    pub fn backward<B>(&self, params: [B; 7], dk: B, grads: [B; 7], train_b: bool) -> Launch<B> {
        let work = work::ssm_kernels_backward(self.channels, self.states, self.length);
        self.launch("ssm_kernels_backward_f32", self.rows() * self.inner() * 4, work)
            .buffers(params)
            .buffers([dk])
            .buffers(grads)
            .ints(self.ints())
            .ints([usize::from(train_b)])
    }
}
