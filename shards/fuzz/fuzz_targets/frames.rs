//! Any frames with the right checksums: `cargo +nightly fuzz run frames`, in this folder.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::frames(data));
