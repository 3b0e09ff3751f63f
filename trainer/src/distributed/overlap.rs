//! A thread that sums gradients while the backward pass goes on.

use std::panic::resume_unwind;
use std::sync::mpsc::channel;
use std::thread;

use super::Backward;

/// Runs `backward` in this thread, and `sum` in another on every part that it hands over, in the order of handing over.
///
/// The thread lives for one step: it may then borrow parts of the gradient buffer, which a thread of the whole run could
/// not; starting it costs some tens of microseconds.
pub(super) fn overlap<'g>(backward: Backward<'_, &'g mut [f32]>, mut sum: impl FnMut(&mut [f32]) + Send) {
    thread::scope(|scope| {
        let (finished, buckets) = channel::<&'g mut [f32]>();
        let summing = scope.spawn(move || buckets.into_iter().for_each(&mut sum));
        backward(&mut |bucket| {
            // A thread that has panicked shows below.
            let _ = finished.send(bucket);
        });
        drop(finished);
        if let Err(panic) = summing.join() {
            resume_unwind(panic);
        }
    });
}
