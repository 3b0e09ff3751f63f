//! A library that may panic on damaged input, kept from ending the program.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread is expected and need not be reported.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

static HOOK: Once = Once::new();

/// Does some work on the file at `path`; a panic becomes an error that names the file.
///
/// What the work changed must not be used after an error: it may be half done.
pub(super) fn guarded<R>(path: &Path, work: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
    HOOK.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                others(panic);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(before);
    result.unwrap_or_else(|_| {
        let path = path.display();
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{path}: it is damaged\nhint: fetch the file again"),
        ))
    })
}
