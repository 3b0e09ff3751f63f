//! The form of candle's tensors computes what the layers of this crate do.

use super::*;

/// Rounding differs, nothing else; values are of the order of one.
const TOLERANCE: f32 = 2e-5;

fn assert_same(what: &str, a: &Tensor, b: &Tensor) {
    assert_eq!(a.dims(), b.dims(), "{what}");
    let (a, b) = (flat(a), flat(b));
    let scale = a.iter().fold(1.0, |most: f32, value| most.max(value.abs()));
    let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= TOLERANCE * scale, "{what}: {worst} of {scale}");
}

/// A network in both forms, the second with room for `at_once` images.
fn both(config: &VaeConfig, at_once: u64, size: usize) -> [AutoencoderKl; 2] {
    let weights = synthetic_weights(config);
    let mut get = |name: &str, _: &[usize]| {
        let found = weights.iter().find(|(known, ..)| known == name);
        Ok(found.unwrap().2.clone())
    };
    let mut record = record();
    record.downsampling = config.downsampling();
    let host = AutoencoderKl::from_tensors(config.clone(), record, &mut get, &Device::Cpu).unwrap();
    let mut tensors = in_tensors(config.clone(), &mut get);
    tensors.record.downsampling = config.downsampling();
    tensors.set_activation_bytes(at_once * tensors.image_bytes(size, size));
    [host, tensors]
}

#[test]
fn both_forms_give_the_same_moments_and_images_whatever_is_in_work_at_one_time() {
    // Odd multiples of the downsampling, more channels than one level has, and a third level.
    let mut config = small_config();
    config.block_out_channels = vec![8, 16, 24];
    config.layers_per_block = 2;
    let images = [0.1, 0.4, -0.2].map(|shift| test_image(36, 20).affine(-0.5, shift).unwrap());
    let images = Tensor::cat(&images, 0).unwrap();
    for at_once in [0, 1, 2, 100] {
        let [host, tensors] = both(&config, at_once, 36);
        let (a, b) = (host.encode(&images).unwrap(), tensors.encode(&images).unwrap());
        assert_eq!(a.mean.dims(), [3, 4, 5, 9]);
        assert_same("mean", &a.mean, &b.mean);
        assert_same("logvar", a.logvar.as_ref().unwrap(), b.logvar.as_ref().unwrap());
        let images = (host.decode(a.mode()).unwrap(), tensors.decode(a.mode()).unwrap());
        assert_same("images", &images.0, &images.1);
    }
}

#[test]
fn both_forms_refuse_the_same_inputs() {
    for vae in both(&small_config(), 1, 8) {
        assert!(vae.encode(&test_image(11, 10)).is_err());
        assert!(vae.decode(&test_image(12, 10)).is_err());
    }
}

#[test]
fn the_variance_of_either_form_is_bounded_alike() {
    let config = small_config();
    let weights = synthetic_weights(&config);
    // The last layer gives moments a hundred times as large.
    let mut get = |name: &str, _: &[usize]| {
        let found = weights.iter().find(|(known, ..)| known == name).unwrap();
        let factor = if name == "quant_conv.weight" { 100.0 } else { 1.0 };
        Ok(found.2.iter().map(|value| factor * value).collect())
    };
    let logvar = flat(
        in_tensors(config, &mut get)
            .encode(&test_image(16, 16))
            .unwrap()
            .logvar
            .as_ref()
            .unwrap(),
    );
    assert!(logvar.iter().all(|value| (-30.0..=20.0).contains(value)));
    assert!(
        logvar.contains(&20.0) || logvar.contains(&-30.0),
        "nothing was bounded"
    );
}
