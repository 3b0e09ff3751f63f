//! Image files below a folder.

use std::io;
use std::path::{Path, PathBuf};

use super::Container;

/// How a key becomes a path below the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// The key is the path.
    AsKeys,
    /// The key's last part is the file's name: images without class folders whose classes come from elsewhere.
    Flat,
}

#[derive(Debug)]
pub(crate) struct Files {
    root: PathBuf,
    layout: Layout,
}

impl Files {
    pub(crate) fn new(root: &Path, layout: Layout) -> Self {
        Self {
            root: root.to_owned(),
            layout,
        }
    }
}

impl Container for Files {
    fn read(&self, _position: usize, key: &str) -> io::Result<Vec<u8>> {
        let below = match self.layout {
            Layout::AsKeys => key,
            Layout::Flat => key.rsplit('/').next().unwrap_or(key),
        };
        fs_err::read(self.root.join(below))
    }
}
