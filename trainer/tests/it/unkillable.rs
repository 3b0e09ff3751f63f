//! Kills, signals, full disks and damage of every kind: no run is lost, none is overwritten.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use trainer::checkpoint;

use super::resume::{losses, start, tensors, wait_for};
use super::{dataset, program, run_of, trainer};

/// Arguments of a small run with `sets` put over its configuration.
fn steps(run: &Path) -> Vec<u64> {
    checkpoint::list(run).into_iter().map(|(step, _)| step).collect()
}

#[test]
fn kills_at_any_moment_and_no_copy_in_memory_come_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (whole, waiting, killed) = (path("whole"), path("waiting"), path("killed"));
    let length = "run.num_steps=80";
    assert_eq!(trainer(&run_of(&data, &whole, &[length])).0, 0);
    let sets = [length, "run.checkpoint_every=9", "run.async_checkpoint=false"];
    assert_eq!(trainer(&run_of(&data, &waiting, &sets)).0, 0);

    // With a checkpoint after every step, most kills come while one is being written.
    let sets = [length, "run.checkpoint_every=1", "run.keep_last=1"];
    let args = run_of(&data, &killed, &sets);
    for round in 0..10 {
        let mut child = start(&args);
        wait_for(killed.as_ref(), 7 * round + 1);
        std::thread::sleep(Duration::from_micros(1700 * round));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (code, _, err) = trainer(&args);
    assert!(code == 0 && !err.contains("damaged"), "{err}");
    for run in [&waiting, &killed] {
        assert_eq!(losses(run.as_ref()).len(), 80);
        assert_eq!(losses(run.as_ref()), losses(whole.as_ref()));
        assert!(
            tensors(run.as_ref()) == tensors(whole.as_ref()),
            "the weights differ"
        );
    }
    assert_eq!(steps(killed.as_ref()), [80]);
}

#[cfg(unix)]
#[test]
fn a_signal_saves_and_the_second_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let send = |signal: &str, pid: u32| {
        let pid = pid.to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    };
    for (signal, killed_by) in [("-TERM", 143), ("-INT", 130), ("-USR1", 138)] {
        let out = dir.path().join(signal).display().to_string();
        let sets = ["run.num_steps=1M", "run.checkpoint_every=3"];
        let mut child = start(&run_of(&data, &out, &sets));
        wait_for(out.as_ref(), 3);
        send(signal, child.id());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{signal}");
        let step = steps(out.as_ref()).pop().unwrap();
        assert_eq!(losses(out.as_ref()).pop().unwrap().step, step, "{signal}");

        // A grid of samples after each step takes so long that the second signal comes before the end of the first step.
        let slow = [
            "run.sample_every=1",
            "run.sample_steps=1000",
            "run.sample_count=40",
        ];
        let mut child = start(&run_of(&data, &out, &[&sets[..], &slow].concat()));
        wait_for(out.as_ref(), step + 1 + 2 - step % 3);
        send(signal, child.id());
        std::thread::sleep(Duration::from_millis(50));
        send(signal, child.id());
        assert_eq!(child.wait().unwrap().code(), Some(killed_by), "{signal}");
    }
}

#[cfg(unix)]
#[test]
fn a_full_disk_keeps_the_checkpoint_before_and_the_next_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (whole, full) = (path("whole"), path("full"));
    let sets = |steps: &'static str| {
        // With a constant rate a run may be made longer without a word.
        [
            steps,
            "run.checkpoint_every=5",
            "run.log_every=100",
            "optim.lr_schedule=constant",
        ]
    };
    assert_eq!(trainer(&run_of(&data, &whole, &sets("run.num_steps=20"))).0, 0);
    assert_eq!(trainer(&run_of(&data, &full, &sets("run.num_steps=10"))).0, 0);

    let sound = tensors(full.as_ref());
    // The largest file of a checkpoint is too large by far. Without the trap the signal would end the process.
    let blocks = sound[2].len() / 2 / 1024;
    for mode in ["true", "false"] {
        let mode = format!("run.async_checkpoint={mode}");
        let args = run_of(&data, &full, &[&sets("run.num_steps=20")[..], &[&mode]].concat());
        let limited = program(&args);
        let told = Command::new("bash")
            .args([
                "-c",
                &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\""),
            ])
            .arg(limited.get_program())
            .args(limited.get_args())
            .output()
            .unwrap();
        let err = String::from_utf8_lossy(&told.stderr);
        assert_eq!(told.status.code(), Some(2), "{err}");
        for part in [
            "of step 15 cannot be written",
            "step-0000010 stays",
            "hint: free some space",
        ] {
            assert!(err.contains(part), "{err}");
        }
        assert_eq!(steps(full.as_ref()), [5, 10]);
        assert!(tensors(full.as_ref()) == sound);
        let left = std::fs::read_dir(Path::new(&full).join("checkpoints"))
            .unwrap()
            .count();
        assert_eq!(left, 2, "half a checkpoint is left");
    }
    assert_eq!(trainer(&run_of(&data, &full, &sets("run.num_steps=20"))).0, 0);
    assert!(tensors(full.as_ref()) == tensors(whole.as_ref()));
}

