//! Where convolutional networks run: `cpu`, `cuda`, `cuda:0,1`.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;

/// Devices as a user names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Devices {
    /// All cores of the processor, together.
    Cpu,
    /// These GPUs, each by its number, each at most once.
    Cuda(Vec<usize>),
}

/// A GPU cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program has no CUDA in it.
    #[error(
        "{0}: this program was built without CUDA\n\
         hint: cargo build --release --features cuda,cudnn,nccl (the README tells what it needs), or --device cpu"
    )]
    NotBuilt(Devices),
    /// There is no such GPU, no driver, or one that does not fit.
    #[error(
        "cuda:{ordinal} cannot be used: {reason}\nhint: `nvidia-smi` lists the GPUs, from 0 on; --device cpu"
    )]
    NotThere {
        /// The GPU's number.
        ordinal: usize,
        /// What the driver says.
        reason: String,
    },
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no device: expected cpu, cuda, cuda:1 or cuda:0,1");
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(vec![0])),
            Some(("cuda", numbers)) => {
                let mut ordinals = Vec::new();
                for number in numbers.split(',') {
                    let ordinal = number.trim().parse().map_err(|_| wrong())?;
                    if ordinals.contains(&ordinal) {
                        return Err(format!("`{text}` names GPU {ordinal} twice"));
                    }
                    ordinals.push(ordinal);
                }
                Ok(Self::Cuda(ordinals))
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinals) => {
                let numbers: Vec<String> = ordinals.iter().map(ToString::to_string).collect();
                write!(f, "cuda:{}", numbers.join(","))
            }
        }
    }
}

impl Devices {
    /// The first of them, for work that one device does.
    ///
    /// # Errors
    /// As [`Devices::open`].
    pub fn first(&self) -> Result<Device, Error> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(ordinals) => self.open_one(ordinals.first().copied().unwrap_or(0)),
        }
    }

    /// The one of process `number` of a group: each takes the next, round the list.
    ///
    /// # Errors
    /// As [`Devices::open`].
    pub fn of_process(&self, number: usize) -> Result<Device, Error> {
        match self {
            Self::Cuda(ordinals) if !ordinals.is_empty() => self.open_one(ordinals[number % ordinals.len()]),
            _ => self.first(),
        }
    }

    /// All of them, ready to work.
    ///
    /// # Errors
    /// When the program was built without CUDA, or a GPU is not there.
    pub fn open(&self) -> Result<Vec<Device>, Error> {
        match self {
            Self::Cpu => Ok(vec![Device::Cpu]),
            Self::Cuda(ordinals) => ordinals.iter().map(|&ordinal| self.open_one(ordinal)).collect(),
        }
    }

    fn open_one(&self, ordinal: usize) -> Result<Device, Error> {
        if !candle_core::utils::cuda_is_available() {
            return Err(Error::NotBuilt(self.clone()));
        }
        Device::new_cuda(ordinal).map_err(|error| Error::NotThere {
            ordinal,
            // Without the backtrace that candle adds where RUST_BACKTRACE is set.
            reason: error.to_string().lines().next().unwrap_or_default().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for (text, devices) in [
            ("cpu", Devices::Cpu),
            ("cuda:0", Devices::Cuda(vec![0])),
            ("cuda:3,1", Devices::Cuda(vec![3, 1])),
        ] {
            assert_eq!(text.parse::<Devices>().unwrap(), devices);
            assert_eq!(devices.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(Devices::Cuda(vec![0])));
        for wrong in [
            "gpu",
            "cuda:",
            "cuda:x",
            "cuda:0,,1",
            "cuda:-1",
            "metal:0",
            "cpu:0",
            "",
        ] {
            let error = wrong.parse::<Devices>().unwrap_err();
            assert!(error.contains("cuda:0,1"), "{wrong}: {error}");
        }
        assert!("cuda:1,1".parse::<Devices>().unwrap_err().contains("twice"));
    }

    #[test]
    fn a_gpu_that_is_not_there_is_told_with_what_to_do() {
        // No machine has so many.
        let error = Devices::Cuda(vec![9999]).open().unwrap_err().to_string();
        let of_process = Devices::Cuda(vec![0, 9999]).of_process(3).unwrap_err();
        let expected = if candle_core::utils::cuda_is_available() {
            "nvidia-smi"
        } else {
            "--features cuda"
        };
        assert!(error.contains("cuda:9999") && error.contains(expected), "{error}");
        assert!(of_process.to_string().contains("9999"), "{of_process}");
        assert!(Devices::Cpu.of_process(3).unwrap().is_cpu());
    }
}
