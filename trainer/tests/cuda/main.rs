//! The CUDA kernels without a GPU: the same sources, run by `kernels/emulation`, beside the operations of the CPU.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests fail as the tests do"
)]

mod autoencoder;
mod chunked;
mod conv;
mod diffusion;
mod elementwise;
mod emulator;
mod norm;
mod optimizer;
mod ssm;
mod values;

use std::collections::BTreeSet;

use trainer::roofline::Work;

use self::emulator::{Emulator, Launch, entries, files};

/// A launch large enough to show what it moves, and small enough to be repeated for every barrier.
pub(crate) struct Case {
    launch: Launch,
    work: Work,
}

impl Case {
    fn new(launch: Launch, work: Work) -> Self {
        Self { launch, work }
    }
}

fn all_cases() -> Vec<Case> {
    let cases = [
        elementwise::cases(),
        norm::cases(),
        conv::cases(),
        chunked::cases(),
        ssm::cases(),
        diffusion::cases(),
        optimizer::cases(),
        autoencoder::cases(),
    ];
    cases.into_iter().flatten().collect()
}

#[test]
fn every_kernel_moves_what_the_analysis_says() {
    let Some(mut emulator) = Emulator::start() else {
        return;
    };
    let (mut seen, mut off) = (BTreeSet::new(), Vec::new());
    for case in all_cases() {
        let (name, run) = (&case.launch.name, emulator.run(&case.launch));
        let (bytes, sectors) = (
            run.loaded + run.stored,
            32 * (run.load_sectors + run.store_sectors),
        );
        let (once, needed) = (run.loaded_once + run.stored_once, case.work.bytes());
        let share = |of: u64, all: u64| of as f64 / all as f64;
        eprintln!(
            "{name}: {bytes} bytes moved, {needed} needed: {:.3}; sectors {:.3}; memory {:.3}",
            share(bytes, needed),
            share(sectors, needed),
            share(once, case.work.memory_bytes())
        );
        // A number that a whole warp reads is counted 32 times in bytes and once in sectors; of a short run of channels,
        // whole sectors are counted that the neighbouring block uses, too.
        let (least, most) = (
            share(bytes.min(sectors), needed),
            share(bytes.max(sectors), needed),
        );
        if least > 1.2 || most < 0.8 {
            off.push(format!("{name} moves {least:.3} to {most:.3} of what is needed"));
        }
        // What is touched at least once: on a device the rest comes from caches.
        let from_memory = share(once, case.work.memory_bytes());
        if !(0.8..=1.2).contains(&from_memory) {
            off.push(format!(
                "{name} touches {from_memory:.3} of the bytes that come from memory"
            ));
        }
        seen.insert(name.clone());
    }
    assert!(
        off.is_empty(),
        "the kernels or the analysis are off:\n{}",
        off.join("\n")
    );
    let known: BTreeSet<String> = files().iter().flat_map(|(_, text)| entries(text)).collect();
    assert_eq!(seen, known, "kernels with a case, and kernels in the sources");
}

#[test]
fn every_barrier_is_needed() {
    let Some(mut emulator) = Emulator::start() else {
        return;
    };
    let (mut reached, mut noticed, mut missed) = (BTreeSet::new(), 0, Vec::new());
    for case in all_cases() {
        let run = emulator.run(&case.launch);
        for site in run.sites.iter().filter(|site| barriers().contains(*site)) {
            reached.insert(site.clone());
            let is_noticed =
                [false, true]
                    .into_iter()
                    .any(|reverse| match emulator.send(&case.launch, reverse, site) {
                        Err(_) => true,
                        Ok(other) => other.buffers != run.buffers,
                    });
            noticed += usize::from(is_noticed);
            if !is_noticed {
                missed.push(format!("{} without the barrier in {site}", case.launch.name));
            }
        }
    }
    assert!(missed.is_empty(), "nothing shows in\n{}", missed.join("\n"));
    eprintln!("{noticed} removed barriers noticed");
    assert_eq!(
        reached,
        barriers(),
        "barriers that a case reaches, and barriers in the sources"
    );
}

/// The places of all barriers in the sources.
fn barriers() -> BTreeSet<String> {
    let headers = fs_err::read_dir(emulator::sources())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let headers = headers.filter(|path| path.extension().is_some_and(|e| e == "cu" || e == "cuh"));
    headers
        .flat_map(|path| {
            let (name, text) = (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                fs_err::read_to_string(&path).unwrap(),
            );
            let lines = text.lines().enumerate();
            let lines =
                lines.filter(|(_, line)| line.contains("__syncthreads()") || line.contains("__syncwarp()"));
            lines
                .map(|(number, _)| format!("{name}:{}", number + 1))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn the_emulation_finds_what_it_is_for() {
    let Some(mut emulator) = Emulator::start() else {
        return;
    };
    let launch = elementwise::add_column_sums_launch(&[1.0; 64], &[0.0; 16], 1, 32, 32, 0);
    let error = emulator.send(&launch, false, "").err().unwrap();
    assert!(error.contains("argument 1, which has 64"), "{error}");
    let mut launch = elementwise::add_column_sums_launch(&[1.0; 64], &[0.0; 32], 1, 32, 32, 0);
    assert_eq!(emulator.run(&launch).f32s(1), [2.0; 32]);
    launch.args.pop();
    assert!(
        emulator
            .send(&launch, false, "")
            .err()
            .unwrap()
            .contains("6 arguments, not 5")
    );
}
