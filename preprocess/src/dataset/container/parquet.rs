//! Images in a column of parquet files, as Hugging Face's datasets keep them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::guard::guarded;
use super::streamed::Streaming;

/// Rows that are decoded together.
const BATCH: usize = 16;
/// Names that a column of images has, the first found is taken.
const IMAGE_NAMES: [&str; 5] = ["image", "img", "jpg", "webp", "png"];
/// Names that a column of classes has.
const LABEL_NAMES: [&str; 6] = ["label", "labels", "cls", "class", "fine_label", "target"];

/// What a row tells without its image.
#[derive(Debug)]
pub(crate) struct Row {
    /// The image's own path or name.
    pub(crate) path: Option<String>,
    pub(crate) label: Option<i64>,
}

/// The files and where each row group starts.
#[derive(Debug)]
pub(crate) struct Files {
    files: Vec<PathBuf>,
    groups: Vec<Group>,
    rows: usize,
    image: String,
    /// Names of the classes, by label, where the files tell them.
    pub(crate) class_names: Vec<String>,
}

#[derive(Debug)]
struct Group {
    file: usize,
    number: usize,
    /// The position of its first row.
    start: usize,
    rows: usize,
}

/// Reads what the files hold besides images; `row` is called for each, in order.
///
/// # Errors
/// When a file is no parquet file, or has no column of images.
pub(crate) fn list(files: Vec<PathBuf>, mut row: impl FnMut(usize, Row)) -> io::Result<Files> {
    let mut all = Files {
        files,
        groups: Vec::new(),
        rows: 0,
        image: String::new(),
        class_names: Vec::new(),
    };
    for file in 0..all.files.len() {
        let path = all.files[file].clone();
        guarded(&path, || list_file(&mut all, file, &path, &mut row))?;
    }
    Ok(all)
}

/// Adds the rows of one file.
fn list_file(all: &mut Files, file: usize, path: &Path, row: &mut impl FnMut(usize, Row)) -> io::Result<()> {
    let reader = open(path)?;
    let columns = Columns::find(path, &reader)?;
    if file == 0 {
        all.image.clone_from(&columns.image);
        all.class_names = class_names(&reader, columns.label.as_deref());
    } else if all.image != columns.image {
        let what = format!(
            "the images are in column `{}`, in the first file in `{}`",
            columns.image, all.image
        );
        return Err(damaged(path, what));
    }
    for number in 0..reader.num_row_groups() {
        let rows = reader.metadata().row_group(number).num_rows() as usize;
        let texts = match &columns.path {
            Some(name) => column::<ByteArrayType>(path, &reader, number, name)?.rest(path, rows)?,
            None => vec![None; rows],
        };
        let labels = labels(path, &reader, number, columns.label.as_deref(), rows)?;
        for (text, label) in texts.into_iter().zip(labels) {
            let text = text.and_then(|text| String::from_utf8(text.data().to_vec()).ok());
            row(
                file,
                Row {
                    path: text.filter(|text| !text.is_empty()),
                    label,
                },
            );
        }
        let start = all.rows;
        all.rows += rows;
        all.groups.push(Group {
            file,
            number,
            start,
            rows,
        });
    }
    Ok(())
}

/// Rows of a file, by its footer.
pub(crate) fn rows(path: &Path) -> io::Result<u64> {
    let rows = guarded(path, || Ok(open(path)?.metadata().file_metadata().num_rows()))?;
    u64::try_from(rows).map_err(|_| damaged(path, format!("{rows} rows")))
}

fn labels(
    path: &Path,
    reader: &SerializedFileReader<File>,
    group: usize,
    name: Option<&str>,
    rows: usize,
) -> io::Result<Vec<Option<i64>>> {
    use parquet::basic::Type;
    use parquet::data_type::{Int32Type, Int64Type};
    let Some(name) = name else {
        return Ok(vec![None; rows]);
    };
    match physical(reader, name) {
        Some(Type::INT64) => column::<Int64Type>(path, reader, group, name)?.rest(path, rows),
        Some(Type::INT32) => {
            let all = column::<Int32Type>(path, reader, group, name)?.rest(path, rows)?;
            Ok(all.into_iter().map(|label| label.map(i64::from)).collect())
        }
        _ => Err(damaged(
            path,
            format!("the column `{name}` holds no whole numbers"),
        )),
    }
}

