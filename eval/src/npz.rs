//! NumPy archives: the sample and reference files that ADM's evaluator reads.
//!
//! An `.npz` is a zip (stored or deflated, with 64-bit sizes) of `.npy` files. Images (`arr_0`, `[N, H, W, 3]` bytes)
//! are streamed, since 50,000 of them at 256 pixels are 9.8 GB; statistics (`mu`, `sigma`, `mu_s`, `sigma_s`) are read
//! whole, as f32 or f64.

use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use fs_err::File;
use preprocess::image::RgbImage;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::error::{Error, Result};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Longest `.npy` header that is read; real ones have about 120 bytes.
const MAX_HEADER: usize = 1 << 16;

/// Element type of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// Bytes.
    U8,
    /// Little-endian 64-bit integers.
    I64,
    /// Little-endian single precision.
    F32,
    /// Little-endian double precision.
    F64,
}

impl Dtype {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "|u1" | "<u1" | "u1" => Some(Self::U8),
            "<i8" => Some(Self::I64),
            "<f4" => Some(Self::F32),
            "<f8" => Some(Self::F64),
            _ => None,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::U8 => "|u1",
            Self::I64 => "<i8",
            Self::F32 => "<f4",
            Self::F64 => "<f8",
        }
    }

    fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }
}

/// What a `.npy` file says about its array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Element type.
    pub dtype: Dtype,
    /// Shape, row-major.
    pub shape: Vec<usize>,
}

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
        let archive = ZipArchive::new(BufReader::with_capacity(1 << 20, file))
            .map_err(|error| Error::format(path, format!("not an .npz archive ({error})")))?;
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
    /// If it is missing, cut short or of another type.
    pub fn read_f64(&mut self, name: &str) -> Result<(Vec<usize>, Vec<f64>)> {
        let path = self.path.clone();
        let mut entry = self.entry(name)?;
        let header = read_header(&mut entry, &path, name)?;
        let count = checked_count(&header, &path, name)?;
        let mut bytes = Vec::new();
        let size = (count as u64).saturating_mul(header.dtype.size() as u64);
        entry
            .take(size)
            .read_to_end(&mut bytes)
            .map_err(Error::io(&path))?;
        if bytes.len() as u64 != size {
            return Err(Error::format(&path, format!("`{name}` is cut short")));
        }
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
            .take(MAX_HEADER as u64)
            .read_to_end(&mut bytes)
            .map_err(Error::io(&path))?;
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

    /// Streams the first `limit` images of array `name` through `visit`, `batch` at a time.
    ///
    /// # Errors
    /// If the array is not `[N, H, W, 3]` bytes or is cut short, or if `visit` fails.
    pub fn visit_images(
        &mut self,
        name: &str,
        batch: usize,
        limit: usize,
        mut visit: impl FnMut(Vec<RgbImage>) -> Result<()>,
    ) -> Result<()> {
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
                    entry.read_exact(&mut data).map_err(Error::io(&path))?;
                    Ok(RgbImage { width, height, data })
                })
                .collect::<Result<Vec<_>>>()?;
            left -= images.len();
            visit(images)?;
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

fn checked_count(header: &Header, path: &Path, name: &str) -> Result<usize> {
    let count = header
        .shape
        .iter()
        .try_fold(1_usize, |product, &dim| product.checked_mul(dim));
    count
        .filter(|count| count.checked_mul(header.dtype.size()).is_some())
        .ok_or_else(|| {
            Error::format(
                path,
                format!("`{name}` claims an impossible shape {:?}", header.shape),
            )
        })
}

