//! Training steps on the emulated device, beside those of the processor.

use std::time::Duration;

use shards::loader::{Batch, Position};
use trainer::checkpoint::Buffers;
use trainer::config::{Config, ConvForm, Precision, Recompute};
use trainer::distributed::Single;
use trainer::fit::{Engine, Learner};
use trainer::gpu::model::DeviceModel;
use trainer::gpu::{DeviceBatch, DeviceLearner};
use trainer::model::{Bidirectional, Modulation, PositionEmbedding};
use trainer::ops::bias_gelu::Gelu;
use trainer::ops::ssm_kernel::Discretization;

use super::values::wave;
use crate::device::open;

const SCALING: f32 = 0.8;

/// A small model, every part of it there.
pub(crate) fn config() -> Config {
    let mut config = Config::default();
    let model = &mut config.model;
    (model.hidden_size, model.depth, model.state_size) = (12, 2, 8);
    (model.input_size, model.in_channels, model.patch_size) = (8, 3, 1);
    (model.downscale, model.num_classes, model.freq_dim) = (2, 5, 16);
    config.optim.global_batch_size = 4;
    config.optim.lr = 1e-3;
    config.run.num_steps = 100;
    config
}

fn batch(config: &Config, step: u64) -> Batch {
    let (images, model) = (config.optim.global_batch_size, &config.model);
    let image = model.latent_numbers();
    Batch {
        latents: wave(images * image, 0.3 + step as f64).into(),
        labels: (0..images as i64)
            .map(|i| (3 * i + step as i64) % model.num_classes.max(1) as i64)
            .collect(),
        ids: (0..images as u64).map(|i| 1000 * step + 7 * i).collect(),
        epoch: (step / 3) as u32,
        next: Position::default(),
    }
}

/// The largest distance of two buffers, as a share of the largest number of the second.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let largest = b.iter().fold(1e-30f64, |max, v| max.max(f64::from(v.abs())));
    a.iter()
        .zip(b)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs())
        .fold(0.0, f64::max)
        / largest
}

/// How far a device may be from the processor.
struct Limits {
    /// Losses and the gradients' norm, relative.
    loss: f64,
    /// Weights after the steps, as a share of what the learning rate lets them move.
    moved: f64,
}

const F32: Limits = Limits {
    loss: 2e-5,
    moved: 0.02,
};
const BF16: Limits = Limits {
    loss: 2e-2,
    moved: 1.0,
};

/// Trains both for some steps on the same batches.
fn compare(name: &str, config: &Config, steps: u64, limits: &Limits) {
    let Some(device) = open() else {
        return;
    };
    let mut host = Learner::new(config).unwrap();
    let model = DeviceModel::new(config, 1).unwrap();
    let images = config.optim.global_batch_size;
    let mut learner = DeviceLearner::new(model, device, images, host.buffers()).unwrap();
    for step in 1..=steps {
        let batch = batch(config, step);
        let report = host.step(step, &batch, SCALING).unwrap();
        let optim = &config.optim;
        let lr = optim.lr * optim.lr_factor(step, config.run.num_steps);
        let labels: Vec<i32> = batch.labels.iter().map(|&label| label as i32).collect();
        let of_device = DeviceBatch {
            latents: batch.latents.to_vec().into(),
            ids: &batch.ids,
            labels: &labels,
            epoch: batch.epoch,
        };
        let ssm_lr = if optim.ssm_lr > 0.0 {
            lr / optim.lr * optim.ssm_lr
        } else {
            lr
        };
        let rates = optim.adamw().device_rates(step, lr, ssm_lr);
        learner.start(of_device, SCALING, &rates).unwrap();
        let told = learner.told().unwrap();
        let weight = 1.0 / images as f64;
        for (what, got, want) in [
            ("mse", told.loss.mse * weight, report.loss.mse),
            ("vb", told.loss.vb * weight, report.loss.vb),
            ("norm", told.grad_norm, report.grad_norm),
        ] {
            let off = (got - want).abs() / want.abs().max(1e-6);
            eprintln!("{name}: step {step}: {what} {got:.6} beside {want:.6}: {off:.1e}");
            assert!(
                off < limits.loss,
                "{name}: step {step}: {what} {got} beside {want}"
            );
        }
        assert_eq!(told.is_skipped, report.is_skipped);
    }
    let mut buffers = Buffers::default();
    learner.read(&mut buffers).unwrap();
    let range = config.optim.lr * steps as f64;
    let worst = buffers.params.iter().zip(host.buffers().params);
    let worst = worst.map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max) / range;
    eprintln!(
        "{name}: weights off by {worst:.1e} of {steps} steps of the learning rate; first moment {:.1e}, EMA {:.1e}",
        distance(&buffers.first, host.buffers().first),
        distance(&buffers.ema, host.buffers().ema)
    );
    assert!(worst < limits.moved, "{name}: weights are off by {worst}");
}

/// A configuration that differs from the small one.
fn with(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = config();
    change(&mut config);
    config
}

pub(crate) fn ten_steps_are_those_of_the_processor() {
    let config = with(|config| config.optim.max_grad_norm = 0.5);
    compare("f32", &config, 10, &F32);
}

