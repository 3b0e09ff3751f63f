//! Every layout and file format gives the same network.

use std::io::Write;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

use super::*;

type Named = Vec<(String, Vec<usize>, Vec<f32>)>;

const CONFIG: &str = r#"{"_class_name": "AutoencoderKL", "block_out_channels": [8, 16], "latent_channels": 4,
    "layers_per_block": 1, "norm_num_groups": 4, "scaling_factor": 0.5}"#;

fn write_safetensors(path: &Path, tensors: &Named, dtype: Dtype) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(.., values)| match dtype {
            Dtype::F16 => values
                .iter()
                .flat_map(|&v| half::f16::from_f32(v).to_le_bytes())
                .collect(),
            Dtype::BF16 => values
                .iter()
                .flat_map(|&v| half::bf16::from_f32(v).to_le_bytes())
                .collect(),
            _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        })
        .collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| (name, TensorView::new(dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// A PyTorch archive: a pickled dictionary of tensors and one file for each storage.
fn write_pickle(path: &Path, tensors: &Named, state_dict: bool) {
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.bytes());
    };
    let int = |out: &mut Vec<u8>, value: usize| {
        out.push(b'J');
        out.extend((value as i32).to_le_bytes());
    };
    let mut pickle = b"\x80\x02}".to_vec();
    if state_dict {
        text(&mut pickle, "global_step");
        int(&mut pickle, 7);
        pickle.push(b's');
        text(&mut pickle, "state_dict");
        pickle.push(b'}');
    }
    let file = std::fs::File::create(path).unwrap();
    let mut archive = zip::ZipWriter::new(file);
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (key, (name, shape, values)) in tensors.iter().enumerate() {
        text(&mut pickle, name);
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut pickle, "storage");
        pickle.extend(b"ctorch\nFloatStorage\n");
        text(&mut pickle, &key.to_string());
        text(&mut pickle, "cpu");
        int(&mut pickle, values.len());
        pickle.extend(b"tQ");
        int(&mut pickle, 0);
        let strides: Vec<usize> = (0..shape.len())
            .map(|i| shape[i + 1..].iter().product())
            .collect();
        for sizes in [shape, &strides] {
            pickle.push(b'(');
            sizes.iter().for_each(|&size| int(&mut pickle, size));
            pickle.push(b't');
        }
        pickle.extend(b"\x89ccollections\nOrderedDict\n)RtRs");
        archive.start_file(format!("archive/data/{key}"), stored).unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        archive.write_all(&bytes).unwrap();
    }
    if state_dict {
        pickle.push(b's');
    }
    pickle.push(b'.');
    archive.start_file("archive/data.pkl", stored).unwrap();
    archive.write_all(&pickle).unwrap();
    archive.finish().unwrap();
}

/// The names of old diffusers files, whose attention weights are 1x1 kernels.
fn old_names(tensors: &Named) -> Named {
    let pairs = [
        ("to_q", "query"),
        ("to_k", "key"),
        ("to_v", "value"),
        ("to_out.0", "proj_attn"),
    ];
    renamed(tensors, |name| {
        pairs
            .iter()
            .fold(name.to_owned(), |name, (new, old)| name.replace(new, old))
    })
}

/// CompVis' names, for two levels, within a whole checkpoint.
fn compvis_names(tensors: &Named) -> Named {
    let pairs = [
        ("down_blocks", "down"),
        ("up_blocks.0", "up.1"),
        ("up_blocks.1", "up.0"),
        ("mid_block.resnets.0", "mid.block_1"),
        ("mid_block.resnets.1", "mid.block_2"),
        ("resnets", "block"),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
        ("mid_block.attentions.0", "mid.attn_1"),
        ("group_norm", "norm"),
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
        ("to_out.0", "proj_out"),
        ("conv_norm_out", "norm_out"),
        ("conv_shortcut", "nin_shortcut"),
    ];
    let mut tensors = renamed(tensors, |name| {
        let inner = pairs
            .iter()
            .fold(name.to_owned(), |name, (new, old)| name.replace(new, old));
        format!("first_stage_model.{inner}")
    });
    tensors.push(("model_ema.decay".to_owned(), vec![1], vec![0.5]));
    tensors.push(("loss.logvar".to_owned(), vec![1], vec![0.5]));
    tensors
}

