#![expect(
    unsafe_code,
    reason = "device memory by address, copies that go on by themselves"
)]
//! A GPU's memory by purpose, and the ways in and out through page-locked memory of the host.

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, CudaStream, CudaViewMut, DevicePtr as _, DriverError, result,
};
use shards::loader::{BufferSource as _, LatentBuffer, Latents};

use super::failed;
use crate::gpu::device::{DeviceError, Ticket};
use crate::gpu::program::{Slot, Space};
use crate::gpu::{InFlight, PinnedBuffers};

/// Numbers of a piece of page-locked memory that writes go through: 8 MiB.
const PIECE: usize = 1 << 21;
/// Bytes that each write in a piece begins at a multiple of.
const ALIGNMENT: usize = 256;

/// Makes cudarc keep no events of its own for memory that is allocated from now on.
pub(super) fn order_by_stream_alone(context: &Arc<CudaContext>) {
    // SAFETY: a device uses one stream, which orders all uses of its memory; `Peers`, with a stream of its own, records and
    // awaits events itself, and both streams are waited for before memory is freed.
    unsafe { context.disable_event_tracking() }
}

/// The spaces of a device.
pub(super) struct Memory {
    stream: Arc<CudaStream>,
    spaces: HashMap<Space, CudaSlice<u8>>,
    /// Two, in turns: one is filled while the other is being copied. A step's few bytes go behind those of the step before, which
    /// may not have been copied yet: the host waits once in a piece, not once in a write.
    staging: [Piece; 2],
    turn: usize,
    pinned: PinnedBuffers,
    orders: HashMap<Ticket, Order>,
    /// Memory of orders that were fetched: locking it again would take longer than the copy.
    fetched: Vec<Order>,
    next_ticket: u64,
    /// The latents of the last step, whose memory goes back to the loader when they have arrived.
    latents: Option<InFlight<(), CudaEvent>>,
}

/// Page-locked memory, and when all that was put into it has been copied.
struct Piece {
    memory: Box<dyn LatentBuffer>,
    /// Bytes in use.
    used: usize,
    copied: CudaEvent,
}

/// A read that is under way.
struct Order {
    memory: Box<dyn LatentBuffer>,
    bytes: usize,
    copied: CudaEvent,
}

impl Memory {
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self, DeviceError> {
        let pinned = PinnedBuffers::new(Arc::clone(stream.context()));
        let piece = || {
            Ok(Piece {
                memory: locked(&pinned, PIECE)?,
                used: 0,
                copied: event(stream)?,
            })
        };
        Ok(Self {
            staging: [piece()?, piece()?],
            stream: Arc::clone(stream),
            spaces: HashMap::new(),
            turn: 0,
            pinned,
            orders: HashMap::new(),
            fetched: Vec::new(),
            next_ticket: 0,
            latents: None,
        })
    }

    /// Whether memory was moved.
    pub(super) fn reserve(&mut self, space: Space, bytes: usize) -> Result<bool, DeviceError> {
        if self.spaces.get(&space).is_some_and(|there| there.len() >= bytes) || bytes == 0 {
            return Ok(false);
        }
        let what = || format!("reserving {bytes} bytes for {space:?}");
        // The old memory goes first: there may not be room for both.
        self.stream
            .synchronize()
            .map_err(|error| failed(what(), &error))?;
        self.spaces.remove(&space);
        // SAFETY: bytes of any content: a program writes what it reads, but for what is written before it.
        let memory = unsafe { self.stream.alloc::<u8>(bytes) }.map_err(|error| failed(what(), &error))?;
        self.spaces.insert(space, memory);
        Ok(true)
    }

    fn space(&self, slot: Slot) -> Result<&CudaSlice<u8>, DeviceError> {
        let space = self.spaces.get(&slot.space);
        space
            .filter(|memory| slot.offset + slot.bytes <= memory.len())
            .ok_or_else(|| not_there(slot))
    }

    /// The address of a place.
    pub(super) fn address(&self, slot: Slot) -> Result<u64, DeviceError> {
        if slot.bytes == 0 {
            return Ok(0);
        }
        let (start, _no_events) = self.space(slot)?.device_ptr(&self.stream);
        Ok(start + slot.offset as u64)
    }

