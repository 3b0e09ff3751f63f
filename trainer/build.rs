//! Compiles the kernels to PTX where the feature `cuda` is on; else it does nothing.

use std::path::PathBuf;
use std::{env, fs, thread};

#[path = "kernels/nvcc.rs"]
mod nvcc;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    nvcc::watch_environment();
    println!("cargo::rerun-if-changed=kernels");
    if let Err(message) = compile_all() {
        println!("cargo::error={message}");
    }
}

/// Compiles every file of `kernels`, and writes the list `(name, ptx)` that the program includes.
fn compile_all() -> Result<(), String> {
    let folder = |name: &str| env::var_os(name).map(PathBuf::from).ok_or(format!("no {name}"));
    let (kernels, out) = (folder("CARGO_MANIFEST_DIR")?.join("kernels"), folder("OUT_DIR")?);
    let mut names: Vec<String> = fs::read_dir(&kernels)
        .map_err(|error| format!("{}: {error}", kernels.display()))?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".cu")?.to_owned()))
        .collect();
    names.sort();
    let results: Vec<Result<(), String>> = thread::scope(|scope| {
        let tasks: Vec<_> = names
            .iter()
            .map(|name| scope.spawn(|| nvcc::compile(&kernels, name, &out)))
            .collect();
        let join = |task: thread::ScopedJoinHandle<'_, Result<(), String>>| {
            task.join()
                .unwrap_or_else(|_| Err("a thread has panicked".to_owned()))
        };
        tasks.into_iter().map(join).collect()
    });
    let mut list = String::from("&[\n");
    for (name, result) in names.iter().zip(results) {
        result?;
        list += &format!("(\"{name}\", include_str!(concat!(env!(\"OUT_DIR\"), \"/{name}.ptx\"))),\n");
    }
    list += "]\n";
    fs::write(out.join("kernels.rs"), list).map_err(|error| error.to_string())
}
