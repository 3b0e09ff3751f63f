//! Originals and reconstructions of small datasets.

use std::{collections::BTreeMap, ffi::OsString};

use preprocess::console::{Printer, grid};
use preprocess::dataset::demo;
use shards::manifest::{Flip, ManifestHeader, Source, Store, StoreSettings, VaeRecord};
use shards::writer::{DatasetWriter, Moments, Record};

use super::*;
use crate::classifier::Classifier;

fn encode(size: &str, args: &[&str], out: &Path) {
    let (mut printer, _, err) = Printer::captured();
    let out = out.display().to_string();
    let common = [
        "preprocess",
        "encode",
        "--size",
        size,
        "--shard-samples",
        "8",
        "--out",
        &out,
    ];
    let args = common.iter().chain(args).map(OsString::from);
    assert_eq!(preprocess::cli::run(args, &mut printer), 0, "{}", err.text());
}

fn all(images: &DatasetImages) -> Vec<RgbImage> {
    let mut seen = Vec::new();
    images
        .visit(3, usize::MAX, |batch| {
            seen.extend(batch);
            Ok(())
        })
        .unwrap();
    seen
}

/// The pictures in the order of the dataset.
fn unshuffled(images: &DatasetImages) -> Vec<RgbImage> {
    let mut pairs: Vec<_> = images.order.iter().copied().zip(all(images)).collect();
    pairs.sort_by_key(|pair| pair.0);
    pairs.into_iter().map(|pair| pair.1).collect()
}

#[test]
fn demo_images_are_drawn_again() {
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "--dataset",
        "demo",
        "--vae",
        "none",
        "--limit",
        "20",
        "--seed",
        "4",
    ];
    encode("16", &args, dir.path());
    let images = DatasetImages::open(dir.path()).unwrap();
    assert_eq!((images.count(), images.image_size()), (20, 16));
    assert_eq!(
        (images.transform(), images.warning()),
        ("drawn 16".to_owned(), None)
    );
    let drawn: Vec<_> = (0..20).map(|id| demo::draw(4, id, 16).0).collect();
    assert_eq!(unshuffled(&images), drawn);
    // Shuffled: not the first class first.
    let shown = all(&images);
    assert_ne!(shown, drawn);
    let picked = images.pick(&[7, 0, 7]).unwrap();
    assert_eq!(picked, [7, 0, 7].map(|number: usize| shown[number].clone()));
    assert!(images.pick(&[20]).is_err());
}

#[test]
fn a_folder_is_read_again_and_its_latents_are_decoded_when_it_has_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, out) = (dir.path().join("photos"), dir.path().join("out"));
    for (class, id) in [("a", 0), ("a", 1), ("b", 2), ("b", 3)] {
        fs_err::create_dir_all(photos.join(class)).unwrap();
        let image = demo::draw(0, id, 16).0;
        grid::write_png(&image, &photos.join(format!("{class}/{id}.png"))).unwrap();
    }
    let source = photos.display().to_string();
    let args = [
        "--dataset",
        "folder",
        "--source",
        &source,
        "--vae",
        "none",
        "--dtype",
        "bf16",
    ];
    encode("16", &args, &out);
    let images = DatasetImages::open(&out).unwrap();
    let drawn: Vec<_> = (0..4).map(|id| demo::draw(0, id, 16).0).collect();
    assert_eq!(unshuffled(&images), drawn);
    assert_eq!(images.warning(), None);
    let before = images.content_hash();

    fs_err::remove_file(photos.join("a/1.png")).unwrap();
    let images = DatasetImages::open(&out).unwrap();
    assert!(images.warning().unwrap().contains("rounded"));
    assert_ne!(images.content_hash(), before);
    for (decoded, drawn) in unshuffled(&images).iter().zip(&drawn) {
        let mut bytes = decoded.data.iter().zip(&drawn.data);
        assert!(bytes.all(|(a, b)| a.abs_diff(*b) <= 1));
    }
}

/// A dataset whose source is not read again, of two latents that the autoencoder `vae` is said to have made.
fn foreign(dir: &Path, vae: &str) -> DatasetImages {
    foreign_of(dir, vae, "elsewhere")
}

fn foreign_of(dir: &Path, vae: &str, dataset: &str) -> DatasetImages {
    let header = ManifestHeader {
        name: "test".to_owned(),
        source: Source {
            dataset: dataset.to_owned(),
            ..Source::default()
        },
        image_size: 4,
        transform: "adm-center-crop".to_owned(),
        decoder: "none".to_owned(),
        libraries: BTreeMap::new(),
        vae: VaeRecord {
            id: vae.to_owned(),
            revision: None,
            sha256: None,
            scaling_factor: 0.5,
            downsampling: 1,
            arithmetic: None,
        },
        store: StoreSettings {
            store: Store::Mean,
            dtype: Dtype::F32,
            flip: Flip::None,
            ..StoreSettings::default()
        },
        shape: [3, 4, 4],
        num_classes: 1,
        class_names: Vec::new(),
        seed: 0,
        part: None,
    };
    let mut writer = DatasetWriter::open(dir, header).unwrap();
    for id in 0..2 {
        let moments = Moments {
            mean: vec![0.25 * id as f32; 48],
            logvar: None,
        };
        let record = Record {
            id,
            key: id.to_string(),
            label: 0,
            views: vec![moments],
        };
        writer.push(&record).unwrap();
    }
    writer.finish().unwrap();
    DatasetImages::open(dir).unwrap()
}

#[test]
fn latents_are_decoded_unscaled() {
    let dir = tempfile::tempdir().unwrap();
    let images = foreign(dir.path(), IDENTITY);
    assert_eq!(images.warning(), None);
    let bytes: Vec<u8> = unshuffled(&images).iter().map(|image| image.data[0]).collect();
    assert_eq!(bytes, [128, 159]);
}

#[test]
fn numbers_of_lsun_church_say_what_they_are_compared_with() {
    let warning = |vae: &str| {
        let dir = tempfile::tempdir().unwrap();
        foreign_of(dir.path(), vae, "lsun-church").warning().unwrap()
    };
    assert!(warning(IDENTITY).starts_with("are 2 of LSUN church, for which there is no public reference"));
    let both = warning("some-vae");
    assert!(
        both.contains("reconstructions") && both.contains("; they are 2 of LSUN church"),
        "{both}"
    );
}

#[test]
fn an_autoencoder_that_cannot_be_loaded_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let images = foreign(dir.path(), "/missing/vae.safetensors");
    assert!(images.warning().unwrap().contains("reconstructions"));
    let message = images.visit(1, 1, |_| Ok(())).unwrap_err().to_string();
    for part in ["elsewhere", "/missing/vae.safetensors", "hint"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn reconstructions_of_the_embedded_autoencoder_show_what_was_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--dataset", "demo", "--vae", "tiny", "--limit", "40"];
    encode("64", &args, dir.path());
    let mut images = DatasetImages::open(dir.path()).unwrap();
    images.pixels = Pixels::Decoded("a test".to_owned());
    assert_eq!(
        (images.transform(), images.warning()),
        (
            "drawn 64, decoded from latents of tiny".to_owned(),
            Some("are the autoencoder's reconstructions (a test)".to_owned())
        )
    );
    let labels: Vec<usize> = (0..40).map(demo::class).collect();
    let classifier = Classifier::embedded().unwrap();
    let accuracy = classifier.accuracy(&unshuffled(&images), &labels).unwrap();
    assert!(accuracy >= 0.95, "{accuracy}");
}
