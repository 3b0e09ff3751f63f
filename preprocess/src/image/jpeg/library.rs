//! The one place that calls the JPEG library (mozjpeg's decoder, which is libjpeg-turbo's, with its defaults).
//!
//! The library reports a fatal error by a function that must not return. Ours unwinds through the C frames, which
//! are compiled with unwind tables, to the `catch_unwind` of [`decode`]; every pointer handed to the library lives in
//! the [`Decoder`], whose drop frees the library's memory on that path too.
#![expect(unsafe_code, reason = "the JPEG library is C")]

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use mozjpeg_sys::{
    J_COLOR_SPACE, jpeg_CreateDecompress, jpeg_common_struct, jpeg_decompress_struct,
    jpeg_destroy_decompress, jpeg_error_mgr, jpeg_mem_src, jpeg_read_header, jpeg_read_scanlines,
    jpeg_start_decompress, jpeg_std_error,
};

use super::super::probe::check_size;
use super::super::{Error, Rgbx};

/// What unwinds out of the library.
struct Abort(Error);

/// Decodes a JPEG file of one, three or four components.
pub(super) fn decode(bytes: &[u8]) -> Result<Rgbx, Error> {
    match catch_unwind(AssertUnwindSafe(|| Decoder::new().decode(bytes))) {
        Ok(result) => result,
        Err(payload) => match payload.downcast::<Abort>() {
            Ok(abort) => Err(abort.0),
            Err(other) => resume_unwind(other),
        },
    }
}

/// The library's state and its error handler, at fixed addresses.
struct Decoder {
    state: Box<jpeg_decompress_struct>,
    _errors: Box<jpeg_error_mgr>,
}

impl Decoder {
    fn new() -> Self {
        let mut errors = Box::new(MaybeUninit::<jpeg_error_mgr>::zeroed());
        // SAFETY: all fields are integers, pointers and optional functions, for which zero is a value.
        let mut errors = unsafe {
            errors.as_mut_ptr().write_bytes(0, 1);
            errors.assume_init()
        };
        let mut state = Box::new(MaybeUninit::<jpeg_decompress_struct>::zeroed());
        // SAFETY: `jpeg_CreateDecompress` expects uninitialised memory with `err` set and fills the rest; both boxes
        // stay at their addresses until `drop`.
        unsafe {
            jpeg_std_error(&mut errors);
            errors.error_exit = Some(fail);
            errors.output_message = Some(keep_silent);
            let pointer = state.as_mut_ptr();
            (*pointer).common.err = &raw mut *errors;
            let version = mozjpeg_sys::JPEG_LIB_VERSION as c_int;
            jpeg_CreateDecompress(pointer, version, size_of::<jpeg_decompress_struct>());
            Self {
                state: state.assume_init(),
                _errors: errors,
            }
        }
    }

    fn decode(mut self, bytes: &[u8]) -> Result<Rgbx, Error> {
        // SAFETY: `bytes` outlives `self`; the calls come in the order that the library asks for, and each row handed
        // to `jpeg_read_scanlines` has room for `output_width * output_components` bytes.
        unsafe {
            jpeg_mem_src(&mut self.state, bytes.as_ptr(), bytes.len() as _);
            if let Some(source) = self.state.src.as_mut() {
                source.fill_input_buffer = Some(data_end);
            }
            jpeg_read_header(&mut self.state, 1);
            let (width, height) = (self.state.image_width as usize, self.state.image_height as usize);
            check_size(width, height)?;
            let components = match self.state.out_color_space {
                J_COLOR_SPACE::JCS_GRAYSCALE => 1,
                J_COLOR_SPACE::JCS_RGB => {
                    self.state.out_color_space = J_COLOR_SPACE::JCS_EXT_RGBX;
                    4
                }
                J_COLOR_SPACE::JCS_CMYK => 4,
                _ => return Err(Error::Jpeg(format!("{} components", self.state.num_components))),
            };
            let cmyk = self.state.out_color_space as u32 == J_COLOR_SPACE::JCS_CMYK as u32;
            jpeg_start_decompress(&mut self.state);
            let told = (
                self.state.output_width,
                self.state.output_height,
                self.state.output_components,
            );
            if told != (width as u32, height as u32, components as c_int) {
                return Err(Error::Jpeg(
                    "the library's output size differs from the header's".into(),
                ));
            }
            let mut data = vec![0u8; width * height * components];
            let stride = width * components;
            while self.state.output_scanline < self.state.output_height {
                let next = self.state.output_scanline as usize;
                let count = (height - next).min(4);
                let mut rows = [std::ptr::null_mut(); 4];
                for (row, part) in rows
                    .iter_mut()
                    .zip(data[next * stride..].chunks_exact_mut(stride))
                {
                    *row = part.as_mut_ptr();
                }
                if jpeg_read_scanlines(&mut self.state, rows.as_mut_ptr(), count as u32) == 0 {
                    return Err(Error::Truncated);
                }
            }
            Ok(Rgbx {
                width,
                height,
                data: to_rgbx(data, components, cmyk),
            })
        }
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: created by `jpeg_CreateDecompress`, destroyed once.
        unsafe { jpeg_destroy_decompress(&mut self.state) };
    }
}

/// Grey is replicated; CMYK is taken as inverted (Adobe's way), as Pillow takes it whatever the file says.
fn to_rgbx(mut data: Vec<u8>, components: usize, cmyk: bool) -> Vec<u8> {
    if components == 1 {
        return data.iter().flat_map(|&g| [g, g, g, 0]).collect();
    }
    if cmyk {
        for pixel in data.chunks_exact_mut(4) {
            let key = u32::from(pixel[3]);
            for ink in &mut pixel[..3] {
                let t = (255 - u32::from(*ink)) * key + 128;
                *ink = key.saturating_sub(((t >> 8) + t) >> 8) as u8;
            }
        }
    }
    data
}

/// Reads the library's message and unwinds.
unsafe extern "C-unwind" fn fail(state: &mut jpeg_common_struct) {
    type Format = unsafe extern "C-unwind" fn(*mut jpeg_common_struct, *mut u8);
    let mut text = [0u8; 256];
    // SAFETY: `err` was set by `Decoder::new`. The library's function writes at most 200 bytes (JMSG_LENGTH_MAX); the
    // binding's type says an immutable array of 80, so that it is called by the type that the C header gives.
    unsafe {
        if let Some(format) = (*state.err).format_message {
            let format = std::mem::transmute::<*const (), Format>(format as *const ());
            format(state, text.as_mut_ptr());
        }
    }
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    resume_unwind(Box::new(Abort(Error::Jpeg(
        String::from_utf8_lossy(&text[..end]).into_owned(),
    ))));
}

/// Asked for more data than there are.
unsafe extern "C-unwind" fn data_end(_: &mut jpeg_decompress_struct) -> c_int {
    resume_unwind(Box::new(Abort(Error::Truncated)));
}

/// Warnings are not printed.
unsafe extern "C-unwind" fn keep_silent(_: &mut jpeg_common_struct) {}
