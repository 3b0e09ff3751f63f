//! Sampling on the emulated device, beside the processor's.

use trainer::config::Config;
use trainer::diffusion::Schedule;
use trainer::gpu::DeviceSampler;
use trainer::model::DiffuSsm;
use trainer::sampler::{Batch, Guidance, GuidanceMode, SampleConfig, Sampler, sample};

use super::training::config;
use super::values::{assert_near, largest};
use crate::device::open;

/// Weights with which the output depends on everything: the last layer of a new model is zero.
fn weights(config: &Config) -> Vec<f32> {
    let weights = DiffuSsm::new(config.model.clone()).unwrap().init(1).unwrap();
    weights
        .iter()
        .enumerate()
        .map(|(i, w)| w + 0.05 * (i as f32).sin())
        .collect()
}

pub(crate) fn samples_are_those_of_the_processor() {
    let config = config();
    let (model, weights) = (DiffuSsm::new(config.model.clone()).unwrap(), weights(&config));
    let Some(device) = open() else {
        return;
    };
    let mut on_device = DeviceSampler::new(&config, device, &weights).unwrap().unwrap();
    let schedule = Schedule::linear(1000).respaced("4").unwrap();
    let plain = SampleConfig {
        seed: 7,
        ..SampleConfig::default()
    };
    let guided = |mode, interval| Guidance {
        scale: 1.7,
        mode,
        interval,
    };
    let every = [
        plain,
        SampleConfig {
            guidance: guided(GuidanceMode::All, Some((0.5, 50.0))),
            ..plain
        },
        SampleConfig {
            guidance: guided(GuidanceMode::Dit3, None),
            sampler: Sampler::Ddim { eta: 0.3 },
            ..plain
        },
    ];
    for settings in every {
        for indices in [&[3u64, 0, 11][..], &[5]] {
            let batch = Batch {
                indices,
                labels: &[2, 4, 0][..indices.len()],
                null_label: config.model.null_label(),
                channels: config.model.in_channels,
                area: config.model.input_size * config.model.input_size,
            };
            let host = sample(&schedule, &settings, &batch, |x, t, y| {
                // Both branches are of the same images.
                let x: Vec<f32> = x
                    .iter()
                    .copied()
                    .cycle()
                    .take(t.len() * x.len() / indices.len())
                    .collect();
                model.forward(&weights, &x, t, y)
            });
            let host = host.unwrap();
            let device = on_device.sample(&schedule, &settings, &batch).unwrap();
            assert_near(
                &format!("{settings:?}"),
                &device,
                &host,
                0.0,
                2e-5 * largest(&host),
            );
        }
    }
}
