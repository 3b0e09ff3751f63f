//! Archives as they should be, and damaged ones.

use std::io::{Read, Seek, SeekFrom, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

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

/// An archive of `arr_0`, five images of 2 x 3 pixels, and `mu`, as zip `method` has it; and the images' bytes.
fn archive(path: &Path, method: CompressionMethod) -> Vec<u8> {
    let images: Vec<u8> = (0..5 * 18).map(|i| (i * 7) as u8).collect();
    let options = SimpleFileOptions::default().compression_method(method);
    let mut zip = ZipWriter::new(fs_err::File::create(path).unwrap());
    let mu: Vec<u8> = [0.5f32, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    for (name, descr, shape, values) in [
        ("arr_0.npy", "|u1", "(5, 2, 3, 3)", &images),
        ("mu.npy", "<f4", "(2,)", &mu),
    ] {
        zip.start_file(name, options).unwrap();
        zip.write_all(&npy(descr, shape)).unwrap();
        zip.write_all(values).unwrap();
    }
    zip.finish().unwrap();
    images
}

/// The head of an `.npy` file.
fn npy(descr: &str, shape: &str) -> Vec<u8> {
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

/// All of an archive's images and its `mu`.
fn read_all(path: &Path) -> Result<(Vec<u8>, Vec<f64>)> {
    let mut reader = NpzReader::open(path)?;
    let mut seen = Vec::new();
    reader.visit_images("arr_0", 2, usize::MAX, |images| {
        seen.extend(images.into_iter().flat_map(|image| image.data));
        Ok::<(), Error>(())
    })?;
    Ok((seen, reader.read_f64("mu")?.1))
}

#[test]
fn stored_and_deflated_archives_are_read() {
    let folder = tempfile::tempdir().unwrap();
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let path = folder.path().join("x.npz");
        let images = archive(&path, method);
        assert_eq!(read_all(&path).unwrap(), (images, vec![0.5, 3.0]));
    }
}

#[test]
fn a_flipped_bit_anywhere_in_the_values_and_a_cut_at_any_length_are_told() {
    let folder = tempfile::tempdir().unwrap();
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let path = folder.path().join("x.npz");
        archive(&path, method);
        let whole = read_all(&path).unwrap();
        let bytes = fs_err::read(&path).unwrap();
        let mut refused = 0;
        for i in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[i] ^= 4;
            fs_err::write(&path, &flipped).unwrap();
            // Dates and flags of the zip mean nothing here; whatever is read must be right.
            match read_all(&path) {
                Ok(read) => assert_eq!(read, whole, "{method:?}, byte {i}"),
                Err(error) => {
                    assert!(error.to_string().contains("x.npz"), "{error}");
                    refused += 1;
                }
            }
        }
        assert!(
            refused > bytes.len() / 2,
            "{method:?}: {refused} of {}",
            bytes.len()
        );
        for length in 0..bytes.len() {
            fs_err::write(&path, &bytes[..length]).unwrap();
            let message = read_all(&path).unwrap_err().to_string();
            assert!(
                message.contains("cut short"),
                "{method:?}, {length} bytes: {message}"
            );
        }
    }
}

#[test]
fn arrays_of_another_type_or_shape_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    for (descr, shape, expected) in [
        ("<f4", "(2, 4, 4, 3)", "[N, H, W, 3]"),
        ("|u1", "(2, 3, 4, 4)", "[N, H, W, 3]"),
        ("|u1", "(2, 4, 4)", "[N, H, W, 3]"),
        ("|O", "(2, 4, 4, 3)", "type `|O` is not read"),
        (">u2", "(2, 4, 4, 3)", "type `>u2` is not read"),
        ("|u1", "(2, 4, -4, 3)", "dimension `-4`"),
        ("|u1", "(1,)", "[N, H, W, 3]"),
    ] {
        let mut zip = ZipWriter::new(fs_err::File::create(&path).unwrap());
        zip.start_file("arr_0.npy", SimpleFileOptions::default()).unwrap();
        zip.write_all(&npy(descr, shape)).unwrap();
        zip.write_all(&[0; 4096]).unwrap();
        zip.finish().unwrap();
        let message = read_all(&path).unwrap_err().to_string();
        assert!(
            message.contains(expected) && message.contains("arr_0"),
            "{message}"
        );
    }
    let mut zip = ZipWriter::new(fs_err::File::create(&path).unwrap());
    zip.start_file("mu.npy", SimpleFileOptions::default()).unwrap();
    zip.write_all(&npy("<f8", "(2,)")).unwrap();
    zip.write_all(&[0; 24]).unwrap();
    zip.finish().unwrap();
    let message = NpzReader::open(&path)
        .unwrap()
        .read_f64("mu")
        .unwrap_err()
        .to_string();
    assert!(message.contains("more bytes than its shape"), "{message}");
}

