//! Every kernel, the golden models, training and sampling on a GPU, beside the processor: a table of what holds.
//!
//! `cargo test --release -p trainer --features cuda --test gpu [-- PART OF A NAME]`; the file that cargo names needs nothing but
//! the driver and the CUDA libraries, so that it can be carried to another machine. `DIFFUSSM_GPU=1` chooses the GPU.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of tests"
)]

#[path = "../checks/mod.rs"]
mod checks;
mod device;

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

/// The list of names and checks.
macro_rules! as_list {
    ($($module:ident { $($name:ident)+ })+) => {
        const CHECKS: &[(&str, fn())] = &[$($(
            (concat!(stringify!($module), "::", stringify!($name)), checks::$module::$name),
        )+)+];
    };
}

checks::for_each_check!(as_list);

/// What the last check that failed said, and where.
static MESSAGE: Mutex<String> = Mutex::new(String::new());

fn main() -> ExitCode {
    let parts: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let name = match device::name() {
        Ok(name) => name,
        Err(error) => {
            eprintln!("no GPU {}: {error}", device::ordinal());
            return ExitCode::FAILURE;
        }
    };
    println!("GPU {}: {name}", device::ordinal());
    set_hook(Box::new(|panic| {
        *MESSAGE.lock().unwrap() = panic.to_string();
    }));
    let (mut passed, mut failed) = (0, 0);
    for case in kernels(&parts) {
        count(case, &mut passed, &mut failed);
    }
    for (name, check) in CHECKS {
        if parts.is_empty() || parts.iter().any(|part| name.contains(part.as_str())) {
            count(row(name, check), &mut passed, &mut failed);
        }
    }
    println!("{passed} hold, {failed} do not");
    if failed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn count(holds: bool, passed: &mut u32, failed: &mut u32) {
    *(if holds { passed } else { failed }) += 1;
}

/// Runs a check and prints its row.
fn row(name: &str, check: impl FnOnce()) -> bool {
    let started = Instant::now();
    let holds = catch_unwind(AssertUnwindSafe(check)).is_ok();
    let (verdict, seconds) = (
        if holds { "ok" } else { "FAILED" },
        started.elapsed().as_secs_f64(),
    );
    println!("{name:<64} {verdict:<6} {seconds:>7.2} s");
    if !holds {
        println!("    {}", MESSAGE.lock().unwrap().replace('\n', "\n    "));
    }
    holds
}

/// Launches one of every kernel: the driver takes its registers, its shared memory and its arguments.
fn kernels<'a>(parts: &'a [String]) -> impl Iterator<Item = bool> + use<'a> {
    let is_wanted = |name: &str| parts.is_empty() || parts.iter().any(|part| name.contains(part.as_str()));
    checks::all_cases().into_iter().filter_map(move |case| {
        let name = format!("launch of {}", case.launch.name);
        is_wanted(&name).then(|| {
            row(&name, || {
                let mut runner = device::Runner::start().unwrap();
                runner.run(&case.launch);
            })
        })
    })
}
