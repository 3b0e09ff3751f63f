//! A dataset's rows in memory, decoded and checked once: epochs after that neither read nor decompress.

use rayon::prelude::*;

use crate::{
    dataset::Dataset,
    error::{Error, Result},
    memory::available_bytes,
};

/// All rows, shard by shard.
pub(super) struct ResidentRows {
    shards: Vec<Vec<u8>>,
    row_bytes: usize,
}

impl ResidentRows {
    /// Reads a dataset, by all threads.
    pub(super) fn load(dataset: &Dataset) -> Result<Self> {
        let row_bytes = dataset.manifest().row_layout().row_bytes();
        let views = dataset.views();
        let needed = dataset.resident_bytes();
        refuse_unless_it_fits(needed, available_bytes())?;
        let shards = dataset
            .shards()
            .iter()
            .map(|shard| {
                let mut rows = vec![0; shard.len() * views * row_bytes];
                rows.par_chunks_mut(row_bytes)
                    .enumerate()
                    .try_for_each(|(row, bytes)| {
                        shard.with_row(row, |stored| bytes.copy_from_slice(stored))
                    })?;
                Ok(rows)
            })
            .collect::<Result<_>>()?;
        Ok(Self { shards, row_bytes })
    }

    /// Row `row` of shard `shard`.
    pub(super) fn row(&self, shard: usize, row: usize) -> &[u8] {
        &self.shards[shard][row * self.row_bytes..][..self.row_bytes]
    }
}

fn refuse_unless_it_fits(needed: u64, available: Option<u64>) -> Result<()> {
    match available {
        Some(available) if available < needed => Err(Error::Memory { needed, available }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_does_not_fit_is_refused_with_both_sizes() {
        let error = refuse_unless_it_fits(31 << 30, Some(22 << 30))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("31.0 GiB") && error.contains("22.0 GiB"),
            "{error}"
        );
        assert!(refuse_unless_it_fits(31 << 30, Some(31 << 30)).is_ok());
        assert!(refuse_unless_it_fits(31 << 30, None).is_ok());
    }
}