/// The columns that matter, by their dotted paths.
struct Columns {
    image: String,
    path: Option<String>,
    label: Option<String>,
}

impl Columns {
    fn find(path: &Path, reader: &SerializedFileReader<File>) -> io::Result<Self> {
        let schema = reader.metadata().file_metadata().schema_descr();
        let names: Vec<String> = schema
            .columns()
            .iter()
            .map(|column| column.path().string())
            .collect();
        let has = |name: &str| names.iter().any(|other| other == name);
        let image = IMAGE_NAMES
            .iter()
            .flat_map(|name| [format!("{name}.bytes"), (*name).to_owned()])
            .find(|name| has(name));
        let Some(image) = image else {
            let what = format!(
                "no column of images: looked for {}, found {}",
                IMAGE_NAMES.join(", "),
                names.join(", ")
            );
            return Err(damaged(path, what));
        };
        let own = image.strip_suffix("bytes").map(|stem| format!("{stem}path"));
        let beside = ["path", "file_name", "filename", "key", "__key__"].map(String::from);
        Ok(Self {
            path: own.into_iter().chain(beside).find(|name| has(name)),
            label: LABEL_NAMES.into_iter().map(String::from).find(|name| has(name)),
            image,
        })
    }
}

fn open(path: &Path) -> io::Result<SerializedFileReader<File>> {
    let file = fs_err::File::open(path)?.into_parts().0;
    SerializedFileReader::new(file).map_err(|error| parquet_error(path, &error))
}

fn physical(reader: &SerializedFileReader<File>, name: &str) -> Option<parquet::basic::Type> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let column = schema
        .columns()
        .iter()
        .find(|column| column.path().string() == name)?;
    Some(column.physical_type())
}

/// A column of one row group, value by value.
struct Column<T: DataType> {
    reader: ColumnReaderImpl<T>,
    /// The level of a value that is there.
    defined: i16,
}

fn column<T: DataType>(
    path: &Path,
    reader: &SerializedFileReader<File>,
    group: usize,
    name: &str,
) -> io::Result<Column<T>> {
    let failed = |error: ParquetError| parquet_error(path, &error);
    let schema = reader.metadata().file_metadata().schema_descr();
    let found = schema
        .columns()
        .iter()
        .position(|column| column.path().string() == name);
    let Some(number) = found else {
        return Err(damaged(path, format!("there is no column `{name}`")));
    };
    let descriptor = schema.column(number);
    if descriptor.physical_type() != T::get_physical_type() || descriptor.max_rep_level() != 0 {
        return Err(damaged(
            path,
            format!("the column `{name}` is of another type than expected"),
        ));
    }
    let any: ColumnReader = reader
        .get_row_group(group)
        .map_err(failed)?
        .get_column_reader(number)
        .map_err(failed)?;
    let typed = T::get_column_reader(any)
        .ok_or_else(|| damaged(path, format!("the column `{name}` cannot be read")))?;
    Ok(Column {
        reader: typed,
        defined: descriptor.max_def_level(),
    })
}

impl<T: DataType> Column<T> {
    /// The next `count` values, `None` for nulls.
    fn take(&mut self, path: &Path, count: usize) -> io::Result<Vec<Option<T::T>>> {
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        let (records, _, _) = self
            .reader
            .read_records(count, Some(&mut levels), None, &mut values)
            .map_err(|error| parquet_error(path, &error))?;
        if records != count {
            return Err(damaged(path, format!("{records} rows where {count} should be")));
        }
        if self.defined == 0 {
            return Ok(values.into_iter().map(Some).collect());
        }
        let mut values = values.into_iter();
        Ok(levels
            .into_iter()
            .map(|level| {
                if level == self.defined {
                    values.next()
                } else {
                    None
                }
            })
            .collect())
    }

    /// All `rows` values of the group.
    fn rest(mut self, path: &Path, rows: usize) -> io::Result<Vec<Option<T::T>>> {
        let mut all = Vec::with_capacity(rows);
        while all.len() < rows {
            all.extend(self.take(path, (rows - all.len()).min(1024))?);
        }
        Ok(all)
    }
}

