//! Reading: whole statistics, streamed images.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use fs_err::File;
use zip::ZipArchive;

use super::header::{Dtype, Header, MAX_HEADER, checked_count, read_header};
use super::{Error, Result};
use crate::image::RgbImage;

/// An open archive.
pub struct NpzReader {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
}

impl NpzReader {
    /// Opens `path`.
    ///
    /// # Errors
    /// If it cannot be read or is not a zip.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let archive = ZipArchive::new(BufReader::with_capacity(1 << 20, file)).map_err(|error| {
            Error::format(
                path,
                format!("not an .npz archive, or cut short ({error}); fetch or make the file again"),
            )
        })?;
        Ok(Self {
            path: path.to_owned(),
            archive,
        })
    }

    /// Whether the archive holds array `name`.
    pub fn has(&mut self, name: &str) -> bool {
        self.archive.by_name(&format!("{name}.npy")).is_ok()
    }

    /// Shape and type of array `name`.
    ///
    /// # Errors
    /// If there is no such array or its header is damaged.
    pub fn header(&mut self, name: &str) -> Result<Header> {
        let path = self.path.clone();
        let mut entry = self.entry(name)?;
        read_header(&mut entry, &path, name)
    }

    /// A whole f32 or f64 array, as f64.
    ///
    /// # Errors
    /// If it is missing, cut short, damaged or of another type.
    pub fn read_f64(&mut self, name: &str) -> Result<(Vec<usize>, Vec<f64>)> {
        let path = self.path.clone();
        let mut entry = self.entry(name)?;
        let header = read_header(&mut entry, &path, name)?;
        let count = checked_count(&header, &path, name)?;
        let mut bytes = Vec::new();
        let size = (count as u64).saturating_mul(header.dtype.size() as u64);
        entry
            .by_ref()
            .take(size)
            .read_to_end(&mut bytes)
            .map_err(|error| damaged(&path, name, &error))?;
        if bytes.len() as u64 != size {
            return Err(Error::format(&path, format!("`{name}` is cut short")));
        }
        check_end(&mut entry, &path, name)?;
        let values = match header.dtype {
            Dtype::F32 => bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|chunk| f64::from(f32::from_le_bytes(*chunk)))
                .collect(),
            Dtype::F64 => bytes
                .as_chunks::<8>()
                .0
                .iter()
                .map(|chunk| f64::from_le_bytes(*chunk))
                .collect(),
            other => {
                let found = other.text();
                return Err(Error::format(
                    &path,
                    format!("`{name}` is {found}; f32 or f64 was expected"),
                ));
            }
        };
        Ok((header.shape, values))
    }

    /// [`NpzReader::read_f64`], rounded to f32.
    ///
    /// # Errors
    /// As [`NpzReader::read_f64`].
    pub fn read_f32(&mut self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let (shape, values) = self.read_f64(name)?;
        Ok((shape, values.into_iter().map(|value| value as f32).collect()))
    }

    /// A text that was stored as an array of bytes.
    ///
    /// # Errors
    /// If it is missing, not bytes, or impossibly long.
    pub fn read_text(&mut self, name: &str) -> Result<String> {
        let path = self.path.clone();
        let mut entry = self.entry(name)?;
        let header = read_header(&mut entry, &path, name)?;
        if header.dtype != Dtype::U8 || checked_count(&header, &path, name)? > MAX_HEADER {
            return Err(Error::format(&path, format!("`{name}` is not a text")));
        }
        let mut bytes = Vec::new();
        entry
            .by_ref()
            .take(MAX_HEADER as u64)
            .read_to_end(&mut bytes)
            .map_err(|error| damaged(&path, name, &error))?;
        check_end(&mut entry, &path, name)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Number, height and width of the images in array `name`.
    ///
    /// # Errors
    /// If it is not `[N, H, W, 3]` bytes.
    pub fn image_shape(&mut self, name: &str) -> Result<[usize; 3]> {
        let header = self.header(name)?;
        match header.shape[..] {
            [count, height, width, 3] if header.dtype == Dtype::U8 && height > 0 && width > 0 => {
                Ok([count, height, width])
            }
            _ => Err(Error::format(
                &self.path,
                format!(
                    "`{name}` is {} {:?}; images are bytes of shape [N, H, W, 3]",
                    header.dtype.text(),
                    header.shape
                ),
            )),
        }
    }

    /// Streams the first `limit` images of array `name` through `visit`, `batch` at a time. Whether a bit has flipped is known
    /// when all of them were read, and only then.
    ///
    /// # Errors
    /// If the array is not `[N, H, W, 3]` bytes, is cut short or damaged, or if `visit` fails.
    pub fn visit_images<E: From<Error>>(
        &mut self,
        name: &str,
        batch: usize,
        limit: usize,
        mut visit: impl FnMut(Vec<RgbImage>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let [count, height, width] = self.image_shape(name)?;
        let path = self.path.clone();
        let mut entry = self.entry(name)?;
        read_header(&mut entry, &path, name)?;
        let size = height.checked_mul(width).and_then(|pixels| pixels.checked_mul(3));
        let size = size
            .filter(|size| *size <= 1 << 30)
            .ok_or_else(|| Error::format(&path, "images are too large"))?;
        let mut left = count.min(limit);
        while left > 0 {
            let images = (0..batch.clamp(1, left))
                .map(|_| {
                    let mut data = vec![0; size];
                    entry
                        .read_exact(&mut data)
                        .map_err(|error| damaged(&path, name, &error))?;
                    Ok(RgbImage { width, height, data })
                })
                .collect::<Result<Vec<_>>>()?;
            left -= images.len();
            visit(images)?;
        }
        if limit >= count {
            check_end(&mut entry, &path, name)?;
        }
        Ok(())
    }

    fn entry(&mut self, name: &str) -> Result<impl Read> {
        let path = self.path.clone();
        self.archive
            .by_name(&format!("{name}.npy"))
            .map_err(|error| Error::format(&path, format!("array `{name}` cannot be read ({error})")))
    }
}

/// That nothing follows the values, and that the zip's checksum, which is compared at the end alone, is theirs.
fn check_end(entry: &mut impl Read, path: &Path, name: &str) -> Result<()> {
    match entry.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Error::format(
            path,
            format!("`{name}` holds more bytes than its shape says"),
        )),
        Err(error) => Err(damaged(path, name, &error)),
    }
}

fn damaged(path: &Path, name: &str, error: &std::io::Error) -> Error {
    Error::format(
        path,
        format!("`{name}` is cut short or damaged ({error}); fetch or make the file again"),
    )
}
