//! WebP through libwebp, whose bytes Pillow gives: of an animation the first frame on its canvas, without alpha.
//!
//! The calls of the library are in this module and nowhere else.
#![expect(unsafe_code, reason = "libwebp is C")]

use std::mem::MaybeUninit;

use libwebp_sys::{
    VP8StatusCode, WebPAnimDecoder, WebPAnimDecoderDelete, WebPAnimDecoderGetNext, WebPAnimDecoderNew,
    WebPAnimDecoderOptions, WebPAnimDecoderOptionsInit, WebPBitstreamFeatures, WebPData, WebPDecodeRGBAInto,
    WebPGetFeatures,
};

use super::probe::{Format, Header, check_size};
use super::{Error, Rgbx};

/// Format and size from the first chunks.
pub(super) fn header(bytes: &[u8]) -> Result<Header, Error> {
    let features = features(bytes)?;
    Ok(Header {
        format: Format::WebP,
        width: features.width as usize,
        height: features.height as usize,
        // An animation's decoder holds two canvases; a lossless image is held once beside the result.
        bytes_per_pixel: if features.has_animation != 0 { 16 } else { 8 },
    })
}

/// Decodes a whole file.
pub(super) fn decode(bytes: &[u8]) -> Result<Rgbx, Error> {
    let [b'R', b'I', b'F', b'F', a, b, c, d, ..] = *bytes else {
        return Err(Error::Truncated);
    };
    if bytes.len() < 8 + u32::from_le_bytes([a, b, c, d]) as usize {
        return Err(Error::Truncated);
    }
    let features = features(bytes)?;
    let (width, height) = (features.width as usize, features.height as usize);
    check_size(width, height)?;
    let mut image = Rgbx {
        width,
        height,
        data: vec![0; width * height * 4],
    };
    if features.has_animation != 0 {
        first_frame(bytes, &mut image.data)?;
        return Ok(image);
    }
    // SAFETY: the library reads `bytes` and writes at most the given length of `data`; it checks that rows of this
    // stride fit there.
    let done = unsafe {
        WebPDecodeRGBAInto(
            bytes.as_ptr(),
            bytes.len(),
            image.data.as_mut_ptr(),
            image.data.len(),
            (width * 4) as i32,
        )
    };
    if done.is_null() {
        return Err(damaged("the image data"));
    }
    Ok(image)
}

fn features(bytes: &[u8]) -> Result<WebPBitstreamFeatures, Error> {
    let mut features = MaybeUninit::<WebPBitstreamFeatures>::zeroed();
    // SAFETY: the library reads `bytes` and fills `features`, integers for which zero is a value.
    let (status, features) = unsafe {
        let status = WebPGetFeatures(bytes.as_ptr(), bytes.len(), features.as_mut_ptr());
        (status, features.assume_init())
    };
    match status {
        VP8StatusCode::VP8_STATUS_OK => Ok(features),
        VP8StatusCode::VP8_STATUS_NOT_ENOUGH_DATA => Err(Error::Truncated),
        _ => Err(damaged("the header")),
    }
}

fn damaged(what: &str) -> Error {
    Error::Damaged {
        format: "WebP",
        message: format!("{what} cannot be decoded"),
    }
}

/// The library's decoder of animations, deleted on every path.
struct Animation(*mut WebPAnimDecoder);

impl Drop for Animation {
    fn drop(&mut self) {
        // SAFETY: made by `WebPAnimDecoderNew`, deleted once; null is allowed.
        unsafe { WebPAnimDecoderDelete(self.0) };
    }
}

/// The canvas after the first frame, RGBA, into `out`, which is as large as the canvas.
fn first_frame(bytes: &[u8], out: &mut [u8]) -> Result<(), Error> {
    let mut options = MaybeUninit::<WebPAnimDecoderOptions>::zeroed();
    let data = WebPData {
        bytes: bytes.as_ptr(),
        size: bytes.len(),
    };
    // SAFETY: `options` is filled before it is read; `bytes` outlives the decoder; the frame belongs to the decoder,
    // has the size of the canvas (that of `features`, from which `out` was made) and is copied before it goes.
    unsafe {
        if WebPAnimDecoderOptionsInit(options.as_mut_ptr()) == 0 {
            return Err(damaged("the animation"));
        }
        let animation = Animation(WebPAnimDecoderNew(&raw const data, options.as_ptr()));
        if animation.0.is_null() {
            return Err(damaged("the animation"));
        }
        let mut info = MaybeUninit::zeroed();
        if libwebp_sys::WebPAnimDecoderGetInfo(animation.0, info.as_mut_ptr()) == 0 {
            return Err(damaged("the animation"));
        }
        let info: libwebp_sys::WebPAnimInfo = info.assume_init();
        let canvas = info.canvas_width as usize * info.canvas_height as usize * 4;
        let (mut frame, mut timestamp) = (std::ptr::null_mut(), 0);
        if canvas != out.len() || WebPAnimDecoderGetNext(animation.0, &mut frame, &mut timestamp) == 0 {
            return Err(damaged("the first frame"));
        }
        out.copy_from_slice(std::slice::from_raw_parts(frame, canvas));
    }
    Ok(())
}
