//! The convolution kernels of all blocks, which depend on the weights alone: computed once a step, or once for all of
//! sampling, and not for every batch.

use super::DiffuSsm;
use crate::ops::buffer::Buffer;
use crate::ops::long_conv::Spectra;
use crate::ops::residual;

/// The spectra of the convolution kernels of every block, and their gradients while micro-batches are summed.
pub struct Kernels {
    pub(super) spectra: Vec<Spectra>,
    /// The gradients `[2, D, L]` of the micro-batches so far.
    sums: Vec<Option<Buffer>>,
}

impl Kernels {
    pub(super) fn new(model: &DiffuSsm, params: &[f32]) -> Self {
        Self {
            spectra: model.blocks.iter().map(|block| block.spectra(params)).collect(),
            sums: model.blocks.iter().map(|_| None).collect(),
        }
    }

    /// Computes them anew for other weights; gradients are forgotten.
    pub(super) fn update(&mut self, model: &DiffuSsm, params: &[f32]) {
        for (spectra, block) in self.spectra.iter_mut().zip(&model.blocks) {
            block.update_spectra(params, spectra);
        }
        self.sums.fill_with(|| None);
    }

    /// Puts the gradient of a micro-batch to those before.
    pub(super) fn add(&mut self, block: usize, dk: Buffer) {
        self.sums[block] = Some(self.total(block, dk));
    }

    /// The gradient of the last micro-batch together with those before.
    pub(super) fn total(&mut self, block: usize, dk: Buffer) -> Buffer {
        let Some(mut sum) = self.sums[block].take() else {
            return dk;
        };
        residual::add(&mut sum, &dk);
        sum
    }
}
