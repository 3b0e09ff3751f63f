//! `trainer info`: what a configuration costs, before anything is trained.

use std::path::PathBuf;

use anyhow::Result;
use preprocess::console::count::{bytes, with_commas};
use preprocess::console::{JsonTarget, Printer, exit};

use super::ConfigArgs;
use crate::memory::MemoryPlan;
use crate::model::{ModelConfig, ParamLayout, is_b};

/// Parameters and multiply-adds of the model that DiffuSSM-XL is compared with (Peebles and Xie 2023, table 4).
const DIT_XL_2: (u64, f64) = (675_129_632, 118.6);

/// Prints parameters, cost and memory of a configuration.
#[derive(Debug, clap::Args)]
pub struct InfoArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Write the data as JSON to stdout, or into FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
}

/// Runs the command.
///
/// # Errors
/// For a wrong configuration.
pub fn run(args: &InfoArgs, printer: &mut Printer) -> Result<u8> {
    let json: &JsonTarget = &args.json;
    printer.set_json(json);
    let resolved = args.config.resolve("imagenet256-xl")?;
    let config = &resolved.config;
    config.validate()?;
    let model = &config.model;
    let parts = parts(model);
    let parameters: u64 = parts.iter().map(|(_, count)| count).sum();
    let gflops = model.gflops_per_image();
    let memory = MemoryPlan::training(config);
    let images = config.run.num_steps * config.optim.global_batch_size as u64;

    printer.say(format_args!(
        "{}: D {}, depth {}, N {}, P {}, M {}, L {}",
        args.config.name("imagenet256-xl"),
        model.hidden_size,
        model.depth,
        model.state_size,
        model.patch_size,
        model.downscale,
        model.length()
    ));
    printer.say("\nparameters");
    for (name, count) in &parts {
        printer.say(format_args!("  {name:<28} {:>14}", with_commas(*count)));
    }
    printer.say(format_args!("  {:<28} {:>14}", "all", with_commas(parameters)));
    printer.say(format_args!(
        "  {:<28} {:>14}",
        "(DiT-XL/2)",
        with_commas(DIT_XL_2.0)
    ));
    printer.say(format_args!(
        "\nforward pass of one image, multiply-adds\n  {:<28} {gflops:>10.1} G\n  {:<28} {:>10.1} G",
        "this model", "(DiT-XL/2 at 256 pixels)", DIT_XL_2.1
    ));
    printer.say(format_args!(
        "\ntraining memory, f32 on the CPU, {} images at a time",
        config.optim.micro_batch()
    ));
    let rows = [
        ("weights and EMA", memory.weights),
        ("gradients", memory.gradients),
        ("AdamW's moments", memory.optimizer),
        ("activations", memory.activations),
        ("working buffers", memory.workspace),
        ("loader and program", memory.other),
        ("all", memory.total()),
    ];
    for (name, count) in rows {
        printer.say(format_args!("  {name:<28} {:>14}", bytes(count)));
    }
    printer.say(format_args!(
        "\nthe whole run: {} steps of {} images: {} images, {:.3e} GFLOP (forward and backward, multiply-adds)",
        with_commas(config.run.num_steps),
        with_commas(config.optim.global_batch_size as u64),
        with_commas(images),
        3.0 * gflops * images as f64
    ));
    let report = serde_json::json!({
        "parameters": parameters,
        "gflops_per_image": gflops,
        "parts": parts.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "length": model.length(),
        "memory_bytes": memory.total(),
        "memory": memory,
        "images": images,
    });
    printer.json(json, &report)?;
    Ok(exit::DONE)
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
