//! Exports: plain f32 arrays in key order.

use safetensors::SafeTensors;
use shards::{
    dataset::Dataset,
    export::Export,
    manifest::{Compression, Dtype, Flip, Store},
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
