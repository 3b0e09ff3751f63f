//! Writing, one array after the other, as large as the disk.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use fs_err::File;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::header::{Dtype, Header, MAGIC};
use super::{Error, Result};

/// Values that are turned into bytes at a time.
const CONVERTED_AT_ONCE: usize = 1 << 16;

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

    /// Writes a whole f32 array.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn array_f32(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Result<()> {
        self.start(
            name,
            &Header {
                dtype: Dtype::F32,
                shape: shape.to_vec(),
            },
        )?;
        let mut bytes = Vec::new();
        for values in values.chunks(CONVERTED_AT_ONCE) {
            bytes.clear();
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            self.write(&bytes)?;
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
