//! Threads in the place of processes train what one process trains.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use preprocess::console::Printer;
use shards::dataset::Dataset;
use shards::loader::Batch;

use super::threads::Threads;
use super::{Error, Group, HostReducer, Single, agree, share, share_bytes};
use crate::checkpoint;
use crate::config::{Config, Resolved};
use crate::fit::fixtures;
use crate::fit::{Error as FitError, Event, Learner, Metrics, Outcome, Plan, StepReport, fit_among};
use crate::memory::MemoryPlan;

/// Runs `work` in `ranks` threads, each with one rayon thread of its own.
fn among<R: Send>(ranks: usize, work: impl Fn(&mut Threads) -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let work = &work;
        let run = |mut group: Threads| {
            scope.spawn(move || {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
                pool.install(|| work(&mut group))
            })
        };
        let running: Vec<_> = Threads::group(ranks).into_iter().map(run).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// A model whose blocks are buckets of their own.
fn config(batch: usize) -> Config {
    let mut config = fixtures::config(256, 3, batch);
    config.optim.lr = 1e-3;
    config
}

/// The slice of rank `rank` of a made-up global batch.
fn slice(batch: usize, rank: usize, ranks: usize) -> Batch {
    fixtures::batch(batch * rank / ranks..batch * (rank + 1) / ranks)
}

fn steps(config: &Config, reducer: &mut HostReducer) -> (Vec<StepReport>, Vec<f32>) {
    let mut learner = Learner::new(config).unwrap();
    let batch = slice(config.optim.global_batch_size, reducer.rank(), reducer.ranks());
    let reports = (1..=4)
        .map(|step| learner.step_among(step, &batch, 0.5, reducer).unwrap())
        .collect();
    (reports, learner.buffers().params.to_vec())
}

#[test]
fn any_number_of_ranks_trains_as_one_does_in_uneven_slices_and_micro_batches() {
    let (alone, _) = steps(&config(8), &mut Single);
    for (ranks, micro) in [(2, 0), (3, 0), (3, 2)] {
        let mut config = config(8);
        config.optim.micro_batch_size = micro;
        let all = among(ranks, |group| {
            let done = steps(&config, group);
            (done, group.buckets.clone())
        });
        for ((reports, params), buckets) in &all {
            assert!(
                buckets.len() >= 3,
                "the blocks are not buckets of their own: {buckets:?}"
            );
            assert_eq!(buckets.iter().sum::<usize>(), params.len());
            assert!(
                reports == &all[0].0.0 && params == &all[0].0.1,
                "the ranks differ"
            );
            for (one, many) in alone.iter().zip(reports) {
                let close = |a: f64, b: f64, within: f64| (a - b).abs() <= within * a.abs();
                assert!(
                    close(one.loss.mse, many.loss.mse, 1e-6) && close(one.grad_norm, many.grad_norm, 1e-5),
                    "{ranks} ranks: {one:?} {many:?}"
                );
            }
        }
    }
}

#[test]
fn what_is_not_finite_in_one_rank_is_left_out_by_all() {
    let all = among(2, |group| {
        let config = config(4);
        let mut learner = Learner::new(&config).unwrap();
        let before = learner.buffers().params.to_vec();
        let mut batch = slice(4, group.rank(), 2);
        if group.rank() == 1 {
            batch.latents[3] = f32::NAN;
        }
        let report = learner.step_among(1, &batch, 1.0, group).unwrap();
        report.is_skipped && learner.buffers().params == before
    });
    assert_eq!(all, [true, true]);
}

#[test]
fn the_first_rank_is_believed_and_a_drift_is_told_by_all() {
    let all = among(3, |group| {
        let rank = group.rank() as u64;
        let told: String = share::<_, Error>(group, || Ok("from the first".to_owned())).unwrap();
        let bytes = share_bytes(group, vec![rank as u8 + 1; 2 + rank as usize]);
        let any = (group.any(rank == 2), group.any(false));
        let same = agree(group, 7, &[&[1.0, 2.0]]).is_ok();
        let error = agree(group, 7, &[&[1.0, if rank == 1 { -2.0 } else { 2.0 }]]).unwrap_err();
        (told, bytes, any, same, error.to_string())
    });
    for (told, bytes, any, same, error) in all {
        assert_eq!((told.as_str(), bytes), ("from the first", vec![1, 1]));
        assert_eq!((any, same), ((true, false), true));
        assert!(
            error.contains("1 of 3 processes") && error.contains("step 7"),
            "{error}"
        );
    }
}

/// A dataset of 40 images of 8 x 8 pixels, stored as pixels.
fn dataset(dir: &Path) -> String {
    let out = dir.join("data").display().to_string();
    let args = "preprocess encode --dataset demo --size 8 --vae none --limit 40 --out".split(' ');
    let (mut printer, _, err) = Printer::captured();
    let code = preprocess::cli::run(args.chain([out.as_str()]).map(Into::into), &mut printer);
    assert_eq!(code, 0, "{}", err.text());
    out
}

fn plan(data: &str, out: &Path, steps: u64) -> Plan {
    let mut resolved = Resolved::named("demo").unwrap();
    for assignment in [
        "model.hidden_size=16",
        "model.depth=2",
        "model.freq_dim=16",
        "model.patch_size=2",
        "optim.global_batch_size=8",
        "run.log_every=1",
        "run.sample_every=0",
        "run.checkpoint_every=4",
    ] {
        resolved.set(assignment).unwrap();
    }
    resolved.set(&format!("run.num_steps={steps}")).unwrap();
    Plan {
        resolved,
        data: data.into(),
        out: out.to_owned(),
        init: None,
        place: crate::gpu::Place::Cpu,
        available_memory: None,
        allow: vec!["run.num_steps".to_owned()],
    }
}

/// Trains in `ranks` threads; the first alone tells of checkpoints.
fn run(plan: &Plan, ranks: usize) -> Vec<Outcome> {
    let never = AtomicBool::new(false);
    among(ranks, |group| {
        let is_first = group.rank() == 0;
        fit_among(plan, &never, group, &mut |event| {
            assert!(is_first || !matches!(event, Event::Saved(..)), "{event:?}");
        })
        .unwrap()
    })
}

fn losses(run: &Path) -> Vec<f64> {
    let text = fs_err::read_to_string(run.join("metrics.jsonl")).unwrap();
    let line = |line: &str| serde_json::from_str::<Metrics>(line).unwrap().loss;
    text.lines().map(line).collect()
}

#[test]
fn a_run_changes_its_number_of_ranks_and_comes_to_the_same_losses() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let (alone, changing) = (dir.path().join("alone"), dir.path().join("changing"));
    run(&plan(&data, &alone, 16), 1);
    for (steps, ranks) in [(4, 2), (9, 3), (12, 1), (16, 2)] {
        let outcomes = run(&plan(&data, &changing, steps), ranks);
        assert!(
            outcomes
                .iter()
                .all(|outcome| outcome.step == steps && outcome.is_finished)
        );
    }
    let (one, many) = (losses(&alone), losses(&changing));
    assert_eq!((one.len(), many.len()), (16, 16));
    for (step, (a, b)) in one.iter().zip(&many).enumerate() {
        assert!((a - b).abs() <= 1e-6 * a, "step {}: {a} {b}", step + 1);
    }
    let state = checkpoint::read_state(&checkpoint::find(&changing).unwrap()).unwrap();
    assert_eq!((state.images_seen, state.position.epoch), (16 * 8, 3));
}

