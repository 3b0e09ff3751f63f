//! Where a model is trained or sampled: on the processor or on a GPU.

use preprocess::device::Devices;
use serde::{Deserialize, Serialize};

use super::device::{Device, DeviceError};
use crate::config::Precision;
use crate::distributed::{self, HostReducer};

/// A GPU cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such GPU, or no CUDA in this program.
    #[error(transparent)]
    NoDevice(#[from] preprocess::device::Error),
    /// It has failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The processes cannot meet.
    #[error(transparent)]
    Distributed(#[from] distributed::Error),
    /// A process was given several.
    #[error(
        "a process works on one GPU, not on {gpus}\n\
         hint: start one for each: `torchrun --no-python --nproc-per-node {gpus} trainer .. --device cuda`"
    )]
    Several {
        /// GPUs that were named.
        gpus: usize,
    },
    /// Several processes were given the same.
    #[error("{ranks} processes cannot share GPU {number}\nhint: --device cuda gives each one of its own")]
    Shared {
        /// The GPU.
        number: usize,
        /// Processes.
        ranks: usize,
    },
    /// Several processes, and nothing that sums their gradients.
    #[error(
        "{ranks} processes with a GPU each need NCCL, which is not built in\n\
         hint: cargo build --release --features cuda,cudnn,nccl"
    )]
    NoNccl {
        /// Processes.
        ranks: usize,
    },
    /// An arithmetic that only GPUs have.
    #[error("TF32 is of GPUs\nhint: --device cuda, or precision f32")]
    OnlyOnGpus,
}

/// Where a model is trained or sampled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// On the processor's cores.
    #[default]
    Cpu,
    /// On a GPU: this one, or else the first, or that of the process where there are several.
    Gpu(Option<usize>),
}

/// How a GPU is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Arithmetic of the activations.
    pub precision: Precision,
    /// Whether a program that runs again is captured as a CUDA graph.
    pub graphs: bool,
    /// Whether gradients are summed over processes.
    pub sums: bool,
}

impl Place {
    /// What a user has named; `is_numbered` where a number was.
    ///
    /// # Errors
    /// [`Error::Several`].
    pub fn of(devices: &Devices, is_numbered: bool) -> Result<Self, Error> {
        match devices {
            Devices::Cpu => Ok(Self::Cpu),
            Devices::Cuda(numbers) => match numbers[..] {
                [number] => Ok(Self::Gpu(is_numbered.then_some(number))),
                _ => Err(Error::Several { gpus: numbers.len() }),
            },
        }
    }

    /// Of several GPUs the one of process `rank`: each takes the next, round the list. For work that processes share without
    /// talking.
    pub fn of_process(devices: &Devices, rank: usize) -> Self {
        match devices {
            Devices::Cuda(numbers) if !numbers.is_empty() => Self::Gpu(Some(numbers[rank % numbers.len()])),
            _ => Self::Cpu,
        }
    }

    /// The device, for one of the processes of `reducer`, which all come here; `None` for the processor.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(self, wish: Use, reducer: &mut HostReducer) -> Result<Option<Box<dyn Device>>, Error> {
        match self {
            Self::Cpu if wish.precision == Precision::Tf32 => Err(Error::OnlyOnGpus),
            Self::Cpu => Ok(None),
            Self::Gpu(Some(number)) if wish.sums && reducer.ranks() > 1 => Err(Error::Shared {
                number,
                ranks: reducer.ranks(),
            }),
            Self::Gpu(number) => open_gpu(number, wish, reducer).map(Some),
        }
    }

    /// The same device as candle knows it, for one of the processes of `reducer`: for the autoencoder.
    ///
    /// # Errors
    /// [`Error`].
    pub fn candle_device(self, reducer: &HostReducer) -> Result<candle_core::Device, Error> {
        match self {
            Self::Cpu => Ok(candle_core::Device::Cpu),
            Self::Gpu(number) => Ok(Devices::Cuda(vec![ordinal(number, reducer)?]).first()?),
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn ordinal(number: Option<usize>, _: &HostReducer) -> Result<usize, Error> {
    Ok(number.unwrap_or(0))
}

#[cfg(not(feature = "cuda"))]
fn open_gpu(number: Option<usize>, _: Use, _: &mut HostReducer) -> Result<Box<dyn Device>, Error> {
    let devices = Devices::Cuda(vec![number.unwrap_or(0)]);
    Err(preprocess::device::Error::NotBuilt(devices).into())
}

#[cfg(feature = "cuda")]
fn open_gpu(number: Option<usize>, wish: Use, reducer: &mut HostReducer) -> Result<Box<dyn Device>, Error> {
    use super::cuda::{CudaDevice, Settings};

    let settings = Settings {
        arithmetic: wish.precision.into(),
        graphs: wish.graphs,
    };
    let device = CudaDevice::open(ordinal(number, reducer)?, settings)?;
    if wish.sums && reducer.ranks() > 1 {
        return with_peers(device, reducer);
    }
    Ok(Box::new(device))
}

#[cfg(feature = "nccl")]
fn with_peers(
    mut device: super::cuda::CudaDevice,
    reducer: &mut HostReducer,
) -> Result<Box<dyn Device>, Error> {
    device.join(super::cuda::Peers::join(device.context(), reducer)?);
    Ok(Box::new(device))
}

#[cfg(all(feature = "cuda", not(feature = "nccl")))]
fn with_peers(_: super::cuda::CudaDevice, reducer: &mut HostReducer) -> Result<Box<dyn Device>, Error> {
    let ranks = reducer.ranks();
    Err(Error::NoNccl { ranks })
}

/// The GPU of this process.
#[cfg(feature = "cuda")]
fn ordinal(number: Option<usize>, reducer: &HostReducer) -> Result<usize, Error> {
    match number {
        Some(number) => Ok(number),
        None if reducer.ranks() == 1 => Ok(0),
        None => {
            let gpus = super::cuda::count()?;
            let launch = distributed::Launch::from_environment()?;
            let local = launch.map_or(reducer.rank(), |launch| distributed::local_rank(&launch));
            Ok(distributed::gpu_of(local, gpus)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distributed::Single;

    #[test]
    fn a_process_has_one_gpu() {
        let place = |text: &str| Place::of(&text.parse().unwrap(), text.contains(':'));
        assert_eq!(place("cpu").unwrap(), Place::Cpu);
        assert_eq!(place("cuda").unwrap(), Place::Gpu(None));
        assert_eq!(place("cuda:2").unwrap(), Place::Gpu(Some(2)));
        let error = place("cuda:0,1").unwrap_err().to_string();
        assert!(error.contains("torchrun"), "{error}");
        let of_process = |text: &str, rank| Place::of_process(&text.parse().unwrap(), rank);
        assert_eq!(of_process("cuda:3,5", 3), Place::Gpu(Some(5)));
        assert_eq!(of_process("cpu", 3), Place::Cpu);
    }

    #[test]
    fn what_a_place_cannot_is_told_with_what_to_do() {
        let open = |place: Place, precision| {
            let wish = Use {
                precision,
                ..Use::default()
            };
            place.open(wish, &mut Single).map(|device| device.is_some())
        };
        assert!(!open(Place::Cpu, Precision::F32).unwrap());
        let error = open(Place::Cpu, Precision::Tf32).unwrap_err().to_string();
        assert!(error.contains("--device cuda"), "{error}");
        // No machine has so many.
        let error = open(Place::Gpu(Some(9999)), Precision::F32)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("GPU 9999") || error.contains("--features cuda"),
            "{error}"
        );
    }
}
