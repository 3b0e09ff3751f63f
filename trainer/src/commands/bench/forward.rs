//! `trainer bench --forward`: forward passes and sampling steps.

use anyhow::{Result, ensure};
use preprocess::console::{Printer, exit};
use serde_json::{Value, json};

use super::{BenchArgs, by_kind, say_kinds};
use crate::commands::with_threads;
use crate::config::Config;
use crate::forward_times::{Times, forward_times};
use crate::memory::peak_resident_bytes;

/// Times them, and reports.
pub(super) fn run(args: &BenchArgs, config: &Config, ranks: usize, printer: &mut Printer) -> Result<u8> {
    ensure!(
        ranks == 1,
        "--forward measures one process: start it without mpirun or srun"
    );
    let times = with_threads(config.run.threads, || Ok(forward_times(config, args.steps)?))?;
    let guided = if times.is_guided {
        "sampling step with guidance, both branches in one batch"
    } else {
        "sampling step (the model has no null label, so no guidance)"
    };
    let rows = [
        ("training", "forward of a training step", &times.training),
        ("inference", "forward in inference", &times.inference),
        ("sampling_step", guided, &times.sampling),
    ];
    printer.say(format_args!("batches of {} images, milliseconds", times.images));
    let mut report = serde_json::Map::new();
    for (key, name, times) in rows {
        printer.say(format_args!(
            "{name:<56} best {:>9.2}, median {:>9.2}, processor {:>9.2}",
            times.best(),
            times.median(),
            times.processor()
        ));
        let kinds = by_kind(times.ops(), times.total());
        if args.profile {
            say_kinds(printer, &kinds, times.total(), args.steps);
        }
        report.insert(key.to_owned(), row(times, &kinds, args.steps));
    }
    let passes = if times.is_guided { 2.0 } else { 1.0 };
    let ratio = |of: fn(&Times) -> f64| of(&times.sampling) / (passes * of(&times.training));
    printer.say(format_args!(
        "the sampling step takes {:.3} (processor time {:.3}) of {passes} forward passes of a training step",
        ratio(Times::best),
        ratio(Times::processor)
    ));
    report.insert("images".to_owned(), times.images.into());
    report.insert("is_guided".to_owned(), times.is_guided.into());
    report.insert("step_of_forwards".to_owned(), ratio(Times::best).into());
    report.insert(
        "step_of_forwards_processor".to_owned(),
        ratio(Times::processor).into(),
    );
    report.insert("peak_bytes".to_owned(), peak_resident_bytes().into());
    printer.json(&args.json, &Value::Object(report))?;
    Ok(exit::DONE)
}

fn row(times: &Times, kinds: &[(&'static str, f64)], repeats: u64) -> Value {
    let kinds: serde_json::Map<String, Value> = kinds
        .iter()
        .map(|(name, time)| ((*name).to_owned(), (time / repeats as f64).into()))
        .collect();
    json!({
        "best_ms": times.best(),
        "median_ms": times.median(),
        "processor_ms": times.processor(),
        "profile_ms": kinds,
    })
}
