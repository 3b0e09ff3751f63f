//! The state space model of a block: its kernels, their spectra, the convolution, and the way back.

use std::ops::Range;

use super::places::{Constants, Parameters};
use crate::config::ConvForm;
use crate::gpu::kernels::chunked;
use crate::gpu::kernels::long_conv::{
    self, LONGEST, QUARTER, add_skip, inner_backward, inner_forward, inner_gradients, inner_spectra, merge,
    split,
};
use crate::gpu::kernels::ssm_kernel::Bank;
use crate::gpu::launch::Element;
use crate::gpu::program::{ALIGNMENT, Builder, Slot, Space};
use crate::model::ModelConfig;
use crate::roofline::work::{Chunked, Conv};

/// Bytes of a complex number.
const COMPLEX: usize = 8;

/// What all blocks have in common.
#[derive(Debug)]
pub(super) struct Ssm {
    conv: Conv,
    bank: Bank,
    element: Element,
    train_b: bool,
    /// Whether the convolution goes by chunks, and not by transforms.
    by_chunks: bool,
}

/// The matrices of the chunks.
struct Matrices {
    /// Fragments and powers.
    both: [Slot; 2],
    /// In bf16, for the backward.
    slopes: Option<Slot>,
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
    pub(super) fn new(config: &ModelConfig, n: usize, element: Element, form: ConvForm) -> Self {
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
            by_chunks: form == ConvForm::Chunks,
        }
    }

    /// Complex numbers of a block's spectra.
    fn spectra_count(&self) -> usize {
        self.conv.directions * self.conv.dim * self.conv.n
    }

    /// Bytes of a line's fragments, powers and slopes.
    fn matrix_bytes(&self) -> [usize; 3] {
        let slopes = if self.element == Element::Bf16 {
            4 * chunked::SLOPES
        } else {
            0
        };
        [
            4 * chunked::fragments(self.element),
            4 * 4 * chunked::STATES,
            slopes,
        ]
    }

    /// Numbers of eight bytes of what is computed of a block's parameters before its convolution: spectra, or matrices.
    pub(super) fn prepared_count(&self) -> usize {
        if self.by_chunks {
            2 * self.conv.dim * self.matrix_bytes().iter().sum::<usize>() / COMPLEX
        } else {
            self.spectra_count()
        }
    }

    /// Bytes of it, so that the next block's begin where allocations do.
    pub(super) fn prepared_bytes(&self) -> usize {
        (self.prepared_count() * COMPLEX).next_multiple_of(ALIGNMENT)
    }

    /// The place of what is prepared for block `index`.
    pub(super) fn prepared_of(&self, index: usize) -> Slot {
        let offset = index * self.prepared_bytes();
        Slot::new(Space::Spectra, offset, self.prepared_count(), COMPLEX)
    }

    /// What is prepared, by chunks.
    fn matrices(&self, prepared: Slot) -> Matrices {
        let mut offset = prepared.offset;
        let [fragments, powers, slopes] = self.matrix_bytes().map(|bytes| {
            let slot = Slot::new(prepared.space, offset, 2 * self.conv.dim * bytes / 4, 4);
            offset += slot.bytes;
            slot
        });
        Matrices {
            both: [fragments, powers],
            slopes: (slopes.bytes > 0).then_some(slopes),
        }
    }

    /// The shape of a batch.
    fn chunks(&self, batch: usize) -> Chunked {
        Chunked {
            length: self.conv.length,
            dim: self.conv.dim,
            batch,
            directions: self.conv.directions,
            parts: Chunked::shares(batch, self.conv.dim),
            element: self.element.bytes(),
        }
    }

    fn prepare_chunks(&self, b: &mut Builder, params: &Parameters, ranges: &SsmRanges, prepared: Slot) {
        let Matrices { both, slopes } = self.matrices(prepared);
        let states = ranges.states.clone().map(|range| params.value(&range));
        b.launch(chunked::matrices(
            &self.chunks(1),
            [self.bank.states, 1],
            self.bank.disc,
            states,
            params.value(&ranges.skip),
            both,
            slopes,
        ));
    }

    /// [`Ssm::backward`] by chunks.
    fn backward_by_chunks(
        &self,
        b: &mut Builder,
        params: &Parameters,
        ranges: &SsmRanges,
        batch: usize,
        [u, dy, du]: [Slot; 3],
        prepared: Slot,
    ) {
        let Matrices { both, slopes } = self.matrices(prepared);
        let shape = self.chunks(batch);
        let carries = b.take(chunked::carries(&shape), COMPLEX);
        b.launch(chunked::adjoint(self.element, &shape, dy, both, carries, du));
        b.give(carries);
        let lines = shape.parts * 2 * shape.dim * chunked::STATES;
        let sums = [4, 1].map(|numbers| b.floats(numbers * lines));
        b.launch(chunked::moments(&shape, [u, dy], both, slopes, sums));
        let states = ranges.states.clone();
        b.launch(chunked::gradients(
            &shape,
            self.bank.states,
            self.bank.disc,
            states.clone().map(|range| params.value(&range)),
            sums,
            states.map(|range| params.grad(&range)),
            params.grad(&ranges.skip),
            self.train_b,
        ));
        b.give_all(sums);
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

    /// Computes the spectra of a block's kernels, or the matrices of its chunks.
    pub(super) fn prepare(
        &self,
        b: &mut Builder,
        params: &Parameters,
        constants: &Constants,
        ranges: &SsmRanges,
        prepared: Slot,
    ) {
        if self.by_chunks {
            self.prepare_chunks(b, params, ranges, prepared);
            return;
        }
        let (conv, lines, spectra) = (&self.conv, 2 * self.conv.dim, prepared);
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
        prepared: Slot,
    ) {
        let conv = self.of_batch(batch);
        let spectra = prepared;
        if self.by_chunks {
            let shape = self.chunks(batch);
            let carries = b.take(chunked::carries(&shape), COMPLEX);
            let matrices = self.matrices(prepared).both;
            b.launch(chunked::forward(self.element, &shape, u, matrices, carries, y));
            b.give(carries);
            return;
        }
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
        prepared: Slot,
    ) {
        if self.by_chunks {
            self.backward_by_chunks(b, params, ranges, batch, [u, dy, du], prepared);
            return;
        }
        let (conv, spectra) = (self.of_batch(batch), prepared);
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
