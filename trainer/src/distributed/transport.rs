//! What processes talk over.

use super::{Error, Launch};

/// What processes talk over, as a user asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// MPI where it is built in, else NCCL
    #[default]
    Auto,
    /// MPI: processes on processors
    Mpi,
    /// NCCL: a GPU for each process
    Nccl,
}

impl Transport {
    /// The one to use for the processes of `launch`, never [`Transport::Auto`].
    ///
    /// # Errors
    /// [`Error::NoMpi`] and [`Error::NoNccl`], when it is not built in.
    pub fn choose(self, launch: &Launch) -> Result<Self, Error> {
        self.among(launch, cfg!(feature = "mpi"), cfg!(feature = "nccl"))
    }

    fn among(self, launch: &Launch, mpi: bool, nccl: bool) -> Result<Self, Error> {
        let &Launch {
            launcher,
            ranks_name,
            ranks,
            ..
        } = launch;
        match self {
            Self::Auto | Self::Mpi if mpi => Ok(Self::Mpi),
            Self::Auto | Self::Nccl if nccl => Ok(Self::Nccl),
            Self::Nccl => Err(Error::NoNccl { launcher, ranks }),
            Self::Auto | Self::Mpi => Err(Error::NoMpi {
                launcher,
                ranks,
                ranks_name,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_used_or_refused_and_never_replaced() {
        let launch = Launch {
            launcher: "mpirun",
            ranks_name: "OMPI_COMM_WORLD_SIZE",
            rank: 0,
            ranks: 2,
        };
        let choose = |asked: Transport, mpi, nccl| asked.among(&launch, mpi, nccl).map_err(|e| e.to_string());
        for mpi in [false, true] {
            for nccl in [false, true] {
                assert_eq!(choose(Transport::Mpi, mpi, nccl).is_ok(), mpi);
                assert_eq!(choose(Transport::Nccl, mpi, nccl).is_ok(), nccl);
            }
        }
        assert_eq!(choose(Transport::Auto, true, true), Ok(Transport::Mpi));
        assert_eq!(choose(Transport::Auto, false, true), Ok(Transport::Nccl));
        let error = choose(Transport::Auto, false, false).unwrap_err();
        assert!(error.contains("trainer/mpi"), "{error}");
        let error = choose(Transport::Nccl, true, false).unwrap_err();
        assert!(error.contains("cuda,cudnn,nccl"), "{error}");
    }
}
