//! The optimiser: AdamW and the exponential moving average in one pass over flat buffers.

mod adamw;

pub use adamw::{AdamW, AdamWConfig, DeviceRates, Rates, grad_norm};
