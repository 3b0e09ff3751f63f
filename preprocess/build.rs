//! Tells the crate which versions of the decoding libraries it is linked with: datasets record them.

use std::{env, error::Error, fs, path::Path};

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
    Ok(())
}
