//! A picture of some latents: decoded where the autoencoder is at hand, else their channels as grey tiles.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use candle_core::{Device, Tensor};
use shards::manifest::VaeRecord;

use crate::console::Printer;
use crate::console::grid::write_grid_png;
use crate::image::{RgbImage, tensor};
use crate::vae::{AutoencoderKl, VaeSource};

use super::statistics::{Channel, Statistics};
use super::target::Target;

/// Sides between which a tile lies, in pixels: small latents are enlarged, large ones thinned out.
const TILE_SIDES: (usize, usize) = (48, 256);
/// Channels of one latent that are shown.
const MAX_CHANNELS: usize = 16;
/// Tiles in a row, where a latent has fewer channels.
const COLUMNS: usize = 16;

/// Draws `count` samples into `path`; answers whether they were decoded.
pub(super) fn draw(
    path: &Path,
    target: &Target,
    count: usize,
    vae: Option<&str>,
    statistics: &Statistics,
    printer: &mut Printer,
) -> Result<bool> {
    let layout = target.header().row_layout();
    let mut latents = Vec::new();
    let chosen = target.spread(count);
    for &i in &chosen {
        let mut mean = vec![0f32; layout.elements()];
        target.read(i, 0, &mut mean, None)?;
        latents.push(mean);
    }
    let vae = match vae {
        Some(name) => Some(
            AutoencoderKl::load(&name.parse()?, &Device::Cpu)
                .with_context(|| format!("loading the autoencoder {name}"))?,
        ),
        None => recorded(target.manifest().map(|manifest| &manifest.vae), printer),
    };
    let decoded = vae.is_some();
    let (images, columns) = match &vae {
        Some(vae) => {
            let [c, h, w] = layout.shape;
            if vae.latent_channels() != c {
                bail!(
                    "the autoencoder's latents have {} channels, the dataset's {c}\nhint: --vae names the one that made them",
                    vae.latent_channels()
                );
            }
            let batch = Tensor::from_vec(latents.concat(), (latents.len(), c, h, w), &Device::Cpu)?;
            let images = tensor::to_rgb(&vae.decode(&batch)?)?;
            (images, chosen.len().isqrt().max(1))
        }
        None => {
            let shown = layout.shape[0].min(MAX_CHANNELS);
            let tiles = latents
                .iter()
                .flat_map(|latent| {
                    latent
                        .chunks(layout.channel_elements())
                        .take(shown)
                        .zip(&statistics.mean)
                        .map(|(plane, channel)| tile(plane, layout.shape[1], layout.shape[2], channel))
                })
                .collect();
            (tiles, (COLUMNS / shown).max(1) * shown)
        }
    };
    write_grid_png(&images, columns, path).with_context(|| format!("writing {}", path.display()))?;
    Ok(decoded)
}

/// The autoencoder that made the dataset, if it is on this machine.
fn recorded(record: Option<&VaeRecord>, printer: &mut Printer) -> Option<AutoencoderKl> {
    let record = record?;
    let source = match &record.revision {
        Some(revision) => format!("{}@{revision}", record.id).parse::<VaeSource>(),
        None => record.id.parse(),
    };
    let reason = match source {
        Ok(source) if !source.is_at_hand() => "it is not in the hub's cache".to_string(),
        Ok(_) => match AutoencoderKl::from_record(record, &Device::Cpu) {
            Ok(vae) => return Some(vae),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    printer.note(format_args!(
        "the picture shows channels, for the autoencoder {} cannot decode them: {}\nhint: --vae names another",
        record.id,
        reason.lines().next().unwrap_or_default()
    ));
    None
}

/// One channel in grey, three standard deviations to either side of its mean.
fn tile(plane: &[f32], height: usize, width: usize, channel: &Channel) -> RgbImage {
    let fitted = |side: usize| {
        let factor = TILE_SIDES.0.div_ceil(side.max(1));
        (side * factor).min(TILE_SIDES.1)
    };
    let (rows, columns) = (fitted(height), fitted(width));
    let (low, span) = (channel.mean - 3.0 * channel.std, (6.0 * channel.std).max(1e-12));
    let mut data = Vec::with_capacity(rows * columns * 3);
    for y in 0..rows {
        for x in 0..columns {
            let value = plane[y * height / rows * width + x * width / columns];
            let grey = ((f64::from(value) - low) / span * 255.0).clamp(0.0, 255.0) as u8;
            data.extend([grey; 3]);
        }
    }
    RgbImage {
        width: columns,
        height: rows,
        data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_latents_are_enlarged_and_large_ones_thinned_out() {
        let channel = Channel {
            mean: 0.0,
            std: 1.0,
            min: -3.0,
            max: 3.0,
        };
        let small = tile(&[-3.0, 3.0], 1, 2, &channel);
        assert_eq!((small.width, small.height), (48, 48));
        assert_eq!((small.data[0], small.data[47 * 3]), (0, 255));
        let large = tile(&vec![0.0; 1000 * 600], 1000, 600, &channel);
        assert_eq!((large.width, large.height), (256, 256));
        assert!(large.data.iter().all(|grey| *grey == 127));
    }
}
