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

/// Variables of the rank within a machine, in the same order of precedence.
#[cfg(any(test, feature = "cuda"))]
const LOCAL_VARIABLES: [&str; 4] = [
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "SLURM_LOCALID",
    "LOCAL_RANK",
];

/// Which of its machine's processes this is, from 0; without a word of the launcher, as if there were one machine.
#[cfg(feature = "cuda")]
pub(crate) fn local_rank(launch: &Launch) -> usize {
    find_local_rank(launch, |name| std::env::var(name).ok())
}

#[cfg(any(test, feature = "cuda"))]
fn find_local_rank(launch: &Launch, variable: impl Fn(&str) -> Option<String>) -> usize {
    let mut found = LOCAL_VARIABLES
        .iter()
        .filter_map(|name| variable(name)?.parse().ok());
    found.next().unwrap_or(launch.rank)
}

/// The GPU of process `local_rank` of a machine, of the `gpus` that it sees: its own, or the only one where the launcher
/// shows each process another.
///
/// # Errors
/// [`Error::TooFewGpus`].
#[cfg(any(test, feature = "cuda"))]
pub(crate) fn gpu_of(local_rank: usize, gpus: usize) -> Result<usize, Error> {
    match gpus {
        1 => Ok(0),
        _ if local_rank < gpus => Ok(local_rank),
        _ => Err(Error::TooFewGpus { local_rank, gpus }),
    }
}

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
    fn each_process_of_a_machine_has_a_gpu_of_its_own() {
        let launch = with(&[("RANK", "5"), ("WORLD_SIZE", "8")]).unwrap().unwrap();
        assert_eq!(find_local_rank(&launch, |_| None), 5);
        let torchrun = |name: &str| (name == "LOCAL_RANK").then(|| "1".to_owned());
        assert_eq!(find_local_rank(&launch, torchrun), 1);
        assert_eq!((gpu_of(1, 4).unwrap(), gpu_of(3, 1).unwrap()), (1, 0));
        for (local_rank, gpus) in [(4, 4), (0, 0)] {
            let error = gpu_of(local_rank, gpus).unwrap_err().to_string();
            assert!(error.contains("CUDA_VISIBLE_DEVICES"), "{error}");
        }
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
