//! `trainer fit`: trains, resumes, reports.

mod report;

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use preprocess::console::count::with_commas;
use preprocess::console::progress::duration;
use preprocess::console::{JsonTarget, Printer, exit};
use shards::manifest::Manifest;

use super::ranks::{TransportArgs, threads_of, with_ranks_over};
use super::signals::Signals;
use super::{ConfigArgs, DeviceArgs, MemoryArgs, newest_dataset, with_threads};
use crate::checkpoint;
use crate::config::Resolved;
use crate::distributed::{HostReducer, share};
use crate::export;
use crate::fit::{self, Outcome, Plan};
use report::Report;

/// Trains a model; run again after an interruption, it goes on.
#[derive(Debug, clap::Args)]
pub struct FitArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The dataset's folder [default: data.path, else the newest below data/]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The run's folder [default: runs/<dataset>-<configuration>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Start anew: in --out if it is empty, else in the first of --out-2, --out-3, .. that is; nothing is overwritten
    #[arg(long)]
    fresh: bool,
    /// Start from the weights of an export, checkpoint or run, with its configuration unless --config names one
    #[arg(long, value_name = "DIR")]
    init: Option<PathBuf>,
    /// Go on although this key differs from the checkpoint's; `data` for the dataset; may be repeated
    #[arg(long, value_name = "KEY")]
    allow: Vec<String>,
    #[command(flatten)]
    transport: TransportArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    /// Write the data as JSON to stdout, or into FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
}

/// Runs the command.
///
/// # Errors
/// For a wrong configuration or dataset, and those of training.
pub fn run(args: &FitArgs, printer: &mut Printer) -> Result<u8> {
    printer.set_json(&args.json);
    with_ranks_over(args.transport, printer, |printer, reducer| {
        train(args, printer, reducer)
    })
}

/// Trains in one of the processes that train together, or in the only one; the first reports.
fn train(args: &FitArgs, printer: &mut Printer, reducer: &mut HostReducer) -> Result<u8> {
    let json: &JsonTarget = &args.json;
    let plan = share(reducer, || plan(args))?;
    let is_first = reducer.rank() == 0;
    let signals = Signals::listen()?;
    let started = Instant::now();
    let threads = threads_of(plan.resolved.config.run.threads, reducer);
    let done = with_threads(threads, || {
        if !is_first {
            return Ok(fit::fit_among(&plan, &signals.stop, reducer, &mut |_| {}));
        }
        let mut report = Report::new(printer, &plan.out, reducer.ranks());
        let done = fit::fit_among(&plan, &signals.stop, reducer, &mut |event| report.tell(&event));
        report.close();
        Ok(done)
    })?;
    let outcome = match done {
        Err(fit::Error::NotFinite { .. }) if !is_first => return Ok(exit::BAD),
        Err(error @ fit::Error::NotFinite { .. }) => {
            printer.error(format_args!("error: {error}"));
            return Ok(exit::BAD);
        }
        other => other?,
    };
    if !is_first {
        return Ok(exit::DONE);
    }
    finish(&plan, &outcome, started.elapsed(), printer);
    let report = serde_json::json!({
        "out": plan.out,
        "step": outcome.step,
        "finished": outcome.is_finished,
        "checkpoint": outcome.checkpoint,
        "last": outcome.last,
    });
    printer.json(json, &report)?;
    Ok(exit::DONE)
}

fn finish(plan: &Plan, outcome: &Outcome, time: Duration, printer: &mut Printer) {
    let loss = outcome.last.as_ref().map_or_else(String::new, |metrics| {
        format!(
            ", loss {:.4}, {:.1} images/s",
            metrics.loss, metrics.images_per_second
        )
    });
    let (out, spent) = (plan.out.display(), duration(time.as_secs_f64()));
    printer.say(format_args!(
        "{} after {} steps in {spent}{loss}\nwrote {out}/{{checkpoints,samples,tensorboard,metrics.jsonl,loss.png}}",
        if outcome.is_finished {
            "done"
        } else {
            "stopped and saved"
        },
        with_commas(outcome.step)
    ));
    if outcome.is_finished {
        printer.say(format_args!(
            "next: trainer sample --checkpoint {out} --out grid.png; eval fid --checkpoint {out}"
        ));
    } else {
        printer.say(format_args!("next: trainer fit --out {out} goes on from here"));
    }
}

