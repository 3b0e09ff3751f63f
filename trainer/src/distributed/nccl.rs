#![expect(
    unsafe_code,
    reason = "a communicator moves to another thread; device memory of any content"
)]
//! Processes that talk over NCCL, one GPU each. The GPU may have no other part in the run: gradients in the memory of the
//! host go through a buffer on it.

use std::io::Write as _;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DriverError};
use cudarc::nccl::result::NcclError;
use cudarc::nccl::{Comm, Id, ReduceOp};

use super::overlap::overlap;
use super::rendezvous::{PATIENCE, Place, share_first};
use super::{Backward, Error, Group, Launch, Reducer, launcher};

/// Values of the buffer that gradients of the host go through: 16 MiB.
const PIECE: usize = 1 << 22;
/// Bytes of one broadcast.
const MAX_BROADCAST: usize = 1 << 28;
/// Bytes by which a communicator is known.
const ID_BYTES: usize = 128;

/// This process among those that a launcher started, each with a GPU of its own.
pub struct Nccl {
    comm: Communicator,
    stream: Arc<CudaStream>,
    staging: CudaSlice<f32>,
    rank: usize,
    ranks: usize,
}

struct Communicator(Comm);

// SAFETY: a communicator belongs to a GPU, not to a thread: NCCL asks for one call at a time, from any thread. This one has
// one owner, whose methods take `&mut self`.
unsafe impl Send for Communicator {}

impl Nccl {
    /// The GPU of this process, of those that it sees.
    ///
    /// # Errors
    /// [`Error::TooFewGpus`]; [`Error::Nccl`] when the driver cannot be asked.
    pub fn gpu(launch: &Launch) -> Result<usize, Error> {
        let gpus = CudaContext::device_count().map_err(|error| lost("looking for GPUs", &error))?;
        launcher::gpu_of(launcher::local_rank(launch), gpus as usize)
    }

    /// Meets the other processes of `launch`, on the GPU of `context`: through `mpi`, whose processes are the same, or else where MASTER_ADDR and
    /// MASTER_PORT say.
    ///
    /// # Errors
    /// [`Error::Nccl`]; [`Error::NoPlace`] and [`Error::Rendezvous`] without MPI.
    pub fn join(
        context: &Arc<CudaContext>,
        launch: &Launch,
        mpi: Option<&mut dyn Group>,
    ) -> Result<Self, Error> {
        let open = || -> Result<(Arc<CudaStream>, CudaSlice<f32>), DriverError> {
            let stream = context.new_stream()?;
            // SAFETY: of any content: every use writes before it reads.
            let staging = unsafe { stream.alloc(PIECE) }?;
            Ok((stream, staging))
        };
        let (stream, staging) = open().map_err(|error| lost("opening the GPU", &error))?;
        let comm = match mpi {
            Some(group) => communicator(&stream, group)?,
            None => {
                let id = share_first(launch, &Place::from_environment()?, PATIENCE, named)?;
                meet(&stream, launch.rank, launch.ranks, &id)?
            }
        };
        Ok(Self {
            comm: Communicator(comm),
            stream,
            staging,
            rank: launch.rank,
            ranks: launch.ranks,
        })
    }

    /// As [`Nccl::join`], on the GPU of this process, which has no other part in the run.
    ///
    /// # Errors
    /// Those of [`Nccl::gpu`] and [`Nccl::join`].
    pub fn join_alone(launch: &Launch, mpi: Option<&mut dyn Group>) -> Result<Self, Error> {
        let context =
            CudaContext::new(Self::gpu(launch)?).map_err(|error| lost("opening the GPU", &error))?;
        Self::join(&context, launch, mpi)
    }

    /// Leaves the job when all processes have come here.
    pub fn finish(mut self) {
        self.barrier();
    }

    /// Sums `values` over all processes, through the GPU.
    fn sum_values(&mut self, values: &mut [f64]) -> Result<(), Error> {
        let transfer = |error| lost("a copy", &error);
        let mut device = self.stream.clone_htod(values).map_err(transfer)?;
        let reduced = self.comm.0.all_reduce_in_place(&mut device, &ReduceOp::Sum);
        reduced.map_err(|error| failed("a sum", &error))?;
        self.stream.memcpy_dtoh(&device, values).map_err(transfer)?;
        self.stream.synchronize().map_err(transfer)
    }

