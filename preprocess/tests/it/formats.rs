//! Every kind of image file that is met once in a million: Pillow's pixels, or a reason that says what and why.
//!
//! `tests/data/images` and what Pillow 9.5 makes of each file there come from `benches/image_bytes.py --fixtures` (the
//! arithmetic-coded ones and those with rare sampling from libjpeg-turbo's encoder).

use std::path::Path;

use preprocess::image::crop::{center_crop, decode_and_crop};
use preprocess::image::decode::decode_rgb;
use preprocess::image::{Error, Format, probe};
use sha2::Digest;

/// Files that Pillow takes and we do not: only the formats of photographs are read.
const REFUSED: [&str; 3] = ["BMP.JPEG", "GIF.JPEG", "TIFF.JPEG"];

fn sha(data: &[u8]) -> String {
    let digest = sha2::Sha256::digest(data);
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

fn fixtures() -> Vec<(String, Vec<u8>, serde_json::Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/images");
    let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let expected: serde_json::Map<_, _> = serde_json::from_str(&text).unwrap();
    let read = |(name, value)| {
        let bytes = std::fs::read(folder.join(&name)).unwrap();
        (name, bytes, value)
    };
    expected.into_iter().map(read).collect()
}

#[test]
fn every_kind_of_file_has_pillows_pixels_or_a_reason() {
    let mut decoded = 0;
    for (name, bytes, expected) in fixtures() {
        match (decode_rgb(&bytes), expected.as_array()) {
            (Ok(image), Some(expected)) => {
                let header = probe(&bytes).unwrap();
                assert_eq!(
                    (header.width, header.height),
                    (image.width, image.height),
                    "{name}"
                );
                assert_eq!(
                    (expected[0].as_u64(), expected[1].as_u64()),
                    (Some(image.width as u64), Some(image.height as u64)),
                    "{name}"
                );
                assert_eq!(expected[2], sha(&image.data), "{name}");
                let crop = decode_and_crop(&bytes, 24).unwrap();
                assert_eq!(expected[3], sha(&crop.data), "{name}, cropped");
                assert_eq!(crop, center_crop(&image, 24), "{name}, cropped from the whole");
                decoded += 1;
            }
            (Err(error), None) => assert!(error.to_string().len() > 20, "{name}: {error}"),
            (Err(error), Some(_)) => assert!(REFUSED.contains(&&*name), "{name}: {error}"),
            (Ok(_), None) => panic!("Pillow refuses {name}"),
        }
    }
    assert!(decoded > 50, "{decoded}");
}

#[test]
fn reasons_say_what_a_file_is() {
    let cases: [(&[u8], &str); 8] = [
        (b"", "it is empty"),
        (b"Dear diary, this is a text", "it is text (\"Dear diary, this\")"),
        (b"GIF89a....", "it is a GIF file"),
        (b"BM......", "it is a BMP file"),
        (b"II*\0....", "it is a TIFF file"),
        (b"\0\0\0\x20ftypavif", "it is an AVIF, HEIC or MP4 file"),
        (b"\x01\x02", "it starts with [01, 02]"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
    ];
    for (bytes, reason) in cases {
        let (probed, decoded) = (probe(bytes).unwrap_err(), decode_rgb(bytes).unwrap_err());
        assert!(probed.to_string().contains(reason), "{probed}");
        assert_eq!(probed.to_string(), decoded.to_string());
    }
}

/// Bomb headers of each format: refused by the header alone, so that nothing is allocated for the pixels.
#[test]
fn headers_that_claim_too_much_are_refused_before_anything_is_allocated() {
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    png.extend(60_000u32.to_be_bytes().repeat(2));
    png.extend([8, 2, 0, 0, 0, 0, 0, 0, 0]);
    let mut jpeg = b"\xff\xd8\xff\xe0\0\x04ab\xff\xff\xc2\0\x11\x08".to_vec();
    jpeg.extend(60_000u16.to_be_bytes().repeat(2));
    jpeg.extend([3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1]);
    let mut webp = b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0".to_vec();
    webp.extend(&59_999u32.to_le_bytes()[..3].repeat(2));
    webp.extend([0; 64]);
    for bytes in [png, jpeg, webp] {
        let is_refused = |error: Error| {
            matches!(
                error,
                Error::TooLarge {
                    width: 60_000,
                    height: 60_000,
                    ..
                }
            )
        };
        assert!(is_refused(probe(&bytes).unwrap_err()));
        assert!(is_refused(decode_rgb(&bytes).unwrap_err()));
        assert!(is_refused(decode_and_crop(&bytes, 256).unwrap_err()));
    }
}

#[test]
fn damage_anywhere_gives_an_error_or_an_image_and_never_a_crash() {
    for (name, bytes, expected) in fixtures() {
        if expected.is_null() || bytes.len() > 2500 || name.contains("lies") {
            continue;
        }
        for at in (0..bytes.len()).step_by(5) {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x5a;
            // A damaged size may be a large one: that costs time, and is no crash.
            let is_small = probe(&wrong).is_ok_and(|h| h.width * h.height < 100_000);
            if is_small {
                let (whole, crop) = (decode_rgb(&wrong), decode_and_crop(&wrong, 16));
                assert_eq!(whole.is_ok(), crop.is_ok(), "{name} at {at}");
                if let (Ok(whole), Ok(crop)) = (whole, crop) {
                    assert_eq!(crop, center_crop(&whole, 16), "{name} at {at}");
                }
            }
            let _ = decode_rgb(&bytes[..at]);
        }
    }
}

#[test]
fn a_probe_tells_format_and_size() {
    for (name, bytes, _) in fixtures() {
        let Ok(header) = probe(&bytes) else { continue };
        let expected = match name.split('-').next() {
            Some("png") => Format::Png,
            Some("webp") => Format::WebP,
            _ => Format::Jpeg,
        };
        assert_eq!(header.format, expected, "{name}");
        assert!(header.decoding_bytes() >= 4 * header.width * header.height);
    }
}