/// What the arguments mean: configuration, dataset, folder.
fn plan(args: &FitArgs) -> Result<Plan> {
    // A run that is gone on from brings its own configuration.
    let resumed = match &args.out {
        Some(out) if !args.fresh && args.config.config.is_none() => configuration_of(out)?,
        _ => None,
    };
    let mut resolved = match (resumed, &args.config.config, &args.init) {
        (Some(resumed), _, _) => resumed,
        (None, Some(name), _) => Resolved::named(name)?,
        (None, None, Some(init)) => configuration_of_init(init)?,
        (None, None, None) => Resolved::from_text("", "")?,
    };
    let is_given = !resolved.origins.is_empty();
    let set_all = |resolved: &mut Resolved| -> Result<(), crate::config::Error> {
        args.config
            .set
            .iter()
            .try_for_each(|assignment| resolved.set(assignment))
    };
    set_all(&mut resolved)?;
    let data = [args.data.clone().unwrap_or_default(), resolved.config.data.path.clone()]
        .into_iter()
        .find(|path| !path.as_os_str().is_empty())
        .or_else(|| newest_dataset(Path::new("data")))
        .context(
            "there is no dataset below data/\nhint: `preprocess encode --dataset demo --vae tiny` makes a small one, \
             --data DIR names one",
        )?;
    // Without a word, the shapes that the program draws get the small model that learns them, everything else XL.
    let is_demo = Manifest::read(&data)?.source.dataset == "demo";
    if is_demo && !is_given {
        resolved = Resolved::named("demo")?;
        set_all(&mut resolved)?;
    }
    resolved.config.data.path.clone_from(&data);
    let out = args.out.clone().unwrap_or_else(|| {
        let dataset = data
            .file_name()
            .map_or_else(|| "data".into(), |name| name.to_string_lossy());
        let init = args
            .init
            .as_deref()
            .and_then(Path::file_name)
            .and_then(OsStr::to_str);
        let name = args
            .config
            .name(init.unwrap_or(if is_demo { "demo" } else { "xl" }));
        PathBuf::from(format!("runs/{dataset}-{name}"))
    });
    Ok(Plan {
        resolved,
        data,
        out: if args.fresh { unused(&out)? } else { out },
        init: args.init.clone(),
        allow: args.allow.clone(),
        place: args.device.place()?,
        available_memory: args.memory.available(),
    })
}

/// The configuration that weights were trained with; the data are others.
fn configuration_of_init(init: &Path) -> Result<Resolved> {
    let mut config = export::open_config(init)?;
    config.data.path = PathBuf::new();
    let text = toml::to_string(&config).context("the configuration of --init")?;
    Ok(Resolved::from_text(&text, "--init")?)
}

/// The configuration of the newest checkpoint of a run.
fn configuration_of(run: &Path) -> Result<Option<Resolved>> {
    let states = checkpoint::list(run).into_iter().rev();
    // A damaged state is told when the run is opened.
    let Some(state) = states
        .filter_map(|(_, folder)| checkpoint::read_state(&folder).ok())
        .next()
    else {
        return Ok(None);
    };
    let text = toml::to_string(&state.config).context("the checkpoint's configuration")?;
    Ok(Some(Resolved::from_text(&text, "checkpoint")?))
}

/// A new or empty folder for a run: `out`, or `out` with the first number behind it that is free. It is made here, so that
/// two runs that start together do not get the same one.
fn unused(out: &Path) -> Result<PathBuf> {
    let with = |number: u32| {
        let mut name = out.as_os_str().to_owned();
        name.push(format!("-{number}"));
        PathBuf::from(name)
    };
    if let Some(parent) = out.parent() {
        fs_err::create_dir_all(parent)?;
    }
    for path in std::iter::once(out.to_owned()).chain((2..10_000).map(with)) {
        match fs_err::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
            Err(_) => {}
        }
        let is_empty = path.is_dir() && fs_err::read_dir(&path)?.next().is_none();
        if is_empty {
            return Ok(path);
        }
    }
    bail!("{} and 10,000 more are taken", out.display())
}
