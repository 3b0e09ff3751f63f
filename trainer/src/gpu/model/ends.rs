//! What lies before and behind the chain of blocks: the embedders and the last layer.

use super::block::{Condition, ConditionGrads};
use super::places::Linear;
use super::{DeviceModel, parts};
use crate::gpu::kernels::column_sums::{Partials, add_column_sums, column_partials};
use crate::gpu::kernels::embed::{
    Patches, add_label_rows, broadcast_rows, silu, silu_backward, timestep_features,
};
use crate::gpu::kernels::norm::{Norm, norm_modulate, norm_modulate_backward};
use crate::gpu::launch::Element;
use crate::gpu::program::{Builder, Matrix, Slot};
use crate::model::{Modulation, PositionEmbedding};

/// What the embedders' backward needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct EmbedKept {
    labels: Slot,
    features: Slot,
    /// Before its activation, f32.
    hidden: Slot,
    active_hidden: Slot,
    tokens: Slot,
    pub(super) condition: Condition,
}

/// What the last layer's backward needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastKept {
    input: Slot,
    /// Without `final_adaln`, none.
    modulation: Option<Slot>,
    stats: Slot,
    h: Slot,
}

impl DeviceModel {
    /// How images are cut on the way in.
    fn patches_in(&self) -> Patches {
        let c = &self.config;
        Patches {
            channels: c.in_channels,
            side: c.input_size,
            patch: c.patch_size,
            channels_first: true,
        }
    }

    /// How they are put together on the way out.
    fn patches_out(&self) -> Patches {
        Patches {
            channels: self.config.out_channels(),
            channels_first: false,
            ..self.patches_in()
        }
    }

    /// `x` `[B / branches, C, H, W]` f32, `timesteps` and `labels` `[B]` i32 -> tokens `[B, J, D]` f32.
    pub(super) fn embed(
        &self,
        b: &mut Builder,
        batch: usize,
        branches: usize,
        x: Slot,
        timesteps: Slot,
        labels: Slot,
    ) -> (Slot, EmbedKept) {
        let c = &self.config;
        let (e, d, freq) = (self.element, c.hidden_size, c.freq_dim);
        let linear = |name| self.params.linear(name);
        let value = |layer: &Linear| self.params.value(&layer.bias);

        let features = self.rows(b, batch, freq);
        let map = self.constants.timestep_map;
        b.launch(timestep_features(e, [batch, freq], timesteps, map, features));
        let (time1, time2) = (linear("t_mlp1"), linear("t_mlp2"));
        let hidden = b.floats(batch * d);
        let (from, to) = (self.matrix(features, freq), Matrix::new(hidden, Element::F32, d));
        self.linear(b, batch, &time1.weight, from, to, 0.0);
        let active_hidden = self.rows(b, batch, d);
        b.launch(silu(e, [batch, d], hidden, value(&time1), None, active_hidden));
        let condition = b.floats(batch * d);
        let (from, to) = (
            self.matrix(active_hidden, d),
            Matrix::new(condition, Element::F32, d),
        );
        self.linear(b, batch, &time2.weight, from, to, 0.0);
        let table = self.params.range("y_embed.weight");
        let table = (!table.is_empty()).then(|| [self.params.value(&table), labels]);
        let active = self.rows(b, batch, d);
        b.launch(silu(e, [batch, d], condition, value(&time2), table, active));

        let (rows, width) = (batch * c.tokens(), c.token_width());
        let tokens = self.rows(b, rows, width);
        let of_branch = tokens.count() / branches;
        for branch in 0..branches {
            let tokens = tokens.part(branch * of_branch, of_branch);
            let images = batch / branches;
            b.launch(self.patches_in().tokens_of_images(e, images, x, tokens));
        }
        let patches = linear("x_embed");
        let embedded = b.floats(rows * d);
        let (period, positions) = match c.pos_embed {
            PositionEmbedding::None => (0, value(&patches)),
            PositionEmbedding::Sincos => (c.tokens(), self.constants.positions),
        };
        b.launch(broadcast_rows(
            [rows, period, d],
            value(&patches),
            positions,
            embedded,
        ));
        let (from, to) = (self.matrix(tokens, width), Matrix::new(embedded, Element::F32, d));
        self.linear(b, rows, &patches.weight, from, to, 1.0);
        let kept = EmbedKept {
            labels,
            features,
            hidden,
            active_hidden,
            tokens,
            condition: Condition {
                value: condition,
                active,
            },
        };
        (embedded, kept)
    }

    /// Gives back what [`DeviceModel::embed`] keeps.
    pub(super) fn give_embedded(&self, b: &mut Builder, kept: &EmbedKept) {
        b.give_all([kept.features, kept.hidden, kept.active_hidden, kept.tokens]);
        b.give_all([kept.condition.value, kept.condition.active]);
    }

    /// Room for the gradients of the condition, zeros.
    pub(super) fn condition_grads(&self, b: &mut Builder, batch: usize) -> ConditionGrads {
        let mut zeros = || {
            let room = b.floats(batch * self.config.hidden_size);
            b.zero(room);
            room
        };
        ConditionGrads {
            active: zeros(),
            direct: (self.config.modulation == Modulation::None).then(zeros),
        }
    }

