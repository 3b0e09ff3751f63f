//! One of several processes, where a launcher started several.

use anyhow::Result;
use preprocess::console::Printer;

#[cfg(not(all(feature = "mpi", feature = "nccl")))]
use crate::distributed::Error;
use crate::distributed::{HostReducer, Launch, Single, Transport, threads_of_rank};

/// How processes that a launcher started talk to each other.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct TransportArgs {
    /// What several processes talk over: MPI, or NCCL with a GPU for each
    #[arg(long, value_enum, default_value_t)]
    transport: Transport,
}

/// Runs `work` in this process alone, or as one of those that a launcher started; an error in one of them ends all.
///
/// # Errors
/// Those of `work` in a process of its own; [`crate::distributed::Error`] when the processes cannot meet.
pub fn with_ranks(
    printer: &mut Printer,
    work: impl FnOnce(&mut Printer, &mut HostReducer) -> Result<u8>,
) -> Result<u8> {
    with_ranks_over(TransportArgs::default(), printer, work)
}

/// As [`with_ranks`], over what the user asked for.
///
/// # Errors
/// As [`with_ranks`].
pub fn with_ranks_over(
    args: TransportArgs,
    printer: &mut Printer,
    work: impl FnOnce(&mut Printer, &mut HostReducer) -> Result<u8>,
) -> Result<u8> {
    let Some(launch) = Launch::from_environment()? else {
        return work(printer, &mut Single);
    };
    match args.transport.choose(&launch)? {
        Transport::Nccl => over_nccl(printer, &launch, work),
        Transport::Auto | Transport::Mpi => over_mpi(printer, &launch, work),
    }
}

/// Threads of this process where `wanted` are asked for; 0: as many as there are cores for it.
pub fn threads_of(wanted: usize, reducer: &mut HostReducer) -> usize {
    match wanted {
        0 if reducer.ranks() > 1 => threads_of_rank(reducer),
        threads => threads,
    }
}

#[cfg(feature = "mpi")]
fn over_mpi(
    printer: &mut Printer,
    launch: &Launch,
    work: impl FnOnce(&mut Printer, &mut HostReducer) -> Result<u8>,
) -> Result<u8> {
    let mut mpi = crate::distributed::Mpi::join(launch)?;
    let done = work(printer, &mut mpi);
    leave(printer, launch, mpi, done)
}

/// Leaves the job, or ends it when this process cannot go on.
#[cfg(feature = "mpi")]
fn leave(
    printer: &mut Printer,
    launch: &Launch,
    mpi: crate::distributed::Mpi,
    done: Result<u8>,
) -> Result<u8> {
    match done {
        Ok(code) => {
            printer.flush();
            mpi.finish();
            Ok(code)
        }
        Err(error) => {
            // The others wait for this process: it tells its error, then ends the job.
            let error = cannot_go_on(launch, error);
            let code = preprocess::console::exit::fail(printer, &error);
            printer.flush();
            crate::distributed::Mpi::abort(code)
        }
    }
}

#[cfg(any(feature = "mpi", feature = "nccl"))]
fn cannot_go_on(launch: &Launch, error: anyhow::Error) -> anyhow::Error {
    error.context(format!(
        "process {} of {} cannot go on",
        launch.rank, launch.ranks
    ))
}

#[cfg(not(feature = "mpi"))]
fn over_mpi(
    _: &mut Printer,
    launch: &Launch,
    _: impl FnOnce(&mut Printer, &mut HostReducer) -> Result<u8>,
) -> Result<u8> {
    let Launch {
        launcher,
        ranks,
        ranks_name,
        ..
    } = *launch;
    Err(Error::NoMpi {
        launcher,
        ranks,
        ranks_name,
    }
    .into())
}

/// The processes meet over MPI, which also ends all of them when one cannot go on.
#[cfg(all(feature = "nccl", feature = "mpi"))]
fn over_nccl(
    printer: &mut Printer,
    launch: &Launch,
    work: impl FnOnce(&mut Printer, &mut HostReducer) -> Result<u8>,
) -> Result<u8> {
    use crate::distributed::{Mpi, Nccl};

    let mut mpi = Mpi::join(launch)?;
    let done = Nccl::join_alone(launch, Some(&mut mpi))
        .map_err(anyhow::Error::from)
        .and_then(|mut nccl| {
            let code = work(printer, &mut nccl)?;
            nccl.finish();
            Ok(code)
        });
    leave(printer, launch, mpi, done)
}

/// The launcher ends the other processes when one of them ends with an error.
#[cfg(all(feature = "nccl", not(feature = "mpi")))]
fn over_nccl(
    printer: &mut Printer,
    launch: &Launch,
    work: impl FnOnce(&mut Printer, &mut HostReducer) -> Result<u8>,
) -> Result<u8> {
    let mut nccl = crate::distributed::Nccl::join_alone(launch, None)?;
    let code = work(printer, &mut nccl).map_err(|error| cannot_go_on(launch, error))?;
    nccl.finish();
    Ok(code)
}

#[cfg(not(feature = "nccl"))]
fn over_nccl(
    _: &mut Printer,
    launch: &Launch,
    _: impl FnOnce(&mut Printer, &mut HostReducer) -> Result<u8>,
) -> Result<u8> {
    let Launch { launcher, ranks, .. } = *launch;
    Err(Error::NoNccl { launcher, ranks }.into())
}
