//! A training step, and a forward pass, as programs.

use std::ops::Range;

use super::block::{BlockRanges, Kept};
use super::ends::{EmbedKept, LastKept};
use super::places::{Inputs, Outputs};
use super::{DeviceModel, Slot};
use crate::config::Config;
use crate::gpu::kernels::diffusion::{Noised, NoisedFrom, Noising, noised, training_loss};
use crate::gpu::kernels::optimizer::{State, adamw, grad_scale, norm_parts, sum_of_squares};
use crate::gpu::launch::Element;
use crate::gpu::program::{Builder, Command, Program, Space};
use crate::model::Keep;

/// Fewest gradients that are summed over processes at a time: 32 MiB. Smaller parts wait for their neighbours.
const MIN_BUCKET: usize = 1 << 23;

/// What training does with the model.
#[derive(Debug)]
pub(super) struct Training {
    noising: Noising,
    ssm_ranges: usize,
    micro: usize,
    weight: f64,
    max_grad_norm: f64,
    /// Images whose losses there is room for, in every process.
    pub(super) room: usize,
}

impl Training {
    pub(super) fn new(config: &Config, steps: usize, ssm_ranges: usize, ranks: usize) -> Self {
        Self {
            noising: Noising {
                seed: config.run.global_seed,
                steps,
                null_label: config.model.null_label(),
                scaling: 1.0,
                dropout: config.model.class_dropout_prob,
            },
            ssm_ranges,
            micro: config.optim.micro_batch(),
            weight: 1.0 / config.optim.global_batch_size as f64,
            max_grad_norm: config.optim.max_grad_norm,
            room: config.optim.global_batch_size.div_ceil(ranks),
        }
    }
}

/// A block of the forward, on its way to the backward.
enum KeptBlock {
    All(Box<Kept>),
    Input(Slot),
}

/// What the backward needs of a forward.
struct KeptForward {
    embedded: EmbedKept,
    blocks: Vec<KeptBlock>,
    /// For the spectra of the block at hand, where not all are there.
    room: Option<Slot>,
    /// The last block's output.
    tokens: Slot,
    last: LastKept,
}

/// Parts of the gradients that are final, from the end of the flat buffer to its start.
struct Finished {
    rest: usize,
}

impl Finished {
    /// Says that nothing from element `start` on will be written again.
    fn from(&mut self, b: &mut Builder, model: &DeviceModel, start: usize) {
        if self.rest > start && (start == 0 || self.rest - start >= MIN_BUCKET) {
            let grads = model.params.flat(Space::Grads);
            b.push(Command::Final(grads.part(start, self.rest - start)));
            self.rest = start;
        }
    }
}

impl DeviceModel {
    /// A training step on `images` images of this process, in micro-batches: noise, forward, loss, backward, AdamW, EMA.
    /// `scaling` is the latents' factor.
    pub fn step(&self, images: usize, scaling: f32) -> Program {
        let mut b = Builder::default();
        let (inputs, outputs) = (self.inputs(images), self.outputs(images));
        b.zero(self.params.flat(Space::Grads));
        b.zero(outputs.losses);
        let blocks = self.blocks();
        if self.keep == Keep::All {
            self.prepare_all(&mut b, &blocks);
        }
        for start in (0..images).step_by(self.training.micro) {
            let end = (start + self.training.micro).min(images);
            let mut finished = (end == images).then_some(Finished {
                rest: self.parameters,
            });
            self.micro_batch(
                &mut b,
                &blocks,
                start..end,
                scaling,
                &inputs,
                &outputs,
                finished.as_mut(),
            );
        }
        b.push(Command::Sum(outputs.losses));
        self.update(&mut b, &inputs, &outputs);
        debug_assert!(b.is_all_given_back());
        b.finish()
    }

    /// The model's output `[B, Cout, H, W]` f32, nothing kept: `x` `[B / branches, C, H, W]` f32, which goes through once for
    /// each branch; `timesteps` (of the training process) and `labels` `[B]` i32. The spectra are those of
    /// [`DeviceModel::spectra`].
    pub fn forward(&self, branches: usize, x: Slot, timesteps: Slot, labels: Slot, output: Slot) -> Program {
        let mut b = Builder::default();
        let images = timesteps.count();
        let (mut tokens, embedded) = self.embed(&mut b, images, branches, x, timesteps, labels);
        for index in 0..self.config.depth {
            let ranges = self.block_ranges(index);
            let spectra = self.ssm.prepared_of(index);
            let (out, kept) =
                self.block_forward(&mut b, &ranges, images, spectra, tokens, embedded.condition);
            self.give_kept(&mut b, &kept);
            b.give(tokens);
            tokens = out;
        }
        let last = self.last_layer(&mut b, images, tokens, embedded.condition, output);
        Self::give_last(&mut b, &last);
        b.give(tokens);
        self.give_embedded(&mut b, &embedded);
        debug_assert!(b.is_all_given_back());
        b.finish()
    }

