//! A batch that is being copied: its memory must not go back to the loader before the copy has ended.

use shards::loader::Latents;

/// Tells when a copy has ended.
pub trait Fence {
    /// Why it cannot be told.
    type Error;

    /// Waits until the copy has ended.
    ///
    /// # Errors
    /// When the device has failed.
    fn wait(&self) -> Result<(), Self::Error>;
}

/// Latents on their way to `target`, memory of a device.
///
/// The loader's threads would otherwise fill the same memory with the next batch while the device still reads it: dropping
/// this waits for the copy. Forgetting it ([`std::mem::forget`]) leaks the memory, which is then never filled again.
#[must_use]
pub struct InFlight<T, F: Fence> {
    // Dropped in this order: nothing is freed before the copy has ended.
    source: Source<F>,
    target: T,
}

/// The memory that is read, and until when.
struct Source<F: Fence> {
    fence: F,
    _latents: Latents,
}

impl<T, F: Fence> InFlight<T, F> {
    /// A copy from `latents` to `target` that has been started, and ends when `fence` says so.
    pub fn new(target: T, latents: Latents, fence: F) -> Self {
        Self {
            source: Source {
                fence,
                _latents: latents,
            },
            target,
        }
    }

    /// Waits for the copy; the memory goes back to the loader, the target to the caller.
    ///
    /// # Errors
    /// Those of the fence; the memory goes back all the same: a device that has failed reads no more.
    pub fn arrive(self) -> Result<T, F::Error> {
        self.source.fence.wait()?;
        Ok(self.target)
    }
}

impl<F: Fence> Drop for Source<F> {
    fn drop(&mut self) {
        // See the errors of `arrive`.
        let _ = self.fence.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use shards::loader::LatentBuffer;

    use super::*;

    /// What happened, in order.
    type Log = Arc<Mutex<Vec<&'static str>>>;

    struct Memory(Vec<f32>, Log);

    impl LatentBuffer for Memory {
        fn as_slice(&self) -> &[f32] {
            &self.0
        }

        fn as_mut_slice(&mut self) -> &mut [f32] {
            &mut self.0
        }
    }

    impl Drop for Memory {
        fn drop(&mut self) {
            self.1.lock().unwrap().push("memory given back");
        }
    }

    struct Told(Log, bool);

    impl Fence for Told {
        type Error = &'static str;

        fn wait(&self) -> Result<(), &'static str> {
            self.0.lock().unwrap().push("waited");
            if self.1 {
                Ok(())
            } else {
                Err("the device has failed")
            }
        }
    }

    fn start(log: &Log, works: bool) -> InFlight<Vec<f32>, Told> {
        let memory = Memory(vec![1.0, 2.0], Arc::clone(log));
        let target = memory.0.clone();
        InFlight::new(
            target,
            Latents::from(Box::new(memory) as Box<dyn LatentBuffer>),
            Told(Arc::clone(log), works),
        )
    }

    #[test]
    fn memory_goes_back_after_the_copy_and_the_target_stays() {
        for (arrives, works) in [(true, true), (true, false), (false, true), (false, false)] {
            let log = Log::default();
            let copy = start(&log, works);
            assert!(log.lock().unwrap().is_empty(), "nobody waits before it must");
            if arrives {
                let expected = works.then(|| vec![1.0, 2.0]);
                assert_eq!(copy.arrive().ok(), expected);
            } else {
                drop(copy);
            }
            let happened = log.lock().unwrap().clone();
            let (last, before) = happened.split_last().unwrap();
            assert_eq!(*last, "memory given back");
            assert!(
                !before.is_empty() && before.iter().all(|&what| what == "waited"),
                "{before:?}"
            );
        }
    }
}
