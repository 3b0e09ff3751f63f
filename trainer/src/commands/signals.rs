//! Signals that ask a run to save and stop; a second one of the same kind ends the process at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts;

/// What a shell says of a program that a signal ended: this plus the signal's number.
const KILLED_BY: i32 = 128;

/// SIGUSR1 is what Slurm sends some time before the end with `--signal=USR1@90`.
#[cfg(unix)]
const SIGNALS: [i32; 3] = [consts::SIGTERM, consts::SIGINT, consts::SIGUSR1];
#[cfg(not(unix))]
const SIGNALS: [i32; 2] = [consts::SIGTERM, consts::SIGINT];

/// The handlers of this process: a handler cannot be given back, so there is one of each.
struct Handlers {
    stop: Arc<AtomicBool>,
    seen: Vec<Arc<AtomicBool>>,
}

static HANDLERS: OnceLock<Handlers> = OnceLock::new();

/// While it lives, the first signal only sets [`Signals::stop`].
#[derive(Debug)]
pub(super) struct Signals {
    /// Set by the first signal.
    pub(super) stop: Arc<AtomicBool>,
}

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub(super) fn listen() -> std::io::Result<Self> {
        let handlers = match HANDLERS.get() {
            Some(handlers) => handlers,
            None => {
                let new = Handlers::register()?;
                HANDLERS.get_or_init(|| new)
            }
        };
        for flag in &handlers.seen {
            flag.store(false, Ordering::Relaxed);
        }
        handlers.stop.store(false, Ordering::Relaxed);
        Ok(Self {
            stop: Arc::clone(&handlers.stop),
        })
    }
}

impl Handlers {
    fn register() -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut seen = Vec::new();
        for signal in SIGNALS {
            let flag = Arc::new(AtomicBool::new(false));
            signal_hook::flag::register_conditional_shutdown(signal, KILLED_BY + signal, Arc::clone(&flag))?;
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
            seen.push(flag);
        }
        Ok(Self { stop, seen })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // Nobody looks at `stop` any more: from now on every signal ends the process.
        for flag in HANDLERS.get().iter().flat_map(|handlers| &handlers.seen) {
            flag.store(true, Ordering::Relaxed);
        }
    }
}
