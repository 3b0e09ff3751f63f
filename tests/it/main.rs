//! Tests that span crates.
#![expect(clippy::unwrap_used, reason = "a helper of tests fails as the test does")]

mod frechet;
mod golden;
mod pipeline;
mod readme;
