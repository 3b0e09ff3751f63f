//! `trainer bench`: time and memory of training steps, or of forward passes and sampling steps.

mod device;
mod forward;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use preprocess::console::count::bytes;
use preprocess::console::{JsonTarget, Printer, exit};

use super::ranks::{TransportArgs, threads_of, with_ranks_over};
use super::{ConfigArgs, DeviceArgs, MemoryArgs, with_threads};
use crate::cost::TRAINING_PASSES;
use crate::distributed::{HostReducer, processes_of_machine};
use crate::fit::{StepTimes, check_batch, slice_of, step_times};
use crate::gpu::Place;
use crate::memory::{self, MemoryPlan, peak_resident_bytes};
use crate::ops::profile::{self, Op};

/// Times training steps.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Steps that are timed, after one that is not
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    transport: TransportArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    /// Time what sampling does: a forward pass in training and in inference, and a sampling step
    #[arg(long)]
    forward: bool,
    /// Print where the time goes, by kind of operation
    #[arg(long)]
    profile: bool,
    /// Write the data as JSON to stdout, or into FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
}

/// Runs the command.
///
/// # Errors
/// For a wrong configuration.
pub fn run(args: &BenchArgs, printer: &mut Printer) -> Result<u8> {
    printer.set_json(&args.json);
    with_ranks_over(args.transport, printer, |printer, reducer| {
        time(args, printer, reducer)
    })
}

/// Times the steps of one of the processes that train together, or of the only one; the first reports.
fn time(args: &BenchArgs, printer: &mut Printer, reducer: &mut HostReducer) -> Result<u8> {
    let json: &JsonTarget = &args.json;
    let resolved = args.config.resolve("imagenet256-s")?;
    let config = &resolved.config;
    config.validate()?;
    check_batch(config, reducer)?;
    let (rank, ranks) = (reducer.rank(), reducer.ranks());
    let sharing = processes_of_machine(reducer);
    let place = args.device.place()?;
    if let (Some(available), Place::Cpu) = (args.memory.available(), place) {
        memory::check(&slice_of(config, ranks), 0, available, sharing)?;
    }
    if args.forward {
        return forward::run(args, config, ranks, printer);
    }
    let threads = threads_of(config.run.threads, reducer);
    let StepTimes {
        milliseconds: times,
        device,
    } = with_threads(threads, || Ok(step_times(config, args.steps, place, reducer)?))?;
    if rank > 0 {
        return Ok(exit::DONE);
    }
    if let Some((name, kinds)) = device {
        let report = device::report(config, ranks, &name, times[times.len() / 2], &kinds);
        report.lines().iter().for_each(|line| printer.say(line));
        printer.json(json, &serde_json::to_value(&report)?)?;
        return Ok(exit::DONE);
    }
    let total = times.iter().sum::<f64>();
    let table = by_kind(profile::take(), total);
    let (best, median) = (times[0], times[times.len() / 2]);
    let images = config.optim.global_batch_size as f64;
    // Two floating-point operations a multiply-add.
    let gflops = 2.0 * TRAINING_PASSES * images * config.model.gflops_per_image();
    let planned = MemoryPlan::training(&slice_of(config, ranks)).total();
    let peak = peak_resident_bytes();
    printer.say(format_args!(
        "step of {images} images: best {best:.1} ms, median {median:.1} ms; {:.1} images/s, {:.1} GFLOP/s; memory {} \
         planned{}",
        1e3 * images / median,
        1e3 * gflops / median,
        bytes(planned),
        peak.map_or_else(String::new, |peak| format!(", {} at most", bytes(peak)))
    ));
    if args.profile {
        say_kinds(printer, &table, total, args.steps);
    }
    let report = serde_json::json!({
        "ms_per_step": median,
        "best_ms": best,
        "images_per_second": 1e3 * images / median,
        "gflops_per_second": 1e3 * gflops / median,
        "threads": if threads == 0 { rayon::current_num_threads() } else { threads },
        "ranks": ranks,
        "planned_bytes": planned,
        "peak_bytes": peak,
        "profile_ms": table.iter().map(|(name, time)| (*name, time / args.steps as f64)).collect::<BTreeMap<_, _>>(),
    });
    printer.json(json, &report)?;
    Ok(exit::DONE)
}

/// The time of every kind of operation in `total` milliseconds, and of the rest.
fn by_kind(ops: [Duration; Op::ALL.len()], total: f64) -> Vec<(&'static str, f64)> {
    let ops = ops.map(|time| 1e3 * time.as_secs_f64());
    let rest = total - ops.iter().sum::<f64>();
    let kinds = Op::ALL.iter().zip(ops).map(|(op, time)| (op.name(), time));
    kinds.chain([("the rest", rest)]).collect()
}

/// Prints [`by_kind`] of one of `steps` steps that took `total` milliseconds together.
fn say_kinds(printer: &mut Printer, kinds: &[(&str, f64)], total: f64, steps: u64) {
    for (name, time) in kinds {
        printer.say(format_args!(
            "  {name:<24} {:>9.2} ms {:>6.1} %",
            time / steps as f64,
            100.0 * time / total
        ));
    }
}
