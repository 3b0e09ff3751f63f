//! A program's time, command by command.

use std::sync::Arc;

use cudarc::driver::CudaEvent;
use cudarc::driver::sys::CUevent_flags;

use super::{CudaDevice, failed};
use crate::gpu::device::DeviceError;
use crate::gpu::program::{Command, Program};

/// The time of each command of a program.
#[derive(Clone, Debug)]
pub struct Timed {
    /// Milliseconds, in the order of the commands.
    pub milliseconds: Vec<f32>,
}

impl CudaDevice {
    /// Runs a program with an event before and after each command. It takes longer than without: launches cannot overlap.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn run_timed(&mut self, program: &Arc<Program>) -> Result<Timed, DeviceError> {
        let stream = Arc::clone(&self.stream);
        let event = || -> Result<CudaEvent, DeviceError> {
            stream
                .record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
                .map_err(|error| failed("an event", &error))
        };
        let mut events = vec![event()?];
        for command in &program.commands {
            self.execute(command)?;
            if !matches!(command, Command::Final(_) | Command::Sum(_)) {
                events.push(event()?);
            }
        }
        stream
            .synchronize()
            .map_err(|error| failed("waiting for the GPU", &error))?;
        let elapsed = |pair: &[CudaEvent]| {
            pair[0]
                .elapsed_ms(&pair[1])
                .map_err(|error| failed("reading an event", &error))
        };
        Ok(Timed {
            milliseconds: events.windows(2).map(elapsed).collect::<Result<_, _>>()?,
        })
    }
}
