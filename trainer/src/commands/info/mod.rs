//! `trainer info`: what a configuration costs, before anything is trained; all of them side by side; figure 3.

mod figure3;
mod report;

use std::path::PathBuf;

use anyhow::Result;
use preprocess::console::count::{bytes, with_commas};
use preprocess::console::{JsonTarget, Printer, exit};

use super::ConfigArgs;
use crate::config::{Config, PRESETS, preset_with_shape};
use crate::cost::Dit;
use report::Report;

/// Prints parameters, cost and memory: of one configuration, or of all built-in ones as a table.
#[derive(Debug, clap::Args)]
pub struct InfoArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// A table of all built-in configurations; also what is printed without --config and --set
    #[arg(long, conflicts_with = "config")]
    all: bool,
    /// Draw GFLOPs by sequence length of DiT and DiffuSSM (the paper's figure 3)
    #[arg(long, value_name = "FILE.png", conflicts_with_all = ["config", "all"])]
    figure3: Option<PathBuf>,
    /// Write the data as JSON to stdout, or into FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
}

/// Runs the command.
///
/// # Errors
/// For a wrong configuration, and when the figure cannot be written.
pub fn run(args: &InfoArgs, printer: &mut Printer) -> Result<u8> {
    let json: &JsonTarget = &args.json;
    printer.set_json(json);
    if let Some(path) = &args.figure3 {
        figure3::draw(path)?;
        printer.say(format_args!("wrote {}", path.display()));
        printer.json(json, &figure3::report())?;
    } else if args.all || (args.config.config.is_none() && args.config.set.is_empty()) {
        let configs = all(args)?;
        table(&configs, printer);
        let models: Vec<_> = configs
            .iter()
            .map(|(name, config)| Report::new(name, config).json())
            .collect();
        printer.json(
            json,
            &serde_json::json!({ "models": models, "dit": report::dit_json() }),
        )?;
    } else {
        let name = args.config.name("imagenet256-xl");
        let config = args.config.resolve("imagenet256-xl")?.config;
        config.validate()?;
        let report = Report::new(name, &config);
        report.print(printer);
        printer.json(json, &report.json())?;
    }
    Ok(exit::DONE)
}

/// The built-in configurations, with `--set` over each.
fn all(args: &InfoArgs) -> Result<Vec<(&'static str, Config)>> {
    let one = |(name, _): (&'static str, &str)| -> Result<(&'static str, Config)> {
        let mut resolved = preset_with_shape(name)?;
        for assignment in &args.config.set {
            resolved.set(assignment)?;
        }
        resolved.config.validate()?;
        Ok((name, resolved.config))
    };
    PRESETS.into_iter().map(one).collect()
}

/// Widths of the columns of [`table`].
const WIDTHS: [usize; 15] = [15, 6, 7, 3, 3, 7, 3, 8, 13, 9, 7, 10, 10, 14, 10];

/// A line of [`table`].
fn line(printer: &mut Printer, cells: [String; WIDTHS.len()]) {
    let [name, numbers @ ..] = cells;
    let numbers = numbers.iter().zip(&WIDTHS[1..]);
    let numbers: String = numbers.map(|(cell, width)| format!("{cell:>width$}")).collect();
    printer.say(format_args!("{name:<width$}{numbers}", width = WIDTHS[0]));
}

fn table(configs: &[(&str, Config)], printer: &mut Printer) {
    let head = [
        "",
        "D",
        "layers",
        "P",
        "M",
        "L",
        "C",
        "classes",
        "parameters",
        "GFLOPs",
        "micro",
        "memory",
        "(block)",
        "images",
        "GFLOPs",
    ];
    line(printer, head.map(str::to_owned));
    for (name, config) in configs {
        let (report, model) = (Report::new(name, config), &config.model);
        let cells = [
            (*name).to_owned(),
            model.hidden_size.to_string(),
            model.depth.to_string(),
            model.patch_size.to_string(),
            model.downscale.to_string(),
            model.length().to_string(),
            model.in_channels.to_string(),
            model.num_classes.to_string(),
            with_commas(report.parameters),
            if report.gflops < 1.0 {
                format!("{:.3}", report.gflops)
            } else {
                format!("{:.1}", report.gflops)
            },
            config.optim.micro_batch().to_string(),
            bytes(report.memory_all.total()),
            bytes(report.memory_block.total()),
            with_commas(report.images),
            format!("{:.2e}", report.forward_gflops()),
        ];
        line(printer, cells);
    }
    let dit = Dit::XL_2;
    for (name, side) in [("(DiT-XL/2 256)", 32), ("(DiT-XL/2 512)", 64)] {
        let published = report::published("DiT-XL/2", 8 * side);
        let cells = [
            name.to_owned(),
            dit.hidden_size.to_string(),
            dit.depth.to_string(),
            dit.patch_size.to_string(),
            dit.downscale.to_string(),
            (side / dit.patch_size).pow(2).to_string(),
            4.to_string(),
            1000.to_string(),
            with_commas(dit.parameters()),
            format!("{:.1}", dit.gflops_per_image(side)),
            String::new(),
            String::new(),
            String::new(),
            published.map_or_else(String::new, |row| with_commas((1e6 * row.million_images) as u64)),
            format!("{:.2e}", published.map_or(f64::NAN, |row| row.total_gflops)),
        ];
        line(printer, cells);
    }
    printer.say(
        "\nGFLOPs: multiply-adds of one image's forward pass; memory: training in f32 on the CPU with `micro` images at a \
         time,\nand with run.recompute=block; images and GFLOPs: of the whole schedule, forward passes alone, as the paper \
         counts.\n`trainer info --config NAME` tells one in full.",
    );
}
