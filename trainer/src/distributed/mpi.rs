//! Processes that talk over MPI.

use std::thread::{sleep, yield_now};
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::environment::Universe;
use mpi::request::{self, Request, Scope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, CommunicatorCollectives as _, Root as _};

use super::overlap::overlap;
use super::{Backward, Error, Group, Launch, Reducer};

/// Elements of one call of the library: the copy that it is given fits into the cache.
const PIECE: usize = 1 << 18;
/// Bytes of one broadcast; the library counts in 31 bits.
const MAX_BROADCAST: usize = 1 << 28;
/// How long a process looks for the others without pause, then how often.
const EAGER: Duration = Duration::from_micros(200);
const PAUSE: Duration = Duration::from_micros(50);

/// This process among those that mpirun or srun started.
///
/// Dropped before [`Mpi::finish`], by an error or a panic, it ends the whole job: the others would wait for ever.
pub struct Mpi {
    /// Finalises the library when it is dropped; absent when the job has been left.
    universe: Option<Universe>,
    rank: usize,
    ranks: usize,
}

impl Mpi {
    /// Meets the other processes of `launch`. Only once in a process.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the library does not see the processes that the launcher started;
    /// [`Error::ThreadSupport`].
    pub fn join(launch: &Launch) -> Result<Self, Error> {
        let (universe, support) =
            mpi::initialize_with_threading(Threading::Serialized).ok_or(Error::StartedBefore)?;
        if support < Threading::Serialized {
            return Err(Error::ThreadSupport {
                found: format!("{support:?}"),
            });
        }
        let world = universe.world();
        let (rank, ranks) = (world.rank() as usize, world.size() as usize);
        if ranks != launch.ranks {
            return Err(Error::NotConnected {
                launcher: launch.launcher,
                ranks: launch.ranks,
                seen: ranks,
            });
        }
        Ok(Self {
            universe: Some(universe),
            rank,
            ranks,
        })
    }

    /// Leaves the job when all processes have come here.
    pub fn finish(mut self) {
        wait(SimpleCommunicator::world().immediate_barrier());
        self.universe = None;
    }

    /// Ends all processes of the job with exit code `code`.
    pub fn abort(code: u8) -> ! {
        SimpleCommunicator::world().abort(code.into())
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        if self.universe.is_some() {
            Self::abort(preprocess::console::exit::USAGE);
        }
    }
}

impl Group for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn sum(&mut self, values: &mut [f64]) {
        let mine = values.to_vec();
        let world = SimpleCommunicator::world();
        request::scope(|scope| {
            wait(world.immediate_all_reduce_into(scope, &mine[..], values, SystemOperation::sum()));
        });
    }

    fn broadcast(&mut self, bytes: &mut [u8]) {
        let world = SimpleCommunicator::world();
        for piece in bytes.chunks_mut(MAX_BROADCAST) {
            request::scope(|scope| wait(world.process_at_rank(0).immediate_broadcast_into(scope, piece)));
        }
    }
}

impl<'g> Reducer<&'g mut [f32]> for Mpi {
    fn overlap(&mut self, backward: Backward<'_, &'g mut [f32]>) {
        // No other call of the library is under way: this process is in here, and `self` is borrowed.
        overlap(backward, sum);
    }
}

/// Sums a part of the gradients over all processes.
fn sum(bucket: &mut [f32]) {
    let world = SimpleCommunicator::world();
    let mut mine = Vec::with_capacity(PIECE.min(bucket.len()));
    for piece in bucket.chunks_mut(PIECE) {
        mine.clear();
        mine.extend_from_slice(piece);
        request::scope(|scope| {
            wait(world.immediate_all_reduce_into(scope, &mine[..], piece, SystemOperation::sum()));
        });
    }
}

/// Waits until a call of the library is done.
///
/// A blocking call asks without pause, which takes the core from the backward pass that is still going on beside it, and
/// for minutes while the first process writes a checkpoint. This asks now and then.
fn wait<'a, D: ?Sized>(mut request: Request<'a, D, impl Scope<'a>>) {
    let start = Instant::now();
    while let Err(pending) = request.test() {
        request = pending;
        if start.elapsed() < EAGER {
            yield_now();
        } else {
            sleep(PAUSE);
        }
    }
}
