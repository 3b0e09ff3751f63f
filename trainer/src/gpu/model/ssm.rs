//! The state space model of a block: its kernels, their spectra, the convolution, and the way back.

use std::ops::Range;

use super::places::{Constants, Parameters};
use crate::gpu::kernels::long_conv::{
    self, LONGEST, QUARTER, add_skip, inner_backward, inner_forward, inner_gradients, inner_spectra, merge,
    split,
};
use crate::gpu::kernels::ssm_kernel::Bank;
use crate::gpu::launch::Element;
use crate::gpu::program::{Builder, Slot};
use crate::model::ModelConfig;
use crate::roofline::work::Conv;

/// Bytes of a complex number.
const COMPLEX: usize = 8;

/// What all blocks have in common.
#[derive(Debug)]
pub(super) struct Ssm {
    conv: Conv,
    bank: Bank,
    element: Element,
    train_b: bool,
}

/// Where one block's parameters lie.
#[derive(Clone, Debug)]
pub(super) struct SsmRanges {
    /// log_dt, log_a_real, a_imag, b_re, b_im, c_re, c_im
    states: [Range<usize>; 7],
    skip: Range<usize>,
}

impl SsmRanges {
    pub(super) fn find(params: &Parameters, block: usize) -> Self {
        let range = |name: &str| params.range(&format!("blocks.{block}.ssm.{name}"));
        let names = ["log_dt", "log_a_real", "a_imag", "b_re", "b_im", "c_re", "c_im"];
        Self {
            states: names.map(range),
            skip: range("d"),
        }
    }
}

impl Ssm {
    pub(super) fn new(config: &ModelConfig, n: usize, element: Element) -> Self {
        Self {
            conv: Conv::of_model(config, 1, n, element.bytes()),
            bank: Bank {
                channels: 2 * config.hidden_size,
                states: config.state_size / 2,
                length: config.length(),
                disc: config.disc,
            },
            element,
            train_b: config.train_b,
        }
    }

    /// Complex numbers of a block's spectra.
    fn spectra_count(&self) -> usize {
        self.conv.directions * self.conv.dim * self.conv.n
    }

    /// Bytes of a block's spectra.
    pub(super) fn spectra_bytes(&self) -> usize {
        self.spectra_count() * COMPLEX
    }

    /// `space`'s part for the spectra of block `index`.
    pub(super) fn spectra_of(&self, space: crate::gpu::program::Space, index: usize) -> Slot {
        Slot::new(space, index * self.spectra_bytes(), self.spectra_count(), COMPLEX)
    }

    fn of_batch(&self, batch: usize) -> Conv {
        self.conv.with_batch(batch)
    }

    fn is_split(&self) -> bool {
        self.conv.n == LONGEST
    }

    /// Room for quarters of `lines` signals.
    fn quarters(b: &mut Builder, lines: usize) -> Slot {
        b.take(lines * 4 * QUARTER, COMPLEX)
    }

    /// Computes the spectra of a block's kernels.
    pub(super) fn spectra(
        &self,
        b: &mut Builder,
        params: &Parameters,
        constants: &Constants,
        ranges: &SsmRanges,
        spectra: Slot,
    ) {
        let (conv, lines) = (&self.conv, 2 * self.conv.dim);
        let kernels = b.floats(lines * conv.length);
        let states = ranges.states.clone().map(|range| params.value(&range));
        b.launch(self.bank.kernels(states, kernels));
        let skip = params.value(&ranges.skip);
        if self.is_split() {
            let quarters = Self::quarters(b, lines);
            b.launch(split(
                Element::F32,
                conv,
                [lines, 1],
                kernels,
                constants.conv_outer,
                quarters,
            ));
            b.launch(inner_spectra(conv, quarters, skip, constants.conv, spectra));
            b.give(quarters);
        } else {
            b.launch(long_conv::spectra(conv, kernels, skip, constants.conv, spectra));
        }
        b.give(kernels);
    }

    /// `u` `[B, L, D]` -> `y` `[B, L, directions D]`.
    pub(super) fn forward(
        &self,
        b: &mut Builder,
        constants: &Constants,
        batch: usize,
        [u, y]: [Slot; 2],
        spectra: Slot,
    ) {
        let conv = self.of_batch(batch);
        if !self.is_split() {
            b.launch(long_conv::forward(
                self.element,
                &conv,
                u,
                spectra,
                constants.conv,
                y,
            ));
            return;
        }
        let (inner, outer) = (conv.dim, constants.conv_outer);
        let wide = conv.directions * inner;
        let from = Self::quarters(b, batch * inner);
        b.launch(split(self.element, &conv, [batch, inner], u, outer, from));
        let to = Self::quarters(b, batch * wide);
        b.launch(inner_forward(&conv, from, spectra, constants.conv, to));
        b.give(from);
        b.launch(merge(self.element, &conv, [batch, wide], to, outer, y));
        b.give(to);
    }

    /// Writes the gradient `du` of `u`, and adds those of the parameters.
    pub(super) fn backward(
        &self,
        b: &mut Builder,
        params: &Parameters,
        constants: &Constants,
        ranges: &SsmRanges,
        batch: usize,
        [u, dy, du]: [Slot; 3],
        spectra: Slot,
    ) {
        let conv = self.of_batch(batch);
        let lines = 2 * conv.dim;
        let sums = b.take(conv.parts * self.spectra_count(), COMPLEX);
        let skip = params.grad(&ranges.skip);
        let dk;
        if self.is_split() {
            let (inner, outer) = (conv.dim, constants.conv_outer);
            let wide = conv.directions * inner;
            let of_u = Self::quarters(b, batch * inner);
            b.launch(split(self.element, &conv, [batch, inner], u, outer, of_u));
            let of_dy = Self::quarters(b, batch * wide);
            b.launch(split(self.element, &conv, [batch, wide], dy, outer, of_dy));
            let of_du = Self::quarters(b, batch * inner);
            b.launch(inner_backward(
                &conv,
                [of_u, of_dy],
                spectra,
                constants.conv,
                of_du,
                sums,
            ));
            b.give_all([of_u, of_dy]);
            b.launch(merge(self.element, &conv, [batch, inner], of_du, outer, du));
            b.give(of_du);
            let of_dk = Self::quarters(b, lines);
            b.launch(inner_gradients(&conv, sums, constants.conv, of_dk));
            dk = b.floats(lines * conv.length);
            b.launch(merge(Element::F32, &conv, [lines, 1], of_dk, outer, dk));
            b.give(of_dk);
            b.launch(add_skip(&conv, dk, skip));
        } else {
            b.launch(long_conv::backward(
                self.element,
                &conv,
                [u, dy],
                spectra,
                constants.conv,
                du,
                sums,
            ));
            dk = b.floats(lines * conv.length);
            b.launch(long_conv::gradients(&conv, sums, constants.conv, dk, skip));
        }
        b.give(sums);
        let states = ranges.states.clone();
        let values = states.clone().map(|range| params.value(&range));
        let grads = states.map(|range| params.grad(&range));
        b.launch(self.bank.backward(values, dk, grads, self.train_b));
        b.give(dk);
    }
}
