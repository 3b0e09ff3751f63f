#![expect(unsafe_code, reason = "a graph moves to another thread")]
//! Programs captured as CUDA graphs: all launches of a step are one.

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaStream};

use super::failed;
use crate::gpu::device::DeviceError;
use crate::gpu::program::Program;

/// What each program has become.
#[derive(Default)]
pub(super) struct Graphs {
    states: HashMap<usize, State>,
}

enum State {
    /// It has run once: libraries have chosen and loaded what they use.
    Warm,
    /// The program is kept: its address is how it is known.
    Captured(Graph, #[expect(dead_code, reason = "kept alive")] Arc<Program>),
}

struct Graph(CudaGraph);

// SAFETY: a graph belongs to a context, not to a thread; it has one owner, and is launched by one thread at a time.
unsafe impl Send for Graph {}

impl Graphs {
    /// Forgets all: they hold addresses of memory.
    pub(super) fn forget(&mut self) {
        self.states.clear();
    }

    /// Runs `program`, whose commands `execute` puts into `stream`: the first time one after the other, from the second time on as
    /// a graph.
    pub(super) fn run(
        &mut self,
        stream: &Arc<CudaStream>,
        program: &Arc<Program>,
        execute: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let key = Arc::as_ptr(program) as usize;
        let launch = |graph: &Graph| {
            graph
                .0
                .launch()
                .map_err(|error| failed("the launch of a graph", &error))
        };
        match self.states.get(&key) {
            Some(State::Captured(graph, _)) => launch(graph),
            None => {
                self.states.insert(key, State::Warm);
                execute()
            }
            Some(State::Warm) => {
                stream
                    .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
                    .map_err(|error| failed("beginning a graph", &error))?;
                let captured = execute();
                let ended = stream
                    .end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
                captured?;
                let graph = ended
                    .map_err(|error| failed("ending a graph", &error))?
                    .ok_or_else(|| DeviceError {
                        what: "ending a graph".to_owned(),
                        reason: "it is empty".to_owned(),
                    })?;
                let graph = Graph(graph);
                launch(&graph)?;
                self.states
                    .insert(key, State::Captured(graph, Arc::clone(program)));
                Ok(())
            }
        }
    }
}
