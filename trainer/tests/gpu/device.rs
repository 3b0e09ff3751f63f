//! The GPU, as a runner of launches and as a device of programs.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use trainer::gpu::cuda::{CudaDevice, Settings};
use trainer::gpu::program::{Command, Program, Slot, Space};
use trainer::gpu::{Device, DeviceError};

use crate::checks::runner::{Launch, Run};

/// What buffers begin at.
const ALIGNMENT: usize = 256;

/// The GPU that is tested.
pub(crate) fn ordinal() -> usize {
    let named = std::env::var("DIFFUSSM_GPU").ok();
    named.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn opened() -> Result<CudaDevice, DeviceError> {
    // Graphs, too: a program that runs three times has been launched from one.
    let settings = Settings {
        graphs: true,
        ..Settings::default()
    };
    CudaDevice::open(ordinal(), settings)
}

/// One for all launches: loading the kernels takes longer than most checks.
fn shared() -> Result<MutexGuard<'static, CudaDevice>, DeviceError> {
    static DEVICE: OnceLock<Result<Mutex<CudaDevice>, DeviceError>> = OnceLock::new();
    let device = DEVICE.get_or_init(|| opened().map(Mutex::new));
    match device {
        Ok(device) => Ok(device.lock().unwrap_or_else(PoisonError::into_inner)),
        Err(error) => Err(error.clone()),
    }
}

/// The GPU's name.
pub(crate) fn name() -> Result<String, DeviceError> {
    shared().map(|device| device.name())
}

/// A device for programs.
pub(crate) fn open() -> Option<Box<dyn Device>> {
    Some(Box::new(opened().unwrap()))
}

/// Runs launches, one by one.
pub(crate) struct Runner(MutexGuard<'static, CudaDevice>);

impl Runner {
    pub(crate) fn start() -> Option<Self> {
        Some(Self(shared().unwrap()))
    }

    /// Runs a launch, and reads every buffer back.
    pub(crate) fn run(&mut self, launch: &Launch) -> Run {
        let device = &mut *self.0;
        let mut end = 0;
        let slots: Vec<Slot> = launch
            .places()
            .map(|buffer| {
                let count = buffer.bytes.len() / buffer.granule;
                let slot = Slot::new(Space::Arena, end, count, buffer.granule);
                end += slot.bytes.next_multiple_of(ALIGNMENT);
                slot
            })
            .collect();
        let next = Cell::new(0);
        let placed = launch.map(|_| slots[next.replace(next.get() + 1)]);
        device.reserve(Space::Arena, end).unwrap();
        for (slot, buffer) in slots.iter().zip(launch.places()) {
            device.write(*slot, &buffer.bytes).unwrap();
        }
        let program = Program {
            commands: vec![Command::Launch(placed)],
            arena: end,
        };
        device.run(&Arc::new(program)).unwrap();
        let buffers = slots.iter().map(|slot| {
            let mut bytes = vec![0; slot.bytes];
            device.read(*slot, &mut bytes).unwrap();
            bytes
        });
        Run {
            buffers: buffers.collect(),
        }
    }
}
