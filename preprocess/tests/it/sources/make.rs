//! Makes containers.
#![expect(unsafe_code, reason = "LMDB maps its file")]

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::writer::SerializedFileWriter;

/// Files below `root`.
pub(super) fn folder<'a>(root: &Path, files: impl IntoIterator<Item = (String, &'a [u8])>) {
    for (name, bytes) in files {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// A tar archive in memory.
pub(super) fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    archive.into_inner().unwrap()
}

/// Rows of a parquet file: path, label, image.
pub(super) type Row = (Option<String>, i64, Vec<u8>);

/// A parquet file as Hugging Face's library writes them, with row groups of `group` rows.
pub(super) fn parquet(path: &Path, rows: &[Row], group: usize) {
    let schema = "message schema {
        optional group image { optional binary bytes; optional binary path (STRING); }
        optional int64 label;
    }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let properties = parquet::file::properties::WriterProperties::builder()
        .set_compression(parquet::basic::Compression::SNAPPY)
        .build();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    for rows in rows.chunks(group) {
        let mut out = writer.next_row_group().unwrap();
        let bytes: Vec<ByteArray> = rows.iter().map(|row| ByteArray::from(row.2.clone())).collect();
        let mut column = out.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&bytes, Some(&vec![2; rows.len()]), None)
            .unwrap();
        column.close().unwrap();
        let paths: Vec<ByteArray> = rows
            .iter()
            .filter_map(|row| row.0.as_deref())
            .map(ByteArray::from)
            .collect();
        let levels: Vec<i16> = rows
            .iter()
            .map(|row| if row.0.is_some() { 2 } else { 1 })
            .collect();
        let mut column = out.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&paths, Some(&levels), None)
            .unwrap();
        column.close().unwrap();
        let labels: Vec<i64> = rows.iter().map(|row| row.1).collect();
        let mut column = out.next_column().unwrap().unwrap();
        column
            .typed::<Int64Type>()
            .write_batch(&labels, Some(&vec![1; rows.len()]), None)
            .unwrap();
        column.close().unwrap();
        out.close().unwrap();
    }
    writer.close().unwrap();
}

/// An LMDB database with the given entries, after others were written and removed: its pages do not lie in order.
pub(super) fn lmdb(folder: &Path, entries: &[(String, Vec<u8>)]) {
    use heed::types::Bytes;
    std::fs::create_dir_all(folder).unwrap();
    let mut options = heed::EnvOpenOptions::new();
    options.map_size(64 << 20);
    // SAFETY: only this test uses the file.
    let env = unsafe { options.open(folder).unwrap() };
    let mut write = env.write_txn().unwrap();
    let database: heed::Database<Bytes, Bytes> = env.create_database(&mut write, None).unwrap();
    for number in 0..300u32 {
        database
            .put(&mut write, &number.to_be_bytes(), &vec![7; 100 * number as usize])
            .unwrap();
    }
    write.commit().unwrap();
    let mut write = env.write_txn().unwrap();
    for number in 0..300u32 {
        database.delete(&mut write, &number.to_be_bytes()).unwrap();
    }
    write.commit().unwrap();
    for chunk in entries.chunks(40) {
        let mut write = env.write_txn().unwrap();
        for (key, value) in chunk {
            database.put(&mut write, key.as_bytes(), value).unwrap();
        }
        write.commit().unwrap();
    }
    env.prepare_for_closing().wait();
}

/// A zip archive with one member.
pub(super) fn zip(path: &Path, name: &str, content: &[u8], deflated: bool) {
    let mut archive = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let method = if deflated {
        zip::CompressionMethod::Deflated
    } else {
        zip::CompressionMethod::Stored
    };
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    archive.start_file(name, options).unwrap();
    archive.write_all(content).unwrap();
    archive.finish().unwrap();
}
