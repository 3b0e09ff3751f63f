//! The few changes to the file system that writing a dataset or a checkpoint makes, so that tests can stop the writing at
//! any one of them.

use std::{
    io::{Result, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use crate::layout::PARTIAL_SUFFIX;

/// A file that is being written.
#[derive(Debug)]
pub struct File(fs_err::File);

impl File {
    /// Makes the file anew.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(path: &Path) -> Result<Self> {
        step()?;
        fs_err::File::create(path).map(Self)
    }

    /// Waits until the file is on the disk.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn sync(&self) -> Result<()> {
        step()?;
        self.0.sync_all()
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if let Err(error) = step() {
            // A process that is killed has often written some of its bytes.
            self.0.write_all(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush()
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.0.seek(to)
    }
}

/// Makes a folder and those above it.
///
/// # Errors
/// Those of the file system.
pub fn create_dir_all(dir: &Path) -> Result<()> {
    step()?;
    fs_err::create_dir_all(dir)
}

/// Gives a file or folder another name, in place of the file that has it.
///
/// # Errors
/// Those of the file system.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    step()?;
    fs_err::rename(from, to)
}

/// Removes a file; one that is gone already is no error.
///
/// # Errors
/// Those of the file system.
pub fn remove(path: &Path) -> Result<()> {
    step()?;
    gone_is_fine(fs_err::remove_file(path))
}

/// Removes a folder with all that is in it; one that is gone already is no error.
///
/// # Errors
/// Those of the file system.
pub fn remove_dir_all(dir: &Path) -> Result<()> {
    step()?;
    gone_is_fine(fs_err::remove_dir_all(dir))
}

fn gone_is_fine(removed: Result<()>) -> Result<()> {
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes new names in `dir` last through a power loss.
///
/// # Errors
/// Those of the file system.
pub fn sync_dir(dir: &Path) -> Result<()> {
    step()?;
    if cfg!(unix) {
        fs_err::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// [`sync_dir`] of the folder that `path` is in.
///
/// # Errors
/// Those of the file system.
pub fn sync_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => sync_dir(dir),
        _ => sync_dir(Path::new(".")),
    }
}

/// `path` with [`PARTIAL_SUFFIX`] at its end: where it is written aside.
pub fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PARTIAL_SUFFIX);
    PathBuf::from(name)
}

/// Writes a whole file aside, then puts it in place at once: nobody ever sees half of it.
///
/// # Errors
/// Those of the file system.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let aside = partial(path);
    let mut file = File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync()?;
    rename(&aside, path)?;
    sync_parent(path)
}

/// [`replace`] without waiting for the disk: after a power loss the file may be the one before. Meant for what can be made
/// again.
///
/// # Errors
/// Those of the file system.
pub fn replace_unsynced(path: &Path, bytes: &[u8]) -> Result<()> {
    let aside = partial(path);
    let written = File::create(&aside).and_then(|mut file| file.write_all(bytes));
    let done = written.and_then(|()| rename(&aside, path));
    if done.is_err() {
        // A full disk: half a file only takes room.
        let _ = fs_err::remove_file(&aside);
    }
    done
}

use faults::step;

/// Failures on demand, for the thread that asks for them: tests of several crates do. Otherwise a step costs the look at a
/// number of the thread.
#[doc(hidden)]
pub mod faults {
    use std::{cell::Cell, io};

    #[derive(Clone, Copy)]
    enum Plan {
        Sound,
        /// From this step on nothing reaches the disk, as if the process had been killed.
        Killed(u64),
        /// This step finds the disk full.
        Full(u64, io::ErrorKind),
    }

    thread_local! {
        static PLAN: Cell<Plan> = const { Cell::new(Plan::Sound) };
        static STEPS: Cell<u64> = const { Cell::new(0) };
    }

    fn begin(plan: Plan) {
        PLAN.set(plan);
        STEPS.set(0);
    }

    /// All is well again; answers the steps since the last plan began.
    pub fn end() -> u64 {
        PLAN.set(Plan::Sound);
        STEPS.get()
    }

    /// Counts steps.
    pub fn count() {
        begin(Plan::Sound);
    }

    /// Step `step`, from 0, and all after it fail.
    pub fn kill_at(step: u64) {
        begin(Plan::Killed(step));
    }

    /// Step `step`, from 0, fails with `kind`.
    pub fn fill_at(step: u64, kind: io::ErrorKind) {
        begin(Plan::Full(step, kind));
    }

    pub(super) fn step() -> io::Result<()> {
        let step = STEPS.replace(STEPS.get() + 1);
        match PLAN.get() {
            Plan::Killed(last) if step >= last => Err(io::Error::other("killed")),
            Plan::Full(at, kind) if step == at => Err(kind.into()),
            _ => Ok(()),
        }
    }
}
