//! Numbers computed in f64 with diffusers' `AutoencoderKL` and hash-made weights.

use super::*;

const TOLERANCE: f32 = 2e-5;

fn assert_close(what: &str, values: impl IntoIterator<Item = f32>, expected: &[f32]) {
    let values: Vec<f32> = values.into_iter().collect();
    assert_eq!(values.len(), expected.len());
    for (value, expected) in values.iter().zip(expected) {
        assert!((value - expected).abs() < TOLERANCE, "{what}: {values:?}");
    }
}

/// Mean of each channel of one image.
fn channel_means(values: &[f32], channels: usize) -> Vec<f32> {
    let plane = values.len() / channels;
    let mean = |plane: &[f32]| plane.iter().map(|&v| f64::from(v)).sum::<f64>() / plane.len() as f64;
    values
        .chunks_exact(plane)
        .map(|plane| mean(plane) as f32)
        .collect()
}

fn mean_magnitude(values: &[f32]) -> f32 {
    (values.iter().map(|&v| f64::from(v).abs()).sum::<f64>() / values.len() as f64) as f32
}

#[test]
fn stable_diffusions_network_matches_f64_to_2e_5() {
    check(|config, get| AutoencoderKl::from_tensors(config, record(), get, &Device::Cpu).unwrap());
}

#[test]
fn stable_diffusions_network_in_tensors_matches_f64_to_2e_5() {
    check(in_tensors);
}

#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a GPU"]
fn stable_diffusions_network_on_a_gpu_matches_f64_to_2e_5() {
    check(|config, get| {
        let gpu = Device::new_cuda(0).unwrap();
        let vae = AutoencoderKl::from_tensors(config, record(), get, &gpu).unwrap();
        assert_eq!(
            vae.record().arithmetic.as_deref(),
            Some(GpuPrecision::F32.arithmetic())
        );
        vae
    });
}

fn check(build: impl Fn(VaeConfig, &mut GetTensor<'_>) -> AutoencoderKl) {
    let config = VaeConfig::stable_diffusion();
    let shapes = tensor_shapes(&config);
    assert_eq!(shapes.len(), 248);
    let parameters: usize = shapes
        .iter()
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum();
    assert_eq!(parameters, 83_653_863);
    for (ordinal, name) in [
        (0, "decoder.conv_in.bias"),
        (139, "encoder.conv_in.weight"),
        (247, "quant_conv.weight"),
    ] {
        assert_eq!(shapes[ordinal].0, name);
    }
    let mut get = |name: &str, shape: &[usize]| {
        let ordinal = shapes
            .binary_search_by(|(known, _)| known.as_str().cmp(name))
            .unwrap();
        Ok(synthetic_tensor(name, ordinal as u32, shape, 12.0))
    };
    let vae = build(config, &mut get);

    let posterior = vae.encode(&test_image(48, 40)).unwrap();
    assert_eq!(posterior.mean.dims(), [1, 4, 5, 6]);
    let mut moments = flat(&posterior.mean);
    moments.extend(flat(posterior.logvar.as_ref().unwrap()));
    let row = [0.748_902, 0.046_616, 0.815_861, -0.230_918, 0.433_261, -0.283_439];
    assert_close("first row", moments[..6].iter().copied(), &row);
    assert_close("last moment", moments.last().copied(), &[0.178_673]);
    let means = [
        0.112_111, 0.090_927, 0.273_871, -0.135_177, 0.966_155, 0.593_607, -0.189_576, 0.664_719,
    ];
    assert_close("channel means", channel_means(&moments, 8), &means);
    assert_close("mean magnitude", [mean_magnitude(&moments)], &[0.550_031_36]);

    let decoded = vae.decode(posterior.mode()).unwrap();
    assert_eq!(decoded.dims(), [1, 3, 40, 48]);
    let values = flat(&decoded);
    let pixel = |y: usize, x: usize| {
        (0..3)
            .map(|c| values[(c * 40 + y) * 48 + x])
            .collect::<Vec<f32>>()
    };
    assert_close("first pixel", pixel(0, 0), &[-0.042_244, -0.114_347, -0.032_313]);
    assert_close("pixel (7, 5)", pixel(7, 5), &[-0.593_685, -0.577_238, 0.094_815]);
    assert_close("last pixel", pixel(39, 47), &[-0.114_968, -0.069_816, -0.100_999]);
    assert_close(
        "channel means",
        channel_means(&values, 3),
        &[-0.600_681, 0.010_819, -0.104_348],
    );
    assert_close("mean magnitude", [mean_magnitude(&values)], &[0.473_282_1]);
}
