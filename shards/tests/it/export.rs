//! Exports: plain f32 arrays in key order.

use safetensors::SafeTensors;
use shards::{
    dataset::Dataset,
    export::{Export, FEATURES, LABELS, Latent},
    manifest::{Compression, Dtype, Flip, Store},
    rng::{Philox, Stream},
};

use crate::{header, record, settings, write};

#[test]
fn a_safetensors_export_holds_the_samples_in_key_order() {
    for (store, flip) in [(Store::Moments, Flip::Both), (Store::Mean, Flip::None)] {
        let header = header([2, 3, 4], settings(store, Dtype::F32, flip, Compression::Zstd));
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &header, 0..11).unwrap();
        let dataset = Dataset::open(dir.path()).unwrap();
        let path = dir.path().join("all.safetensors");
        Export::new(&dataset, Some(7))
            .unwrap()
            .write_safetensors(&path)
            .unwrap();

        let bytes = fs_err::read(&path).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let keys: Vec<String> = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["keys"]).unwrap();
        let mut ids: Vec<u64> = (0..11).collect();
        ids.sort_by_key(|&id| record(&header, id).key);
        ids.truncate(7);
        let expected: Vec<String> = ids.iter().map(|&id| record(&header, id).key).collect();
        assert_eq!(keys, expected);

        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let views = header.store.views();
        let mean = tensors.tensor("mean").unwrap();
        assert_eq!(mean.shape(), [7, views, 2, 3, 4]);
        let values: Vec<u8> = ids
            .iter()
            .flat_map(|&id| record(&header, id).views)
            .flat_map(|moments| moments.mean)
            .flat_map(f32::to_le_bytes)
            .collect();
        assert_eq!(mean.data(), values);
        let labels: Vec<u8> = ids
            .iter()
            .flat_map(|&id| record(&header, id).label.to_le_bytes())
            .collect();
        assert_eq!(tensors.tensor("label").unwrap().data(), labels);
        assert_eq!(tensors.tensor("logvar").is_ok(), store == Store::Moments);
        if let Ok(logvar) = tensors.tensor("logvar") {
            assert_eq!(logvar.shape(), mean.shape());
            let first = f32::from_le_bytes(logvar.data()[..4].try_into().unwrap());
            let expected = record(&header, ids[0]).views[0].logvar.clone().unwrap()[0];
            assert!((first - expected).abs() <= 0.0981);
        }
        assert!(Export::new(&dataset, Some(0)).is_err());
    }
}

#[test]
fn a_dit_export_has_two_files_an_image_scaled_and_sampled() {
    for (latent, flip) in [(Latent::Mean, Flip::None), (Latent::Sample(5), Flip::Both)] {
        let header = header(
            [4, 3, 5],
            settings(Store::Moments, Dtype::F32, flip, Compression::Zstd),
        );
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &header, 0..11).unwrap();
        let dataset = Dataset::open(dir.path()).unwrap();
        let out = dir.path().join("dit");
        let mut done = 0;
        Export::new(&dataset, None)
            .unwrap()
            .write_dit(&out, latent, |samples| done = samples)
            .unwrap();
        assert_eq!(done, 11);
        let mut ids: Vec<u64> = (0..11).collect();
        ids.sort_by_key(|&id| record(&header, id).key);
        for (i, &id) in ids.iter().enumerate() {
            let record = record(&header, id);
            let file = fs_err::read(out.join(FEATURES).join(format!("{i}.npy"))).unwrap();
            let text =
                b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4, 3, 5), }";
            assert!(file.starts_with(text));
            let (head, values) = file.split_at(128);
            assert_eq!(head.last(), Some(&b'\n'));
            let (mut mean, mut logvar) = (vec![0.0; 60], vec![0.0; 60]);
            dataset
                .read(id as usize, 0, &mut mean, Some(&mut logvar))
                .unwrap();
            let mut noise = vec![0.0; 60];
            if let Latent::Sample(seed) = latent {
                Philox::new(seed).fill_normal(Stream::PosteriorNoise, id, 0, &mut noise);
            }
            let expected: Vec<u8> = (0..60)
                .map(|i| (mean[i] + (0.5 * logvar[i]).exp() * noise[i]) * 0.18215)
                .flat_map(f32::to_le_bytes)
                .collect();
            assert!(values == expected, "{latent:?} {i}");
            let label = fs_err::read(out.join(LABELS).join(format!("{i}.npy"))).unwrap();
            assert!(label.starts_with(
                b"\x93NUMPY\x01\x00\x76\x00{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }"
            ));
            assert_eq!(label[128..], record.label.to_le_bytes());
        }
    }
}
