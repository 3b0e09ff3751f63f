//! The paper's figure 3: what a longer sequence costs DiT and DiffuSSM.

use std::path::Path;

use preprocess::console::plot::{Axes, Corner, Scale, Series, plot_png};
use serde_json::{Value, json};

use crate::cost::Dit;
use crate::model::ModelConfig;

/// Sides of the images, in pixels; the latents have an eighth of it.
const IMAGE_SIZES: [usize; 5] = [128, 256, 512, 1024, 2048];

/// A model of the figure.
enum Model {
    Dit(Dit),
    DiffuSsm(ModelConfig),
}

impl Model {
    /// GFLOPs of one image's forward pass, for images of `image_size` pixels.
    fn gflops_per_image(&self, image_size: usize) -> f64 {
        match self {
            Self::Dit(dit) => dit.gflops_per_image(image_size / 8),
            Self::DiffuSsm(model) => ModelConfig {
                input_size: image_size / 8,
                ..model.clone()
            }
            .gflops_per_image(),
        }
    }
}

/// The XL models, by name.
fn models() -> [(&'static str, Model); 5] {
    let dit = |patch_size, downscale| {
        Model::Dit(Dit {
            patch_size,
            downscale,
            ..Dit::XL_2
        })
    };
    let diffussm = |downscale| {
        Model::DiffuSsm(ModelConfig {
            downscale,
            ..ModelConfig::default()
        })
    };
    [
        ("DiT P=1", dit(1, 1)),
        ("DiT P=1, hourglass M=2", dit(1, 2)),
        ("DiT P=2", dit(2, 1)),
        ("DiffuSSM P=1 M=1", diffussm(1)),
        ("DiffuSSM P=1 M=2", diffussm(2)),
    ]
}

/// Sequence length of the latents of an image, before any patching.
fn length(image_size: usize) -> usize {
    (image_size / 8).pow(2)
}

/// Draws the figure.
pub(super) fn draw(path: &Path) -> std::io::Result<()> {
    let series: Vec<Series> = models()
        .into_iter()
        .map(|(name, model)| Series {
            name: name.to_owned(),
            points: IMAGE_SIZES
                .iter()
                .map(|&size| (length(size) as f64, model.gflops_per_image(size)))
                .collect(),
        })
        .collect();
    let ticks = IMAGE_SIZES.iter().map(|&size| {
        let length = length(size);
        (length as f64, format!("{size} px\nL {length}"))
    });
    let axes = Axes {
        x_scale: Scale::Log,
        y_scale: Scale::Log,
        x_ticks: ticks.collect(),
        legend: Corner::TopLeft,
        text_scale: 2,
        has_markers: true,
    };
    plot_png(
        path,
        "Forward GFLOPs an image by sequence length (XL models)",
        &axes,
        &series,
    )
}

/// The numbers of the figure.
pub(super) fn report() -> Value {
    let series = models().map(|(name, model)| {
        let values = IMAGE_SIZES.map(|size| model.gflops_per_image(size));
        json!({ "name": name, "gflops_per_image": values })
    });
    json!({ "image_sizes": IMAGE_SIZES, "lengths": IMAGE_SIZES.map(length), "series": series })
}
