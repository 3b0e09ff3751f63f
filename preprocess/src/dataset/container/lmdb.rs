//! LSUN's databases where they lie in a folder: LMDB through its own library, read-only and without a lock file.
#![expect(unsafe_code, reason = "LMDB maps its file")]

use std::io;
use std::path::{Path, PathBuf};

use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, WithoutTls};

use super::Container;
use super::lmdb_pages;
use super::ranges::{Archive, Section};

/// An open database.
pub(crate) struct Lmdb {
    folder: PathBuf,
    env: Env<WithoutTls>,
    database: Database<Bytes, Bytes>,
}

impl std::fmt::Debug for Lmdb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lmdb")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl Lmdb {
    /// Opens the database in `folder` (`data.mdb`).
    ///
    /// # Errors
    /// When there is none, or its file is shorter than it says: reading behind its end would end the process.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let archive = Archive::open(&folder.join("data.mdb"))?;
        lmdb_pages::check_length(&Section::whole(&archive))?;
        let failed = |error: heed::Error| lmdb_error(folder, &error);
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        // SAFETY: nothing of this program writes to the file, and a dataset is not written to while it is read, which
        // is what leaving the lock out asks of the user; the file was found to be as long as its header says.
        let env = unsafe {
            options.flags(EnvFlags::READ_ONLY | EnvFlags::NO_LOCK);
            options.open(folder).map_err(failed)?
        };
        let transaction = env.read_txn().map_err(failed)?;
        let database = env
            .open_database(&transaction, None)
            .map_err(failed)?
            .ok_or_else(|| io::Error::other(format!("{}: it holds no database", folder.display())))?;
        drop(transaction);
        Ok(Self {
            folder: folder.to_owned(),
            env,
            database,
        })
    }

    /// Calls `visit` with every key, in the database's order.
    pub(crate) fn keys(&self, mut visit: impl FnMut(&[u8])) -> io::Result<()> {
        let failed = |error: heed::Error| lmdb_error(&self.folder, &error);
        let transaction = self.env.read_txn().map_err(failed)?;
        let keys = self.database.lazily_decode_data();
        for entry in keys.iter(&transaction).map_err(failed)? {
            visit(entry.map_err(failed)?.0);
        }
        Ok(())
    }
}

impl Container for Lmdb {
    fn read(&self, _position: usize, key: &str) -> io::Result<Vec<u8>> {
        let failed = |error: heed::Error| lmdb_error(&self.folder, &error);
        let transaction = self.env.read_txn().map_err(failed)?;
        let value = self.database.get(&transaction, key.as_bytes()).map_err(failed)?;
        value
            .map(<[u8]>::to_vec)
            .ok_or_else(|| io::Error::other(format!("{}: the key {key} is gone", self.folder.display())))
    }
}

fn lmdb_error(folder: &Path, error: &heed::Error) -> io::Error {
    io::Error::other(format!("{}: as an LMDB database: {error}", folder.display()))
}
