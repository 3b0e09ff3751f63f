//! The backward of the whole model, from the last layer to the embedders.

use super::block::modulation_backward;
use super::{DiffuSsm, Error, Gradients, KeptBlock, Kernels, Saved, check_length, patch, spectra_of};
use crate::ops::bias_gelu::bias_backward;
use crate::ops::matmul::{linear_backward_input, linear_backward_weight};
use crate::ops::norm_modulate::norm_modulate_backward;

impl DiffuSsm {
    /// Adds the gradients of all parameters to `grads` and returns that of `x`, `[B, C, H, W]`.
    ///
    /// # Errors
    /// [`Error::Length`] when `grads` or `d_out` has the wrong length.
    pub fn backward(
        &self,
        params: &[f32],
        saved: Saved,
        d_out: &[f32],
        grads: &mut [f32],
    ) -> Result<Vec<f32>, Error> {
        let mut keep = |_: &mut [f32]| {};
        let gradients = Gradients::new(grads, usize::MAX, &mut keep);
        self.backward_in_parts(params, None, saved, d_out, gradients)
    }

    /// [`DiffuSsm::backward`] of a micro-batch that others follow: what the state space models learn from it stays in
    /// `kernels` until the last.
    ///
    /// # Errors
    /// [`Error::Length`] when `grads` or `d_out` has the wrong length.
    pub fn backward_before_others(
        &self,
        params: &[f32],
        kernels: Option<&mut Kernels>,
        saved: Saved,
        d_out: &[f32],
        grads: &mut [f32],
    ) -> Result<Vec<f32>, Error> {
        let mut keep = |_: &mut [f32]| {};
        let gradients = Gradients::new(grads, usize::MAX, &mut keep);
        self.run_backward(params, kernels, saved, d_out, gradients, false)
    }

    /// [`DiffuSsm::backward`] of the last micro-batch, handing over the gradients of the last layer, of each block and of
    /// the embedders as soon as they are final.
    ///
    /// # Errors
    /// [`Error::Length`] when `grads` or `d_out` has the wrong length.
    pub fn backward_in_parts(
        &self,
        params: &[f32],
        kernels: Option<&mut Kernels>,
        saved: Saved,
        d_out: &[f32],
        gradients: Gradients<'_, '_>,
    ) -> Result<Vec<f32>, Error> {
        self.run_backward(params, kernels, saved, d_out, gradients, true)
    }

    fn run_backward(
        &self,
        params: &[f32],
        mut kernels: Option<&mut Kernels>,
        saved: Saved,
        d_out: &[f32],
        mut gradients: Gradients<'_, '_>,
        is_last: bool,
    ) -> Result<Vec<f32>, Error> {
        let grads = gradients.unfinished();
        let c = &self.config;
        let (d, width) = (c.hidden_size, c.out_token_width());
        let batch = saved.condition.len() / d;
        check_length("params", params.len(), self.layout.total())?;
        check_length("grads", grads.len(), self.layout.total())?;
        check_length("d_out", d_out.len(), batch * c.output_numbers())?;
        let d_last = patch::images_backward(c, d_out);
        bias_backward(&d_last, &mut grads[self.last.bias.clone()]);
        linear_backward_weight(&mut grads[self.last.weight.clone()], &d_last, &saved.h, d, width);
        let mut dh = saved.h;
        linear_backward_input(&mut dh, 0.0, &d_last, &params[self.last.weight.clone()], d, width);
        let mut d_tokens = self.pool.take(dh.len());
        d_tokens.fill(0.0);
        let mut d_modulation = vec![0.0; saved.modulation.len()];
        norm_modulate_backward(
            &saved.last_input,
            &saved.modulation,
            batch,
            true,
            &saved.stats,
            &dh,
            &mut d_tokens,
            &mut d_modulation,
        );
        let mut d_condition = vec![0.0; batch * d];
        if c.final_adaln {
            let layer = &self.final_mod;
            modulation_backward(
                layer,
                params,
                &saved.condition,
                &d_modulation,
                d,
                &mut d_condition,
                grads,
            );
        }
        gradients.are_final_from(self.layout.end_of_blocks());
        let mut own = None;
        for (index, (block, kept)) in self.blocks.iter().zip(saved.blocks).enumerate().rev() {
            let spectra = match &kernels {
                Some(kernels) => &kernels.spectra[index],
                None => spectra_of(block, params, &mut own),
            };
            let kept = match kept {
                KeptBlock::All(kept) => *kept,
                KeptBlock::Input(input) => block.forward(params, spectra, input, &saved.condition).1,
            };
            let grads = gradients.unfinished();
            let dk = block.backward(params, spectra, kept, &mut d_tokens, &mut d_condition, grads);
            match &mut kernels {
                Some(kernels) if !is_last => kernels.add(index, dk),
                Some(kernels) => block.kernels_backward(params, &kernels.total(index, dk), grads),
                None => block.kernels_backward(params, &dk, grads),
            }
            gradients.are_final_from(self.layout.start_of_block(index));
        }
        let grads = gradients.unfinished();
        let d_x = self
            .embedders
            .backward(params, saved.embed, &d_tokens, &d_condition, grads);
        gradients.are_final_from(0);
        Ok(d_x)
    }
}
