//! Tells the crate which versions of the decoding libraries it is linked with: datasets record them. With the feature `cuda`
//! it compiles the kernel of the autoencoder's group norm to PTX.

use std::path::Path;
use std::{env, error::Error, fs};

#[path = "../trainer/kernels/nvcc.rs"]
mod nvcc;

const LIBRARIES: [&str; 3] = ["mozjpeg-sys", "libwebp-sys", "png"];

fn main() -> Result<(), Box<dyn Error>> {
    let lock = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../Cargo.lock");
    println!("cargo::rerun-if-changed={}", lock.display());
    let text = fs::read_to_string(&lock)?;
    for library in LIBRARIES {
        let (_, entry) = text
            .split_once(&format!("name = \"{library}\"\nversion = \""))
            .ok_or_else(|| format!("no {library} in {}", lock.display()))?;
        let version = entry.split('"').next().unwrap_or_default();
        let key = library.replace('-', "_").to_uppercase();
        println!("cargo::rustc-env=VERSION_OF_{key}={version}");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        compile_kernel()?;
    }
    Ok(())
}

/// The kernels lie with those of the model, whose tests they share.
fn compile_kernel() -> Result<(), Box<dyn Error>> {
    nvcc::watch_environment();
    let kernels = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../trainer/kernels");
    for file in ["group_norm.cu", "common.cuh"] {
        println!("cargo::rerun-if-changed={}", kernels.join(file).display());
    }
    nvcc::compile(&kernels, "group_norm", Path::new(&env::var("OUT_DIR")?))?;
    Ok(())
}
