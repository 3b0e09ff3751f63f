//! The few changes to the file system that writing a checkpoint makes, so that tests can stop it at any one of them.

use std::io::{Result, Write};
use std::path::{Path, PathBuf};

/// End of the names of what is not complete, or no longer: never read, removed when a later checkpoint is complete.
pub(crate) const PARTIAL: &str = ".partial";

/// A file that is being written.
#[derive(Debug)]
pub(crate) struct File(fs_err::File);

impl File {
    /// Makes the file anew.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        step()?;
        fs_err::File::create(path).map(Self)
    }

    /// Waits until the file is on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
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

/// Makes a folder and those above it.
pub(crate) fn create_dir_all(dir: &Path) -> Result<()> {
    step()?;
    fs_err::create_dir_all(dir)
}

/// Gives a file or folder another name.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    step()?;
    fs_err::rename(from, to)
}

/// Removes a folder with all that is in it; one that is gone already is no error.
pub(crate) fn remove_dir_all(dir: &Path) -> Result<()> {
    step()?;
    match fs_err::remove_dir_all(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes new names in `dir` last through a power loss.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    step()?;
    if cfg!(unix) {
        fs_err::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// `path` with [`PARTIAL`] at its end.
pub(crate) fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PARTIAL);
    PathBuf::from(name)
}

/// Writes a whole file aside, then puts it in place at once: nobody ever sees half of it.
///
/// It is not waited for: after a power loss the file may be the one before. Meant for what can be made again.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let aside = partial(path);
    let written = File::create(&aside).and_then(|mut file| file.write_all(bytes));
    let done = written.and_then(|()| rename(&aside, path));
    if done.is_err() {
        // A full disk: half a file only takes room.
        let _ = fs_err::remove_file(&aside);
    }
    done
}

#[cfg(not(test))]
fn step() -> Result<()> {
    Ok(())
}

#[cfg(test)]
use faults::step;

/// Failures on demand, for the thread that asks for them.
#[cfg(test)]
pub(crate) mod faults {
    use std::{cell::Cell, io};

    #[derive(Clone, Copy)]
    enum Plan {
        Sound,
        /// From this step on nothing reaches the disk, as if the process had been killed.
        Killed(u64),
        /// This step finds the disk full.
        Full(u64),
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
    pub(crate) fn end() -> u64 {
        PLAN.set(Plan::Sound);
        STEPS.get()
    }

    /// Counts steps.
    pub(crate) fn count() {
        begin(Plan::Sound);
    }

    /// Step `step`, from 0, and all after it fail.
    pub(crate) fn kill_at(step: u64) {
        begin(Plan::Killed(step));
    }

    /// Step `step`, from 0, finds the disk full.
    pub(crate) fn fill_at(step: u64) {
        begin(Plan::Full(step));
    }

    pub(super) fn step() -> io::Result<()> {
        let step = STEPS.replace(STEPS.get() + 1);
        match PLAN.get() {
            Plan::Killed(last) if step >= last => Err(io::Error::other("killed")),
            Plan::Full(at) if step == at => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}