#[test]
fn damage_of_any_file_of_a_checkpoint_is_told_and_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let out = dir.path().join("run").display().to_string();
    let run = Path::new(&out);
    let sets = ["run.num_steps=12", "run.checkpoint_every=4", "run.keep_last=2"];
    let args = run_of(&data, &out, &sets);
    assert_eq!(trainer(&args).0, 0);
    let sound = (losses(run), tensors(run));
    for name in [
        "model.safetensors",
        "ema.safetensors",
        "optim.safetensors",
        "state.json",
    ] {
        for damage in ["flip", "cut", "gone"] {
            let path = checkpoint::find(run).unwrap().join(name);
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            match damage {
                "flip" => bytes[middle] ^= 2,
                _ => bytes.truncate(middle),
            }
            std::fs::write(&path, bytes).unwrap();
            if damage == "gone" {
                std::fs::remove_file(&path).unwrap();
            }
            let (code, _, err) = trainer(&args);
            assert_eq!(code, 0, "{name}, {damage}: {err}");
            for part in [name, "falling back", "step-0000012.damaged", "resume   step 8"] {
                assert!(err.contains(part), "{name}, {damage}: {err}");
            }
            assert_eq!((losses(run), tensors(run)), sound, "{name}, {damage}");
            assert_eq!(steps(run), [8, 12]);
        }
    }
}

#[test]
fn every_kth_checkpoint_is_kept_beside_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let out = dir.path().join("run").display().to_string();
    let sets = [
        "run.num_steps=23",
        "run.checkpoint_every=3",
        "run.keep_last=2",
        "run.keep_every=10",
    ];
    assert_eq!(trainer(&run_of(&data, &out, &sets)).0, 0);
    // Those of the tenth and twentieth step are written although they are no multiples of three.
    assert_eq!(steps(out.as_ref()), [10, 20, 21, 23]);
}

#[test]
fn fresh_overwrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let out = dir.path().join("run");
    // A run that ended before its first checkpoint, and a file of that name.
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("metrics.jsonl"), "precious").unwrap();
    std::fs::write(dir.path().join("run-2"), "precious").unwrap();
    let text = out.display().to_string();
    let mut args = run_of(&data, &text, &["run.num_steps=2"]);
    args.push("--fresh");
    for number in [3, 4] {
        let (code, _, err) = trainer(&args);
        let made = dir.path().join(format!("run-{number}"));
        assert_eq!(code, 0, "{err}");
        assert!(err.contains(&made.display().to_string()), "{err}");
        assert_eq!(steps(&made), [2]);
    }
    assert_eq!(std::fs::read(out.join("metrics.jsonl")).unwrap(), b"precious");
    assert_eq!(std::fs::read(dir.path().join("run-2")).unwrap(), b"precious");
}

#[test]
fn a_diverged_run_stops_with_what_was_seen() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let out = dir.path().join("run").display().to_string();
    let sets = [
        "run.num_steps=30",
        "run.checkpoint_every=2",
        "optim.lr=1e30",
        "optim.warmup_steps=0",
    ];
    let args = run_of(&data, &out, &sets);
    for _ in 0..2 {
        let (code, _, err) = trainer(&args);
        assert_eq!(code, 1, "{err}");
        for part in [
            "in 5 steps in a row",
            "learning rate 9.06",
            "records ",
            "hint: a lower optim.lr",
        ] {
            assert!(err.contains(part), "{err}");
        }
    }
}