    /// The spectra of all blocks, from the weights.
    pub fn spectra(&self) -> Program {
        let mut b = Builder::default();
        self.prepare_all(&mut b, &self.blocks());
        b.finish()
    }

    fn blocks(&self) -> Vec<BlockRanges> {
        let indices = 0..self.config.depth;
        indices.map(|index| self.block_ranges(index)).collect()
    }

    /// Computes the spectra of all blocks, each in its own place.
    fn prepare_all(&self, b: &mut Builder, blocks: &[BlockRanges]) {
        for (index, block) in blocks.iter().enumerate() {
            let spectra = self.ssm.prepared_of(index);
            self.ssm
                .prepare(b, &self.params, &self.constants, &block.ssm, spectra);
        }
    }

    /// The spectra of a block: there, or computed anew into `room`.
    fn spectra_for(&self, b: &mut Builder, ranges: &BlockRanges, index: usize, room: Option<Slot>) -> Slot {
        match room {
            None => self.ssm.prepared_of(index),
            Some(room) => {
                self.ssm
                    .prepare(b, &self.params, &self.constants, &ranges.ssm, room);
                room
            }
        }
    }

    /// Forward, loss and backward of some images; adds to the gradients.
    fn micro_batch(
        &self,
        b: &mut Builder,
        blocks: &[BlockRanges],
        images: Range<usize>,
        scaling: f32,
        inputs: &Inputs,
        outputs: &Outputs,
        finished: Option<&mut Finished>,
    ) {
        let c = &self.config;
        let (batch, start) = (images.len(), images.start);
        let image = c.latent_numbers();
        let noised = self.noised(b, &images, scaling, inputs);
        let width = c.output_numbers();
        let output = b.floats(batch * width);
        let from = [noised.x_t, noised.timesteps, noised.labels];
        let kept = self.forward_kept(b, blocks, batch, from, output);
        let d_output = b.floats(batch * width);
        b.launch(training_loss(
            Element::F32,
            [batch, image],
            self.training.noising.steps,
            c.learn_sigma,
            self.training.weight,
            [noised.x_start, noised.noise],
            output,
            [noised.timesteps, self.constants.tables],
            [d_output, outputs.losses.part(2 * start, 2 * batch)],
        ));
        b.give(output);
        self.backward(b, blocks, batch, kept, d_output, finished);
        b.give(d_output);
        b.give_all([
            noised.x_start,
            noised.noise,
            noised.x_t,
            noised.timesteps,
            noised.labels,
        ]);
    }

    /// Forward and backward with a given gradient of the output, for tests: `from` is `x` `[B, C, H, W]` f32, timesteps and
    /// labels `[B]` i32; `output` and `d_output` `[B, Cout, H, W]` f32. The gradients of the parameters are written.
    pub fn gradients(&self, from: [Slot; 3], output: Slot, d_output: Slot) -> Program {
        let mut b = Builder::default();
        let blocks = self.blocks();
        b.zero(self.params.flat(Space::Grads));
        let batch = from[1].count();
        let kept = self.forward_kept(&mut b, &blocks, batch, from, output);
        self.backward(&mut b, &blocks, batch, kept, d_output, None);
        debug_assert!(b.is_all_given_back());
        b.finish()
    }