/// Ours have 64-bit sizes whatever their length; this one needs them: 22,000 images of 256 pixels, of which the file holds
/// zeros (a hole), and statistics behind them.
#[test]
fn an_archive_of_more_than_4_gib_is_read_at_both_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.npz");
    let images = npy("|u1", "(22000, 256, 256, 3)");
    let hole = 22_000_u64 * 256 * 256 * 3;
    let mut mu = npy("<f8", "(1,)");
    mu.extend(2.5f64.to_le_bytes());
    let mut crc = flate2::Crc::new();
    crc.update(&mu);

    let mut file = fs_err::File::create(&path).unwrap();
    let image_bytes = images.len() as u64 + hole;
    let mut directory = Vec::new();
    for (name, crc, size, head) in [
        (b"arr_0.npy".as_slice(), 0, image_bytes, &images),
        (b"mu.npy", crc.sum(), mu.len() as u64, &mu),
    ] {
        let offset = file.stream_position().unwrap();
        // Version 4.5, no flags, stored, no date, checksum, 32-bit sizes that point to the extra field.
        let mut common = vec![45, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend(crc.to_le_bytes());
        common.extend([0xff; 8]);
        common.extend((name.len() as u16).to_le_bytes());
        let sizes = [size.to_le_bytes(), size.to_le_bytes()].concat();
        file.write_all(b"PK\x03\x04").unwrap();
        file.write_all(&common).unwrap();
        file.write_all(&[20, 0]).unwrap();
        file.write_all(name).unwrap();
        file.write_all(&[1, 0, 16, 0]).unwrap();
        file.write_all(&sizes).unwrap();
        file.write_all(head).unwrap();
        file.seek(SeekFrom::Current((size - head.len() as u64).cast_signed()))
            .unwrap();
        directory.extend(b"PK\x01\x02\x2d\x00");
        directory.extend(common);
        // Extra field of 28 bytes; no comment, disk 0, no attributes, the offset is in the extra field.
        directory.extend([28, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        directory.extend(name);
        directory.extend([1, 0, 24, 0]);
        directory.extend(sizes);
        directory.extend(offset.to_le_bytes());
    }
    let start = file.stream_position().unwrap();
    file.write_all(&directory).unwrap();
    // The end of a ZIP64 directory, its locator, and the end as it was of old.
    let mut end = b"PK\x06\x06".to_vec();
    end.extend(44u64.to_le_bytes());
    end.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    end.extend([2u64.to_le_bytes(), 2u64.to_le_bytes()].concat());
    end.extend([(directory.len() as u64).to_le_bytes(), start.to_le_bytes()].concat());
    end.extend(b"PK\x06\x07\x00\x00\x00\x00");
    end.extend((start + directory.len() as u64).to_le_bytes());
    end.extend([1, 0, 0, 0]);
    end.extend(b"PK\x05\x06");
    end.extend([0xff; 16]);
    end.extend([0, 0]);
    file.write_all(&end).unwrap();
    drop(file);
    assert!(fs_err::metadata(&path).unwrap().len() > 1 << 32);

    let mut reader = NpzReader::open(&path).unwrap();
    assert_eq!(reader.image_shape("arr_0").unwrap(), [22_000, 256, 256]);
    assert_eq!(reader.read_f64("mu").unwrap().1, [2.5]);
    let mut seen = 0;
    reader
        .visit_images("arr_0", 2, 4, |images| {
            assert!(images.iter().all(|image| image.data.iter().all(|v| *v == 0)));
            seen += images.len();
            Ok::<(), Error>(())
        })
        .unwrap();
    assert_eq!(seen, 4);
}

/// What is written has 64-bit sizes from the beginning: they are not known before the last image.
#[test]
fn our_archives_leave_room_for_64_bit_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    let mut writer = NpzWriter::create(&path).unwrap();
    writer.array_f64("mu", &[1], [1.0].into_iter()).unwrap();
    writer.finish().unwrap();
    let mut head = [0; 30 + 6 + 4];
    fs_err::File::open(&path).unwrap().read_exact(&mut head).unwrap();
    // Sizes that point to the extra field, whose first is that of ZIP64.
    assert_eq!((&head[18..26], &head[36..38]), (&[0xff; 8][..], &[1, 0][..]));
}
