//! Tests that span crates.
#![expect(clippy::unwrap_used, reason = "a helper of tests fails as the test does")]

mod frechet;
mod golden;
mod pipeline;
mod readme;
mod sweep;

use std::path::PathBuf;
use std::process::Command;

/// A program of the workspace: `cargo test --workspace` builds it beside the tests' folder.
fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().with_file_name(name);
    assert!(
        path.is_file(),
        "{} is missing: test the whole workspace",
        path.display()
    );
    path
}

fn run(name: &str, args: &[&str]) -> String {
    let done = Command::new(program(name)).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{name} {args:?}: {said}");
    String::from_utf8(done.stdout).unwrap()
}
