//! Golden files: inputs, weights, upstream gradients and right answers of small cases, computed in f64 elsewhere.
//!
//! Every `*.safetensors` of `DIFFUSSM_GOLDEN_DIR` (default: `tests/golden/`) is rebuilt from its metadata alone, run,
//! and compared with the answers in it. With `DIFFUSSM_GOLDEN_OUT` the computed tensors are written to that directory
//! under the same file name; a file without answers is only computed. The format: `tests/golden/README.md`.

mod adamw;
mod block;
mod case;
mod diffusion;
mod model;
mod s4d;
mod s4d_init;

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use case::{Case, Outcome};

#[test]
fn every_golden_file_is_reproduced() -> Result<()> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let directory = std::env::var_os("DIFFUSSM_GOLDEN_DIR").map_or_else(default, PathBuf::from);
    let out = std::env::var_os("DIFFUSSM_GOLDEN_OUT").map(PathBuf::from);
    if let Some(out) = &out {
        fs_err::create_dir_all(out)?;
    }
    let mut files = Vec::new();
    for entry in fs_err::read_dir(&directory)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "safetensors")
        {
            files.push(path);
        }
    }
    files.sort();
    ensure!(!files.is_empty(), "no *.safetensors in {}", directory.display());

    let mut failed = Vec::new();
    for file in &files {
        let name = file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let (ok, verdict) = match catch_unwind(AssertUnwindSafe(|| check(file, out.as_deref()))) {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(error)) => (false, format!("FAIL {error:#}")),
            Err(_) => (false, "FAIL the program panicked".to_owned()),
        };
        // Not `println!`: these lines are the test's report, and the harness would swallow them when it passes.
        writeln!(std::io::stdout(), "golden {name} {verdict}")?;
        if !ok {
            failed.push(name);
        }
    }
    ensure!(
        failed.is_empty(),
        "{} of {} golden files failed: {}",
        failed.len(),
        files.len(),
        failed.join(", ")
    );
    Ok(())
}

/// Runs one file; whether it passed, and what its line says.
fn check(file: &Path, out: Option<&Path>) -> Result<(bool, String)> {
    let case = Case::read(file)?;
    let outcome = match case.kind.as_str() {
        "s4d" => s4d::run(&case),
        "s4d_init" => s4d_init::run(&case),
        "block" => block::run(&case),
        "model" => model::run(&case),
        "adamw" => adamw::run(&case),
        "diffusion" => diffusion::run(&case),
        other => bail!("unknown kind `{other}`"),
    };
    let computed = match outcome? {
        Outcome::Computed(computed) => computed,
        Outcome::Unsupported(choice) => {
            return Ok((case.level == "option", format!("unsupported: {choice}")));
        }
    };
    case.check_shapes(&computed)?;
    if let Some(out) = out {
        let target = out.join(file.file_name().context("a file without a name")?);
        case.write(&computed, &target)?;
    }
    Ok(case.verdict(&computed))
}
