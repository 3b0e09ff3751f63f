//! The reference side of scoring, which is read or computed once for all samples that are compared with it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use preprocess::console::Printer;
use preprocess::console::progress::Progress;

use crate::features::{Keep, Summary};
use crate::images::ImageSource;
use crate::inception::weights::LoadedInception;
use crate::reference;
use crate::report::ReferenceRecord;

/// A reference, as far as it is known.
pub(super) struct Against {
    path: PathBuf,
    pub(super) source: ImageSource,
    seen: Option<(Summary, ReferenceRecord)>,
}

/// A reference that is known.
pub(super) struct Seen<'a> {
    pub(super) path: &'a Path,
    pub(super) source: &'a ImageSource,
    /// What the network sees in it.
    pub(super) summary: &'a Summary,
    /// What identifies it.
    pub(super) record: &'a ReferenceRecord,
}

impl Against {
    /// Opens the reference at `path`, or goes on with the one that is `known`.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn open(path: &Path, known: Option<Self>) -> Result<Self> {
        match known {
            Some(known) if known.path == path => Ok(known),
            _ => Ok(Self {
                path: path.to_owned(),
                source: ImageSource::open(path)?,
                seen: None,
            }),
        }
    }

    /// Looks at what takes a moment, before minutes of work.
    ///
    /// # Errors
    /// If it lacks what `keep` asks for, or is damaged.
    pub(super) fn check(&self, keep: Keep) -> Result<()> {
        if self.seen.is_none() {
            reference::check(&self.source, keep)?;
        }
        Ok(())
    }

    /// Reads it, or lets the network see it, unless that has been done; the first call decides what is kept.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn seen(
        &mut self,
        inception: &LoadedInception,
        keep: Keep,
        printer: &mut Printer,
    ) -> Result<Seen<'_>> {
        let seen = match self.seen.take() {
            Some(seen) => seen,
            None => {
                let mut progress = Progress::new(printer, "reference", "images", 0, None);
                let (network, id) = (&inception.network, &inception.features_id());
                let summary = reference::load(&self.source, network, id, keep, |done| {
                    progress.set(printer, done, "");
                })?;
                progress.finish();
                let record = ReferenceRecord {
                    sha256: self.source.content_hash()?,
                    transform: self.source.transform()?,
                    images: Some(summary.count).filter(|&count| count > 0),
                };
                (summary, record)
            }
        };
        let (summary, record) = self.seen.insert(seen);
        Ok(Seen {
            path: &self.path,
            source: &self.source,
            summary,
            record,
        })
    }
}
