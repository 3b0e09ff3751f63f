//! What mpirun, srun and torchrun tell the processes that they start.

use super::Error;

/// One of several processes, as the launcher says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Which program started it.
    pub launcher: &'static str,
    /// The variable with the number of processes.
    pub ranks_name: &'static str,
    /// Which process this is.
    pub rank: usize,
    /// How many there are.
    pub ranks: usize,
}

/// Launcher, variable of the rank, variable of the number of processes. The first that is set counts: mpirun may run
/// inside of a Slurm allocation, never the other way round.
const VARIABLES: [(&str, &str, &str); 5] = [
    ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("mpirun", "PMI_RANK", "PMI_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("srun", "SLURM_PROCID", "SLURM_NTASKS"),
    ("torchrun", "RANK", "WORLD_SIZE"),
];

impl Launch {
    /// What the environment says; `None` for a process of its own.
    ///
    /// # Errors
    /// [`Error::Variables`] when the variables of a launcher make no sense.
    pub fn from_environment() -> Result<Option<Self>, Error> {
        Self::find(|name| std::env::var(name).ok())
    }

    /// The variables that say so.
    pub fn variables() -> impl Iterator<Item = &'static str> {
        VARIABLES.into_iter().flat_map(|(_, rank, ranks)| [rank, ranks])
    }

    fn find(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Error> {
        for (launcher, rank_name, ranks_name) in VARIABLES {
            let (Some(rank), Some(ranks)) = (variable(rank_name), variable(ranks_name)) else {
                continue;
            };
            return match (rank.parse(), ranks.parse()) {
                (_, Ok(0 | 1)) => Ok(None),
                (Ok(rank), Ok(ranks)) if rank < ranks => Ok(Some(Self {
                    launcher,
                    ranks_name,
                    rank,
                    ranks,
                })),
                _ => Err(Error::Variables {
                    rank_name,
                    rank,
                    ranks_name,
                    ranks,
                }),
            };
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<Option<Launch>, Error> {
        Launch::find(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn every_launcher_is_recognised_and_one_process_is_none() {
        assert_eq!(with(&[]).unwrap(), None);
        for (launcher, rank, ranks) in VARIABLES {
            let found = with(&[(rank, "2"), (ranks, "3")]).unwrap().unwrap();
            assert_eq!((found.launcher, found.rank, found.ranks), (launcher, 2, 3));
            assert_eq!(with(&[(rank, "0"), (ranks, "1")]).unwrap(), None);
        }
        // A step of srun within a larger allocation, and mpirun within it.
        let slurm = [
            ("SLURM_PROCID", "0"),
            ("SLURM_NTASKS", "8"),
            ("SLURM_STEP_NUM_TASKS", "1"),
        ];
        assert_eq!(with(&slurm).unwrap(), None);
        let both = [
            &slurm[..],
            &[("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "4")],
        ]
        .concat();
        assert_eq!(with(&both).unwrap().unwrap().ranks, 4);
    }

    #[test]
    fn nonsense_names_the_variables() {
        for (rank, ranks) in [("4", "4"), ("x", "4"), ("0", "many")] {
            let error = with(&[("RANK", rank), ("WORLD_SIZE", ranks)])
                .unwrap_err()
                .to_string();
            assert!(error.contains("WORLD_SIZE") && error.contains("RANK="), "{error}");
        }
    }
}
