//! What one configuration costs.

use std::collections::BTreeMap;

use preprocess::console::Printer;
use preprocess::console::count::{bytes, with_commas};
use serde_json::{Value, json};

use crate::config::{Config, Recompute};
use crate::cost::{Dit, PUBLISHED, Published, TRAINING_PASSES, fft_gflops_per_image};
use crate::memory::MemoryPlan;
use crate::model::{ModelConfig, ParamLayout, is_b};

/// Multiply-adds of a training step over those of a forward pass, without and with blocks that run again.
const PASSES: [f64; 2] = [TRAINING_PASSES, TRAINING_PASSES + 1.0];

/// Sizes and costs of a configuration.
pub(super) struct Report<'a> {
    name: &'a str,
    config: &'a Config,
    parts: Vec<(String, u64)>,
    /// Trained parameters.
    pub(super) parameters: u64,
    /// 10^9 multiply-adds of one image's forward pass.
    pub(super) gflops: f64,
    /// Training memory with everything kept for the backward.
    pub(super) memory_all: MemoryPlan,
    /// Training memory with `run.recompute=block`.
    pub(super) memory_block: MemoryPlan,
    /// Images of the whole schedule.
    pub(super) images: u64,
}

impl<'a> Report<'a> {
    /// The costs of `config`, called `name`.
    pub(super) fn new(name: &'a str, config: &'a Config) -> Self {
        let parts = parts(&config.model);
        let memory = |recompute| {
            let mut config = config.clone();
            config.run.recompute = recompute;
            MemoryPlan::training(&config)
        };
        Self {
            name,
            config,
            parameters: parts.iter().map(|(_, count)| count).sum(),
            parts,
            gflops: config.model.gflops_per_image(),
            memory_all: memory(Recompute::None),
            memory_block: memory(Recompute::Block),
            images: config.run.num_steps * config.optim.global_batch_size as u64,
        }
    }

    /// 10^9 multiply-adds of the forward passes of the whole schedule: the paper's measure of training.
    pub(super) fn forward_gflops(&self) -> f64 {
        self.gflops * self.images as f64
    }

    /// Writes everything, for people.
    pub(super) fn print(&self, printer: &mut Printer) {
        let model = &self.config.model;
        printer.say(format_args!(
            "{}: D {}, depth {}, N {}, P {}, M {}, L {}",
            self.name,
            model.hidden_size,
            model.depth,
            model.state_size,
            model.patch_size,
            model.downscale,
            model.length()
        ));
        printer.say("\nparameters");
        let dit = Dit::XL_2;
        let ends = [("all", self.parameters), ("(DiT-XL/2)", dit.parameters())];
        let ends = ends.map(|(name, count)| (name.to_owned(), count));
        for (name, count) in self.parts.iter().chain(&ends) {
            printer.say(format_args!("  {name:<34} {:>14}", with_commas(*count)));
        }
        printer.say("\nforward pass of one image, 10^9 multiply-adds of linear layers and attention");
        for (name, gflops) in [
            ("this model", self.gflops),
            ("(DiT-XL/2 at 256 pixels)", dit.gflops_per_image(32)),
            ("(DiT-XL/2 at 512 pixels)", dit.gflops_per_image(64)),
            ("not counted: FFT, 10^9 operations", fft_gflops_per_image(model)),
        ] {
            printer.say(format_args!("  {name:<34} {gflops:>14.1}"));
        }
        self.print_memory(printer);
        self.print_schedule(printer);
    }

    fn print_memory(&self, printer: &mut Printer) {
        printer.say(format_args!(
            "\ntraining memory, f32 on the CPU, {} images at a time\n  {:<34} {:>14} {:>14}",
            self.config.optim.micro_batch(),
            "run.recompute =",
            "none",
            "block"
        ));
        let (all, block) = (&self.memory_all, &self.memory_block);
        for (name, all, block) in [
            ("weights and EMA", all.weights, block.weights),
            ("gradients", all.gradients, block.gradients),
            ("AdamW's moments", all.optimizer, block.optimizer),
            ("activations", all.activations, block.activations),
            ("working buffers", all.workspace, block.workspace),
            ("loader and program", all.other, block.other),
            ("all", all.total(), block.total()),
        ] {
            printer.say(format_args!(
                "  {name:<34} {:>14} {:>14}",
                bytes(all),
                bytes(block)
            ));
        }
    }

