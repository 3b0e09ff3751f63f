//! A folder belongs to one process at a time. The lock is the system's, so that it ends with the process that holds it;
//! the file says who that is.

use std::{
    fs::TryLockError,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use crate::{
    disk,
    error::{Error, Result},
};

/// The file in the folder.
pub const LOCK_NAME: &str = "lock";

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The process.
    pub pid: u32,
    /// The machine that it runs on.
    pub host: String,
    /// Since when, UTC.
    pub started: String,
    /// What it does in the folder, as in "process 7 *writes a dataset*".
    pub what: String,
    /// Its command line.
    pub command: String,
}

impl Owner {
    fn this_process(what: &str) -> Self {
        let words: Vec<String> = std::env::args_os()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        Self {
            pid: std::process::id(),
            host: host(),
            started: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            what: what.to_owned(),
            command: words.join(" "),
        }
    }
}

/// A folder that this process holds until the value is dropped; the file `lock` goes with it.
#[derive(Debug)]
pub struct FolderLock {
    path: PathBuf,
    /// Closed after the file was removed: whoever opened it before that sees that its name is gone.
    _file: fs_err::File,
}

impl FolderLock {
    /// Takes the folder `dir`; `what` is what this process does there ("writes a dataset").
    ///
    /// A file that a dead process left is taken over. Where the file system has no locks, the file alone decides: a
    /// living process of this machine or any process of another one keeps the folder.
    ///
    /// # Errors
    /// [`Error::Locked`] says who holds the folder and what to do; those of the file system.
    pub fn acquire(dir: &Path, what: &str) -> Result<Self> {
        let path = dir.join(LOCK_NAME);
        loop {
            let mut file = fs_err::OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)?;
            let refused = |owner: Option<Owner>, hint: String| Error::Locked {
                path: dir.to_owned(),
                owner: owner.map(Box::new),
                hint,
            };
            match file.file().try_lock() {
                // The process before may have removed the file after this one had opened it.
                Ok(()) if !is_same(&file, &path) => continue,
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(refused(
                        read(&mut file),
                        "wait for it, or choose another folder".to_owned(),
                    ));
                }
                Err(TryLockError::Error(_)) => {
                    if let Some(owner) = read(&mut file)
                        && let Some(hint) = without_locks(&owner, &path)
                    {
                        return Err(refused(Some(owner), hint));
                    }
                }
            }
            let owner = serde_json::to_vec(&Owner::this_process(what)).map_err(std::io::Error::other)?;
            file.file().set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&owner)?;
            return Ok(Self { path, _file: file });
        }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // A file that stays is taken over by the next process.
        let _ = disk::remove(&self.path);
    }
}

/// On a file system without locks: why `owner` keeps the folder, as a hint, or `None` when it does not.
fn without_locks(owner: &Owner, path: &Path) -> Option<String> {
    if owner.host != host() {
        return Some(format!(
            "this file system has no locks: when that process is gone, remove {} and run the same command again",
            path.display()
        ));
    }
    is_alive(owner.pid).then(|| {
        format!(
            "wait for it, or choose another folder; this file system has no locks: if that process is not the one, \
             remove {} and run the same command again",
            path.display()
        )
    })
}

/// What the file says; nothing, when its process has not yet written it.
fn read(file: &mut fs_err::File) -> Option<Owner> {
    let mut text = String::new();
    file.take(1 << 16).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(unix)]
fn is_same(file: &fs_err::File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs_err::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Elsewhere an open file cannot be removed.
#[cfg(not(unix))]
fn is_same(_: &fs_err::File, _: &Path) -> bool {
    true
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_default()
}

/// Whether a process of this machine lives; in doubt it does.
#[cfg(unix)]
fn is_alive(pid: u32) -> bool {
    use rustix::{io::Errno, process};
    let pid = i32::try_from(pid).ok().and_then(process::Pid::from_raw);
    pid.is_some_and(|pid| process::test_kill_process(pid) != Err(Errno::SRCH))
}

#[cfg(not(unix))]
fn is_alive(_: u32) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let first = FolderLock::acquire(dir.path(), "writes a dataset").unwrap();
        let error = FolderLock::acquire(dir.path(), "trains").unwrap_err().to_string();
        let pid = std::process::id();
        let expected = format!("process {pid} on {} writes a dataset there since 20", host());
        assert!(error.contains(&expected), "{error}");
        assert!(error.contains("\nhint: wait for it"), "{error}");
        drop(first);
        assert!(!dir.path().join(LOCK_NAME).exists());
        FolderLock::acquire(dir.path(), "trains").unwrap();
    }

    #[test]
    fn a_file_that_a_dead_process_left_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        for left in ["", "{", r#"{"pid": 1, "host": "elsewhere"}"#] {
            fs_err::write(dir.path().join(LOCK_NAME), left).unwrap();
            let lock = FolderLock::acquire(dir.path(), "trains").unwrap();
            let mut file = fs_err::File::open(dir.path().join(LOCK_NAME)).unwrap();
            assert_eq!(read(&mut file).unwrap().what, "trains", "{left}");
            drop(lock);
        }
    }

    #[test]
    fn without_locks_the_file_decides() {
        let path = Path::new("run/lock");
        let mut owner = Owner::this_process("trains");
        assert!(without_locks(&owner, path).unwrap().contains("wait for it"));
        owner.pid = u32::MAX;
        assert_eq!(without_locks(&owner, path), None);
        owner.host.push_str("-other");
        assert!(without_locks(&owner, path).unwrap().contains("remove run/lock"));
    }
}
