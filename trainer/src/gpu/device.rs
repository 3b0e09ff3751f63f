//! What a device must be able to do. There are two: a CUDA GPU, and its emulation in the tests.

use std::sync::Arc;

use shards::loader::{BufferSource, Latents};

use super::program::{Program, Slot, Space};

/// A device that has failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the GPU has failed at {what}: {reason}")]
pub struct DeviceError {
    /// What was being done.
    pub what: String,
    /// What the driver or a library says.
    pub reason: String,
}

/// A read that has been ordered and not been fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// A device: memory by purpose, and programs that work in it, one after the other.
///
/// Everything happens in the order of the calls. Only [`Device::read`], [`Device::fetch`] and [`Device::wait`] make the host
/// wait; what is passed to the others may be used again as soon as they return.
pub trait Device: Send {
    /// Makes room for `bytes` bytes in `space`, of any content; what was in it is lost where it grows.
    ///
    /// # Errors
    /// [`DeviceError`], here and below.
    fn reserve(&mut self, space: Space, bytes: usize) -> Result<(), DeviceError>;

    /// Writes as many bytes as `to` has.
    ///
    /// # Errors
    /// See [`Device::reserve`].
    fn write(&mut self, to: Slot, bytes: &[u8]) -> Result<(), DeviceError>;

    /// [`Device::write`] of a batch of latents, without a detour where their memory allows it.
    ///
    /// # Errors
    /// See [`Device::reserve`].
    fn upload(&mut self, to: Slot, latents: Latents) -> Result<(), DeviceError> {
        self.write(to, bytemuck::cast_slice(&latents[..]))
    }

    /// Reads as many bytes as `from` has.
    ///
    /// # Errors
    /// See [`Device::reserve`].
    fn read(&mut self, from: Slot, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Orders a read, to be fetched while the device goes on; at most two are under way.
    ///
    /// # Errors
    /// See [`Device::reserve`].
    fn order(&mut self, from: Slot) -> Result<Ticket, DeviceError>;

    /// What an order has read.
    ///
    /// # Errors
    /// See [`Device::reserve`].
    fn fetch(&mut self, ticket: Ticket) -> Result<Vec<u8>, DeviceError>;

    /// Runs a program.
    ///
    /// # Errors
    /// See [`Device::reserve`].
    fn run(&mut self, program: &Arc<Program>) -> Result<(), DeviceError>;

    /// Waits until everything is done.
    ///
    /// # Errors
    /// See [`Device::reserve`].
    fn wait(&mut self) -> Result<(), DeviceError>;

    /// Milliseconds of each command of a program, which is run for it; waits between commands make it longer than it is.
    ///
    /// # Errors
    /// See [`Device::reserve`].
    fn time(&mut self, program: &Arc<Program>) -> Result<Vec<f32>, DeviceError>;

    /// What it is called.
    fn name(&self) -> String;

    /// Bytes of its memory that nobody uses, where it knows.
    fn available(&self) -> Option<u64> {
        None
    }

    /// Memory of the host from which [`Device::upload`] goes on by itself.
    fn host_memory(&self) -> Option<Arc<dyn BufferSource>> {
        None
    }
}