    /// Adds the embedders' gradients, given those of the tokens `[B, J, D]` f32 and of the condition; gives back both and what
    /// was kept.
    pub(super) fn embed_backward(
        &self,
        b: &mut Builder,
        batch: usize,
        kept: &EmbedKept,
        d_tokens: Slot,
        d_condition: ConditionGrads,
    ) {
        let c = &self.config;
        let (d, rows) = (c.hidden_size, batch * c.tokens());
        let patches = self.params.linear("x_embed");
        let factor = self.factor(b, rows, &patches.bias, d_tokens);
        let tokens = self.matrix(kept.tokens, c.token_width());
        self.weight_backward(b, rows, &patches.weight, factor.matrix, tokens);
        b.give_all(factor.copy);

        let d_value = d_condition.active;
        let value = kept.condition.value;
        b.launch(silu_backward(batch * d, value, d_value, d_condition.direct));
        let table = self.params.range("y_embed.weight");
        if !table.is_empty() {
            let table = self.params.grad(&table);
            b.launch(add_label_rows([batch, d], d_value, kept.labels, table));
        }
        let time2 = self.params.linear("t_mlp2");
        let factor = self.factor(b, batch, &time2.bias, d_value);
        let active = self.matrix(kept.active_hidden, d);
        self.weight_backward(b, batch, &time2.weight, factor.matrix, active);
        let d_hidden = b.floats(batch * d);
        let to = Matrix::new(d_hidden, Element::F32, d);
        self.input_backward(b, batch, &time2.weight, factor.matrix, to, 0.0);
        b.give_all(factor.copy);
        b.launch(silu_backward(batch * d, kept.hidden, d_hidden, None));
        let time1 = self.params.linear("t_mlp1");
        let factor = self.factor(b, batch, &time1.bias, d_hidden);
        let features = self.matrix(kept.features, c.freq_dim);
        self.weight_backward(b, batch, &time1.weight, factor.matrix, features);
        b.give_all(factor.copy);

        b.give_all([d_hidden, d_tokens, d_condition.active]);
        b.give_all(d_condition.direct);
        self.give_embedded(b, kept);
    }

    /// The last LayerNorm: without `final_adaln` every image has the same shift, zero, and no scale.
    fn last_norm(&self, batch: usize) -> Norm {
        let c = &self.config;
        Norm {
            batch,
            rows: c.tokens(),
            dim: c.hidden_size,
            width: if c.final_adaln { 2 * c.hidden_size } else { 0 },
            with_scale: c.final_adaln,
        }
    }

    /// The output `[B, Cout, H, W]` f32 of `tokens` `[B, J, D]` f32.
    pub(super) fn last_layer(
        &self,
        b: &mut Builder,
        batch: usize,
        tokens: Slot,
        condition: Condition,
        output: Slot,
    ) -> LastKept {
        let c = &self.config;
        let (d, rows) = (c.hidden_size, batch * c.tokens());
        let modulation = c.final_adaln.then(|| {
            let layer = self.params.linear("final_mod");
            self.linear_f32(b, batch, &layer, self.matrix(condition.active, d))
        });
        let (h, stats) = (self.rows(b, rows, d), b.take(rows, 8));
        b.launch(norm_modulate(
            self.element,
            self.last_norm(batch),
            c.norm_eps as f32,
            tokens,
            modulation.unwrap_or(self.constants.zeros),
            h,
            stats,
        ));
        let layer = self.params.linear("final");
        let out = self.linear_f32(b, rows, &layer, self.matrix(h, d));
        b.launch(self.patches_out().images_of_tokens(batch, out, output));
        b.give(out);
        LastKept {
            input: tokens,
            modulation,
            stats,
            h,
        }
    }

    /// Gives back what [`DeviceModel::last_layer`] keeps, but its input.
    pub(super) fn give_last(b: &mut Builder, kept: &LastKept) {
        b.give_all([kept.h, kept.stats]);
        b.give_all(kept.modulation);
    }

    /// The gradient of the tokens `[B, J, D]` f32, given that of the output; adds the others, gives back what was kept but the
    /// input.
    pub(super) fn last_backward(
        &self,
        b: &mut Builder,
        batch: usize,
        kept: &LastKept,
        d_output: Slot,
        condition: Condition,
        d_condition: ConditionGrads,
    ) -> Slot {
        let c = &self.config;
        let (d, rows, width) = (c.hidden_size, batch * c.tokens(), c.out_token_width());
        let layer = self.params.linear("final");
        let d_last = self.rows(b, rows, width);
        let patches = self.patches_out();
        b.launch(patches.tokens_of_images(self.element, batch, d_output, d_last));
        let partial = Self::partials(b, rows, width);
        b.launch(column_partials(self.element, [rows, width], d_last, partial));
        self.bias_backward(b, rows, &layer.bias, partial);
        let factor = self.matrix(d_last, width);
        self.weight_backward(b, rows, &layer.weight, factor, self.matrix(kept.h, d));
        b.give(kept.h);
        let dh = self.rows(b, rows, d);
        self.input_backward(b, rows, &layer.weight, factor, self.matrix(dh, d), 0.0);
        b.give(d_last);

        let d_tokens = b.floats(rows * d);
        b.zero(d_tokens);
        let norm = self.last_norm(batch);
        let of_image = parts(norm.rows);
        let partial = b.floats(batch * of_image * 2 * d);
        let modulation = kept.modulation.unwrap_or(self.constants.zeros);
        let saved = [kept.input, modulation, kept.stats];
        b.launch(norm_modulate_backward(
            self.element,
            norm,
            saved,
            dh,
            d_tokens,
            partial,
        ));
        b.give_all([dh, kept.stats]);
        if let Some(modulation) = kept.modulation {
            let d_modulation = b.floats(batch * 2 * d);
            b.zero(d_modulation);
            let sums = Partials {
                groups: batch,
                ..Partials::of(of_image, 2 * d)
            };
            b.launch(add_column_sums(sums, partial, d_modulation, 2 * d));
            let layer = self.params.linear("final_mod");
            self.modulation_backward(b, batch, &layer, d_modulation, condition, d_condition);
            b.give(modulation);
        }
        b.give(partial);
        d_tokens
    }
}
