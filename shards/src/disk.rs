//! The few changes to the file system that writing a dataset makes, so that tests can stop a run at any one of them.

use std::{
    io::{Result, Seek, SeekFrom, Write},
    path::Path,
};

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

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.0.seek(to)
    }
}

/// Makes a folder and those above it.
pub(crate) fn create_dir_all(dir: &Path) -> Result<()> {
    step()?;
    fs_err::create_dir_all(dir)
}

/// Gives a file another name, in place of the file that has it.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    step()?;
    fs_err::rename(from, to)
}

/// Removes a file; one that is gone already is no error.
pub(crate) fn remove(path: &Path) -> Result<()> {
    step()?;
    match fs_err::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes renames in `dir` last through a power loss.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    step()?;
    if cfg!(unix) {
        fs_err::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Writes a whole file aside, then puts it in place at once: nobody ever sees half of it.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(crate::layout::PARTIAL_SUFFIX);
    let partial = Path::new(&partial);
    let mut file = File::create(partial)?;
    file.write_all(bytes)?;
    file.sync()?;
    rename(partial, path)?;
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => sync_dir(dir),
        _ => sync_dir(Path::new(".")),
    }
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

    /// Step `step`, from 0, fails with `kind`.
    pub(crate) fn fill_at(step: u64, kind: io::ErrorKind) {
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