    /// A place as a view.
    pub(super) fn view(&mut self, slot: Slot) -> Result<CudaViewMut<'_, u8>, DeviceError> {
        let (start, end) = (slot.offset, slot.offset + slot.bytes);
        let space = self.spaces.get_mut(&slot.space);
        space
            .and_then(|memory| memory.try_slice_mut(start..end))
            .ok_or_else(|| not_there(slot))
    }

    pub(super) fn zero(&self, slot: Slot) -> Result<(), DeviceError> {
        let address = self.address(slot)?;
        // SAFETY: so many bytes at that address belong to this device.
        unsafe { result::memset_d8_async(address, 0, slot.bytes, self.stream.cu_stream()) }
            .map_err(|error| failed("filling memory with zeros", &error))
    }

    pub(super) fn write(&mut self, to: Slot, bytes: &[u8]) -> Result<(), DeviceError> {
        check_length(to, bytes.len())?;
        let failed = |error: DriverError| failed("a copy to the GPU", &error);
        let mut address = if bytes.is_empty() { 0 } else { self.address(to)? };
        for part in bytes.chunks(4 * PIECE) {
            if self.staging[self.turn].used + part.len() > 4 * PIECE {
                self.turn = 1 - self.turn;
                let piece = &mut self.staging[self.turn];
                piece.copied.synchronize().map_err(failed)?;
                piece.used = 0;
            }
            let piece = &mut self.staging[self.turn];
            let range = piece.used..piece.used + part.len();
            piece.used = range.end.next_multiple_of(ALIGNMENT);
            let memory = &mut bytemuck::cast_slice_mut::<f32, u8>(piece.memory.as_mut_slice())[range];
            memory.copy_from_slice(part);
            // SAFETY: as many bytes at that address belong to this device; this part of the piece is not touched before its
            // event.
            unsafe { result::memcpy_htod_async(address, memory, self.stream.cu_stream()) }.map_err(failed)?;
            piece.copied.record(&self.stream).map_err(failed)?;
            address += part.len() as u64;
        }
        Ok(())
    }

    pub(super) fn upload(&mut self, to: Slot, latents: Latents) -> Result<(), DeviceError> {
        check_length(to, 4 * latents.len())?;
        // Those of the step before have arrived long ago.
        self.latents = None;
        let failed = |error: DriverError| failed("a copy of latents to the GPU", &error);
        let (address, arrived) = (self.address(to)?, event(&self.stream)?);
        // SAFETY: as many bytes at that address belong to this device; `InFlight` keeps the latents until the event. From memory
        // that is not page-locked the copy has ended when this returns.
        unsafe { result::memcpy_htod_async(address, &latents[..], self.stream.cu_stream()) }
            .and_then(|()| arrived.record(&self.stream))
            .inspect_err(|_| {
                // The copy may have begun: the memory goes back to the loader now.
                let _ = self.stream.synchronize();
            })
            .map_err(failed)?;
        self.latents = Some(InFlight::new((), latents, arrived));
        Ok(())
    }

    pub(super) fn read(&mut self, from: Slot, bytes: &mut [u8]) -> Result<(), DeviceError> {
        check_length(from, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        let address = self.address(from)?;
        // SAFETY: so many bytes at that address belong to this device, and the stream is waited for before this returns.
        unsafe { result::memcpy_dtoh_async(bytes, address, self.stream.cu_stream()) }
            .and_then(|()| self.stream.synchronize())
            .map_err(|error| failed("a copy from the GPU", &error))
    }

    pub(super) fn order(&mut self, from: Slot) -> Result<Ticket, DeviceError> {
        let address = self.address(from)?;
        let fits = |order: &Order| 4 * order.memory.as_slice().len() >= from.bytes;
        let mut order = match self.fetched.iter().position(fits) {
            Some(index) => self.fetched.swap_remove(index),
            None => Order {
                memory: locked(&self.pinned, from.bytes.div_ceil(4))?,
                bytes: 0,
                copied: event(&self.stream)?,
            },
        };
        order.bytes = from.bytes;
        let memory = &mut bytemuck::cast_slice_mut::<f32, u8>(order.memory.as_mut_slice())[..from.bytes];
        // SAFETY: so many bytes at that address belong to this device; the memory is not looked at before the event.
        unsafe { result::memcpy_dtoh_async(memory, address, self.stream.cu_stream()) }
            .and_then(|()| order.copied.record(&self.stream))
            .map_err(|error| failed("ordering a copy from the GPU", &error))?;
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.orders.insert(ticket, order);
        Ok(ticket)
    }

    pub(super) fn fetch(&mut self, ticket: Ticket) -> Result<Vec<u8>, DeviceError> {
        let Some(order) = self.orders.remove(&ticket) else {
            return Err(DeviceError {
                what: "fetching a copy".to_owned(),
                reason: "it was not ordered".to_owned(),
            });
        };
        order
            .copied
            .synchronize()
            .map_err(|error| failed("a copy from the GPU", &error))?;
        let bytes = bytemuck::cast_slice::<f32, u8>(order.memory.as_slice())[..order.bytes].to_vec();
        self.fetched.push(order);
        Ok(bytes)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Page-locked memory may still be written to.
        let _ = self.stream.synchronize();
    }
}

fn event(stream: &Arc<CudaStream>) -> Result<CudaEvent, DeviceError> {
    let event = stream.context().new_event(None);
    event.map_err(|error| failed("an event", &error))
}

fn locked(pinned: &PinnedBuffers, elements: usize) -> Result<Box<dyn LatentBuffer>, DeviceError> {
    pinned.allocate(elements).map_err(|error| DeviceError {
        what: "locking memory".to_owned(),
        reason: error.to_string(),
    })
}

fn check_length(slot: Slot, bytes: usize) -> Result<(), DeviceError> {
    if slot.bytes == bytes {
        return Ok(());
    }
    Err(DeviceError {
        what: "a copy".to_owned(),
        reason: format!("{bytes} bytes for {} at {slot:?}", slot.bytes),
    })
}

fn not_there(slot: Slot) -> DeviceError {
    DeviceError {
        what: "finding memory".to_owned(),
        reason: format!("{slot:?} was not reserved"),
    }
}
