//! What the build scripts of the crates with kernels share: `#[path]` brings it in.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest GPU that the kernels are for: the driver compiles them for its own when they are loaded.
const OLDEST: &str = "compute_80";

/// Asks cargo to run the build script again when another compiler is named.
pub(crate) fn watch_environment() {
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
}

/// `$NVCC`, that of `$CUDA_HOME` or `$CUDA_PATH`, or the one on the path.
fn nvcc() -> PathBuf {
    let of_home = |name: &str| {
        let path = Path::new(&env::var_os(name)?).join("bin/nvcc");
        path.is_file().then_some(path)
    };
    let named = env::var_os("NVCC").map(PathBuf::from);
    named
        .or_else(|| of_home("CUDA_HOME"))
        .or_else(|| of_home("CUDA_PATH"))
        .unwrap_or_else(|| "nvcc".into())
}

/// Compiles `NAME.cu` in `kernels` to `NAME.ptx` in `out`.
pub(crate) fn compile(kernels: &Path, name: &str, out: &Path) -> Result<(), String> {
    let (nvcc, source) = (nvcc(), kernels.join(format!("{name}.cu")));
    let output = Command::new(&nvcc)
        .args(["-ptx", "-std=c++17", "-O3", &format!("-arch={OLDEST}"), "-I"])
        .arg(kernels)
        .arg(&source)
        .arg("-o")
        .arg(out.join(format!("{name}.ptx")))
        .output()
        .map_err(|error| format!("{}: {error}; CUDA_HOME says where the toolkit is", nvcc.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let messages = String::from_utf8_lossy(&output.stderr).replace('\n', " | ");
    Err(format!("{} does not compile: {messages}", source.display()))
}
