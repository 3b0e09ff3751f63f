//! Any bytes as a shard: `cargo +nightly fuzz run shard`, in this folder.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::shard(data));
