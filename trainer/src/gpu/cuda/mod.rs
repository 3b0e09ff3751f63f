//! A CUDA GPU that runs programs.
//!
//! All work of a process is in one stream; cudarc's own events are switched off for its context, since everything here is in
//! the stream's order, or, where processes sum their gradients, ordered by events of [`Peers`].

mod capture;
mod epilogue;
mod kernels;
mod memory;
#[cfg(feature = "nccl")]
mod peers;
mod products;
mod timing;

#[cfg(feature = "nccl")]
pub use peers::Peers;

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, DriverError};
use shards::loader::{BufferSource, Latents};

use super::PinnedBuffers;
use super::device::{Device, DeviceError, Ticket};
use super::program::{Command, Program, Slot, Space};
use crate::config::Precision;
use capture::Graphs;
use epilogue::{Epilogues, Fused};
use kernels::Kernels;
use memory::Memory;
use products::Products;

/// GPUs that this process sees.
///
/// # Errors
/// [`DeviceError`] when the driver cannot be asked.
pub fn count() -> Result<usize, DeviceError> {
    let count = CudaContext::device_count().map_err(|error| failed("looking for GPUs", &error))?;
    Ok(count as usize)
}

/// How products of f32 are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// In f32.
    #[default]
    Full,
    /// In TF32: factors are rounded to 10 bits behind the point.
    Tf32,
}

impl From<Precision> for Arithmetic {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Tf32 => Self::Tf32,
            Precision::F32 | Precision::Bf16 => Self::Full,
        }
    }
}

/// What a device is opened with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Of products of f32.
    pub arithmetic: Arithmetic,
    /// Whether a program that runs again is captured as a CUDA graph.
    pub graphs: bool,
}

/// A GPU.
pub struct CudaDevice {
    // Dropped in this order: what may still be at work on the memory goes before it.
    #[cfg(feature = "nccl")]
    peers: Option<Peers>,
    graphs: Option<Graphs>,
    memory: Memory,
    kernels: Kernels,
    products: Products,
    epilogues: Epilogues,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
}

impl CudaDevice {
    /// GPU number `ordinal`, of those that this process sees.
    ///
    /// # Errors
    /// [`DeviceError`] without such a GPU, without a driver, or with one that is too old for the kernels.
    pub fn open(ordinal: usize, settings: Settings) -> Result<Self, DeviceError> {
        let failed = |what: &str| {
            let what = format!("{what} of GPU {ordinal}");
            move |error: DriverError| failed(what, &error)
        };
        let context = CudaContext::new(ordinal).map_err(failed("the opening"))?;
        memory::order_by_stream_alone(&context);
        let stream = context.new_stream().map_err(failed("a stream"))?;
        Ok(Self {
            kernels: Kernels::load(&context)?,
            products: Products::new(&stream, settings.arithmetic)?,
            epilogues: Epilogues::new(&stream)?,
            memory: Memory::new(&stream)?,
            graphs: settings.graphs.then(Graphs::default),
            #[cfg(feature = "nccl")]
            peers: None,
            context,
            stream,
        })
    }

    /// Its context.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Sums gradients over processes from now on.
    #[cfg(feature = "nccl")]
    pub fn join(&mut self, peers: Peers) {
        self.peers = Some(peers);
    }

    /// One command.
    fn execute(&mut self, command: &Command) -> Result<(), DeviceError> {
        match command {
            Command::Launch(launch) => self.kernels.launch(&self.stream, launch, &self.memory),
            Command::Product(product) => self.products.run(product, &self.memory),
            Command::Zero(slot) => self.memory.zero(*slot),
            #[cfg(feature = "nccl")]
            Command::Final(slot) => match &mut self.peers {
                Some(peers) => peers.sum_gradients(&self.stream, &mut self.memory, *slot),
                None => Ok(()),
            },
            #[cfg(feature = "nccl")]
            Command::Sum(slot) => match &mut self.peers {
                Some(peers) => peers.sum_values(&self.stream, &mut self.memory, *slot),
                None => Ok(()),
            },
            #[cfg(not(feature = "nccl"))]
            Command::Final(_) | Command::Sum(_) => Ok(()),
        }
    }

    fn execute_all(&mut self, program: &Program) -> Result<(), DeviceError> {
        let mut commands = program.commands.iter().peekable();
        while let Some(command) = commands.next() {
            if let Command::Product(product) = command
                && let Some(fused) = Fused::of(product, commands.peek().copied())
                && self.epilogues.run(&fused, &self.memory)?
            {
                commands.next();
            } else {
                self.execute(command)?;
            }
        }
        Ok(())
    }

    /// Whether other processes take part, whose sums no graph holds.
    fn has_peers(&self) -> bool {
        #[cfg(feature = "nccl")]
        return self.peers.is_some();
        #[cfg(not(feature = "nccl"))]
        false
    }
}

impl Device for CudaDevice {
    fn reserve(&mut self, space: Space, bytes: usize) -> Result<(), DeviceError> {
        if self.memory.reserve(space, bytes)?
            && let Some(graphs) = &mut self.graphs
        {
            // They hold addresses.
            graphs.forget();
        }
        Ok(())
    }

    fn write(&mut self, to: Slot, bytes: &[u8]) -> Result<(), DeviceError> {
        self.memory.write(to, bytes)
    }

    fn upload(&mut self, to: Slot, latents: Latents) -> Result<(), DeviceError> {
        self.memory.upload(to, latents)
    }

    fn read(&mut self, from: Slot, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.memory.read(from, bytes)
    }

    fn order(&mut self, from: Slot) -> Result<Ticket, DeviceError> {
        self.memory.order(from)
    }

    fn fetch(&mut self, ticket: Ticket) -> Result<Vec<u8>, DeviceError> {
        self.memory.fetch(ticket)
    }

    fn run(&mut self, program: &Arc<Program>) -> Result<(), DeviceError> {
        self.context
            .bind_to_thread()
            .map_err(|error| failed("using the GPU", &error))?;
        if self.has_peers() {
            return self.execute_all(program);
        }
        let Some(mut graphs) = self.graphs.take() else {
            return self.execute_all(program);
        };
        let stream = Arc::clone(&self.stream);
        let done = graphs.run(&stream, program, || self.execute_all(program));
        self.graphs = Some(graphs);
        done
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        self.stream
            .synchronize()
            .map_err(|error| failed("waiting for the GPU", &error))
    }

    fn time(&mut self, program: &Arc<Program>) -> Result<Vec<f32>, DeviceError> {
        self.time_commands(program)
    }

    /// The GPU's name, as its driver says it.
    fn name(&self) -> String {
        self.context.name().unwrap_or_else(|_| "GPU".to_owned())
    }

    fn available(&self) -> Option<u64> {
        self.context.mem_get_info().ok().map(|(free, _)| free as u64)
    }

    fn host_memory(&self) -> Option<Arc<dyn BufferSource>> {
        Some(Arc::new(PinnedBuffers::new(Arc::clone(&self.context))))
    }
}

/// What the driver or a library has refused.
fn failed(what: impl Into<String>, error: &dyn std::error::Error) -> DeviceError {
    DeviceError {
        what: what.into(),
        reason: error.to_string(),
    }
}
