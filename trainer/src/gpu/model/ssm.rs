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
use crate::gpu::program::{Builder, Slot, Space};
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
    /// Whether the forward goes by chunks; the backward goes by transforms, which give the gradients of the kernels.
    by_chunks: bool,
}

/// What is computed of a block's parameters before its convolution.
struct Prepared {
    spectra: Slot,
    /// Fragments and powers of the chunks, if any.
    matrices: Option<[Slot; 2]>,
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

    /// Bytes of a line's fragments and powers.
    fn matrix_bytes(&self) -> [usize; 2] {
        [4 * chunked::fragments(self.element), 4 * 4 * chunked::STATES]
    }

    /// Numbers of eight bytes of what is prepared for a block.
    pub(super) fn prepared_count(&self) -> usize {
        let lines = 2 * self.conv.dim;
        let matrices: usize = self.matrix_bytes().iter().sum();
        self.spectra_count()
            + if self.by_chunks {
                lines * matrices / COMPLEX
            } else {
                0
            }
    }

    /// Bytes of what is prepared for a block, so that the next one begins where allocations do.
    pub(super) fn prepared_bytes(&self) -> usize {
        (self.prepared_count() * COMPLEX).next_multiple_of(256)
    }

    /// The place of what is prepared for block `index`.
    pub(super) fn prepared_of(&self, index: usize) -> Slot {
        let offset = index * self.prepared_bytes();
        Slot::new(Space::Spectra, offset, self.prepared_count(), COMPLEX)
    }

    fn parts(&self, prepared: Slot) -> Prepared {
        let spectra = prepared.part(0, self.spectra_count());
        let matrices = self.by_chunks.then(|| {
            let lines = 2 * self.conv.dim;
            let [fragments, powers] = self.matrix_bytes().map(|bytes| lines * bytes);
            let start = spectra.offset + spectra.bytes;
            let at = |offset, bytes| Slot::new(prepared.space, offset, bytes / 4, 4);
            [at(start, fragments), at(start + fragments, powers)]
        });
        Prepared { spectra, matrices }
    }

    fn chunks(&self, batch: usize) -> Chunked {
        Chunked {
            length: self.conv.length,
            dim: self.conv.dim,
            batch,
            directions: self.conv.directions,
            parts: batch,
            element: self.element.bytes(),
        }
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

    /// Computes the spectra of a block's kernels, and the matrices of its chunks.
    pub(super) fn prepare(
        &self,
        b: &mut Builder,
        params: &Parameters,
        constants: &Constants,
        ranges: &SsmRanges,
        prepared: Slot,
    ) {
        let (conv, lines) = (&self.conv, 2 * self.conv.dim);
        let Prepared { spectra, matrices } = self.parts(prepared);
        let kernels = b.floats(lines * conv.length);
        let states = ranges.states.clone().map(|range| params.value(&range));
        b.launch(self.bank.kernels(states, kernels));
        let skip = params.value(&ranges.skip);
        if let Some([fragments, powers]) = matrices {
            // Without a backward by chunks no slopes are written: any place will do for them.
            let slopes = (self.element == Element::Bf16).then_some(kernels);
            b.launch(chunked::matrices(
                &self.chunks(1),
                [self.bank.states, 0],
                self.bank.disc,
                states,
                skip,
                [fragments, powers],
                slopes,
            ));
        }
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
        let Prepared { spectra, matrices } = self.parts(prepared);
        if let Some(matrices) = matrices {
            let shape = self.chunks(batch);
            let carries = b.take(chunked::carries(&shape), COMPLEX);
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
        let conv = self.of_batch(batch);
        let spectra = self.parts(prepared).spectra;
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
