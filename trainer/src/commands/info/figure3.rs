//! The paper's figure 3: what a longer sequence costs DiT and DiffuSSM.

use std::path::Path;

use preprocess::console::plot::{Axes, Corner, Scale, Series, plot_png};
use serde_json::{Value, json};

use crate::cost::Dit;
use crate::model::ModelConfig;

/// Sides of the images, in pixels; the latents have an eighth of it.
const IMAGE_SIZES: [usize; 5] = [128, 256, 512, 1024, 2048];

/// GFLOPs of the XL models for latents of `side` x `side`, by name.
fn models() -> [(&'static str, Box<dyn Fn(usize) -> f64>); 5] {
    let dit = |patch_size, downscale| -> Box<dyn Fn(usize) -> f64> {
        let dit = Dit {
            patch_size,
            downscale,
            ..Dit::XL_2
        };
        Box::new(move |side| dit.gflops_per_image(side))
    };
    let diffussm = |downscale| -> Box<dyn Fn(usize) -> f64> {
        Box::new(move |input_size| {
            let model = ModelConfig {
                input_size,
                downscale,
                ..ModelConfig::default()
            };
            model.gflops_per_image()
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

/// Draws the figure.
pub(super) fn draw(path: &Path) -> std::io::Result<()> {
    let point = |size: usize| ((size / 8).pow(2) as f64, size / 8);
    let series: Vec<Series> = models()
        .into_iter()
        .map(|(name, gflops)| Series {
            name: name.to_owned(),
            points: IMAGE_SIZES
                .iter()
                .map(|&size| (point(size).0, gflops(point(size).1)))
                .collect(),
        })
        .collect();
    let ticks = IMAGE_SIZES.iter().map(|&size| {
        let length = point(size).0;
        (length, format!("{size} px\nL {length}"))
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
    let series = models().map(|(name, gflops)| {
        let values: Vec<f64> = IMAGE_SIZES.iter().map(|&size| gflops(size / 8)).collect();
        json!({ "name": name, "gflops_per_image": values })
    });
    let lengths: Vec<usize> = IMAGE_SIZES.iter().map(|&size| (size / 8).pow(2)).collect();
    json!({ "image_sizes": IMAGE_SIZES, "lengths": lengths, "series": series })
}
