//! Promises of the whole autoencoder.

mod embedded;
mod forms;
mod golden;
mod layouts;

use super::*;
use crate::nn::GpuPrecision;
use crate::nn::synthetic::synthetic_tensor;

/// A network of a few thousand weights with two levels.
fn small_config() -> VaeConfig {
    VaeConfig {
        in_channels: 3,
        out_channels: 3,
        latent_channels: 4,
        block_out_channels: vec![8, 16],
        layers_per_block: 1,
        norm_num_groups: 4,
        scaling_factor: 0.5,
    }
}

fn record() -> VaeRecord {
    VaeRecord {
        id: "synthetic".to_owned(),
        revision: None,
        sha256: None,
        scaling_factor: 0.18215,
        downsampling: 8,
        arithmetic: None,
    }
}

/// The form of candle's tensors, on the processor.
fn in_tensors(config: VaeConfig, get: &mut GetTensor<'_>) -> AutoencoderKl {
    let device = Device::Cpu;
    let layers = Layers::Tensors(
        Form::load(
            &Tensors {
                device,
                precision: GpuPrecision::F32,
            },
            &config,
            get,
        )
        .unwrap()
        .into(),
    );
    AutoencoderKl::of_layers(config, record(), layers, &Device::Cpu)
}

/// Names and shapes of a network's tensors, sorted by name.
fn tensor_shapes(config: &VaeConfig) -> Vec<(String, Vec<usize>)> {
    let mut shapes = Vec::new();
    let mut get = |name: &str, shape: &[usize]| {
        shapes.push((name.to_owned(), shape.to_vec()));
        Ok(vec![0.0; shape.iter().product()])
    };
    AutoencoderKl::from_tensors(config.clone(), record(), &mut get, &Device::Cpu).unwrap();
    shapes.sort();
    shapes
}

/// All tensors of a network of hash-made weights, sorted by name.
fn synthetic_weights(config: &VaeConfig) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    tensor_shapes(config)
        .into_iter()
        .enumerate()
        .map(|(ordinal, (name, shape))| {
            let values = synthetic_tensor(&name, ordinal as u32, &shape, 12.0);
            (name, shape, values)
        })
        .collect()
}

/// The test picture of the golden numbers, `[1, 3, height, width]` in `[-1, 1]`.
fn test_image(width: usize, height: usize) -> Tensor {
    let mut values = Vec::new();
    for c in 0..3 {
        for y in 0..height {
            for x in 0..width {
                let byte = (7 * x + 13 * y + 29 * c + 5 * ((x * y) % 31) + 3 * ((x * x + y) % 17)) % 256;
                values.push(byte as f32 / 127.5 - 1.0);
            }
        }
    }
    Tensor::from_vec(values, (1, 3, height, width), &Device::Cpu).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn the_identity_gives_back_its_pixels() {
    let vae = AutoencoderKl::load(&VaeSource::None, &Device::Cpu).unwrap();
    let image = test_image(5, 7);
    let posterior = vae.encode(&image).unwrap();
    assert!(posterior.logvar.is_none());
    assert_eq!(flat(&vae.decode(posterior.mode()).unwrap()), flat(&image));
    assert_eq!(
        (vae.latent_channels(), vae.downsampling(), vae.scaling_factor()),
        (3, 1, 1.0)
    );
}

#[test]
fn a_batch_gives_what_its_images_give_alone() {
    let config = small_config();
    let weights = synthetic_weights(&config);
    let mut get = |name: &str, _: &[usize]| {
        let found = weights.iter().find(|(known, ..)| known == name);
        Ok(found.unwrap().2.clone())
    };
    let mut record = record();
    record.downsampling = config.downsampling();
    let vae = AutoencoderKl::from_tensors(config, record, &mut get, &Device::Cpu).unwrap();
    let (first, second) = (test_image(12, 10), test_image(12, 10).affine(-0.5, 0.1).unwrap());
    let both = Tensor::cat(&[&first, &second], 0).unwrap();
    let posterior = vae.encode(&both).unwrap();
    assert_eq!(posterior.mean.dims(), [2, 4, 5, 6]);
    let alone = vae.encode(&second).unwrap();
    assert_eq!(flat(&posterior.mean.get(1).unwrap()), flat(&alone.mean));
    let decoded = vae.decode(&posterior.mean).unwrap();
    assert_eq!(decoded.dims(), [2, 3, 10, 12]);
    assert_eq!(
        flat(&decoded.get(1).unwrap()),
        flat(&vae.decode(&alone.mean).unwrap())
    );
    for wrong in [test_image(11, 10), test_image(12, 10).narrow(1, 0, 2).unwrap()] {
        let message = vae.encode(&wrong).unwrap_err().to_string();
        assert!(message.contains("multiples of 2"), "{message}");
    }
    assert!(vae.decode(&first).is_err());
}
