//! Where a model is trained.

use preprocess::device::Devices;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::config::Config;
use crate::distributed::HostReducer;
use crate::gpu::Device;

/// Where a model is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// On the processor's cores.
    #[default]
    Cpu,
    /// On a GPU: this one, or else the first, or that of the process where there are several.
    Gpu(Option<usize>),
}

impl Place {
    /// What a user has named.
    ///
    /// # Errors
    /// [`Error::SeveralGpus`].
    pub fn of(devices: &Devices, is_numbered: bool) -> Result<Self, Error> {
        match devices {
            Devices::Cpu => Ok(Self::Cpu),
            Devices::Cuda(numbers) => match numbers[..] {
                [number] => Ok(Self::Gpu(is_numbered.then_some(number))),
                _ => Err(Error::SeveralGpus { gpus: numbers.len() }),
            },
        }
    }

    /// The device; `None` for the processor.
    #[cfg(feature = "cuda")]
    pub(super) fn open(
        self,
        config: &Config,
        reducer: &mut HostReducer,
    ) -> Result<Option<Box<dyn Device>>, Error> {
        use crate::gpu::cuda::{CudaDevice, Settings};

        let Self::Gpu(number) = self else {
            return Ok(None);
        };
        let ordinal = ordinal(number, reducer)?;
        let settings = Settings {
            arithmetic: config.run.precision.into(),
            graphs: config.run.cuda_graph && reducer.ranks() == 1,
        };
        #[cfg_attr(not(feature = "nccl"), expect(unused_mut))]
        let mut device = CudaDevice::open(ordinal, settings)?;
        if reducer.ranks() > 1 {
            #[cfg(feature = "nccl")]
            {
                let peers = crate::gpu::cuda::Peers::join(device.context(), reducer)?;
                device.join(peers);
            }
            #[cfg(not(feature = "nccl"))]
            return Err(Error::NoNccl {
                ranks: reducer.ranks(),
            });
        }
        Ok(Some(Box::new(device)))
    }

    /// The device; `None` for the processor.
    #[cfg(not(feature = "cuda"))]
    pub(super) fn open(self, _: &Config, _: &mut HostReducer) -> Result<Option<Box<dyn Device>>, Error> {
        match self {
            Self::Cpu => Ok(None),
            Self::Gpu(number) => {
                let devices = Devices::Cuda(vec![number.unwrap_or(0)]);
                Err(preprocess::device::Error::NotBuilt(devices).into())
            }
        }
    }
}

/// The GPU of this process.
#[cfg(feature = "cuda")]
fn ordinal(number: Option<usize>, reducer: &HostReducer) -> Result<usize, Error> {
    if reducer.ranks() == 1 {
        return Ok(number.unwrap_or(0));
    }
    if let Some(number) = number {
        return Err(Error::OneGpu {
            number,
            ranks: reducer.ranks(),
        });
    }
    #[cfg(feature = "nccl")]
    if let Some(launch) = crate::distributed::Launch::from_environment()? {
        return Ok(crate::distributed::Nccl::gpu(&launch)?);
    }
    Ok(reducer.rank())
}