    /// Gives the first process's `bytes` to all, through the GPU.
    fn broadcast_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        let transfer = |error| lost("a copy", &error);
        let mut device = self.stream.clone_htod(bytes).map_err(transfer)?;
        let sent = self.comm.0.broadcast_in_place(&mut device, 0);
        sent.map_err(|error| failed("a broadcast", &error))?;
        self.stream.memcpy_dtoh(&device, bytes).map_err(transfer)?;
        self.stream.synchronize().map_err(transfer)
    }

    /// Sums a part of the gradients, in the host's memory, over all processes.
    fn sum_host(&mut self, bucket: &mut [f32]) -> Result<(), Error> {
        let transfer = |error| lost("a copy", &error);
        for piece in bucket.chunks_mut(PIECE) {
            let mut device = self.staging.slice_mut(..piece.len());
            self.stream.memcpy_htod(piece, &mut device).map_err(transfer)?;
            let reduced = self.comm.0.all_reduce_in_place(&mut device, &ReduceOp::Sum);
            reduced.map_err(|error| failed("a sum of gradients", &error))?;
            self.stream.memcpy_dtoh(&device, piece).map_err(transfer)?;
            self.stream.synchronize().map_err(transfer)?;
        }
        Ok(())
    }
}

impl Group for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn sum(&mut self, values: &mut [f64]) {
        end_on_error(self.sum_values(values));
    }

    fn broadcast(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(MAX_BROADCAST) {
            end_on_error(self.broadcast_bytes(piece));
        }
    }
}

/// Gradients in the memory of the host.
impl<'g> Reducer<&'g mut [f32]> for Nccl {
    fn overlap(&mut self, backward: Backward<'_, &'g mut [f32]>) {
        let nccl = self;
        overlap(backward, |bucket| end_on_error(nccl.sum_host(bucket)));
    }
}

/// A communicator of the processes of `group`, which all come here, each with the GPU of its `stream`.
///
/// # Errors
/// [`Error::Nccl`].
pub(crate) fn communicator(stream: &Arc<CudaStream>, group: &mut dyn Group) -> Result<Comm, Error> {
    let mut id = [0; ID_BYTES];
    if group.rank() == 0 {
        id = named()?;
    }
    group.broadcast(&mut id);
    meet(stream, group.rank(), group.ranks(), &id)
}

/// A new name for a communicator.
fn named() -> Result<[u8; ID_BYTES], Error> {
    let id = Id::new().map_err(|error| failed("naming the job", &error))?;
    Ok(to_bytes(&id))
}

fn meet(stream: &Arc<CudaStream>, rank: usize, ranks: usize, id: &[u8; ID_BYTES]) -> Result<Comm, Error> {
    Comm::from_rank(Arc::clone(stream), rank, ranks, from_bytes(id))
        .map_err(|error| failed("meeting the other processes", &error))
}

/// Ends this process when the others cannot be reached: it could not go on alone, and the launcher ends the others.
fn end_on_error<T>(result: Result<T, Error>) {
    if let Err(error) = result {
        // Where nobody reads stderr there is nothing left to tell.
        let _ = writeln!(std::io::stderr(), "error: {error}");
        std::process::exit(preprocess::console::exit::USAGE.into());
    }
}

fn failed(what: &'static str, error: &NcclError) -> Error {
    Error::Nccl {
        what,
        reason: format!("{:?}", error.0),
    }
}

fn lost(what: &'static str, error: &DriverError) -> Error {
    Error::Nccl {
        what,
        reason: error.to_string(),
    }
}

/// NCCL's identifier as plain bytes: C's characters have a sign on some processors.
fn to_bytes(id: &Id) -> [u8; ID_BYTES] {
    id.internal().map(|character| character as u8)
}

fn from_bytes(bytes: &[u8; ID_BYTES]) -> Id {
    Id::uninit(bytes.map(|byte| byte as std::ffi::c_char))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distributed::Single;

    #[test]
    fn an_identifier_survives_as_bytes() {
        let bytes: [u8; ID_BYTES] = std::array::from_fn(|i| (2 * i) as u8);
        assert_eq!(to_bytes(&from_bytes(&bytes)), bytes);
    }

    /// All that one GPU can show: every path is taken, and sums of one are what they were.
    #[test]
    #[ignore = "needs a GPU"]
    fn a_gpu_alone_sums_with_itself() {
        let launch = Launch {
            launcher: "torchrun",
            ranks_name: "WORLD_SIZE",
            rank: 0,
            ranks: 1,
        };
        let context = CudaContext::new(0).unwrap();
        let mut nccl = Nccl::join(&context, &launch, Some(&mut Single)).unwrap();
        let mut values = [1.5, -2.0];
        nccl.sum(&mut values);
        assert_eq!(values, [1.5, -2.0]);
        let mut bytes = [1, 2, 3];
        nccl.broadcast(&mut bytes);
        assert_eq!(bytes, [1, 2, 3]);

        // Longer than the buffer that it goes through.
        let expected: Vec<f32> = (0..PIECE + 5).map(|i| i as f32).collect();
        let mut gradients = expected.clone();
        let reducer: &mut dyn for<'g> Reducer<&'g mut [f32]> = &mut nccl;
        let (end, start) = gradients.split_at_mut(7);
        let parts = [start, end];
        reducer.overlap(Box::new(move |finished| parts.into_iter().for_each(finished)));
        assert!(gradients == expected);

        nccl.finish();
    }
}
