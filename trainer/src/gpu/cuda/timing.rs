//! A program's time, command by command.

use std::sync::Arc;

use cudarc::driver::CudaEvent;
use cudarc::driver::sys::CUevent_flags;

use super::{CudaDevice, failed};
use crate::gpu::device::DeviceError;
use crate::gpu::program::Program;

impl CudaDevice {
    /// Milliseconds of each command, by an event before and after it.
    pub(super) fn time_commands(&mut self, program: &Program) -> Result<Vec<f32>, DeviceError> {
        let stream = Arc::clone(&self.stream);
        let event = || -> Result<CudaEvent, DeviceError> {
            stream
                .record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
                .map_err(|error| failed("an event", &error))
        };
        let mut events = vec![event()?];
        for command in &program.commands {
            self.execute(command)?;
            events.push(event()?);
        }
        stream
            .synchronize()
            .map_err(|error| failed("waiting for the GPU", &error))?;
        let elapsed = |pair: &[CudaEvent]| {
            pair[0]
                .elapsed_ms(&pair[1])
                .map_err(|error| failed("reading an event", &error))
        };
        events.windows(2).map(elapsed).collect()
    }
}
