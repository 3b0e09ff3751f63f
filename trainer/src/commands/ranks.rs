//! One of several processes, where a launcher started several.

use anyhow::Result;
use preprocess::console::Printer;

#[cfg(not(feature = "mpi"))]
use crate::distributed::Error;
use crate::distributed::{HostReducer, Launch, Single, threads_of_rank};

/// Runs `work` in this process alone, or as one of those that a launcher started; an error in one of them ends all.
///
/// # Errors
/// Those of `work` in a process of its own; [`crate::distributed::Error`] when the processes cannot meet.
pub fn with_ranks(
    printer: &mut Printer,
    work: impl FnOnce(&mut Printer, &mut HostReducer) -> Result<u8>,
) -> Result<u8> {
    match Launch::from_environment()? {
        None => work(printer, &mut Single),
        Some(launch) => with_launch(printer, &launch, work),
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
fn with_launch(
    printer: &mut Printer,
    launch: &Launch,
    work: impl FnOnce(&mut Printer, &mut HostReducer) -> Result<u8>,
) -> Result<u8> {
    use crate::distributed::{Group as _, Mpi};

    let mut mpi = Mpi::join(launch)?;
    let (rank, ranks) = (mpi.rank(), mpi.ranks());
    match work(printer, &mut mpi) {
        Ok(code) => {
            printer.flush();
            mpi.finish();
            Ok(code)
        }
        Err(error) => {
            // The others wait for this process: it tells its error, then ends the job.
            let error = error.context(format!("process {rank} of {ranks} cannot go on"));
            let code = preprocess::console::exit::fail(printer, &error);
            printer.flush();
            Mpi::abort(code)
        }
    }
}

#[cfg(not(feature = "mpi"))]
fn with_launch(
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
