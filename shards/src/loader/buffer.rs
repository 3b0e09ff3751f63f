//! The memory that batches lie in: made once, filled again and again. A program with a GPU gives page-locked memory.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

use crate::error::Result;

/// Memory for the latents of one batch, `[B, C, H, W]`; its address stays.
pub trait LatentBuffer: Send + Sync {
    /// All of it.
    fn as_slice(&self) -> &[f32];
    /// All of it, to be filled by a loader's thread.
    fn as_mut_slice(&mut self) -> &mut [f32];
}

impl LatentBuffer for Vec<f32> {
    fn as_slice(&self) -> &[f32] {
        self
    }

    fn as_mut_slice(&mut self) -> &mut [f32] {
        self
    }
}

/// Where a loader takes its memory from: a few buffers, when the first batches are made.
///
/// One that allocates page-locked (pinned) memory lets a GPU copy a batch while the processor goes on. The batch must
/// live until the copy has ended: dropping it gives its buffer to the next one.
pub trait BufferSource: Send + Sync {
    /// Memory for `elements` numbers, of any content.
    ///
    /// # Errors
    /// When there is none: the batch that needs it is lost and the error is what the loader gives in its place.
    fn allocate(&self, elements: usize) -> Result<Box<dyn LatentBuffer>>;
}

/// Ordinary memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeapBuffers;

impl BufferSource for HeapBuffers {
    fn allocate(&self, elements: usize) -> Result<Box<dyn LatentBuffer>> {
        Ok(Box::new(vec![0f32; elements]))
    }
}

/// The latents of a batch; a slice in every respect. Its memory goes back to the loader when it is dropped.
pub struct Latents {
    memory: Option<Box<dyn LatentBuffer>>,
    pool: Option<Arc<Pool>>,
}

impl Latents {
    /// The memory itself, for whoever knows more about it than that it is a slice; the loader makes a new one.
    pub fn into_buffer(mut self) -> Box<dyn LatentBuffer> {
        self.memory.take().unwrap_or_else(|| Box::new(Vec::new()))
    }
}

impl Deref for Latents {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.memory.as_ref().map_or(&[], |memory| memory.as_slice())
    }
}

impl DerefMut for Latents {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.memory
            .as_mut()
            .map_or(&mut [], |memory| memory.as_mut_slice())
    }
}

impl Drop for Latents {
    fn drop(&mut self) {
        if let (Some(memory), Some(pool)) = (self.memory.take(), &self.pool) {
            pool.give(memory);
        }
    }
}

impl From<Vec<f32>> for Latents {
    fn from(values: Vec<f32>) -> Self {
        let memory: Box<dyn LatentBuffer> = Box::new(values);
        memory.into()
    }
}

/// Memory of the caller's, which goes nowhere when it is dropped.
impl From<Box<dyn LatentBuffer>> for Latents {
    fn from(memory: Box<dyn LatentBuffer>) -> Self {
        Self {
            memory: Some(memory),
            pool: None,
        }
    }
}

impl FromIterator<f32> for Latents {
    fn from_iter<T: IntoIterator<Item = f32>>(values: T) -> Self {
        Vec::from_iter(values).into()
    }
}

impl Clone for Latents {
    fn clone(&self) -> Self {
        self.to_vec().into()
    }
}

impl PartialEq for Latents {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl fmt::Debug for Latents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Buffers that are not in use; as many as were ever in use together.
pub(super) struct Pool {
    source: Arc<dyn BufferSource>,
    elements: usize,
    free: Mutex<Vec<Box<dyn LatentBuffer>>>,
}

impl Pool {
    /// A pool of buffers of `elements` numbers.
    pub(super) fn new(source: Arc<dyn BufferSource>, elements: usize) -> Arc<Self> {
        Arc::new(Self {
            source,
            elements,
            free: Mutex::default(),
        })
    }

    /// A buffer with the content of an earlier batch.
    pub(super) fn take(self: &Arc<Self>) -> Result<Latents> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = match free {
            Some(memory) => memory,
            None => {
                let memory = self.source.allocate(self.elements)?;
                if memory.as_slice().len() != self.elements {
                    return Err(crate::error::Error::Buffer {
                        what: "allocated",
                        found: memory.as_slice().len(),
                        expected: self.elements,
                    });
                }
                memory
            }
        };
        Ok(Latents {
            memory: Some(memory),
            pool: Some(Arc::clone(self)),
        })
    }

    fn give(&self, memory: Box<dyn LatentBuffer>) {
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(memory);
    }
}