#[test]
fn all_stop_after_the_same_step_when_one_is_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(&dataset(dir.path()), &dir.path().join("run"), 1000);
    let outcomes = among(2, |group| {
        let (stop, rank) = (AtomicBool::new(false), group.rank());
        fit_among(&plan, &stop, group, &mut |event| {
            if let Event::Step { step: 5, .. } = event {
                stop.store(rank == 1, Ordering::Relaxed);
            }
        })
        .unwrap()
    });
    assert!(
        outcomes
            .iter()
            .all(|outcome| outcome.step == 5 && !outcome.is_finished)
    );
    assert_eq!(checkpoint::list(&plan.out).pop().unwrap().0, 5);
}

#[test]
fn processes_of_a_machine_share_its_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut plan = plan(&dataset(dir.path()), &dir.path().join("run"), 1);
    let mut resolved = plan.resolved.clone();
    resolved
        .adopt(Dataset::open(&plan.data).unwrap().manifest())
        .unwrap();
    let alone = MemoryPlan::training(&resolved.config).total();
    plan.available_memory = Some(alone + alone / 2);
    run(&plan, 1);
    plan.out = dir.path().join("two");
    let never = AtomicBool::new(false);
    for done in among(2, |group| fit_among(&plan, &never, group, &mut |_| {})) {
        let error = done.unwrap_err().to_string();
        assert!(
            error.contains("are available to each of this machine's 2 processes"),
            "{error}"
        );
    }
    assert!(!plan.out.exists());
}

#[test]
fn more_ranks_than_images_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(&dataset(dir.path()), &dir.path().join("run"), 1);
    let never = AtomicBool::new(false);
    for done in among(9, |group| fit_among(&plan, &never, group, &mut |_| {})) {
        assert!(matches!(
            done.unwrap_err(),
            FitError::Distributed(Error::TooMany { ranks: 9, batch: 8 })
        ));
    }
}
