//! Image files in class subfolders, or all in one folder.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::Error;

/// The files below a folder, in canonical order: class folders, then file names, compared bytewise.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    classes: Vec<String>,
    flat: bool,
    files: Vec<(u32, Box<str>)>,
}

impl Folder {
    /// Lists `root`. With image files in subfolders each such subfolder is a class; without, all images are of one.
    ///
    /// # Errors
    /// When the folder cannot be read or holds no image.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let mut folder = Self {
            root: root.to_path_buf(),
            classes: Vec::new(),
            flat: false,
            files: Vec::new(),
        };
        for class in names(root, false)? {
            let files = names(&root.join(&class), true)?;
            if !files.is_empty() {
                let label = folder.classes.len() as u32;
                folder
                    .files
                    .extend(files.into_iter().map(|name| (label, name.into_boxed_str())));
                folder.classes.push(class);
            }
        }
        if folder.files.is_empty() {
            folder.flat = true;
            folder.classes.push("all".into());
            folder.files.extend(
                names(root, true)?
                    .into_iter()
                    .map(|name| (0, name.into_boxed_str())),
            );
        }
        if folder.files.is_empty() {
            return Err(Error::NoImages {
                path: root.to_path_buf(),
            });
        }
        Ok(folder)
    }

    /// The number of files.
    #[expect(clippy::len_without_is_empty, reason = "an empty folder is not opened")]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// The path of file `i` below the root, with `/` between its parts.
    pub fn key(&self, i: usize) -> String {
        let (label, name) = &self.files[i];
        if self.flat {
            name.to_string()
        } else {
            format!("{}/{name}", self.classes[*label as usize])
        }
    }

    /// The whole path of file `i`.
    pub fn path(&self, i: usize) -> PathBuf {
        let (label, name) = &self.files[i];
        if self.flat {
            self.root.join(&**name)
        } else {
            self.root.join(&self.classes[*label as usize]).join(&**name)
        }
    }

    /// The class of file `i`.
    pub fn label(&self, i: usize) -> i64 {
        i64::from(self.files[i].0)
    }

    /// The names of the class folders.
    pub fn class_names(&self) -> &[String] {
        &self.classes
    }
}

/// The sorted names of the images, or of the folders, in a folder. Hidden ones are left out.
fn names(folder: &Path, images: bool) -> Result<Vec<String>, Error> {
    let mut all = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        let wanted = if images {
            is_image(&path) && path.is_file()
        } else {
            path.is_dir()
        };
        let Some(name) = path.file_name().filter(|_| wanted) else {
            continue;
        };
        let name = name.to_str().ok_or_else(|| Error::Name { path: path.clone() })?;
        if !name.starts_with('.') {
            all.push(name.to_string());
        }
    }
    all.sort_unstable();
    Ok(all)
}

fn is_image(path: &Path) -> bool {
    let known = ["jpg", "jpeg", "png", "webp"];
    path.extension()
        .and_then(OsStr::to_str)
        .is_some_and(|e| known.iter().any(|k| e.eq_ignore_ascii_case(k)))
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
        let folder = Folder::open(dir.path()).unwrap();
        let keys: Vec<_> = (0..folder.len())
            .map(|i| (folder.key(i), folder.label(i)))
            .collect();
        let expected = [("Z/x.jpeg", 0), ("a/z.WEBP", 1), ("b/10.png", 2), ("b/2.jpg", 2)];
        assert_eq!(keys, expected.map(|(k, l)| (k.to_string(), l)));
        assert_eq!(folder.class_names(), ["Z", "a", "b"]);
    }

    #[test]
    fn a_flat_folder_is_one_class_and_an_empty_one_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Folder::open(dir.path()), Err(Error::NoImages { .. })));
        std::fs::write(dir.path().join("x.jpg"), "").unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        assert_eq!(
            (folder.key(0), folder.label(0), folder.len()),
            ("x.jpg".into(), 0, 1)
        );
    }
}
