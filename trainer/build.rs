//! Compiles the kernels to PTX where the feature `cuda` is on; else it does nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, thread};

/// The oldest GPU that the kernels are for: the driver compiles them for its own when they are loaded.
const OLDEST: &str = "compute_80";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=kernels");
    if let Err(message) = compile_all() {
        println!("cargo::error={message}");
    }
}

/// Compiles every file of `kernels`, and writes the list `(name, ptx)` that the program includes.
fn compile_all() -> Result<(), String> {
    let folder = |name: &str| env::var_os(name).map(PathBuf::from).ok_or(format!("no {name}"));
    let (kernels, out) = (folder("CARGO_MANIFEST_DIR")?.join("kernels"), folder("OUT_DIR")?);
    let mut sources: Vec<PathBuf> = fs::read_dir(&kernels)
        .map_err(|error| format!("{}: {error}", kernels.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    sources.sort();
    let nvcc = nvcc();
    let results: Vec<Result<String, String>> = thread::scope(|scope| {
        let tasks: Vec<_> = sources
            .iter()
            .map(|source| scope.spawn(|| compile(&nvcc, &kernels, source, &out)))
            .collect();
        let join = |task: thread::ScopedJoinHandle<'_, Result<String, String>>| {
            task.join()
                .unwrap_or_else(|_| Err("a thread has panicked".to_owned()))
        };
        tasks.into_iter().map(join).collect()
    });
    let mut list = String::from("&[\n");
    for result in results {
        let name = result?;
        list += &format!("(\"{name}\", include_str!(concat!(env!(\"OUT_DIR\"), \"/{name}.ptx\"))),\n");
    }
    list += "]\n";
    fs::write(out.join("kernels.rs"), list).map_err(|error| error.to_string())
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

fn compile(nvcc: &Path, kernels: &Path, source: &Path, out: &Path) -> Result<String, String> {
    let name = source
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let output = Command::new(nvcc)
        .args(["-ptx", "-std=c++17", "-O3", &format!("-arch={OLDEST}"), "-I"])
        .arg(kernels)
        .arg(source)
        .arg("-o")
        .arg(out.join(format!("{name}.ptx")))
        .output()
        .map_err(|error| format!("{}: {error}; CUDA_HOME says where the toolkit is", nvcc.display()))?;
    if output.status.success() {
        return Ok(name);
    }
    let messages = String::from_utf8_lossy(&output.stderr).replace('\n', " | ");
    Err(format!("{} does not compile: {messages}", source.display()))
}
