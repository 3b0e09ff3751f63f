//! What the crate promises, through its public interface.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod compat;
mod corrupt;
mod export;
mod fuzz;
mod hostile;
mod load;
mod python;
mod round_trip;
mod samples;

use samples::{header, record, settings, write};
