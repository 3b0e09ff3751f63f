//! Puts the tables of `trainer::roofline` into `docs/gpu-performance.md`.

use std::path::Path;

use anyhow::{Context, Result};

const BEGIN: &str = "<!-- begin: gpu_performance -->\n";
const END: &str = "<!-- end -->";

fn main() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/gpu-performance.md");
    let document = fs_err::read_to_string(&path)?;
    let (before, rest) = document
        .split_once(BEGIN)
        .context("the document has no mark where tables begin")?;
    let (_, after) = rest
        .split_once(END)
        .context("the document has no mark where tables end")?;
    fs_err::write(
        &path,
        format!("{before}{BEGIN}{}{END}{after}", trainer::roofline::tables()),
    )?;
    Ok(())
}
