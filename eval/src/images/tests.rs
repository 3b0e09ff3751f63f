//! Image sets as they are seen.

use super::*;

/// Writes pictures of 2 x 1 pixels and answers the values of the first bytes, as they come.
fn seen(pictures: &[(&str, u8)]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    for (name, value) in pictures {
        let path = folder.path().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        let picture = RgbImage {
            width: 2,
            height: 1,
            data: vec![*value; 6],
        };
        fs_err::write(&path, crate::report::encode_png(&picture).unwrap()).unwrap();
    }
    fs_err::write(folder.path().join("notes.txt"), "x").unwrap();
    let source = ImageSource::open(folder.path()).unwrap();
    assert_eq!(source.count().unwrap(), pictures.len());
    let mut seen = Vec::new();
    source
        .visit(2, pictures.len(), |images| {
            seen.extend(images.iter().map(|image| image.data[0]));
            Ok(())
        })
        .unwrap();
    seen
}

#[test]
fn pictures_come_in_the_order_of_their_paths() {
    assert_eq!(seen(&[("b.png", 2), ("a.PNG", 1), ("c.png", 3)]), [1, 2, 3]);
}

#[test]
fn pictures_of_class_folders_come_shuffled() {
    let names: Vec<String> = (0..10).map(|i| format!("{}/{i}.png", i / 5)).collect();
    let pictures: Vec<(&str, u8)> = names.iter().map(String::as_str).zip(0..).collect();
    assert_eq!(seen(&pictures), [3, 8, 4, 6, 5, 0, 1, 9, 2, 7]);
}

/// An archive of `count` images of 3 x 2 pixels, each of one value.
fn archive(path: &Path, count: usize) -> ImageSource {
    let mut writer = crate::npz::NpzWriter::create(path).unwrap();
    let header = crate::npz::Header {
        dtype: crate::npz::Dtype::U8,
        shape: vec![count, 2, 3, 3],
    };
    writer.start(NPZ_IMAGES, &header).unwrap();
    for i in 0..count {
        writer.write(&[i as u8; 18]).unwrap();
    }
    writer.finish().unwrap();
    ImageSource::open(path).unwrap()
}

#[test]
fn an_archive_that_is_read_ahead_shows_the_same_batches() {
    let folder = tempfile::tempdir().unwrap();
    let source = archive(&folder.path().join("images.npz"), 23);
    for (batch, limit) in [(4, usize::MAX), (4, 10), (1, 23), (100, 5), (3, 0)] {
        let (mut plain, mut ahead) = (Vec::new(), Vec::new());
        let push = |to: &mut Vec<Vec<Vec<u8>>>, images: Vec<RgbImage>| {
            to.push(images.into_iter().map(|image| image.data).collect());
        };
        source
            .visit(batch, limit, |images| {
                push(&mut plain, images);
                Ok(())
            })
            .unwrap();
        source
            .visit_ahead(batch, limit, |images| {
                push(&mut ahead, images);
                Ok(())
            })
            .unwrap();
        assert_eq!(plain, ahead, "{batch} {limit}");
        assert_eq!(plain.iter().flatten().count(), limit.min(23));
    }
}

#[test]
fn errors_on_either_side_of_reading_ahead_are_told_and_end_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("images.npz");
    let source = archive(&path, 23);
    let mut seen = 0;
    let stopped = source.visit_ahead(2, usize::MAX, |images| {
        seen += images.len();
        if seen > 3 {
            return Err(Error::Input("enough".into()));
        }
        Ok(())
    });
    assert_eq!((stopped.unwrap_err().to_string().as_str(), seen), ("enough", 4));
    fs_err::write(&path, b"no archive").unwrap();
    assert!(source.visit_ahead(2, usize::MAX, |_| Ok(())).is_err());
}

#[test]
fn lossy_files_are_warned_of() {
    let warning = |names: &[&str]| {
        let source = ImageSource::Folder(names.iter().map(PathBuf::from).collect());
        source.compression_warning()
    };
    assert_eq!(warning(&["a.png", "b.PNG"]), None);
    assert!(warning(&["a.png", "b.JPG"]).unwrap().contains("(1 of 2)"));
}

#[test]
fn nothing_to_see_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert!(ImageSource::open(folder.path()).is_err());
    assert!(ImageSource::open(&folder.path().join("missing")).is_err());
}
