//! Several processes under mpirun: what one process trains, whatever happens to one of them.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use trainer::checkpoint;

use super::resume::{losses, wait_for};
use super::{dataset, small, trainer, with};

/// Longest time in which a job may end after one of its processes is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// `mpirun` with `ranks` processes of this machine, however many cores it has.
fn mpirun(ranks: usize, args: &[&str]) -> Command {
    let mut command = Command::new("mpirun");
    command.args([
        "--allow-run-as-root",
        "--oversubscribe",
        "--bind-to",
        "none",
        "-np",
    ]);
    command
        .arg(ranks.to_string())
        .arg(env!("CARGO_BIN_EXE_trainer"))
        .args(args);
    command
}

fn run(ranks: usize, args: &[&str]) -> Output {
    mpirun(ranks, args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_same_losses(one: &Path, many: &Path) {
    let (one, many) = (losses(one), losses(many));
    assert_eq!(one.len(), many.len());
    for (a, b) in one.iter().zip(&many) {
        assert!(
            (a.loss - b.loss).abs() <= 1e-6 * a.loss,
            "step {}: {} {}",
            a.step,
            a.loss,
            b.loss
        );
        assert_eq!(a.images_seen, b.images_seen);
    }
}

#[test]
fn two_and_three_processes_come_to_the_losses_of_one_and_take_over_from_one_another() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let (one, many) = (dir.path().join("one"), dir.path().join("many"));
    let (one_out, many_out) = (one.display().to_string(), many.display().to_string());
    let sets = ["run.num_steps=24", "optim.micro_batch_size=2", "run.threads=1"];
    let (code, _, err) = trainer(&with(&small(&data, &one_out), &sets));
    assert_eq!(code, 0, "{err}");

    for (steps, ranks) in [
        ("run.num_steps=8", 2),
        ("run.num_steps=14", 1),
        ("run.num_steps=24", 3),
    ] {
        let args = with(
            &small(&data, &many_out),
            &[steps, "optim.micro_batch_size=2", "run.threads=1"],
        );
        let args = [&args[..], &["--allow", "run.num_steps"]].concat();
        let done = run(ranks, &args);
        assert!(done.status.success(), "{}", text(&done.stderr));
        // One process alone speaks.
        assert_eq!(text(&done.stdout).matches("done after").count(), 1);
        assert!(ranks == 1 || text(&done.stderr).contains(&format!("{ranks} processes of 1 threads")));
    }
    assert_same_losses(&one, &many);
}

/// The processes that `parent` has started.
fn children(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name in brackets: state, parent.
        let parent_of = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().nth(1));
        parent_of == Some(&parent.to_string())
    };
    let mut found: Vec<u32> = processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(is_child)
        .collect();
    found.sort_unstable();
    found
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill")
        .args([name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

/// Waits for the end of a job that should end now.
fn ends(mut job: Child) -> Output {
    let start = Instant::now();
    while job.try_wait().unwrap().is_none() {
        if start.elapsed() > PATIENCE {
            job.kill().unwrap();
        }
        assert!(start.elapsed() <= PATIENCE, "the job goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
    job.wait_with_output().unwrap()
}

#[test]
fn a_killed_process_ends_the_job_and_the_run_goes_on_from_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    let (whole_out, killed_out) = (whole.display().to_string(), killed.display().to_string());
    for rank in [1, 0] {
        let args = with(
            &small(&data, &killed_out),
            &["run.num_steps=1M", "run.checkpoint_every=5"],
        );
        let args = [&args[..], &["--allow", "run.num_steps"]].concat();
        let before = checkpoint::list(&killed).pop().map_or(0, |(step, _)| step);
        let job = mpirun(2, &args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for(&killed, before + 10);
        let ranks = children(job.id());
        assert_eq!(ranks.len(), 2, "{ranks:?}");
        signal(ranks[rank], "-KILL");
        let ended = ends(job);
        assert!(
            !ended.status.success() && text(&ended.stderr).contains("signal 9"),
            "{}",
            text(&ended.stderr)
        );
    }
    let (step, _) = checkpoint::list(&killed).pop().unwrap();
    let steps = format!("run.num_steps={}", step + 5);
    let allow = ["--allow", "run.num_steps"];
    let done = run(
        2,
        &[&with(&small(&data, &killed_out), &[&steps])[..], &allow].concat(),
    );
    assert!(done.status.success(), "{}", text(&done.stderr));
    let (code, _, err) = trainer(&with(&small(&data, &whole_out), &[&steps]));
    assert_eq!(code, 0, "{err}");
    let (one, many) = (losses(&whole), losses(&killed));
    assert_eq!(one.len(), many.len());
    // Rounding grows over steps of a rate as high as the demo's; a lost or repeated batch would show at once.
    for (a, b) in one.iter().zip(&many) {
        assert!(
            (a.loss - b.loss).abs() <= 1e-3 * a.loss,
            "step {}: {} {}",
            a.step,
            a.loss,
            b.loss
        );
    }
}

#[test]
fn a_signal_to_one_process_or_to_all_saves_and_ends_all_with_zero() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let run = dir.path().join("run");
    let out = run.display().to_string();
    let args = with(
        &small(&data, &out),
        &["run.num_steps=1M", "run.checkpoint_every=100000"],
    );
    for to_one in [true, false] {
        let before = losses_so_far(&run);
        let job = mpirun(2, &args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while losses_so_far(&run) < before + 5 {
            assert!(start.elapsed() < PATIENCE, "no steps");
            std::thread::sleep(Duration::from_millis(10));
        }
        if to_one {
            signal(children(job.id())[1], "-TERM");
        } else {
            // mpirun passes it on, as srun does.
            signal(job.id(), "-USR1");
        }
        let ended = ends(job);
        assert!(ended.status.success(), "{}", text(&ended.stderr));
        assert!(
            text(&ended.stdout).contains("stopped and saved"),
            "{}",
            text(&ended.stdout)
        );
        let (step, _) = checkpoint::list(&run).pop().unwrap();
        assert_eq!(losses(&run).pop().unwrap().step, step);
    }
}

fn losses_so_far(run: &Path) -> usize {
    std::fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

#[test]
fn an_error_in_one_process_ends_the_job_and_says_which() {
    let dir = tempfile::tempdir().unwrap();
    dataset(dir.path());
    let elsewhere = dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let out = dir.path().join("run").display().to_string();
    let args = with(&small("data", &out), &["run.num_steps=3"]);
    // The second process does not find the dataset.
    let mut job = mpirun(1, &args);
    job.arg(":").args(["-np", "1", "-wdir"]).arg(&elsewhere);
    job.arg(env!("CARGO_BIN_EXE_trainer"))
        .args(&args)
        .current_dir(dir.path());
    let ended = ends(job.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let told = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{told}");
    assert!(
        told.contains("process 1 of 2 cannot go on") && told.contains("dataset.json"),
        "{told}"
    );
}

#[test]
fn processes_that_mpi_does_not_connect_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let args = small("data", "run");
    let mut command = super::program(&args);
    command
        .current_dir(dir.path())
        .env("RANK", "0")
        .env("WORLD_SIZE", "2");
    let done = command.output().unwrap();
    let told = text(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{told}");
    assert!(
        told.contains("torchrun started 2 processes, but MPI sees 1"),
        "{told}"
    );
}

#[test]
fn two_processes_draw_the_archive_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let (data, run_dir) = (dataset(dir.path()), dir.path().join("run").display().to_string());
    assert_eq!(trainer(&with(&small(&data, &run_dir), &["run.num_steps=2"])).0, 0);
    let draw = |name: &str, ranks: usize| {
        let out = dir.path().join(name);
        let path = out.display().to_string();
        let args = [
            "sample",
            "--checkpoint",
            &run_dir,
            "--count",
            "150",
            "--steps",
            "3",
            "--out",
            &path,
        ];
        let done = run(ranks, &args);
        assert!(done.status.success(), "{}", text(&done.stderr));
        std::fs::read(out).unwrap()
    };
    assert!(draw("one.npz", 1) == draw("two.npz", 2));
}
