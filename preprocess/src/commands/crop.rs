//! `preprocess crop`: the exact pixels that the autoencoder is given.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rayon::prelude::*;

use crate::console::grid::write_png;
use crate::console::{JsonTarget, Printer, exit};
use crate::image::crop::decode_and_crop;

/// Crops an image, or every image of a folder, to a square PNG.
#[derive(Debug, clap::Args)]
pub struct CropArgs {
    /// An image file, or a folder of them
    image: PathBuf,
    /// Side of the square, in pixels
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=8192))]
    size: u32,
    /// The PNG file, or for a folder the folder of `<stem>.png` files
    #[arg(long, short)]
    out: PathBuf,
    /// Threads; all cores when absent
    #[arg(long)]
    threads: Option<usize>,
    /// Write the data as JSON to stdout, or into FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
}

/// Runs the command.
///
/// # Errors
/// When the single image is bad, or a file cannot be written. Bad images of a folder are told and give exit code 1.
pub fn run(args: &CropArgs, printer: &mut Printer) -> Result<u8> {
    let json: &JsonTarget = &args.json;
    printer.set_json(json);
    let size = args.size as usize;
    if !args.image.is_dir() {
        crop_file(&args.image, size, &args.out)?;
        printer.say(format_args!("wrote {}", args.out.display()));
        printer.json(json, &serde_json::json!({ "images": 1, "rejected": 0 }))?;
        return Ok(exit::DONE);
    }
    let files = images(&args.image)?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads.unwrap_or(0))
        .build()?;
    let started = std::time::Instant::now();
    let target = |file: &Path| {
        let mut name = file.file_stem().unwrap_or(OsStr::new("image")).to_os_string();
        name.push(".png");
        args.out.join(name)
    };
    let errors: Vec<_> = pool.install(|| {
        files
            .par_iter()
            .filter_map(|file| crop_file(file, size, &target(file)).err())
            .collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    for error in &errors {
        printer.error(format_args!("rejected {error:#}"));
    }
    let done = files.len() - errors.len();
    let rate = done as f64 / seconds.max(1e-9);
    printer.say(format_args!(
        "wrote {done} images to {} ({rate:.1} images/s)",
        args.out.display()
    ));
    let report = serde_json::json!({ "images": done, "rejected": errors.len(), "images_per_second": rate });
    printer.json(json, &report)?;
    Ok(if errors.is_empty() { exit::DONE } else { exit::BAD })
}

fn crop_file(file: &Path, size: usize, out: &Path) -> Result<()> {
    let bytes = fs_err::read(file)?;
    let image = decode_and_crop(&bytes, size).with_context(|| file.display().to_string())?;
    write_png(&image, out).with_context(|| format!("writing {}", out.display()))
}

/// The files of a folder by name; two with one stem would overwrite each other.
fn images(folder: &Path) -> Result<Vec<PathBuf>> {
    let known = ["jpg", "jpeg", "png", "webp"];
    let mut files = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
        if path.is_file() && known.iter().any(|k| extension.eq_ignore_ascii_case(k)) {
            files.push(path);
        }
    }
    files.sort_unstable();
    if files.is_empty() {
        bail!(
            "{}: no JPEG, PNG or WebP file\nhint: give a folder that holds image files itself",
            folder.display()
        );
    }
    if let Some(pair) = files
        .windows(2)
        .find(|pair| pair[0].file_stem() == pair[1].file_stem())
    {
        bail!(
            "{} and {} would both become one file\nhint: rename one",
            pair[0].display(),
            pair[1].display()
        );
    }
    Ok(files)
}
