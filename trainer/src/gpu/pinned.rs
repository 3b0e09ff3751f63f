#![expect(unsafe_code, reason = "page-locked memory of the CUDA driver")]
//! Page-locked memory that a loader fills, and copies of it that go on while the processor works.

use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use cudarc::driver::sys::CU_MEMHOSTALLOC_PORTABLE;
use cudarc::driver::{CudaContext, CudaEvent, DriverError, PinnedHostSlice};
use shards::error::Error;
use shards::loader::{BufferSource, LatentBuffer};

use super::Fence;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs a GPU"]
    fn page_locked_memory_is_copied_to_a_gpu() {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let mut buffer = PinnedBuffers::new(context).allocate(1 << 16).unwrap();
        for (i, value) in buffer.as_mut_slice().iter_mut().enumerate() {
            *value = i as f32;
        }
        let target = stream.clone_htod(buffer.as_slice()).unwrap();
        stream.synchronize().unwrap();
        assert_eq!(stream.clone_dtoh(&target).unwrap(), buffer.as_slice());
    }
}
