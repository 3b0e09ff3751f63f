//! `eval reference`: statistics and images of a set, in the layout of ADM's reference files.

use std::path::PathBuf;

use preprocess::console::Printer;
use preprocess::console::progress::Progress;
use preprocess::device::Devices;

use crate::features::Keep;
use crate::images::ImageSource;
use crate::inception::weights::WeightSource;
use crate::reference;

/// What `eval reference` accepts.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder of pictures of one size, an .npz of images, or a dataset made by `preprocess encode`.
    source: PathBuf,
    /// The file to write.
    #[arg(long, value_name = "FILE.npz")]
    out: PathBuf,
    /// Weights of the Inception network.
    #[arg(long, default_value = "auto", value_name = "auto|FILE|random:SEED")]
    inception: WeightSource,
    /// Where the network runs.
    #[arg(long, default_value = "cpu", value_name = "cpu|cuda[:N]")]
    device: Devices,
    /// How the images were made, recorded in the file [default: the dataset's transform, or "as given"].
    #[arg(long)]
    transform: Option<String>,
    /// Leave the statistics for sFID out.
    #[arg(long)]
    no_spatial: bool,
}

/// Computes and writes the reference.
///
/// # Errors
/// If the images cannot be read or the file cannot be written.
pub fn run(args: &Args, printer: &mut Printer) -> anyhow::Result<()> {
    let source = ImageSource::open(&args.source)?;
    let total = source.count()?;
    let inception = args.inception.load_on(&args.device.first()?)?;
    let keep = Keep {
        pool_rows: 0,
        spatial: !args.no_spatial,
        logits: false,
    };
    let mut progress = Progress::new(printer, "reference", "images", 0, Some(total as u64));
    let summary = reference::summarise(&inception.network, &source, keep, total, |done, _| {
        progress.set(printer, done, "");
    })?;
    progress.finish();
    let transform = match &args.transform {
        Some(transform) => transform.clone(),
        None => source.transform()?,
    };
    reference::save(&args.out, &summary, &source, &inception.features_id(), &transform)?;
    let mark = if inception.comparable {
        ""
    } else {
        " (not comparable: the network's weights are not the published file)"
    };
    printer.say(format_args!(
        "{}: statistics of {} images{mark}",
        args.out.display(),
        summary.count
    ));
    if let Some(warning) = source.warning()? {
        printer.note(format_args!("warning: images {warning}"));
    }
    Ok(())
}
