#![expect(
    unsafe_code,
    reason = "device memory as f32 and f64; a communicator moves to another thread"
)]
//! Several processes, each with a GPU: gradients are summed in place by NCCL while the backward goes on.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError};
use cudarc::nccl::{Comm, NcclType, ReduceOp};

use super::failed;
use super::memory::Memory;
use crate::distributed::{self, Group, communicator};
use crate::gpu::device::DeviceError;
use crate::gpu::program::Slot;

/// The other processes, as a device sees them: a communicator with a stream of its own beside the device's.
pub struct Peers {
    comm: Communicator,
    stream: Arc<CudaStream>,
    /// That a part of the gradients has been written; recorded anew for each.
    written: CudaEvent,
    summed: CudaEvent,
}

struct Communicator(Comm);

// SAFETY: a communicator belongs to a GPU, not to a thread: NCCL asks for one call at a time, from any thread. This one has
// one owner, whose methods take `&mut self`.
unsafe impl Send for Communicator {}

impl Peers {
    /// Meets the processes of `group`, which all come here, on the GPU of `context`.
    ///
    /// # Errors
    /// [`distributed::Error::Nccl`].
    pub fn join(context: &Arc<CudaContext>, group: &mut dyn Group) -> Result<Self, distributed::Error> {
        let lost = |error: DriverError| distributed::Error::Nccl {
            what: "opening the GPU",
            reason: error.to_string(),
        };
        let stream = context.new_stream().map_err(lost)?;
        Ok(Self {
            comm: Communicator(communicator(&stream, group)?),
            stream,
            written: context.new_event(None).map_err(lost)?,
            summed: context.new_event(None).map_err(lost)?,
        })
    }

    /// Starts to sum f32 over all processes, after what `stream` has been given so far.
    pub(super) fn sum_gradients(
        &mut self,
        stream: &CudaStream,
        memory: &mut Memory,
        slot: Slot,
    ) -> Result<(), DeviceError> {
        self.sum::<f32>(stream, memory, slot)
    }

    /// Sums f64 over all processes; `stream` goes on when they and everything before them are summed.
    pub(super) fn sum_values(
        &mut self,
        stream: &CudaStream,
        memory: &mut Memory,
        slot: Slot,
    ) -> Result<(), DeviceError> {
        self.sum::<f64>(stream, memory, slot)?;
        self.summed
            .record(&self.stream)
            .and_then(|()| stream.wait(&self.summed))
            .map_err(|error| failed("waiting for the sums of the gradients", &error))
    }

    /// Starts to sum the numbers of `slot`, f32 or f64, after what `stream` has been given so far.
    fn sum<T: NcclType + bytemuck::Pod>(
        &mut self,
        stream: &CudaStream,
        memory: &mut Memory,
        slot: Slot,
    ) -> Result<(), DeviceError> {
        self.written
            .record(stream)
            .and_then(|()| self.stream.wait(&self.written))
            .map_err(|error| failed("handing gradients over", &error))?;
        let mut bytes = memory.view(slot)?;
        // SAFETY: numbers of this type lie there, at a multiple of their size; any bits are numbers.
        let values = unsafe { bytes.transmute_mut::<T>(slot.bytes / size_of::<T>()) };
        let mut values = values.ok_or_else(|| DeviceError {
            what: "summing gradients".to_owned(),
            reason: format!("{slot:?} has no whole number of values"),
        })?;
        self.comm
            .0
            .all_reduce_in_place(&mut values, &ReduceOp::Sum)
            .map(|_| ())
            .map_err(|error| DeviceError {
                what: "a sum over processes".to_owned(),
                reason: format!("{:?}", error.0),
            })
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // The device frees its memory after this.
        let _ = self.stream.synchronize();
    }
}
