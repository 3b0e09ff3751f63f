//! A run that was killed, stopped or damaged goes on, and comes to the same bits.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use trainer::checkpoint;
use trainer::fit::Metrics;

use super::{dataset, dataset_of, program, run_of, small, trainer};

const STEPS: &str = "run.num_steps=60";
const EVERY: &str = "run.checkpoint_every=7";

/// `metrics.jsonl` without what the clock says.
pub(super) fn losses(run: &Path) -> Vec<Metrics> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let mut all: Vec<Metrics> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for line in &mut all {
        line.images_per_second = 0.0;
    }
    all
}

/// The bytes of the newest checkpoint's tensors.
pub(super) fn tensors(run: &Path) -> Vec<Vec<u8>> {
    let folder = checkpoint::find(run).unwrap();
    ["model", "ema", "optim"]
        .map(|name| std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap())
        .to_vec()
}

pub(super) fn start(args: &[&str]) -> Child {
    program(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits until the run has a checkpoint of at least step `step`.
pub(super) fn wait_for(run: &Path, step: u64) -> PathBuf {
    let start = Instant::now();
    loop {
        if let Some((found, path)) = checkpoint::list(run).pop()
            && found >= step
        {
            return path;
        }
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "no checkpoint of step {step}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_killed_run_comes_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    let args = |out: &Path| -> Vec<String> {
        let out = out.display().to_string();
        let mut args: Vec<String> = small(&data, &out).into_iter().map(str::to_owned).collect();
        args.extend(["--set", STEPS, "--set", EVERY].map(str::to_owned));
        args
    };
    let (first, second) = (args(&whole), args(&killed));
    let first: Vec<&str> = first.iter().map(String::as_str).collect();
    let second: Vec<&str> = second.iter().map(String::as_str).collect();
    assert!(
        program(&first)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    );

    for step in [7, 21, 42] {
        let mut child = start(&second);
        wait_for(&killed, step);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // How the data are held may change on the way.
    let cached = [&second[..], &["--set", "data.cache=ram"]].concat();
    let (code, _, err) = trainer(&cached);
    assert_eq!(code, 0, "{err}");
    assert_eq!(losses(&whole).len(), 60);
    assert_eq!(losses(&killed), losses(&whole));
    assert!(tensors(&killed) == tensors(&whole), "the weights differ");
}

#[cfg(unix)]
#[test]
fn a_terminated_run_saves_and_exits_with_zero() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let run = dir.path().join("run");
    let out = run.display().to_string();
    let mut args = small(&data, &out);
    args.extend(["--set", "run.num_steps=1M", "--set", "run.checkpoint_every=3"]);
    let mut child = start(&args);
    wait_for(&run, 3);
    let pid = child.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let (step, _) = checkpoint::list(&run).pop().unwrap();
    assert_eq!(losses(&run).pop().unwrap().step, step);
}

#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let run = dir.path().join("run");
    let out = run.display().to_string();
    let mut args = small(&data, &out);
    args.extend(["--set", "run.num_steps=20", "--set", EVERY]);
    assert_eq!(trainer(&args).0, 0);
    let sound = (losses(&run), tensors(&run));
    let newest = checkpoint::find(&run).unwrap().join("ema.safetensors");
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let (code, _, err) = trainer(&args);
    assert!(code == 0 && err.contains("falling back"), "{err}");
    assert!(err.contains("resume   step 14"), "{err}");
    assert_eq!((losses(&run), tensors(&run)), sound);

    for (_, folder) in checkpoint::list(&run) {
        std::fs::write(folder.join("optim.safetensors"), b"").unwrap();
    }
    let (code, _, err) = trainer(&args);
    assert!(code == 2 && err.contains("--fresh"), "{err}");
    args.push("--fresh");
    assert_eq!(trainer(&args).0, 0);
    assert!(dir.path().join("run-2/metrics.jsonl").is_file());
}

#[test]
fn another_configuration_or_dataset_is_refused_unless_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let out = dir.path().join("run").display().to_string();
    let mut args = small(&data, &out);
    args.extend(["--set", "run.num_steps=3"]);
    assert_eq!(trainer(&args).0, 0);
    let with = |extra: &[&str]| {
        let mut args = args.clone();
        args.extend(extra);
        trainer(&args)
    };
    let (code, _, err) = with(&["--set", "optim.lr=1e-5"]);
    assert!(
        code == 2 && err.contains("optim.lr = 0.003") && err.contains("--allow optim.lr"),
        "{err}"
    );
    assert_eq!(with(&["--set", "optim.lr=1e-5", "--allow", "optim.lr"]).0, 0);

    // The run brings its own configuration along.
    let (code, _, err) = trainer(&[
        "fit",
        "--out",
        &out,
        "--quiet",
        "--allow",
        "run.num_steps",
        "--set",
        "run.num_steps=5",
    ]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(checkpoint::list(Path::new(&out)).pop().unwrap().0, 5);

    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let other_data = dataset_of(&other, "30");
    let args = [
        "fit",
        "--out",
        &out,
        "--data",
        &other_data,
        "--allow",
        "run.num_steps",
        "--set",
        "run.num_steps=6",
    ];
    let (code, _, err) = trainer(&args);
    assert!(code == 2 && err.contains("--allow data"), "{err}");
}

#[test]
fn windows_recomputation_and_bf16_go_on_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let run = dir.path().join("run");
    let out = run.display().to_string();
    let sets = [
        "run.num_steps=13",
        "run.checkpoint_every=4",
        "run.precision=bf16",
        "data.order=window",
        "data.block_samples=3",
        "data.window_blocks=4",
    ];
    let mut args = run_of(&data, &out, &sets);
    assert_eq!(trainer(&args).0, 0);
    let whole = (losses(&run), tensors(&run));
    // Back to step 8, in the middle of the second epoch.
    std::fs::remove_dir_all(run.join("checkpoints/step-0000013")).unwrap();
    std::fs::remove_dir_all(run.join("checkpoints/step-0000012")).unwrap();
    // Blocks that run again change no bit: that may be changed on the way, the order may not.
    args.extend(["--set", "run.recompute=block"]);
    let (code, _, err) = trainer(&[&args[..], &["--set", "data.window_blocks=2"]].concat());
    assert!(code == 2 && err.contains("data.window_blocks"), "{err}");
    let (code, _, err) = trainer(&args);
    assert!(code == 0 && err.contains("resume   step 8"), "{err}");
    assert_eq!((losses(&run), tensors(&run)), whole);
}
