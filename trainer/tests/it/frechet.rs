//! `run.frechet_every`: what the trainer asks of the program `eval` beside it, and what becomes of the answers.
#![cfg(unix)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use trainer::fit::{Distance, json_lines};

use super::{dataset, run_of};

/// A folder with the trainer and, in the place of `eval`, a shell script.
fn beside(dir: &Path, script: Option<&str>) -> PathBuf {
    let bin = dir.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let program = bin.join("trainer");
    if !program.exists() {
        // Not a copy: a program that another test's child still holds open for writing cannot be started.
        std::fs::hard_link(env!("CARGO_BIN_EXE_trainer"), &program).unwrap();
    }
    let eval = bin.join("eval");
    let _ = std::fs::remove_file(&eval);
    if let Some(script) = script {
        std::fs::write(&eval, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&eval, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    program
}

/// A folder on the file system of the programs.
fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn run(program: &Path, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap()
}

/// Keeps its arguments and what it can see, and answers with the number of calls.
const ANSWERS: &str = r#"
here=$(dirname "$0")
echo "$@ rank ${RANK-none}" >> "$here/calls"
for last; do :; done
test -f "$(dirname "$last")/model/model.safetensors" || exit 3
count=$(wc -l < "$here/calls")
echo "{\"fid\": $count.5, \"samples\": 16, \"inception\": \"random:7\", \"comparable\": false, \"more\": 1}" > "$last"
"#;

#[test]
fn distances_are_measured_kept_and_taken_back_with_the_steps() {
    let dir = folder();
    let (data, out) = (dataset(dir.path()), dir.path().join("run").display().to_string());
    let program = beside(dir.path(), Some(ANSWERS));
    let sets = |steps| {
        [
            steps,
            "run.frechet_every=2",
            "run.frechet_samples=16",
            "run.frechet_inception=random:7",
            "run.checkpoint_every=3",
        ]
    };
    let args = run_of(&data, &out, &sets("run.num_steps=5"));
    let mut command = Command::new(&program);
    // torchrun's variables for one process.
    let done = command
        .args(&args)
        .env("RANK", "0")
        .env("WORLD_SIZE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{said}");
    assert!(
        said.contains("frechet  1.5000 over 16 samples (in random:7: not comparable)"),
        "{said}"
    );
    let distances = || -> Vec<(u64, f64)> {
        let lines: Vec<Distance> = json_lines(&Path::new(&out).join("frechet.jsonl")).unwrap();
        lines.iter().map(|line| (line.step, line.frechet)).collect()
    };
    assert_eq!(distances(), [(2, 1.5), (4, 2.5), (5, 3.5)]);
    let calls = std::fs::read_to_string(dir.path().join("bin/calls")).unwrap();
    let first = calls.lines().next().unwrap();
    for part in [
        "fid ",
        "--metrics fid",
        "--samples 16",
        "--inception random:7",
        "--steps 50",
        "--sampler ddim",
        &format!("--reference {data}"),
        "rank none",
    ] {
        assert!(first.contains(part), "{part} is not in {first}");
    }

    // Without the last checkpoint, the steps after the one before are done again, and measured again.
    std::fs::remove_dir_all(Path::new(&out).join("checkpoints/step-0000005")).unwrap();
    let done = run(&program, &args);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(distances(), [(2, 1.5), (4, 4.5), (5, 5.5)]);
    let left: Vec<_> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("frechet-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_failure_to_measure_is_told_and_a_missing_program_refused_at_once() {
    let dir = folder();
    let (data, out) = (dataset(dir.path()), dir.path().join("run").display().to_string());
    let sets = ["run.num_steps=2", "run.frechet_every=2"];
    let program = beside(dir.path(), None);
    let done = run(&program, &run_of(&data, &out, &sets));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(
        said.contains("bin/eval is missing") && said.contains("run.frechet_every=0"),
        "{said}"
    );
    assert!(!Path::new(&out).exists());

    beside(dir.path(), Some("echo 'error: no such network' >&2; exit 2"));
    let done = run(&program, &run_of(&data, &out, &sets));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{said}");
    assert!(
        said.contains("no Frechet distance at step 2") && said.contains("error: no such network"),
        "{said}"
    );
    assert!(!Path::new(&out).join("frechet.jsonl").exists());
}

#[test]
fn a_wish_to_stop_does_not_wait_for_a_measurement() {
    let dir = folder();
    let (data, out) = (dataset(dir.path()), dir.path().join("run").display().to_string());
    let program = beside(dir.path(), Some(r#"touch "$0.started"; exec sleep 600"#));
    let sets = ["run.num_steps=1000", "run.frechet_every=2"];
    let mut child = Command::new(&program)
        .args(run_of(&data, &out, &sets))
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let started = dir.path().join("bin/eval.started");
    while !started.exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert!(child.wait().unwrap().success());
    assert_eq!(
        trainer::checkpoint::list(out.as_ref())
            .pop()
            .map(|(step, _)| step),
        Some(2)
    );
}
