//! What a checkpoint promises: it comes back bit for bit, or it is told to be damaged.

use super::*;
use crate::config::{Config, RunConfig};
use crate::model::{DiffuSsm, ModelConfig};

/// The disk is full at step `step` of the next save.
fn fill_at(step: u64) {
    disk::faults::fill_at(step, std::io::ErrorKind::StorageFull);
}

fn state(step: u64) -> State {
    let model = ModelConfig {
        hidden_size: 8,
        depth: 1,
        state_size: 4,
        input_size: 4,
        num_classes: 3,
        freq_dim: 8,
        ..ModelConfig::default()
    };
    let config = Config {
        model,
        ..Config::default()
    };
    let mut state = State::new(config, DatasetRecord::of_pixels(4));
    state.step = step;
    state.sums.loss = 0.1 + 0.2;
    state
}

fn saved(run: &Path, step: u64) -> (PathBuf, Buffers) {
    let state = state(step);
    let model = DiffuSsm::new(state.config.model.clone()).unwrap();
    let params = model.init(step).unwrap();
    let scaled = |by: f32| params.iter().map(|p| p * by).collect::<Vec<f32>>();
    let buffers = Buffers {
        ema: scaled(0.5),
        first: scaled(2.0),
        second: scaled(3.0),
        params,
    };
    (
        save(run, &state, model.layout(), buffers.refs()).unwrap(),
        buffers,
    )
}

#[test]
fn everything_comes_back_bit_for_bit() {
    let run = tempfile::tempdir().unwrap();
    let (folder, buffers) = saved(run.path(), 12);
    assert!(folder.ends_with("checkpoints/step-0000012"));
    let (found, again) = load(&folder).unwrap();
    assert_eq!((again.params, again.ema), (buffers.params, buffers.ema.clone()));
    assert_eq!((again.first, again.second), (buffers.first, buffers.second));
    assert_eq!(found.sums, state(12).sums);
    assert_eq!(load_weights(&folder, WeightKind::Ema).unwrap().1, buffers.ema);
    assert!(load_weights(&folder, WeightKind::Raw).unwrap().1 != buffers.ema);
    // The files are ordinary safetensors.
    let bytes = fs_err::read(folder.join(OPTIM)).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(
        tensors.tensor("exp_avg.blocks.0.w0.weight").unwrap().shape(),
        [8, 8]
    );
}

#[test]
fn every_damage_is_told() {
    let run = tempfile::tempdir().unwrap();
    let (folder, _) = saved(run.path(), 1);
    for name in [MODEL, EMA, OPTIM, STATE] {
        let path = folder.join(name);
        let sound = fs_err::read(&path).unwrap();
        let told = |what: String| {
            let error = load(&folder).unwrap_err();
            assert!(error.to_string().contains(name), "{name}, {what}: {error}");
        };
        // Every byte of the state and of the headers' beginning, and many of the values.
        let step = if name == STATE { 1 } else { sound.len() / 97 };
        for at in (0..64.min(sound.len())).chain((0..sound.len()).step_by(step)) {
            let mut bad = sound.clone();
            bad[at] ^= 1 << (at % 8);
            fs_err::write(&path, &bad).unwrap();
            told(format!("byte {at}"));
        }
        let cut = (1..20).map(|part| part * sound.len() / 20);
        for length in [0, 7, 8, 100, sound.len() - 1].into_iter().chain(cut) {
            fs_err::write(&path, &sound[..length]).unwrap();
            // A state without its last line break is whole.
            if name != STATE || length + 1 < sound.len() {
                told(format!("{length} bytes"));
            }
        }
        fs_err::remove_file(&path).unwrap();
        told("gone".to_owned());
        fs_err::write(&path, &sound).unwrap();
        assert!(load(&folder).is_ok());
    }
}

#[test]
fn states_of_the_first_version_had_no_hash_of_themselves() {
    let run = tempfile::tempdir().unwrap();
    let (folder, _) = saved(run.path(), 1);
    let path = folder.join(STATE);
    let mut old: serde_json::Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    old.as_object_mut().unwrap().remove("state_xxh64");
    fs_err::write(&path, old.to_string()).unwrap();
    let error = load(&folder).unwrap_err().to_string();
    assert!(error.contains("no hash of itself"), "{error}");
    old["format_version"] = 1.into();
    fs_err::write(&path, old.to_string()).unwrap();
    assert_eq!(load(&folder).unwrap().0.step, 1);
}

