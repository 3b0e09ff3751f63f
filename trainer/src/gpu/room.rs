//! Whether a run fits into a device's memory, and what would.

use preprocess::console::count::bytes;

use super::model::DeviceModel;
use crate::config::{Config, Recompute};
use crate::model::Error;

/// Bytes that the driver, the libraries and their kernels take beside a run's own: an assumption.
const RESERVED: u64 = 1 << 30;

/// A run that does not fit into a GPU.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} images at a time take {} of the GPU's memory, which has {}\nhint: {hint}", micro, bytes(*.needed), bytes(*.available))]
pub struct TooLarge {
    /// Images that go through the model together.
    pub micro: usize,
    /// Bytes of the run.
    pub needed: u64,
    /// Bytes that there are.
    pub available: u64,
    /// What would fit.
    pub hint: String,
}

/// Bytes of a device's memory that training takes in a process with `images` images of every batch.
///
/// # Errors
/// See [`DeviceModel::new`].
pub fn training_bytes(config: &Config, ranks: usize, images: usize) -> Result<u64, Error> {
    let model = DeviceModel::new(config, ranks)?;
    let spaces: usize = model.spaces(images).iter().map(|(_, bytes)| bytes).sum();
    Ok((spaces + model.step(images, 1.0).arena) as u64 + RESERVED)
}

/// The settings of `config` with other ways to save memory.
fn with(config: &Config, recompute: Recompute, micro: usize) -> Config {
    let mut config = config.clone();
    (config.run.recompute, config.optim.micro_batch_size) = (recompute, micro);
    config
}

/// Whether a run fits into `available` bytes: the error names values with which it does.
///
/// # Errors
/// See [`DeviceModel::new`].
pub fn check(
    config: &Config,
    ranks: usize,
    images: usize,
    available: u64,
) -> Result<Result<(), TooLarge>, Error> {
    let micro = config.optim.micro_batch().min(images);
    let needed = training_bytes(config, ranks, images)?;
    if needed <= available {
        return Ok(Ok(()));
    }
    let mut fits = Vec::new();
    for recompute in [config.run.recompute, Recompute::Block] {
        let mut size = micro;
        while size > 0 {
            let total = training_bytes(&with(config, recompute, size), ranks, images)?;
            if total <= available {
                let block = if recompute == Recompute::Block {
                    "--set run.recompute=block "
                } else {
                    ""
                };
                fits.push(format!(
                    "{block}--set optim.micro_batch_size={size} takes {}",
                    bytes(total)
                ));
                break;
            }
            size /= 2;
        }
    }
    fits.dedup();
    let hint = if fits.is_empty() {
        "not even one image with run.recompute=block fits: a smaller model, or a larger GPU".to_owned()
    } else {
        fits.join("; ")
    };
    Ok(Err(TooLarge {
        micro,
        needed,
        available,
        hint,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Precision, Resolved};

    #[test]
    fn what_does_not_fit_is_told_with_what_does() {
        let mut config = Resolved::named("imagenet256-xl").unwrap().config;
        config.run.precision = Precision::Bf16;
        (config.optim.global_batch_size, config.optim.micro_batch_size) = (256, 0);
        let gpu = 80_000_000_000;
        let refused = check(&config, 1, 256, gpu).unwrap().unwrap_err();
        assert!(
            refused.needed > gpu && refused.to_string().contains("micro_batch_size="),
            "{refused}"
        );
        // Every hint is true.
        for hint in refused.hint.split("; ") {
            let mut other = config.clone();
            if hint.contains("recompute=block") {
                other.run.recompute = Recompute::Block;
            }
            let size = hint.split("micro_batch_size=").nth(1).unwrap();
            other.optim.micro_batch_size = size.split(' ').next().unwrap().parse().unwrap();
            check(&other, 1, 256, gpu).unwrap().unwrap();
        }
        let none = check(&config, 1, 256, 1_000_000_000).unwrap().unwrap_err();
        assert!(none.hint.contains("not even one image"), "{none}");
    }
}
