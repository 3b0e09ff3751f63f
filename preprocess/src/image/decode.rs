//! File bytes to RGB, whatever the file's name says: the format is told by the first bytes.
//!
//! JPEG goes through libjpeg-turbo's arithmetic with the library's defaults, as in Pillow. Transparency is dropped
//! without compositing, palettes are looked up, grey is replicated; colour profiles and EXIF orientation are ignored.

use super::{Error, Format, RgbImage, Rgbx, jpeg, png, probe, webp};

/// Decodes a JPEG, PNG or WebP file.
///
/// # Errors
/// When the bytes are no image, a truncated or damaged one, or one of absurd size.
pub fn decode_rgb(bytes: &[u8]) -> Result<RgbImage, Error> {
    Ok(decode_rgbx(bytes)?.to_rgb())
}

/// As [`decode_rgb`], in the layout of the resampler.
pub(crate) fn decode_rgbx(bytes: &[u8]) -> Result<Rgbx, Error> {
    match probe(bytes)?.format {
        Format::Jpeg => jpeg::decode(bytes),
        Format::Png => png::decode(bytes),
        Format::WebP => webp::decode(bytes),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use sha2::Digest;

    use super::*;

    // 19 x 13, 4:2:0, quality 75; and 8 x 8, Adobe CMYK. The expected pixels are Pillow's.
    const JPEG_A: &str = include_str!("testdata/a.jpg.base64");
    const JPEG_B: &str = include_str!("testdata/b.jpg.base64");
    const WEBP_C: &str = include_str!("testdata/c.webp.base64");

    fn bytes(base64: &str) -> Vec<u8> {
        base64::engine::general_purpose::STANDARD
            .decode(base64.trim())
            .unwrap()
    }

    fn sha(data: &[u8]) -> String {
        sha2::Sha256::digest(data)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect()
    }

    #[test]
    fn a_jpeg_with_halved_chroma_equals_pillow() {
        let image = decode_rgb(&bytes(JPEG_A)).unwrap();
        assert_eq!((image.width, image.height), (19, 13));
        assert_eq!(image.data[..3], [38, 52, 89]);
        assert_eq!(
            sha(&image.data),
            "838c153ff268bc0724e64fb5307077d3486c1e8fde27e6e9613cd31c26ea0156"
        );
    }

    #[test]
    fn a_cmyk_jpeg_equals_pillow() {
        let image = decode_rgb(&bytes(JPEG_B)).unwrap();
        assert_eq!((image.width, image.height), (8, 8));
        assert_eq!(image.data[..3], [168, 156, 129]);
        assert_eq!(
            sha(&image.data),
            "467c9ddbf51c73b472f12bb46d2984f5a97045c383d350e7f0aa10b86b78cea3"
        );
    }

    #[test]
    fn a_lossy_webp_equals_libwebp() {
        let image = decode_rgb(&bytes(WEBP_C)).unwrap();
        assert_eq!((image.width, image.height), (23, 17));
        assert_eq!(image.data[..3], [0, 2, 0]);
        assert_eq!(
            sha(&image.data),
            "152da6c7da3ea1df8a53f2b819cdd09f26ccb8d671536aa561fbd5ca67b7b1ed"
        );
    }

    #[test]
    fn a_png_gives_its_pixels_without_alpha() {
        let mut file = Vec::new();
        let encoder = ::image::codecs::png::PngEncoder::new(&mut file);
        let rgba = [1u8, 2, 3, 0, 4, 5, 6, 255];
        ::image::ImageEncoder::write_image(encoder, &rgba, 2, 1, ::image::ExtendedColorType::Rgba8).unwrap();
        assert_eq!(decode_rgb(&file).unwrap().data, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_an_error_or_an_image() {
        for file in [bytes(JPEG_A), bytes(JPEG_B), bytes(WEBP_C)] {
            for end in 0..file.len() - 2 {
                let cut = decode_rgb(&file[..end]);
                assert!(cut.is_err(), "cut at {end} of {}", file.len());
            }
            for at in 0..file.len() {
                let mut wrong = file.clone();
                wrong[at] ^= 0x5a;
                let _ = decode_rgb(&wrong);
            }
        }
    }

    #[test]
    fn absurd_sizes_are_refused_before_memory_is_taken() {
        let mut file = bytes(JPEG_A);
        let sof = file.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        file[sof + 5..sof + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
        assert!(matches!(decode_rgb(&file), Err(Error::TooLarge { .. })));
        assert!(matches!(
            decode_rgb(b"GIF89a.."),
            Err(Error::UnknownFormat { .. })
        ));
    }
}
