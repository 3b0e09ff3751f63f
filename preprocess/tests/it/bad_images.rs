//! Files that are no images, or damaged ones: listed, counted, and the work goes on.

use std::path::Path;

use preprocess::image::RgbImage;
use shards::dataset::Dataset;

use crate::{preprocess, text};

/// A PNG file that claims `width` x `height` pixels and holds one.
fn png_of_absurd_size(width: u32, height: u32) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.png");
    let image = RgbImage {
        width: 1,
        height: 1,
        data: vec![1, 2, 3],
    };
    preprocess::console::grid::write_png(&image, &path).unwrap();
    let mut file = std::fs::read(path).unwrap();
    // Signature (8), length (4), `IHDR` with its 13 bytes, their checksum.
    file[16..20].copy_from_slice(&width.to_be_bytes());
    file[20..24].copy_from_slice(&height.to_be_bytes());
    let checksum = crc32(&file[12..29]);
    file[29..33].copy_from_slice(&checksum.to_be_bytes());
    file
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 * (crc & 1))
        })
    })
}

fn jpeg() -> Vec<u8> {
    use base64::Engine;
    let text = include_str!("../../src/image/testdata/a.jpg.base64");
    base64::engine::general_purpose::STANDARD
        .decode(text.trim())
        .unwrap()
}

#[test]
fn each_kind_of_bad_file_is_rejected_with_its_key_and_reason() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("photos");
    std::fs::create_dir_all(source.join("a")).unwrap();
    let jpeg = jpeg();
    let good: [(&str, &[u8]); 3] = [("0.jpg", &jpeg), ("4.png", &jpeg), ("9.jpg", &jpeg)];
    let absurd = png_of_absurd_size(100_000, 100_000);
    let enormous = png_of_absurd_size(0x7FFF_FFFF, 0x7FFF_FFFF);
    let bad: [(&str, &[u8], &str); 7] = [
        ("1.jpg", &jpeg[..jpeg.len() / 2], "truncated"),
        ("2.jpg", b"Dear diary, this is a text.", "not a JPEG"),
        ("3.jpg", b"", "not a JPEG"),
        ("5.png", &absurd, "100000 x 100000"),
        ("6.png", &enormous, "2147483647 x 2147483647"),
        ("7.png", b"\x89PNG\r\n\x1a\n", "truncated"),
        ("8.webp", b"RIFF\x40\x00\x00\x00WEBPVP8 ", "truncated"),
    ];
    for (name, bytes) in good
        .iter()
        .copied()
        .chain(bad.iter().map(|(name, bytes, _)| (*name, *bytes)))
    {
        std::fs::write(source.join("a").join(name), bytes).unwrap();
    }
    let out = dir.path().join("out");
    let args = |max: &'static str| {
        let mut args = vec![
            "encode",
            "--dataset",
            "folder",
            "--source",
            text(&source),
            "--size",
            "16",
        ];
        args.extend([
            "--vae",
            "none",
            "--out",
            text(&out),
            "--json",
            "--max-rejects",
            max,
        ]);
        preprocess(&args)
    };
    let (code, stdout, err) = args("7");
    assert_eq!(code, 0, "{err}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&report["samples"], &report["rejects"]), (&3.into(), &7.into()));
    let lines = std::fs::read_to_string(out.join("rejects.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), bad.len());
    for (line, (name, _, reason)) in lines.iter().zip(bad) {
        assert_eq!(line["key"], format!("a/{name}"));
        assert!(line["reason"].as_str().unwrap().contains(reason), "{line}");
    }
    let dataset = Dataset::open(Path::new(&out)).unwrap();
    assert_eq!(dataset.ids(), [0, 4, 9]);

    std::fs::remove_dir_all(&out).unwrap();
    let (code, _, err) = args("6");
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("7 bad images are more than the 6 allowed"), "{err}");
    assert!(!out.join("dataset.json").exists());
}
