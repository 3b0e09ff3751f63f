//! `rejects.jsonl`: the images that could not be used, one JSON object a line, in the source's order.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;

/// A line of the list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Reject {
    pub(super) id: u64,
    pub(super) key: String,
    pub(super) reason: String,
}

/// The list, and how long it may become.
pub(super) struct Rejects {
    path: PathBuf,
    known: Vec<Reject>,
    file: Option<fs_err::File>,
    limit: u64,
}

impl Rejects {
    /// Reads the list of an earlier run, if there is one; a last line that a kill cut short is left out.
    pub(super) fn open(path: &Path, limit: u64) -> Result<Self, Error> {
        let mut known = Vec::new();
        match fs_err::File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            file => {
                for line in std::io::BufReader::new(file?).lines() {
                    known.extend(serde_json::from_str::<Reject>(&line?).ok());
                }
            }
        }
        Ok(Self {
            path: path.to_owned(),
            known,
            file: None,
            limit,
        })
    }

    pub(super) fn count(&self) -> u64 {
        self.known.len() as u64
    }

    /// Keeps those whose ids are wanted, and replaces the file: the others are found again.
    pub(super) fn keep(&mut self, wanted: impl Fn(u64) -> bool) -> Result<(), Error> {
        self.known.retain(|reject| wanted(reject.id));
        let mut file = fs_err::File::create(&self.path)?;
        for reject in &self.known {
            file.write_all(&line(reject)?)?;
        }
        file.sync_data()?;
        self.file = Some(file);
        Ok(())
    }

    /// Adds one, and waits until it is on the disk: bad images are few.
    pub(super) fn add(&mut self, reject: Reject) -> Result<(), Error> {
        if let Some(file) = &mut self.file {
            file.write_all(&line(&reject)?)?;
            file.sync_data()?;
        }
        self.known.push(reject.clone());
        if self.count() > self.limit {
            return Err(Error::TooManyRejects {
                rejects: self.count(),
                limit: self.limit,
                key: reject.key,
                reason: reject.reason,
                file: self.path.clone(),
            });
        }
        Ok(())
    }
}

fn line(reject: &Reject) -> Result<Vec<u8>, Error> {
    let mut line = serde_json::to_vec(reject).map_err(std::io::Error::other)?;
    line.push(b'\n');
    Ok(line)
}
