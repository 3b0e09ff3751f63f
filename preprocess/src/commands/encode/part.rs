//! One machine's share of a data set: `--part i/n`, or what srun and mpirun tell their processes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Result, bail};
use shards::manifest::Part;

/// A share, and whether the user named it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartChoice {
    /// From 0 on.
    pub(super) index: u32,
    pub(super) count: u32,
    /// The variable that it comes from; the user's own choice when absent.
    variable: Option<&'static str>,
}

/// Variables of srun, OpenMPI and MPICH: rank and number of processes.
const VARIABLES: [(&str, &str); 4] = [
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
];

impl FromStr for PartChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<u32>().ok();
        let parts = text
            .split_once('/')
            .and_then(|(i, n)| Some((number(i)?, number(n)?)));
        match parts {
            Some((index, count)) if count > 0 && index <= count => Ok(Self {
                index: index % count,
                count,
                variable: None,
            }),
            _ => Err("expected i/n, such as 0/4, 1/4, 2/4 and 3/4 on four machines".to_owned()),
        }
    }
}

impl fmt::Display for PartChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "part {} of {}", self.index + 1, self.count)?;
        self.variable.map_or(Ok(()), |variable| {
            write!(f, " (by {variable}; --part 0/1 takes all)")
        })
    }
}

/// What the launcher says, if it started several processes.
pub(super) fn from_environment() -> Result<Option<PartChoice>> {
    find(|name| std::env::var(name).ok())
}

fn find(variable: impl Fn(&str) -> Option<String>) -> Result<Option<PartChoice>> {
    for (rank, size) in VARIABLES {
        let (Some(index), Some(count)) = (variable(rank), variable(size)) else {
            continue;
        };
        let (Ok(index), Ok(count)) = (index.parse::<u32>(), count.parse::<u32>()) else {
            bail!("{rank}={index} and {size}={count} are no rank and number of processes\nhint: --part i/n");
        };
        if count > 1 && index >= count {
            bail!("{rank}={index} is no rank among {size}={count}\nhint: --part i/n");
        }
        let variable = Some(rank);
        return Ok((count > 1).then_some(PartChoice {
            index,
            count,
            variable,
        }));
    }
    Ok(None)
}

impl PartChoice {
    /// As the manifest has it.
    pub(super) fn recorded(self) -> Option<Part> {
        let (index, count) = (self.index, self.count);
        (count > 1).then_some(Part { index, count })
    }

    /// Where the part goes: the folder that the user named for it; beside the whole dataset's where all processes got
    /// the same command, or no folder was named.
    pub(super) fn folder(self, whole: &Path, named: bool) -> PathBuf {
        if self.count == 1 || (named && self.variable.is_none()) {
            return whole.to_owned();
        }
        let mut name = whole.as_os_str().to_owned();
        name.push(format!(".part-{:03}-of-{:03}", self.index, self.count));
        name.into()
    }

    /// What to type when all parts are there.
    pub(super) fn next(self, whole: &Path, out: &Path) -> String {
        if out == whole {
            format!(
                "when all {} parts are there: shards merge PART.. --out DATASET",
                self.count
            )
        } else {
            let whole = whole.display();
            format!(
                "when all {} parts are there: shards merge {whole}.part-* --out {whole}",
                self.count
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_count_cover_all_parts() {
        let index = |text: &str| text.parse::<PartChoice>().unwrap().index;
        assert_eq!(
            [index("0/3"), index("1/3"), index("2/3"), index("3/3")],
            [0, 1, 2, 0]
        );
        for wrong in ["4/3", "1", "a/b", "0/0", "-1/2"] {
            assert!(wrong.parse::<PartChoice>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn launchers_tell_the_part() {
        let with = |pairs: &'static [(&str, &str)]| {
            find(|name| {
                pairs
                    .iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(with(&[]).unwrap(), None);
        assert_eq!(
            with(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1")]).unwrap(),
            None
        );
        // A batch script with several tasks that starts the program without srun.
        let script = &[
            ("SLURM_PROCID", "0"),
            ("SLURM_NTASKS", "8"),
            ("SLURM_STEP_NUM_TASKS", "1"),
        ];
        assert_eq!(with(script).unwrap(), None);
        let part = with(&[("SLURM_PROCID", "3"), ("SLURM_NTASKS", "8")])
            .unwrap()
            .unwrap();
        assert_eq!((part.index, part.count), (3, 8));
        let part = with(&[("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")])
            .unwrap()
            .unwrap();
        assert_eq!(
            part.folder(Path::new("data/x"), true),
            Path::new("data/x.part-001-of-002")
        );
        assert!(with(&[("SLURM_PROCID", "8"), ("SLURM_NTASKS", "8")]).is_err());
    }
}
