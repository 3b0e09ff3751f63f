//! LSUN (Yu et al. 2015, arXiv:1506.03365): one LMDB database a category and split, in a folder or as the zip archive
//! that is downloaded.

use std::path::{Path, PathBuf};

use super::container::Container;
use super::container::lmdb::Lmdb;
use super::container::lmdb_zip::{self, ZippedLmdb};
use super::container::streamed::Streamed;
use super::folder::{Kind, names};
use super::{Collection, Error, Listing, Transform, split_names};

/// Opens the database of `category` (`church_outdoor`, `bedroom`) at `path`: the archive, the folder of the database,
/// or a folder with either in it. Keys are the database's; all images are of one class.
///
/// # Errors
/// When there is none, or it is damaged.
pub(super) fn open(path: &Path, category: &str, split: &str) -> Result<Collection, Error> {
    let (container, mut keys, images): (_, Vec<String>, Box<dyn Container>) =
        match find(path, category, split)? {
            Place::Folder(folder) => {
                let database = Lmdb::open(&folder)?;
                let (mut keys, mut strange) = (Vec::new(), None);
                database.keys(|key| match str::from_utf8(key) {
                    Ok(key) => keys.push(key.to_owned()),
                    Err(_) => strange = Some(key.to_vec()),
                })?;
                if let Some(key) = strange {
                    return Err(unknown(
                        &folder,
                        format!("the key {key:02x?} is not text"),
                        category,
                        split,
                    ));
                }
                ("an LMDB database", keys, Box::new(database))
            }
            Place::Zip(archive, member) => {
                let mut database = ZippedLmdb::open(&archive, member)?;
                if database.is_stored() {
                    let images = database.ranges()?;
                    let keys = database.entries.into_iter().map(|(key, _)| key).collect();
                    ("an LMDB database in a zip archive", keys, Box::new(images))
                } else {
                    // Read in the order in which the values lie.
                    database.entries.sort_by_key(|(_, value)| value.offset);
                    let images = Streamed::new(database.stream());
                    let keys = database.entries.into_iter().map(|(key, _)| key).collect();
                    (
                        "an LMDB database in a deflated zip archive",
                        keys,
                        Box::new(images),
                    )
                }
            }
        };
    if keys.is_empty() {
        return Err(Error::NoImages {
            path: path.to_owned(),
        });
    }
    let mut listing = Listing::default();
    keys.drain(..).for_each(|key| listing.push(&key, 0));
    Ok(Collection {
        container,
        listing: listing.in_storage_order()?,
        class_names: vec![category.to_owned()],
        transform: Transform::LsunBoxCrop,
        images,
    })
}

enum Place {
    Folder(PathBuf),
    Zip(PathBuf, usize),
}

fn find(path: &Path, category: &str, split: &str) -> Result<Place, Error> {
    if fs_err::metadata(path)?.is_file() {
        if path.file_name().is_some_and(|name| name == "data.mdb") {
            return Ok(Place::Folder(path.parent().unwrap_or(Path::new(".")).to_owned()));
        }
        let member = lmdb_zip::find(path, category)?;
        let place = member.map(|member| Place::Zip(path.to_owned(), member));
        return place.ok_or_else(|| {
            unknown(
                path,
                "no database of the category is in it".into(),
                category,
                split,
            )
        });
    }
    if path.join("data.mdb").is_file() {
        return Ok(Place::Folder(path.to_owned()));
    }
    let stems: Vec<String> = split_names(split)
        .into_iter()
        .map(|split| format!("{category}_{split}_lmdb"))
        .collect();
    for folder in [path.to_owned(), path.join("lsun")] {
        for stem in &stems {
            if folder.join(stem).join("data.mdb").is_file() {
                return Ok(Place::Folder(folder.join(stem)));
            }
            let zip = folder.join(format!("{stem}.zip"));
            if zip.is_file() {
                return find(&zip, category, split);
            }
        }
    }
    // Renamed archives: the only one that names the category and the split.
    let fits = |name: &String| {
        name.ends_with(".zip")
            && name.contains(category)
            && split_names(split).iter().any(|split| name.contains(split))
    };
    let zips: Vec<String> = names(path, Kind::Files)?.into_iter().filter(fits).collect();
    match zips.as_slice() {
        [only] => find(&path.join(only), category, split),
        _ => Err(unknown(
            path,
            format!("no LMDB database of LSUN's `{category}`, split `{split}`"),
            category,
            split,
        )),
    }
}

fn unknown(path: &Path, what: String, category: &str, split: &str) -> Error {
    Error::Unknown {
        path: path.to_owned(),
        what,
        hint: format!(
            "looked for {category}_{split}_lmdb (a folder with data.mdb) and {category}_{split}_lmdb.zip"
        ),
    }
}
