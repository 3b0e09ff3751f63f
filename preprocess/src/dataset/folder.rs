//! Image files in class subfolders, or all in one folder.

use std::path::Path;

use rayon::prelude::*;

use super::container::files::{Files, Layout};
use super::{Collection, Error, Listing, Transform, is_image_name};

/// Lists `root`. With image files in subfolders each such subfolder is a class; without, all images are of one. The
/// order is canonical: class folders, then file names, compared bytewise; keys are paths below the root.
///
/// # Errors
/// When the folder cannot be read or holds no image.
pub fn open(root: &Path) -> Result<Collection, Error> {
    let (mut class_names, mut listing) = (Vec::new(), Listing::default());
    for (class, files) in class_folders(root)? {
        for name in files {
            listing.push(&format!("{class}/{name}"), class_names.len() as i32);
        }
        class_names.push(class);
    }
    let mut container = "class folders";
    if listing.is_empty() {
        container = "a folder of images";
        class_names.push("all".into());
        names(root, Kind::Images)?
            .iter()
            .for_each(|name| listing.push(name, 0));
    }
    if listing.is_empty() {
        return Err(Error::NoImages {
            path: root.to_path_buf(),
        });
    }
    Ok(Collection {
        container,
        listing: listing.in_storage_order()?,
        class_names,
        transform: Transform::AdmCenterCrop,
        images: Box::new(Files::new(root, Layout::AsKeys)),
    })
}

/// The subfolders that hold images, with the images' names, all sorted.
pub(super) fn class_folders(root: &Path) -> Result<Vec<(String, Vec<String>)>, Error> {
    let listed: Vec<_> = names(root, Kind::Folders)?
        .into_par_iter()
        .map(|class| {
            let files = names(&root.join(&class), Kind::Images)?;
            Ok((class, files))
        })
        .collect::<Result<_, Error>>()?;
    Ok(listed
        .into_iter()
        .filter(|(_, files)| !files.is_empty())
        .collect())
}

/// What to look for in a folder.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Folders,
    Images,
    Files,
}

/// The sorted names of what a folder holds. Hidden ones are left out; links are followed.
pub(super) fn names(folder: &Path, wanted: Kind) -> Result<Vec<String>, Error> {
    let mut all = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        let mut kind = entry.file_type()?;
        if kind.is_symlink() {
            let Ok(target) = fs_err::metadata(entry.path()) else {
                continue;
            };
            kind = target.file_type();
        }
        let name = entry.file_name();
        let fits = match wanted {
            Kind::Folders => kind.is_dir(),
            Kind::Files => kind.is_file(),
            Kind::Images => kind.is_file() && name.to_str().is_none_or(is_image_name),
        };
        if !fits {
            continue;
        }
        let Ok(name) = name.into_string() else {
            if wanted == Kind::Images && !is_image_name(&entry.path().to_string_lossy()) {
                continue;
            }
            return Err(Error::Name { path: entry.path() });
        };
        if !name.starts_with('.') {
            all.push(name);
        }
    }
    all.sort_unstable();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_folders_and_files_are_sorted_bytewise() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "b/2.jpg",
            "b/10.png",
            "a/z.WEBP",
            "a/notes.txt",
            "Z/x.jpeg",
            "empty/readme",
        ] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let folder = open(dir.path()).unwrap();
        let keys: Vec<_> = (0..folder.listing.len())
            .map(|i| (folder.listing.key(i), folder.listing.label(i)))
            .collect();
        assert_eq!(
            keys,
            [("Z/x.jpeg", 0), ("a/z.WEBP", 1), ("b/10.png", 2), ("b/2.jpg", 2)]
        );
        assert_eq!(folder.class_names, ["Z", "a", "b"]);
    }

    #[test]
    fn a_flat_folder_is_one_class_and_an_empty_one_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(open(dir.path()), Err(Error::NoImages { .. })));
        std::fs::write(dir.path().join("x.jpg"), "").unwrap();
        let folder = open(dir.path()).unwrap();
        assert_eq!((folder.listing.key(0), folder.listing.label(0)), ("x.jpg", 0));
        assert_eq!(folder.listing.len(), 1);
    }
}