pub(crate) fn ten_steps_in_bf16_stay_near_the_processors_f32() {
    let mut bf16 = config();
    bf16.run.precision = Precision::Bf16;
    compare("bf16", &bf16, 10, &BF16);
}

pub(crate) fn every_option_of_the_model_is_the_processors() {
    let gated = with(|config| {
        config.model.modulation = Modulation::Gate;
        config.model.gelu = Gelu::Erf;
        config.model.bidir = Bidirectional::Sum;
        config.model.train_b = false;
    });
    compare("gate, erf, sum", &gated, 2, &F32);
    let plain = with(|config| {
        config.model.modulation = Modulation::None;
        config.model.disc = Discretization::Bilinear;
        config.model.learn_sigma = false;
        config.model.final_adaln = false;
        config.model.num_classes = 0;
    });
    compare("no modulation, bilinear, no classes", &plain, 2, &F32);
    let patches = with(|config| {
        (config.model.patch_size, config.model.downscale) = (2, 1);
        config.model.pos_embed = PositionEmbedding::Sincos;
        config.optim.ssm_lr = 1e-4;
        config.optim.weight_decay = 0.1;
    });
    compare("patches, positions", &patches, 2, &F32);
}

pub(crate) fn the_convolution_by_chunks_trains_alike() {
    let chunks = |precision| {
        with(|config| {
            config.run.conv = ConvForm::Chunks;
            config.run.precision = precision;
        })
    };
    compare("chunks", &chunks(Precision::F32), 3, &F32);
    compare("chunks in bf16", &chunks(Precision::Bf16), 3, &BF16);
}

pub(crate) fn micro_batches_and_recomputation_change_nothing() {
    let parts = with(|config| {
        config.optim.global_batch_size = 5;
        config.optim.micro_batch_size = 2;
        config.run.recompute = Recompute::Block;
        config.model.depth = 3;
    });
    compare("micro-batches, recomputation", &parts, 2, &F32);
}

pub(crate) fn a_step_without_a_finite_loss_changes_nothing() {
    let config = config();
    let Some(device) = open() else {
        return;
    };
    let host = Learner::new(&config).unwrap();
    let model = DeviceModel::new(&config, 1).unwrap();
    let mut learner = DeviceLearner::new(model, device, 4, host.buffers()).unwrap();
    let mut batch = batch(&config, 1);
    batch.latents[5] = f32::INFINITY;
    let of_device = DeviceBatch {
        latents: batch.latents,
        ids: &batch.ids,
        labels: &[0; 4],
        epoch: 0,
    };
    let rates = config.optim.adamw().device_rates(1, 1e-3, 1e-3);
    learner.start(of_device, SCALING, &rates).unwrap();
    assert_eq!(learner.pending(), 1);
    assert!(learner.told().unwrap().is_skipped);
    let mut buffers = Buffers::default();
    learner.read(&mut buffers).unwrap();
    assert!(buffers.params == host.buffers().params && buffers.ema == host.buffers().ema);
}

/// A run's loop: a step is told while the next one is under way, all of them when asked for, and what a checkpoint holds is
/// what the device has.
pub(crate) fn a_run_is_told_of_its_steps_late_and_completely() {
    let config = config();
    let Some(device) = open() else {
        return;
    };
    let mut host = Learner::new(&config).unwrap();
    let learner = Learner::new(&config).unwrap();
    let mut engine = Engine::on_device(learner, &config, device, &Single).unwrap();
    let (mut told, mut reports) = (Vec::new(), Vec::new());
    for step in 1..=4 {
        let mut batch = batch(&config, step);
        reports.push(host.step(step, &batch, SCALING).unwrap());
        let wait = Duration::from_millis(step);
        engine
            .start(step, &mut batch, wait, SCALING, &mut Single)
            .unwrap();
        assert!(batch.latents.is_empty(), "the device has taken them");
        while let Some(done) = engine.told(step == 3).unwrap() {
            told.push(done);
        }
        // The third step is asked for, the others come one late.
        assert_eq!(told.len() as u64, if step == 3 { 3 } else { step - 1 });
    }
    told.extend(engine.told(true).unwrap());
    assert!(engine.told(true).unwrap().is_none());
    for (told, (step, report)) in told.iter().zip((1..).zip(&reports)) {
        assert_eq!((told.step, told.wait), (step, Duration::from_millis(step)));
        assert_eq!(told.ids, batch(&config, step).ids);
        assert_eq!(told.report.lr, report.lr);
        let off = (told.report.loss.mse - report.loss.mse).abs() / report.loss.mse;
        assert!(off < F32.loss, "step {step}: off by {off:.1e}");
    }
    let before = engine.ema().to_vec();
    engine.settle().unwrap();
    assert_ne!(engine.ema(), before, "only now");
    assert!(distance(engine.buffers().params, host.buffers().params) < 1e-5);
    let kinds = engine.profile(4, SCALING).unwrap().unwrap();
    assert!(kinds.iter().all(|kind| kind.count > 0), "{kinds:?}");
}
