//! Tests that span crates.

mod golden;
