//! The embedded autoencoder against what diffusers computes with the same file.

use serde_json::Value;

use super::*;

#[test]
fn the_embedded_network_gives_what_diffusers_gives() {
    let golden: Value = serde_json::from_str(include_str!("../../../assets/tiny-vae/golden.json")).unwrap();
    let numbers = |key: &str| -> Vec<f32> {
        let values = golden[key].as_array().unwrap();
        values.iter().map(|v| v.as_f64().unwrap() as f32).collect()
    };
    let vae = AutoencoderKl::load(&VaeSource::Tiny, &Device::Cpu).unwrap();
    assert_eq!((vae.downsampling(), vae.scaling_factor()), (8, 1.0));
    let posterior = vae.encode(&test_image(64, 64)).unwrap();
    let moments = [flat(&posterior.mean), flat(posterior.logvar.as_ref().unwrap())].concat();
    let decoded = flat(&vae.decode(&posterior.mean).unwrap());
    let rows: Vec<f32> = (0..3)
        .flat_map(|c| decoded[c * 4096..][..64].iter().copied())
        .collect();
    for (what, found, expected) in [
        ("moments", &moments, numbers("moments")),
        ("first rows", &rows, numbers("decoded_row_0")),
    ] {
        assert_eq!(found.len(), expected.len());
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        let worst = worst.fold(0.0, f32::max);
        assert!(worst < 2e-3, "{what}: off by {worst}");
    }
}

#[test]
fn a_record_finds_its_autoencoder_and_tells_when_it_was_replaced() {
    let vae = AutoencoderKl::load(&VaeSource::Tiny, &Device::Cpu).unwrap();
    let again = AutoencoderKl::from_record(vae.record(), &Device::Cpu).unwrap();
    assert_eq!(again.record(), vae.record());
    let other = VaeRecord {
        sha256: Some("00".to_owned()),
        ..vae.record().clone()
    };
    let error = AutoencoderKl::from_record(&other, &Device::Cpu).err().unwrap();
    assert!(error.to_string().contains("has changed"), "{error}");
}

#[test]
fn images_in_work_at_one_time_follow_the_memory_and_do_not_change_the_moments() {
    let sd = VaeConfig::stable_diffusion();
    assert_eq!(
        sd.map_bytes(512, 512),
        4 * sd.map_bytes(256, 256),
        "activations grow with the pixels"
    );
    let threads = rayon::current_num_threads();
    let vae = || AutoencoderKl::load(&VaeSource::Tiny, &Device::Cpu).unwrap();
    let image = vae().image_bytes(64, 64);
    let images = Tensor::cat(&[test_image(64, 64), test_image(64, 64)], 0).unwrap();
    let moments = |vae: &AutoencoderKl| flat(&vae.encode(&images).unwrap().mean);
    let usual = vae();
    for (bytes, at_once) in [
        (0, 1),
        (image, 1),
        (2 * image, 2.min(threads)),
        (1 << 40, threads),
    ] {
        let mut bounded = vae();
        bounded.set_activation_bytes(bytes);
        assert_eq!(bounded.at_once(64, 64), at_once, "{bytes} bytes");
        assert_eq!(moments(&bounded), moments(&usual));
    }
}
