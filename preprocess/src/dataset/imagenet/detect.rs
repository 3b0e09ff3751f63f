//! Which of ImageNet's containers lies at a path.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::super::container::ranges::{Archive, Section};
use super::super::container::tar::members;
use super::super::folder::{Kind, class_folders, names};
use super::super::{Error, is_image_name, split_names};

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Folders named by WordNet ids.
    ClassFolders(PathBuf),
    /// The images of a split in one folder, without classes.
    FlatFolder(PathBuf),
    /// A tar archive of the classes' tar archives.
    ClassTars(PathBuf),
    /// The classes' tar archives in a folder.
    FolderOfClassTars(Vec<PathBuf>),
    /// A tar archive of images without classes.
    FlatTar(PathBuf),
    Parquet(Vec<PathBuf>),
    WebDataset(Vec<PathBuf>),
}

/// Looks at `path`, a file or a folder.
///
/// # Errors
/// When it holds nothing that is known.
pub(super) fn find(path: &Path, split: &str) -> Result<Place, Error> {
    if fs_err::metadata(path)?.is_file() {
        return file(path);
    }
    let splits = split_names(split);
    let below = ["", "ILSVRC", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC"].map(|sub| path.join(sub));
    for folder in below.iter().filter(|folder| folder.is_dir()) {
        // A folder of the split first: `path` itself may hold folders that look like classes and are splits.
        for folder in splits
            .iter()
            .map(|split| folder.join(split))
            .filter(|folder| folder.is_dir())
        {
            if let Some(place) = images_in(&folder)? {
                return Ok(place);
            }
        }
        for split in &splits {
            let tar = folder.join(format!("ILSVRC2012_img_{split}.tar"));
            if tar.is_file() {
                return file(&tar);
            }
        }
    }
    for (extension, place) in [
        ("parquet", Place::Parquet as fn(Vec<PathBuf>) -> Place),
        ("tar", Place::WebDataset),
    ] {
        if let Ok(files) = super::super::files_of_split(path, extension, split) {
            let first = files
                .first()
                .filter(|_| extension == "tar")
                .map(|path| file(path))
                .transpose()?;
            match first {
                Some(Place::WebDataset(_)) | None => return Ok(place(files)),
                Some(Place::FlatTar(tar)) if is_class_tar(&tar) => {
                    return Ok(Place::FolderOfClassTars(files));
                }
                Some(other) => return Ok(other),
            }
        }
    }
    if !path.join("train").is_dir()
        && let Some(place) = images_in(path)?
    {
        return Ok(place);
    }
    Err(Error::Unknown {
        path: path.to_owned(),
        what: format!("nothing of ImageNet's split `{split}` is here"),
        hint: format!(
            "looked for {0}/<WordNet id>/*.JPEG, ILSVRC2012_img_{0}.tar, {0}-*.parquet (also in data/) and \
             *{0}*.tar of WebDataset",
            splits[splits.len() / 2]
        ),
    })
}

fn images_in(folder: &Path) -> Result<Option<Place>, Error> {
    let tars: Vec<String> = names(folder, Kind::Files)?
        .into_iter()
        .filter(|name| is_class_tar(Path::new(name)))
        .collect();
    if !tars.is_empty() {
        return Ok(Some(Place::FolderOfClassTars(
            tars.iter().map(|name| folder.join(name)).collect(),
        )));
    }
    if names(folder, Kind::Folders)?
        .iter()
        .any(|name| super::is_wnid(name))
        || !class_folders(folder)?.is_empty()
    {
        return Ok(Some(Place::ClassFolders(folder.to_owned())));
    }
    Ok((!names(folder, Kind::Images)?.is_empty()).then(|| Place::FlatFolder(folder.to_owned())))
}

fn is_class_tar(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tar")
        && path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .is_some_and(super::is_wnid)
}

/// What a file is, by its first bytes and members.
fn file(path: &Path) -> Result<Place, Error> {
    let mut start = Vec::new();
    fs_err::File::open(path)?.take(262).read_to_end(&mut start)?;
    if start.starts_with(b"PAR1") {
        return Ok(Place::Parquet(vec![path.to_owned()]));
    }
    if start.get(257..262) != Some(b"ustar") {
        return Err(Error::Unknown {
            path: path.to_owned(),
            what: "neither a tar archive nor a parquet file".to_owned(),
            hint: "give the folder that the files lie in, or one of ImageNet's archives".to_owned(),
        });
    }
    let archive = Archive::open(path)?;
    // A megabyte tells: the first inner archive's header, or a few images.
    let first = first_names(&archive)?;
    let all_images = first.iter().all(|name| is_image_name(name));
    Ok(match first.first() {
        Some(name) if name.ends_with(".tar") => Place::ClassTars(path.to_owned()),
        Some(_) if all_images => Place::FlatTar(path.to_owned()),
        _ => Place::WebDataset(vec![path.to_owned()]),
    })
}

/// Names of the first few members.
fn first_names(archive: &std::sync::Arc<Archive>) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    let mut reader = tar::Archive::new(Section::whole(archive));
    for entry in reader.entries_with_seek()?.take(8) {
        let entry = entry?;
        if entry.header().entry_type().is_file() {
            names.push(entry.path()?.to_string_lossy().into_owned());
        }
    }
    if names.is_empty() {
        // Only folders, or a file that is no archive: the whole listing says.
        names.extend(
            members(Section::whole(archive))?
                .into_iter()
                .take(8)
                .map(|member| member.name),
        );
    }
    Ok(names)
}