fn renamed(tensors: &Named, rename: impl Fn(&str) -> String) -> Named {
    let mut out = tensors.clone();
    for (name, shape, _) in &mut out {
        if name.contains("attentions.0.to_") && shape.len() == 2 {
            shape.extend([1, 1]);
        }
        *name = rename(name);
    }
    out
}

fn load(text: &str) -> Result<AutoencoderKl, Error> {
    AutoencoderKl::load(&text.parse()?, &Device::Cpu)
}

/// The moments and the picture that a file's network makes.
fn outputs(path: &Path) -> Vec<f32> {
    let vae = load(path.to_str().unwrap()).unwrap();
    assert_eq!((vae.scaling_factor(), vae.downsampling()), (0.5, 2));
    assert_eq!(vae.record().sha256.as_ref().unwrap().len(), 64);
    let posterior = vae.encode(&test_image(12, 10)).unwrap();
    let mut out = flat(&posterior.mean);
    out.extend(flat(posterior.logvar.as_ref().unwrap()));
    out.extend(flat(&vae.decode(&posterior.mean).unwrap()));
    out
}

#[test]
fn all_layouts_and_formats_give_the_same_numbers() {
    let tensors = synthetic_weights(&small_config());
    let dir = tempfile::tempdir().unwrap();
    let case = |name: &str, file: &str, write: &dyn Fn(&Path)| {
        let folder = dir.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("config.json"), CONFIG).unwrap();
        let path = folder.join(file);
        write(&path);
        let source = if file.starts_with("diffusion_pytorch_model") {
            folder
        } else {
            path
        };
        outputs(&source)
    };
    let safetensors = "diffusion_pytorch_model.safetensors";
    let bin = "diffusion_pytorch_model.bin";
    let expected = case("new", safetensors, &|path| {
        write_safetensors(path, &tensors, Dtype::F32);
    });
    assert!(expected.iter().all(|v| v.is_finite()));
    let old = old_names(&tensors);
    let compvis = compvis_names(&tensors);
    assert_eq!(
        case("old", safetensors, &|path| write_safetensors(
            path,
            &old,
            Dtype::F32
        )),
        expected
    );
    assert_eq!(
        case("bin", bin, &|path| write_pickle(path, &tensors, false)),
        expected
    );
    assert_eq!(
        case("oldbin", bin, &|path| write_pickle(path, &old, false)),
        expected
    );
    let single = |path: &Path| write_safetensors(path, &compvis, Dtype::F32);
    assert_eq!(case("compvis", "kl-f2.safetensors", &single), expected);
    assert_eq!(
        case("ckpt", "kl-f2.ckpt", &|path| write_pickle(path, &compvis, true)),
        expected
    );
    for (dtype, name, tolerance) in [(Dtype::F16, "f16", 0.01), (Dtype::BF16, "bf16", 0.1)] {
        let out = case(name, safetensors, &|path| {
            write_safetensors(path, &tensors, dtype);
        });
        let worst = out
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(0.0 < worst && worst < tolerance, "{name} {worst}");
    }
}

#[test]
fn a_single_file_without_a_configuration_is_stable_diffusions() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vae.safetensors");
    write_safetensors(&path, &synthetic_weights(&small_config()), Dtype::F32);
    let error = load(path.to_str().unwrap()).err().unwrap().to_string();
    assert!(
        error.contains("vae.safetensors") && error.contains("asks for"),
        "{error}"
    );
}

#[test]
fn damaged_and_foreign_files_are_refused_with_their_name() {
    let dir = tempfile::tempdir().unwrap();
    let message = |path: &Path| load(path.to_str().unwrap()).err().unwrap().to_string();
    assert!(message(dir.path()).contains("config.json"));
    std::fs::write(dir.path().join("config.json"), CONFIG).unwrap();
    assert!(message(dir.path()).contains("diffusion_pytorch_model.bin"));
    let path = dir.path().join("diffusion_pytorch_model.safetensors");
    let mut tensors = synthetic_weights(&small_config());
    write_safetensors(&path, &tensors, Dtype::F32);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    assert!(message(dir.path()).contains("incomplete"));
    for garbage in [&b""[..], b"not weights at all", b"PK\x03\x04 nor this"] {
        std::fs::write(&path, garbage).unwrap();
        let text = message(dir.path());
        assert!(text.contains("diffusion_pytorch_model.safetensors"), "{text}");
    }
    let (name, ..) = tensors.remove(3);
    write_safetensors(&path, &tensors, Dtype::F32);
    assert!(message(dir.path()).contains(&format!("`{name}` is missing")));
}