/// The newest checkpoint of `run` that can be read.
fn newest_sound(run: &Path) -> Option<u64> {
    let sound = |(step, folder): (u64, PathBuf)| load(&folder).ok().map(|_| step);
    list(run).into_iter().rev().find_map(sound)
}

/// What `fit` does when a checkpoint is due.
fn save_and_prune(run: &Path, step: u64, keep: &RunConfig) -> Result<(), Error> {
    let state = state(step);
    let model = DiffuSsm::new(state.config.model.clone()).unwrap();
    let params = model.init(step).unwrap();
    let buffers = Buffers {
        ema: params.clone(),
        first: params.clone(),
        second: params.clone(),
        params,
    };
    save(run, &state, model.layout(), buffers.refs())?;
    prune(run, keep)
}

#[test]
fn a_kill_or_a_full_disk_at_any_step_of_writing_leaves_a_sound_checkpoint() {
    let keep = RunConfig {
        keep_last: 1,
        ..RunConfig::default()
    };
    let before = || {
        let run = tempfile::tempdir().unwrap();
        saved(run.path(), 1);
        // The same step once more, damaged: a run that fell back writes it anew.
        let (folder, _) = saved(run.path(), 2);
        fs_err::write(folder.join(EMA), "").unwrap();
        run
    };
    let run = before();
    disk::faults::count();
    save_and_prune(run.path(), 2, &keep).unwrap();
    let steps = disk::faults::end();
    assert!(steps > 20, "{steps}");
    for step in 0..steps {
        for plan in [disk::faults::kill_at, fill_at] {
            let run = before();
            plan(step);
            let done = save_and_prune(run.path(), 2, &keep);
            disk::faults::end();
            let newest = newest_sound(run.path());
            // Removing the leftovers of an earlier save is tried, not needed.
            assert!(done.is_err(), "step {step}");
            assert!(newest.is_some(), "step {step}: nothing sound is left");
            save_and_prune(run.path(), 2, &keep).unwrap();
            assert_eq!(newest_sound(run.path()), Some(2), "step {step}");
            let names: Vec<_> = fs_err::read_dir(run.path().join("checkpoints"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            assert_eq!(names, ["step-0000002"], "step {step}");
        }
    }
    let run = before();
    fill_at(3);
    let error = save_and_prune(run.path(), 3, &keep).unwrap_err().to_string();
    disk::faults::end();
    for part in [
        "the checkpoint of step 3 cannot be written",
        "step-0000002 stays",
        "hint: free some space",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn old_checkpoints_go_and_the_newest_is_found() {
    let run = tempfile::tempdir().unwrap();
    let path = run.path().join("a");
    for step in [1, 2, 5, 9, 10, 11, 12] {
        saved(&path, step);
    }
    fs_err::create_dir_all(path.join("checkpoints/step-0000013.partial")).unwrap();
    let keep = |keep_last, keep_every| RunConfig {
        keep_last,
        keep_every,
        ..RunConfig::default()
    };
    let steps = || -> Vec<u64> { list(&path).iter().map(|(step, _)| *step).collect() };
    prune(&path, &keep(0, 0)).unwrap();
    assert!(!path.join("checkpoints/step-0000013.partial").exists());
    assert_eq!(steps().len(), 7);
    prune(&path, &keep(2, 5)).unwrap();
    assert_eq!(steps(), [5, 10, 11, 12]);
    prune(&path, &keep(2, 0)).unwrap();
    assert_eq!(steps(), [11, 12]);
    for start in [run.path(), &path, &folder(&path, 12)] {
        assert_eq!(find(start).unwrap(), folder(&path, 12));
    }
    let aside = set_aside(&folder(&path, 12)).unwrap();
    assert!(aside.ends_with("step-0000012.damaged") && aside.is_dir());
    assert_eq!(steps(), [11]);
    let error = find(&run.path().join("b")).unwrap_err().to_string();
    assert!(
        error.contains("holds no checkpoint") && error.contains("hint"),
        "{error}"
    );
}
