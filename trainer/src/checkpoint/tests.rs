//! What a checkpoint promises: it comes back bit for bit, or it is told to be damaged.

use super::*;
use crate::config::Config;
use crate::model::{DiffuSsm, ModelConfig};

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
    let refs = BufferRefs {
        params: &buffers.params,
        ema: &buffers.ema,
        first: &buffers.first,
        second: &buffers.second,
    };
    (save(run, &state, model.layout(), refs).unwrap(), buffers)
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
    assert_eq!(load_ema(&folder).unwrap().1, buffers.ema);
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
    for name in [MODEL, EMA, OPTIM] {
        let path = folder.join(name);
        let sound = fs_err::read(&path).unwrap();
        for at in [0, 3, 9, 100, sound.len() / 2, sound.len() - 1] {
            let mut bad = sound.clone();
            bad[at] ^= 0x10;
            fs_err::write(&path, &bad).unwrap();
            assert!(load(&folder).is_err(), "{name}, byte {at}");
        }
        for length in [0, 7, 8, 100, sound.len() - 1] {
            fs_err::write(&path, &sound[..length]).unwrap();
            assert!(load(&folder).is_err(), "{name}, {length} bytes");
        }
        fs_err::write(&path, &sound).unwrap();
    }
    assert!(load(&folder).is_ok());
    fs_err::write(folder.join(STATE), "{}").unwrap();
    assert!(load(&folder).unwrap_err().to_string().contains("state.json"));
}

#[test]
fn old_checkpoints_go_and_the_newest_is_found() {
    let run = tempfile::tempdir().unwrap();
    let path = run.path().join("a");
    for step in [1, 2, 10] {
        saved(&path, step);
    }
    fs_err::create_dir_all(path.join("checkpoints/step-0000011.partial")).unwrap();
    prune(&path, 2).unwrap();
    let steps: Vec<u64> = list(&path).iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [2, 10]);
    assert!(!path.join("checkpoints/step-0000011.partial").exists());
    for start in [run.path(), &path, &folder(&path, 10)] {
        assert_eq!(find(start).unwrap(), folder(&path, 10));
    }
    let error = find(&run.path().join("b")).unwrap_err().to_string();
    assert!(
        error.contains("holds no checkpoint") && error.contains("hint"),
        "{error}"
    );
}