/// Names of the classes, from the description that Hugging Face's library leaves in the file.
fn class_names(reader: &SerializedFileReader<File>, label: Option<&str>) -> Vec<String> {
    let read = || {
        let entries = reader.metadata().file_metadata().key_value_metadata()?;
        let text = entries
            .iter()
            .find(|entry| entry.key == "huggingface")?
            .value
            .as_deref()?;
        let value: serde_json::Value = serde_json::from_str(text).ok()?;
        let names = value["info"]["features"][label?]["names"].as_array()?.clone();
        Some(
            names
                .iter()
                .filter_map(|name| Some(name.as_str()?.to_owned()))
                .collect(),
        )
    };
    read().unwrap_or_default()
}

/// The images of the files, row by row.
pub(crate) struct Images {
    files: Arc<Files>,
    /// Group, rows of it that are left unread, its column.
    current: Option<(usize, usize, Column<ByteArrayType>)>,
    ready: std::collections::VecDeque<Option<ByteArray>>,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl Images {
    pub(crate) fn new(files: Files) -> Self {
        Self {
            files: Arc::new(files),
            current: None,
            ready: std::collections::VecDeque::new(),
        }
    }

    fn open_group(&mut self, group: usize) -> io::Result<()> {
        let Some(Group {
            file, number, rows, ..
        }) = self.files.groups.get(group)
        else {
            return Err(io::Error::other("a row after the last"));
        };
        let path = &self.files.files[*file];
        let column = column(path, &open(path)?, *number, &self.files.image)?;
        self.ready.clear();
        self.current = Some((group, *rows, column));
        Ok(())
    }
}

impl Images {
    /// The file that a row, or the row group at hand, is in.
    fn path(&self, group: usize) -> PathBuf {
        let file = self.files.groups.get(group).map_or(0, |group| group.file);
        self.files.files[file].clone()
    }

    fn start(&mut self, group: usize, position: usize) -> io::Result<()> {
        self.open_group(group)?;
        let skip = position - self.files.groups[group].start;
        let path = &self.files.files[self.files.groups[group].file];
        if let Some((_, left, column)) = &mut self.current {
            let skipped = column
                .reader
                .skip_records(skip)
                .map_err(|error| parquet_error(path, &error))?;
            if skipped != skip {
                return Err(damaged(path, format!("{skipped} rows where {skip} should be")));
            }
            *left -= skip;
        }
        Ok(())
    }

    /// Decodes some rows.
    fn refill(&mut self) -> io::Result<()> {
        while self.ready.is_empty() {
            match &mut self.current {
                Some((group, left, column)) if *left > 0 => {
                    let path = &self.files.files[self.files.groups[*group].file];
                    let count = BATCH.min(*left);
                    self.ready.extend(column.take(path, count)?);
                    *left -= count;
                }
                Some((group, ..)) => {
                    let next = *group + 1;
                    self.open_group(next)?;
                }
                None => return Err(io::Error::other("no row was asked for")),
            }
        }
        Ok(())
    }
}

impl Streaming for Images {
    fn start_at(&mut self, position: usize) -> io::Result<usize> {
        let group = self
            .files
            .groups
            .partition_point(|group| group.start + group.rows <= position);
        self.current = None;
        guarded(&self.path(group), || self.start(group, position))?;
        Ok(position)
    }

    fn next(&mut self) -> io::Result<Vec<u8>> {
        if self.ready.is_empty() {
            let group = self.current.as_ref().map_or(0, |(group, ..)| *group);
            let path = self.path(group);
            let filled = guarded(&path, || self.refill());
            if filled.is_err() {
                self.current = None;
            }
            filled?;
        }
        // A null is no image: empty, for the decoder to refuse.
        let value = self.ready.pop_front().flatten();
        Ok(value.map(|value| value.data().to_vec()).unwrap_or_default())
    }
}

fn damaged(path: &Path, what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display()))
}

fn parquet_error(path: &Path, error: &ParquetError) -> io::Error {
    damaged(
        path,
        format!("as a parquet file: {error}\nhint: fetch the file again"),
    )
}
