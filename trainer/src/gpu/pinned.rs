#![expect(unsafe_code, reason = "page-locked memory of the CUDA driver")]
//! Page-locked memory that a loader fills, and copies of it that go on while the processor works.

use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use cudarc::driver::sys::CU_MEMHOSTALLOC_PORTABLE;
use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream, DriverError, PinnedHostSlice};
use shards::error::Error;
use shards::loader::{BufferSource, LatentBuffer, Latents};

use super::{Fence, InFlight};

/// Memory for batches that any GPU of this process copies without a detour, for
/// [`LoaderConfig::buffers`](shards::loader::LoaderConfig).
pub struct PinnedBuffers {
    context: Arc<CudaContext>,
}

impl PinnedBuffers {
    /// Memory that is locked by the driver of `context`'s GPU.
    pub fn new(context: Arc<CudaContext>) -> Self {
        Self { context }
    }

    fn pinned(&self, elements: usize) -> Result<Pinned, DriverError> {
        // Ordinary caching, not write-combined: the loader adds noise to what it has written.
        // SAFETY: the content is written below, before anything reads it.
        let mut memory = unsafe {
            self.context
                .alloc_pinned_with_flags::<f32>(elements, CU_MEMHOSTALLOC_PORTABLE)?
        };
        let start = memory.as_mut_ptr()?;
        // SAFETY: the driver has just allocated `elements` numbers there; zero bytes are a number.
        unsafe { start.write_bytes(0, elements) };
        Ok(Pinned {
            start: NonNull::new(start).unwrap_or(NonNull::dangling()),
            memory,
        })
    }
}

impl BufferSource for PinnedBuffers {
    fn allocate(&self, elements: usize) -> shards::error::Result<Box<dyn LatentBuffer>> {
        // The driver refuses to allocate nothing.
        if elements == 0 {
            return Ok(Box::new(Vec::new()));
        }
        let buffer = self.pinned(elements).map_err(|error| Error::Settings {
            what: format!(
                "cannot lock {} bytes of memory for a batch: {error}; smaller batches need less",
                4 * elements
            ),
        })?;
        Ok(Box::new(buffer))
    }
}

struct Pinned {
    /// Of `memory`, which asks the driver at every access whether a copy of its own is under way; [`InFlight`] knows.
    start: NonNull<f32>,
    memory: PinnedHostSlice<f32>,
}

// SAFETY: the memory belongs to this value alone, and to no thread; `PinnedHostSlice` is both itself.
unsafe impl Send for Pinned {}
// SAFETY: as above: shared references only read.
unsafe impl Sync for Pinned {}

impl LatentBuffer for Pinned {
    fn as_slice(&self) -> &[f32] {
        // SAFETY: as many initialised numbers, which live as long as `memory`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.memory.len()) }
    }

    fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above, and borrowed alone. A device only reads it, while an `InFlight` keeps the buffer away from all.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.memory.len()) }
    }
}

impl Fence for CudaEvent {
    type Error = DriverError;

    fn wait(&self) -> Result<(), DriverError> {
        self.synchronize()
    }
}

/// Starts to copy a batch to the GPU of `stream`. From page-locked memory the copy goes on by itself, else it is done when
/// this returns.
///
/// # Errors
/// When the GPU has no room, or has failed.
pub fn upload(
    latents: Latents,
    stream: &Arc<CudaStream>,
) -> Result<InFlight<CudaSlice<f32>, CudaEvent>, DriverError> {
    // SAFETY: of any content: the copy fills it before anything in the order of the stream reads it.
    let mut target = unsafe { stream.alloc::<f32>(latents.len()) }?;
    let copied = stream
        .memcpy_htod(&latents[..], &mut target)
        .and_then(|()| stream.record_event(None));
    match copied {
        Ok(event) => Ok(InFlight::new(target, latents, event)),
        Err(error) => {
            // The copy may have begun: the memory goes back to the loader when this returns.
            let _ = stream.synchronize();
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs a GPU"]
    fn a_batch_arrives_through_page_locked_memory() {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let mut buffer = PinnedBuffers::new(context).allocate(1 << 16).unwrap();
        for (i, value) in buffer.as_mut_slice().iter_mut().enumerate() {
            *value = i as f32;
        }
        let expected = buffer.as_slice().to_vec();
        let target = upload(buffer.into(), &stream).unwrap().arrive().unwrap();
        assert_eq!(stream.clone_dtoh(&target).unwrap(), expected);
    }
}
