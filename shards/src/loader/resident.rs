//! A dataset's rows in memory, decoded and checked once: epochs after that neither read nor decompress.

use rayon::prelude::*;

use crate::{
    dataset::Dataset,
    error::{Error, Result},
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
        let needed = (dataset.len() * views * row_bytes) as u64;
        refuse_unless_it_fits(needed, available())?;
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

/// Bytes of memory that a program can still take; where the system does not say, nothing.
fn available() -> Option<u64> {
    let meminfo = fs_err::read_to_string("/proc/meminfo").ok()?;
    let system = available_by(&meminfo)?;
    // A container may be allowed less than the machine has.
    let number = |file: &str| {
        let text = fs_err::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let container = match (number("memory.max"), number("memory.current")) {
        (Some(most), Some(used)) => most.saturating_sub(used),
        _ => u64::MAX,
    };
    Some(system.min(container))
}

fn available_by(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes << 10)
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
        let meminfo = "MemTotal:       24689764 kB\nMemAvailable:   20971520 kB\n";
        assert_eq!(available_by(meminfo), Some(20 << 30));
        assert_eq!(available_by("MemTotal: 1 kB"), None);
    }
}