    /// The forward of some images, with what the backward needs.
    fn forward_kept(
        &self,
        b: &mut Builder,
        blocks: &[BlockRanges],
        batch: usize,
        [x, timesteps, labels]: [Slot; 3],
        output: Slot,
    ) -> KeptForward {
        let (mut tokens, embedded) = self.embed(b, batch, 1, x, timesteps, labels);
        let condition = embedded.condition;
        let room = (self.keep == Keep::Inputs).then(|| b.take(self.ssm.prepared_count(), 8));
        let mut kept_blocks = Vec::with_capacity(blocks.len());
        for (index, ranges) in blocks.iter().enumerate() {
            let spectra = self.spectra_for(b, ranges, index, room);
            let (out, kept) = self.block_forward(b, ranges, batch, spectra, tokens, condition);
            if self.keep == Keep::Inputs && index + 1 < blocks.len() {
                self.give_kept(b, &kept);
                kept_blocks.push(KeptBlock::Input(tokens));
            } else {
                kept_blocks.push(KeptBlock::All(Box::new(kept)));
            }
            tokens = out;
        }
        let last = self.last_layer(b, batch, tokens, condition, output);
        KeptForward {
            embedded,
            blocks: kept_blocks,
            room,
            tokens,
            last,
        }
    }

    /// Adds the gradients of all parameters, given that of the output.
    fn backward(
        &self,
        b: &mut Builder,
        blocks: &[BlockRanges],
        batch: usize,
        kept: KeptForward,
        d_output: Slot,
        mut finished: Option<&mut Finished>,
    ) {
        let (condition, room) = (kept.embedded.condition, kept.room);
        let d_condition = self.condition_grads(b, batch);
        let d_tokens = self.last_backward(b, batch, &kept.last, d_output, condition, d_condition);
        b.give(kept.tokens);
        if let Some(finished) = &mut finished {
            finished.from(b, self, self.params.end_of_blocks());
        }
        for (index, (ranges, kept)) in blocks.iter().zip(kept.blocks).enumerate().rev() {
            let (kept, spectra) = match kept {
                KeptBlock::All(kept) => {
                    let there = || self.ssm.prepared_of(index);
                    (*kept, room.unwrap_or_else(there))
                }
                KeptBlock::Input(input) => {
                    let spectra = self.spectra_for(b, ranges, index, room);
                    let (out, kept) = self.block_forward(b, ranges, batch, spectra, input, condition);
                    b.give(out);
                    (kept, spectra)
                }
            };
            self.block_backward(b, ranges, batch, spectra, &kept, d_tokens, condition, d_condition);
            b.give(kept.input);
            if let Some(finished) = &mut finished {
                finished.from(b, self, self.params.start_of_block(index));
            }
        }
        b.give_all(room);
        self.embed_backward(b, batch, &kept.embedded, d_tokens, d_condition);
        if let Some(finished) = &mut finished {
            finished.from(b, self, 0);
        }
    }

    /// Timesteps, noise and labels of some images.
    fn noised(&self, b: &mut Builder, images: &Range<usize>, scaling: f32, inputs: &Inputs) -> Noised<Slot> {
        let (start, batch) = (images.start, images.len());
        let image = self.config.latent_numbers();
        let from = NoisedFrom {
            latents: inputs.latents.part(start * image, batch * image),
            ids: inputs.ids.part(start, batch),
            labels: inputs.labels.part(start, batch),
            epoch: inputs.epoch,
            alphas_cumprod: self.constants.tables,
        };
        let to = Noised {
            x_start: b.floats(batch * image),
            noise: b.floats(batch * image),
            x_t: b.floats(batch * image),
            timesteps: b.take(batch, 4),
            labels: b.take(batch, 4),
        };
        let how = Noising {
            scaling,
            ..self.training.noising
        };
        b.launch(noised([batch, image], how, from, to));
        to
    }

    /// The norm of the gradients, AdamW, EMA.
    fn update(&self, b: &mut Builder, inputs: &Inputs, outputs: &Outputs) {
        let (count, parts) = (self.parameters, norm_parts(self.parameters));
        let flat = |space| self.params.flat(space);
        b.launch(sum_of_squares(count, flat(Space::Grads), outputs.squares));
        let values = outputs.losses.count();
        b.launch(grad_scale(
            [parts, values],
            outputs.squares,
            outputs.losses,
            outputs.norm,
            outputs.scale,
            self.training.max_grad_norm,
        ));
        let state = State {
            params: flat(Space::Params),
            first: flat(Space::First),
            second: flat(Space::Second),
            ema: flat(Space::Ema),
            grads: flat(Space::Grads),
            copy: self.params.copy(),
        };
        let ranges = self.training.ssm_ranges;
        b.launch(adamw(
            count,
            state,
            self.constants.ssm_ranges,
            ranges,
            outputs.scale,
            inputs.rates,
        ));
    }
}
