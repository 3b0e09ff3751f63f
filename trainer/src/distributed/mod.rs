//! Several processes that train one model: each takes its slice of every batch, gradients are summed over all of them.
//!
//! Whatever decides about the run (losses, the gradients' norm, a wish to stop) is summed first, so that all processes
//! decide alike; the first one alone reads and writes the run's folder. Processes are started by an existing launcher.

mod error;
mod launcher;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
#[cfg(any(test, feature = "mpi", feature = "nccl"))]
mod overlap;
mod placement;
#[cfg(any(test, feature = "nccl"))]
mod rendezvous;
mod share;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod threads;
mod transport;

pub use error::Error;
pub use launcher::Launch;
#[cfg(feature = "cuda")]
pub(crate) use launcher::{gpu_of, local_rank};
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
#[cfg(feature = "nccl")]
pub use nccl::Nccl;
#[cfg(feature = "nccl")]
pub(crate) use nccl::communicator;
pub use placement::{processes_of_machine, threads_of_rank};
pub use share::{agree, share, share_bytes};
pub use transport::Transport;

/// The processes that train one model, as one of them sees them.
///
/// Every method that communicates is called by all processes, in the same order. None of them can fail: a process that
/// dies or a network that breaks ends the whole job, since one process alone could not go on.
pub trait Group: Send {
    /// Which process this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn ranks(&self) -> usize;

    /// Turns `values` into the sums over all processes, the same bits everywhere.
    fn sum(&mut self, values: &mut [f64]);

    /// Turns `bytes`, of the same length everywhere, into those of the first process.
    fn broadcast(&mut self, bytes: &mut [u8]);

    /// Waits until all processes have come here.
    fn barrier(&mut self) {
        self.sum(&mut [0.0]);
    }

    /// Whether any process says so.
    fn any(&mut self, mine: bool) -> bool {
        let mut count = [f64::from(u8::from(mine))];
        self.sum(&mut count);
        count[0] > 0.0
    }
}

/// A backward pass that calls its argument with each part of the gradients as soon as that part is final.
pub type Backward<'a, Bucket> = Box<dyn FnOnce(&mut dyn FnMut(Bucket)) + 'a>;

/// A [`Group`] that sums gradients while the backward pass goes on.
///
/// A `Bucket` is a contiguous part of the flat gradient buffer, borrowed so that the backward cannot touch it any more:
/// `&mut [f32]`, in the memory of the host. On a GPU see `gpu::cuda::Peers`.
pub trait Reducer<Bucket>: Group {
    /// Runs `backward` and turns every bucket that it hands over into its sum over all processes; returns when all of
    /// them are done. All processes hand over the same buckets in the same order.
    fn overlap(&mut self, backward: Backward<'_, Bucket>);
}

/// A [`Reducer`] of gradients in the memory of the host.
pub type HostReducer = dyn for<'g> Reducer<&'g mut [f32]>;

/// One process: nothing to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Single;

impl Group for Single {
    fn rank(&self) -> usize {
        0
    }

    fn ranks(&self) -> usize {
        1
    }

    fn sum(&mut self, _: &mut [f64]) {}

    fn broadcast(&mut self, _: &mut [u8]) {}
}

impl<Bucket> Reducer<Bucket> for Single {
    fn overlap(&mut self, backward: Backward<'_, Bucket>) {
        backward(&mut |_| {});
    }
}
