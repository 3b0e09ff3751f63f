//! What the crate's programs promise, as users type them.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod bad_images;
mod encode;
mod formats;
mod full_disk;
mod kill;
mod parts;
mod shards_cli;
mod sources;
mod study;
mod vae_source;

use std::ffi::OsString;
use std::path::Path;

use preprocess::console::Printer;

/// Exit code, stdout and stderr of a run of `preprocess`.
fn preprocess(args: &[&str]) -> (u8, String, String) {
    run("preprocess", args, preprocess::cli::run)
}

/// Exit code, stdout and stderr of a run of `shards`.
fn shards(args: &[&str]) -> (u8, String, String) {
    run("shards", args, preprocess::shards_cli::run)
}

fn run(
    name: &str,
    args: &[&str],
    program: impl Fn(Vec<OsString>, &mut Printer) -> u8,
) -> (u8, String, String) {
    let (mut printer, out, err) = Printer::captured();
    let args = std::iter::once(name).chain(args.iter().copied());
    let code = program(args.map(OsString::from).collect(), &mut printer);
    (code, out.text(), err.text())
}

/// Names and contents of the files of a folder, sorted.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(&path).unwrap())
        })
        .collect();
    all.sort();
    all
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
