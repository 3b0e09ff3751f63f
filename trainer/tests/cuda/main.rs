//! The CUDA kernels without a GPU: the same sources, run by `kernels/emulation`, beside the operations of the CPU.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests fail as the tests do"
)]

mod elementwise;
mod emulator;
mod norm;
mod values;

use std::collections::BTreeSet;

use trainer::roofline::Work;

use self::emulator::{Emulator, Launch, entries, files};

/// A launch large enough to show what it moves, and small enough to be repeated for every barrier.
pub struct Case {
    launch: Launch,
    work: Work,
}

impl Case {
    fn new(launch: Launch, work: Work) -> Self {
        Self { launch, work }
    }
}

fn all_cases() -> Vec<Case> {
    [elementwise::cases(), norm::cases()].into_iter().flatten().collect()
}

#[test]
fn every_kernel_moves_what_the_analysis_says() {
    let Some(mut emulator) = Emulator::start() else { return };
    let mut seen = BTreeSet::new();
    for case in all_cases() {
        let (name, run) = (&case.launch.name, emulator.run(&case.launch));
        let (moved, sectors) = (run.loaded + run.stored, 32 * (run.load_sectors + run.store_sectors));
        let needed = case.work.bytes();
        eprintln!(
            "{name}: {moved} bytes moved, {needed} needed ({:.3}), sectors {:.3}",
            moved as f64 / needed as f64,
            sectors as f64 / needed as f64
        );
        assert!(moved as f64 <= 1.2 * needed as f64, "{name} moves {moved} bytes where {needed} are needed");
        assert!(moved as f64 >= 0.8 * needed as f64, "{name} moves {moved} bytes: the analysis is off, {needed}");
        seen.insert(name.clone());
    }
    let known: BTreeSet<String> = files().iter().flat_map(|(_, text)| entries(text)).collect();
    assert_eq!(seen, known, "kernels with a case, and kernels in the sources");
}

#[test]
fn every_barrier_is_needed() {
    let Some(mut emulator) = Emulator::start() else { return };
    let (mut reached, mut noticed) = (BTreeSet::new(), 0);
    for case in all_cases() {
        let run = emulator.run(&case.launch);
        for site in run.sites.iter().filter(|site| barriers().contains(*site)) {
            reached.insert(site.clone());
            let is_noticed = [false, true].into_iter().any(|reverse| {
                match emulator.send(&case.launch, reverse, site) {
                    Err(_) => true,
                    Ok(other) => other.buffers != run.buffers,
                }
            });
            assert!(is_noticed, "{}: nothing shows when the barrier in {site} is missing", case.launch.name);
            noticed += 1;
        }
    }
    eprintln!("{noticed} removed barriers noticed");
    assert_eq!(reached, barriers(), "barriers that a case reaches, and barriers in the sources");
}

/// The places of all barriers in the sources.
fn barriers() -> BTreeSet<String> {
    let headers = fs_err::read_dir(emulator::sources()).unwrap().map(|entry| entry.unwrap().path());
    let headers = headers.filter(|path| path.extension().is_some_and(|e| e == "cu" || e == "cuh"));
    headers
        .flat_map(|path| {
            let (name, text) = (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                fs_err::read_to_string(&path).unwrap(),
            );
            let lines = text.lines().enumerate();
            let lines = lines.filter(|(_, line)| line.contains("__syncthreads()") || line.contains("__syncwarp()"));
            lines.map(|(number, _)| format!("{name}:{}", number + 1)).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn the_emulation_finds_what_it_is_for() {
    let Some(mut emulator) = Emulator::start() else { return };
    let launch = elementwise::add_column_sums_launch(&[1.0; 64], &[0.0; 16], 1, 32, 32, 0);
    let error = emulator.send(&launch, false, "").err().unwrap();
    assert!(error.contains("argument 1, which has 64"), "{error}");
    let mut launch = elementwise::add_column_sums_launch(&[1.0; 64], &[0.0; 32], 1, 32, 32, 0);
    assert_eq!(emulator.run(&launch).f32s(1), [2.0; 32]);
    launch.args.pop();
    assert!(emulator.send(&launch, false, "").err().unwrap().contains("6 arguments, not 5"));
}
