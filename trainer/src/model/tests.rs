//! The model as a whole: its size, its backward, and what it refuses.

use super::*;
use crate::ops::bias_gelu::Gelu;

#[test]
fn xl_has_the_published_size() {
    let config = ModelConfig::default();
    assert_eq!(ParamLayout::model(&config).trained(&config), 673_088_272);
    assert!(
        (config.gflops_per_image() - 295.7).abs() < 0.05,
        "{}",
        config.gflops_per_image()
    );
    let config = ModelConfig {
        input_size: 64,
        ..config
    };
    assert!(
        (config.gflops_per_image() - 1182.4).abs() < 0.05,
        "{}",
        config.gflops_per_image()
    );
}

#[test]
fn a_wrong_batch_is_an_error() {
    let config = ModelConfig {
        hidden_size: 8,
        depth: 1,
        input_size: 4,
        num_classes: 3,
        ..ModelConfig::default()
    };
    let model = DiffuSsm::new(config).unwrap();
    let params = model.init(0).unwrap();
    let x = vec![0.0; 64];
    assert!(matches!(
        model.forward(&params, &x, &[1.0], &[4]),
        Err(Error::Label { label: 4, .. })
    ));
    assert!(matches!(
        model.forward(&params, &x[1..], &[1.0], &[0]),
        Err(Error::Length { what: "x", .. })
    ));
}

#[test]
fn the_backward_is_the_derivative_along_a_direction() {
    for modulation in [Modulation::Film, Modulation::Gate, Modulation::None] {
        let config = ModelConfig {
            hidden_size: 12,
            depth: 2,
            state_size: 4,
            input_size: 6,
            num_classes: 3,
            freq_dim: 8,
            downscale: 3,
            modulation,
            ..ModelConfig::default()
        };
        let model = DiffuSsm::new(config).unwrap();
        let wave = |len: usize, phase: f32| -> Vec<f32> {
            (0..len).map(|i| (0.917 * i as f32 + phase).sin()).collect()
        };
        let shaken = model.init(3).unwrap();
        let shake = wave(shaken.len(), 0.3);
        let params: Vec<f32> = shaken.iter().zip(&shake).map(|(p, s)| p + 0.05 * s).collect();
        let x = wave(2 * 4 * 36, 1.0);
        let up = wave(2 * 8 * 36, 2.0);
        let (t, y) = ([3.0, 700.0], [1, 3]);
        let objective = |params: &[f32]| -> f64 {
            let out = model.forward(params, &x, &t, &y).unwrap();
            out.iter()
                .zip(&up)
                .map(|(o, u)| f64::from(*o) * f64::from(*u))
                .sum()
        };
        let (_, saved) = model.forward_train(&params, None, &x, &t, &y).unwrap();
        let mut grads = vec![0.0; params.len()];
        model.backward(&params, saved, &up, &mut grads).unwrap();
        let direction = wave(params.len(), 4.0);
        let moved =
            |by: f32| -> Vec<f32> { params.iter().zip(&direction).map(|(p, d)| p + by * d).collect() };
        let step = 2e-3;
        let slope = (objective(&moved(step)) - objective(&moved(-step))) / f64::from(2.0 * step);
        let product: f64 = grads
            .iter()
            .zip(&direction)
            .map(|(g, d)| f64::from(*g) * f64::from(*d))
            .sum();
        assert!(
            (slope - product).abs() < 0.01 * slope.abs().max(1.0),
            "{modulation:?}: {slope}, {product}"
        );
    }
}

#[test]
fn running_blocks_again_gives_the_same_bits() {
    for (modulation, downscale) in [
        (Modulation::Film, 2),
        (Modulation::Gate, 1),
        (Modulation::None, 3),
    ] {
        let config = ModelConfig {
            hidden_size: 12,
            depth: 4,
            state_size: 4,
            input_size: 6,
            num_classes: 3,
            freq_dim: 8,
            downscale,
            modulation,
            ..ModelConfig::default()
        };
        let gradients = |keep: Keep| {
            let model = DiffuSsm::new(config.clone()).unwrap().keeping(keep);
            let mut params = model.init(3).unwrap();
            for (i, p) in params.iter_mut().enumerate() {
                *p += 0.05 * (0.917 * i as f32).sin();
            }
            let x: Vec<f32> = (0..2 * 4 * 36).map(|i| (0.37 * i as f32).sin()).collect();
            let (out, saved) = model
                .forward_train(&params, None, &x, &[3.0, 700.0], &[1, 3])
                .unwrap();
            let mut grads = vec![0.0; params.len()];
            let dx = model.backward(&params, saved, &out, &mut grads).unwrap();
            (out, dx, grads)
        };
        assert!(
            gradients(Keep::All) == gradients(Keep::Inputs),
            "{modulation:?}, M {downscale}"
        );
    }
}

#[test]
fn inference_has_the_bits_of_the_forward_whatever_the_batch() {
    for (modulation, bidir, gelu, downscale, side) in [
        (Modulation::Film, Bidirectional::Concat, Gelu::Tanh, 2, 6),
        (Modulation::Gate, Bidirectional::Sum, Gelu::Erf, 1, 4),
        (Modulation::None, Bidirectional::Concat, Gelu::Tanh, 3, 12),
        // An image alone has several tiles.
        (Modulation::Gate, Bidirectional::Concat, Gelu::Tanh, 1, 36),
    ] {
        let config = ModelConfig {
            hidden_size: 12,
            depth: 2,
            state_size: 4,
            input_size: side,
            num_classes: 3,
            freq_dim: 8,
            downscale,
            modulation,
            bidir,
            gelu,
            ..ModelConfig::default()
        };
        let model = DiffuSsm::new(config.clone()).unwrap();
        let mut params = model.init(3).unwrap();
        for (i, p) in params.iter_mut().enumerate() {
            *p += 0.05 * (0.917 * i as f32).sin();
        }
        let image = 4 * side * side;
        let x: Vec<f32> = (0..5 * image).map(|i| (0.37 * i as f32).sin()).collect();
        let (t, y) = ([3.0, 700.0, 3.0, 3.0, 700.0], [1, 3, 1, 3, 0]);
        let expected = model.forward(&params, &x, &t, &y).unwrap();
        let inference = Inference::new(model, params.clone()).unwrap();
        assert!(inference.weights() == params);
        assert!(
            inference.forward(&x, &t, &y).unwrap() == expected,
            "{modulation:?}"
        );
        for (index, x) in x.chunks_exact(image).enumerate() {
            let alone = inference
                .forward(x, &t[index..=index], &y[index..=index])
                .unwrap();
            let of_batch = &expected[index * alone.len()..(index + 1) * alone.len()];
            assert!(alone == of_batch, "{modulation:?}, image {index}");
        }
        assert!(inference.forward(&[], &[], &[]).unwrap().is_empty());
        let (t, y) = ([700.0, 3.0, 700.0, 700.0], [0, 3, 3, 3]);
        let two = &x[..2 * image];
        let twice = inference.forward(&[two, two].concat(), &t, &y).unwrap();
        assert!(inference.forward(two, &t, &y).unwrap() == twice, "{modulation:?}");
        assert!(matches!(
            inference.forward(&x[..3 * image], &t, &y),
            Err(Error::Length { what: "x", .. })
        ));
    }
}