/// Reads the header of an `.npy` stream (format versions 1 to 3) and leaves the stream at the values.
fn read_header(reader: &mut impl Read, path: &Path, name: &str) -> Result<Header> {
    let bad = |what: &str| Error::format(path, format!("array `{name}`: {what}"));
    let mut start = [0; 8];
    reader.read_exact(&mut start).map_err(|_| bad("cut short"))?;
    if start[..6] != *MAGIC {
        return Err(bad("not in .npy format"));
    }
    let length = match start[6] {
        1 => {
            let mut length = [0; 2];
            reader.read_exact(&mut length).map_err(|_| bad("cut short"))?;
            usize::from(u16::from_le_bytes(length))
        }
        2 | 3 => {
            let mut length = [0; 4];
            reader.read_exact(&mut length).map_err(|_| bad("cut short"))?;
            u32::from_le_bytes(length) as usize
        }
        version => return Err(bad(&format!(".npy version {version} is not known"))),
    };
    if length > MAX_HEADER {
        return Err(bad("header is too long"));
    }
    let mut text = vec![0; length];
    reader.read_exact(&mut text).map_err(|_| bad("cut short"))?;
    let text = String::from_utf8_lossy(&text);
    let descr = quoted_after(&text, "'descr':").ok_or_else(|| bad("no `descr` in the header"))?;
    let dtype = Dtype::parse(descr).ok_or_else(|| bad(&format!("type `{descr}` is not read")))?;
    if text.replace(' ', "").contains("'fortran_order':True") {
        return Err(bad(
            "column-major order is not read; save with np.ascontiguousarray",
        ));
    }
    let shape = text
        .split_once("'shape':")
        .and_then(|(_, rest)| rest.split_once('('));
    let shape = shape
        .and_then(|(_, rest)| rest.split_once(')'))
        .ok_or_else(|| bad("no `shape` in the header"))?
        .0;
    let shape = shape
        .split(',')
        .map(str::trim)
        .filter(|dim| !dim.is_empty())
        .map(|dim| {
            dim.trim_end_matches('L')
                .parse()
                .map_err(|_| bad(&format!("dimension `{dim}`")))
        })
        .collect::<Result<Vec<usize>>>()?;
    Ok(Header { dtype, shape })
}

fn quoted_after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let rest = text.split_once(key)?.1.split_once('\'')?.1;
    Some(rest.split_once('\'')?.0)
}

/// Writes an archive; the file appears under its name when [`NpzWriter::finish`] is called.
pub struct NpzWriter {
    path: PathBuf,
    part: PathBuf,
    zip: ZipWriter<BufWriter<File>>,
}

impl NpzWriter {
    /// Starts the archive `path`.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part).map_err(Error::io(&part))?;
        Ok(Self {
            path: path.to_owned(),
            part,
            zip: ZipWriter::new(BufWriter::with_capacity(1 << 20, file)),
        })
    }

    /// Starts array `name`; its values follow through [`NpzWriter::write`], exactly as many as the header says.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn start(&mut self, name: &str, header: &Header) -> Result<()> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(true);
        self.zip
            .start_file(format!("{name}.npy"), options)
            .map_err(|error| Error::format(&self.part, error.to_string()))?;
        let dims: Vec<String> = header.shape.iter().map(|dim| format!("{dim},")).collect();
        let mut text = format!(
            "{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}",
            header.dtype.text(),
            dims.join(" ")
        );
        // Magic, version and length take 10 bytes; NumPy aligns the values to 64.
        while (text.len() + 11) % 64 != 0 {
            text.push(' ');
        }
        text.push('\n');
        let length =
            u16::try_from(text.len()).map_err(|_| Error::format(&self.part, "too many dimensions"))?;
        self.write(MAGIC)?;
        self.write(&[1, 0])?;
        self.write(&length.to_le_bytes())?;
        self.write(text.as_bytes())
    }

    /// Appends bytes to the array started last.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.zip.write_all(bytes).map_err(Error::io(&self.part))
    }

    /// Writes a whole f64 array.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn array_f64(
        &mut self,
        name: &str,
        shape: &[usize],
        values: impl Iterator<Item = f64>,
    ) -> Result<()> {
        self.start(
            name,
            &Header {
                dtype: Dtype::F64,
                shape: shape.to_vec(),
            },
        )?;
        for value in values {
            self.write(&value.to_le_bytes())?;
        }
        Ok(())
    }

    /// Writes a text as an array of bytes.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn text(&mut self, name: &str, text: &str) -> Result<()> {
        self.start(
            name,
            &Header {
                dtype: Dtype::U8,
                shape: vec![text.len()],
            },
        )?;
        self.write(text.as_bytes())
    }

    /// Closes the archive and gives it its name.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(self) -> Result<()> {
        let mut writer = self
            .zip
            .finish()
            .map_err(|error| Error::format(&self.part, error.to_string()))?;
        writer.flush().map_err(Error::io(&self.part))?;
        drop(writer);
        fs_err::rename(&self.part, &self.path).map_err(Error::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
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
                Ok(())
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
        assert!(reader.visit_images("arr_0", 4, 10, |_| Ok(())).is_err());
        assert!(reader.image_shape("mu").is_err());
    }
}
