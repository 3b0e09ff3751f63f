//! What an export promises: it comes back, from our hands or from others', or it is told what is wrong with it.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, TensorView};

use super::*;
use crate::model::DiffuSsm;

fn state() -> State {
    let model = ModelConfig {
        hidden_size: 8,
        depth: 1,
        state_size: 4,
        input_size: 4,
        in_channels: 3,
        num_classes: 3,
        freq_dim: 8,
        ..ModelConfig::default()
    };
    let mut config = Config {
        model,
        ..Config::default()
    };
    config.optim.lr = 0.1 + 0.2;
    let mut state = State::new(config, DatasetRecord::of_pixels(4));
    state.step = 12;
    state
}

fn values(state: &State) -> Vec<f32> {
    let model = DiffuSsm::new(state.config.model.clone()).unwrap();
    model.init(3).unwrap()
}

/// The export of a small model in the folder `export` of `dir`.
fn exported(dir: &Path, dtype: WeightDtype) -> PathBuf {
    let (state, path) = (state(), dir.join("export"));
    let config = ExportConfig::new(&state, WeightKind::Ema, dtype);
    write(&path, &config, &values(&state)).unwrap();
    path
}

/// A tensor by name: type, shape, bytes.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Changes the tensors of an export as another program would: with no metadata, in another order.
fn rewrite(export: &Path, change: impl FnOnce(&mut Tensors)) {
    let path = export.join(WEIGHTS);
    let bytes = fs_err::read(&path).unwrap();
    let mut tensors: Tensors = safetensors::SafeTensors::deserialize(&bytes)
        .unwrap()
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect();
    change(&mut tensors);
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    fs_err::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn told(export: &Path, part: &str) {
    let error = open(export).unwrap_err().to_string();
    assert!(error.contains(part), "{error}");
}

#[test]
fn an_export_comes_back_with_its_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let export = exported(dir.path(), WeightDtype::F32);
    let (state, found) = (state(), open(&export).unwrap());
    assert_eq!(found.values, values(&state));
    assert_eq!(
        (found.config, found.dataset, found.step),
        (state.config.clone(), state.dataset, 12)
    );
    assert_eq!(open_config(&export).unwrap(), state.config);
    rewrite(&export, |_| {});
    assert_eq!(open(&export).unwrap().values, found.values);
    assert!(!dir.path().join("export.partial").exists());
}

#[test]
fn bf16_is_the_nearest() {
    let dir = tempfile::tempdir().unwrap();
    let export = exported(dir.path(), WeightDtype::Bf16);
    let expected = values(&state());
    for (found, expected) in open(&export).unwrap().values.iter().zip(&expected) {
        assert_eq!(*found, half::bf16::from_f32(*expected).to_f32());
    }
    let parameters = expected.len() as u64;
    let length = fs_err::metadata(export.join(WEIGHTS)).unwrap().len();
    assert!(
        (2 * parameters..2 * parameters + 8000).contains(&length),
        "{length}"
    );
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let export = exported(dir.path(), WeightDtype::F32);
    let name = "blocks.0.w0.weight";
    let sound = fs_err::read(export.join(WEIGHTS)).unwrap();
    rewrite(&export, |all| {
        all.remove(name);
        all.insert("w9".to_owned(), (Dtype::F32, vec![1], vec![0; 4]));
    });
    told(&export, "tensor `blocks.0.w0.weight` [8, 8] is missing");
    told(&export, "tensor `w9` is none of the model's");
    fs_err::write(export.join(WEIGHTS), &sound).unwrap();
    rewrite(&export, |all| all.get_mut(name).unwrap().1 = vec![4, 16]);
    told(
        &export,
        "tensor `blocks.0.w0.weight` has shape [4, 16], the model has [8, 8]",
    );
    rewrite(&export, |all| {
        *all.get_mut(name).unwrap() = (Dtype::F64, vec![8, 8], vec![0; 512]);
    });
    told(
        &export,
        "tensor `blocks.0.w0.weight` is F64; F32, F16 and BF16 are read",
    );
    rewrite(&export, |all| {
        let bytes = [f32::NAN.to_le_bytes(); 64].concat();
        *all.get_mut(name).unwrap() = (Dtype::F32, vec![8, 8], bytes);
    });
    told(&export, "tensor `blocks.0.w0.weight`: value 0 is NaN");
}

#[test]
fn damage_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let export = exported(dir.path(), WeightDtype::F32);
    let path = export.join(WEIGHTS);
    let sound = fs_err::read(&path).unwrap();
    for at in (0..sound.len()).step_by(sound.len() / 211) {
        let mut bad = sound.clone();
        bad[at] ^= 1 << (at % 8);
        fs_err::write(&path, &bad).unwrap();
        assert!(open(&export).is_err(), "byte {at}");
    }
    for length in [0, 7, 8, 100, sound.len() / 2, sound.len() - 1] {
        fs_err::write(&path, &sound[..length]).unwrap();
        told(&export, WEIGHTS);
    }
    fs_err::write(&path, [&sound[..], b"more"].concat()).unwrap();
    told(&export, "4 bytes follow its last tensor");
    fs_err::remove_file(&path).unwrap();
    told(&export, WEIGHTS);
}

#[test]
fn a_configuration_of_something_else_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let export = exported(dir.path(), WeightDtype::F32);
    let path = export.join(CONFIG);
    let sound: serde_json::Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    let with = |change: &dyn Fn(&mut serde_json::Value), part: &str| {
        let mut bad = sound.clone();
        change(&mut bad);
        fs_err::write(&path, bad.to_string()).unwrap();
        told(&export, part);
    };
    with(
        &|c| c["format"] = "vit".into(),
        "`format` is \"vit\", an exported model has \"diffussm\"",
    );
    with(
        &|c| c["format_version"] = 2.into(),
        "it has version 2, this program reads up to 1",
    );
    with(&|c| c["model"]["heads"] = 2.into(), "unknown field `heads`");
    with(
        &|c| c["model"]["hidden_size"] = 0.into(),
        "model.hidden_size: it must be at least 1",
    );
    with(
        &|c| c["model"]["depth"] = 2.into(),
        "tensor `blocks.1.mod.weight` [16, 8] is missing",
    );
    fs_err::write(&path, "{").unwrap();
    told(&export, "config.json is not an exported model's configuration");
    // What training alone needs may be missing.
    let mut bare = sound;
    for key in ["training", "images_seen", "tool_version"] {
        bare.as_object_mut().unwrap().remove(key);
    }
    fs_err::write(&path, bare.to_string()).unwrap();
    assert_eq!(open(&export).unwrap().config.optim, OptimConfig::default());
}

#[test]
fn nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let export = exported(dir.path(), WeightDtype::F32);
    let state = state();
    let config = ExportConfig::new(&state, WeightKind::Raw, WeightDtype::F32);
    let error = write(&export, &config, &values(&state)).unwrap_err().to_string();
    assert!(
        error.contains("is not empty") && error.contains("hint"),
        "{error}"
    );
    assert!(open(&export).is_ok());
}
