//! Tells the crate which versions of the decoding libraries it is linked with: datasets record them. With the feature `cuda`
//! it compiles the kernel of the autoencoder's group norm to PTX.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, error::Error, fs};

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
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let kernels = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../trainer/kernels");
    for file in ["group_norm.cu", "common.cuh"] {
        println!("cargo::rerun-if-changed={}", kernels.join(file).display());
    }
    let of_home = |name: &str| {
        let path = Path::new(&env::var_os(name)?).join("bin/nvcc");
        path.is_file().then_some(path)
    };
    let nvcc = env::var_os("NVCC").map(PathBuf::from);
    let nvcc = nvcc
        .or_else(|| of_home("CUDA_HOME"))
        .or_else(|| of_home("CUDA_PATH"));
    let nvcc = nvcc.unwrap_or_else(|| "nvcc".into());
    let output = Command::new(&nvcc)
        .args(["-ptx", "-std=c++17", "-O3", "-arch=compute_80", "-I"])
        .arg(&kernels)
        .arg(kernels.join("group_norm.cu"))
        .arg("-o")
        .arg(Path::new(&env::var("OUT_DIR")?).join("group_norm.ptx"))
        .output()
        .map_err(|error| format!("{}: {error}; CUDA_HOME says where the toolkit is", nvcc.display()))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(())
}
