//! NumPy archives: the sample and reference files that ADM's evaluator reads.
//!
//! An `.npz` is a zip (stored or deflated, with 64-bit sizes) of `.npy` files. Images (`arr_0`, `[N, H, W, 3]` bytes)
//! are streamed, since 50,000 of them at 256 pixels are 9.8 GB; statistics (`mu`, `sigma`, `mu_s`, `sigma_s`) are read
//! whole, as f32 or f64.

mod header;
mod read;
mod write;

use std::path::{Path, PathBuf};

pub use header::{Dtype, Header};
pub use read::NpzReader;
pub use write::NpzWriter;

/// What can be wrong with an archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {what}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        what: String,
    },
}

impl Error {
    fn format(path: &Path, what: impl Into<String>) -> Self {
        Self::Format {
            path: path.to_owned(),
            what: what.into(),
        }
    }

    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use super::header::read_header;
    use super::*;

    fn header(dtype: Dtype, shape: &[usize]) -> Header {
        Header {
            dtype,
            shape: shape.to_vec(),
        }
    }

    #[test]
    fn images_and_statistics_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npz");
        let bytes: Vec<u8> = (0..5 * 2 * 3 * 3).map(|i| i as u8).collect();
        let mut writer = NpzWriter::create(&path).unwrap();
        writer.start("arr_0", &header(Dtype::U8, &[5, 2, 3, 3])).unwrap();
        writer.write(&bytes).unwrap();
        writer.array_f64("mu", &[2], [1.5, -2.0].into_iter()).unwrap();
        writer.finish().unwrap();

        let mut reader = NpzReader::open(&path).unwrap();
        assert!(reader.has("mu") && !reader.has("sigma"));
        assert_eq!(reader.read_f64("mu").unwrap(), (vec![2], vec![1.5, -2.0]));
        let mut seen = Vec::new();
        let mut sizes = Vec::new();
        reader
            .visit_images("arr_0", 2, 4, |images| {
                sizes.push(images.len());
                assert!(images.iter().all(|image| image.width == 3 && image.height == 2));
                seen.extend(images.into_iter().flat_map(|image| image.data));
                Ok::<(), Error>(())
            })
            .unwrap();
        assert_eq!(sizes, [2, 2]);
        assert_eq!(seen, bytes[..4 * 18]);
    }

    #[test]
    fn both_header_versions_and_single_precision_are_read() {
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }\n";
        let mut second = b"\x93NUMPY\x02\x00".to_vec();
        second.extend((text.len() as u32).to_le_bytes());
        second.extend(text.as_bytes());
        let found = read_header(&mut &second[..], Path::new("x"), "a").unwrap();
        assert_eq!(found, header(Dtype::F32, &[3]));
    }

    #[test]
    fn damaged_arrays_are_errors() {
        let fortran = "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 2), }\n";
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((fortran.len() as u16).to_le_bytes());
        bytes.extend(fortran.as_bytes());
        let message = read_header(&mut &bytes[..], Path::new("x"), "a")
            .unwrap_err()
            .to_string();
        assert!(message.contains("column-major"), "{message}");
        assert!(read_header(&mut &bytes[..12], Path::new("x"), "a").is_err());
        assert!(read_header(&mut &b"PK\x03\x04aaaa"[..], Path::new("x"), "a").is_err());
    }

    #[test]
    fn a_shape_that_promises_more_than_the_file_holds_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npz");
        let mut writer = NpzWriter::create(&path).unwrap();
        writer.start("mu", &header(Dtype::F64, &[1 << 40])).unwrap();
        writer.start("arr_0", &header(Dtype::U8, &[10, 4, 4, 3])).unwrap();
        writer.finish().unwrap();
        let mut reader = NpzReader::open(&path).unwrap();
        assert!(reader.read_f64("mu").is_err());
        assert!(
            reader
                .visit_images("arr_0", 4, 10, |_| Ok::<(), Error>(()))
                .is_err()
        );
        assert!(reader.image_shape("mu").is_err());
    }
}