    fn print_schedule(&self, printer: &mut Printer) {
        printer.say(format_args!(
            "\nthe whole run: {} steps of {} images\n  {:<34} {:>14} {:>14} {:>14}",
            with_commas(self.config.run.num_steps),
            with_commas(self.config.optim.global_batch_size as u64),
            "",
            "images",
            "GFLOPs",
            "with backward"
        ));
        let total = self.forward_gflops();
        let row = |name: &str, images: u64, gflops: f64, training: String| {
            let images = with_commas(images);
            format!("  {name:<34} {images:>14} {gflops:>14.2e} {training:>14}")
        };
        let training = format!("{:.2e}", PASSES[0] * total);
        printer.say(row("this configuration", self.images, total, training));
        for published in self.published() {
            let name = format!("({} at {} pixels)", published.name, published.image_size);
            let images = (1e6 * published.million_images) as u64;
            printer.say(row(&name, images, published.total_gflops, String::new()));
        }
        printer.say("GFLOPs: images times a forward pass, as the paper's tables count");
    }

    /// What the papers print for images of this size; nothing for other latents than Stable Diffusion's of ImageNet.
    fn published(&self) -> impl Iterator<Item = &'static Published> {
        let model = &self.config.model;
        let is_imagenet = model.in_channels == 4 && model.num_classes == 1000;
        let size = if is_imagenet { 8 * model.input_size } else { 0 };
        PUBLISHED.iter().filter(move |row| row.image_size == size)
    }

    /// Everything, for programs.
    pub(super) fn json(&self) -> Value {
        let (config, model) = (self.config, &self.config.model);
        let recompute = config.run.recompute == Recompute::Block;
        let memory = if recompute {
            &self.memory_block
        } else {
            &self.memory_all
        };
        json!({
            "name": self.name,
            "hidden_size": model.hidden_size,
            "depth": model.depth,
            "patch_size": model.patch_size,
            "downscale": model.downscale,
            "in_channels": model.in_channels,
            "num_classes": model.num_classes,
            "length": model.length(),
            "parameters": self.parameters,
            "parts": self.parts.iter().cloned().collect::<BTreeMap<_, _>>(),
            "gflops_per_image": self.gflops,
            "fft_gflops_per_image": fft_gflops_per_image(model),
            "micro_batch_size": config.optim.micro_batch(),
            "memory_bytes": memory.total(),
            "memory": memory,
            "memory_recompute": { "none": self.memory_all, "block": self.memory_block },
            "images": self.images,
            "forward_gflops": self.forward_gflops(),
            "training_gflops": PASSES[usize::from(recompute)] * self.forward_gflops(),
            "published": self.published().collect::<Vec<_>>(),
            "dit": dit_json(),
        })
    }
}

/// DiT-XL/2, the model that the paper compares with.
pub(super) fn dit_json() -> Value {
    let dit = Dit::XL_2;
    json!({
        "name": "DiT-XL/2",
        "parameters": dit.parameters(),
        "gflops_per_image_256": dit.gflops_per_image(32),
        "gflops_per_image_512": dit.gflops_per_image(64),
    })
}

/// The published row of `name` for images of `image_size` pixels.
pub(super) fn published(name: &str, image_size: usize) -> Option<&'static Published> {
    PUBLISHED
        .iter()
        .find(|row| row.name == name && row.image_size == image_size)
}

/// Trained parameters by part of the model, in order of execution; the blocks are summed.
fn parts(model: &ModelConfig) -> Vec<(String, u64)> {
    let mut parts: Vec<(String, u64)> = Vec::new();
    for tensor in ParamLayout::model(model).tensors() {
        if !model.train_b && is_b(&tensor.name) {
            continue;
        }
        let name = match tensor.name.strip_prefix("blocks.") {
            None => tensor.name.split('.').next().unwrap_or_default().to_owned(),
            Some(rest) => {
                let inside = rest.split_once('.').map_or(rest, |(_, name)| name);
                let layer = inside.split('.').next().unwrap_or_default();
                format!("blocks.*.{}", if layer == "b_down" { "w_down" } else { layer })
            }
        };
        match parts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += tensor.len() as u64,
            None => parts.push((name, tensor.len() as u64)),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_xl_add_up_to_the_published_number() {
        let parts = parts(&ModelConfig::default());
        assert_eq!(parts.iter().map(|(_, count)| count).sum::<u64>(), 673_088_272);
        assert!(parts.iter().any(|(name, _)| name == "blocks.*.ssm"));
    }
}
