//! Noise, timesteps, labels, the samplers' steps and the loss, beside the CPU's.

use std::convert::Infallible;

use shards::rng::{Philox, Stream};
use trainer::diffusion::{Schedule, training_loss};
use trainer::roofline::work;
use trainer::sampler::{Batch, Guidance, SampleConfig, Sampler, sample};

use super::Case;
use super::emulator::{Emulator, Kind, Launch};
use super::values::{assert_near, wave};

const SEED: u64 = 0x1234_5678_9abc_def0;

/// alphas_cumprod, posterior_log_variance_clipped, log_betas, posterior_mean_coef1, posterior_mean_coef2
fn tables(schedule: &Schedule) -> Vec<f64> {
    [
        &schedule.alphas_cumprod,
        &schedule.posterior_log_variance_clipped,
        &schedule.log_betas,
        &schedule.posterior_mean_coef1,
        &schedule.posterior_mean_coef2,
    ]
    .map(Vec::clone)
    .concat()
}

fn grid(batch: usize, count: usize) -> (usize, usize) {
    (count.div_ceil(4).div_ceil(256), batch)
}

fn ids(batch: usize) -> Vec<i64> {
    (0..batch as i64)
        .map(|i| 5_000_000_000 * i + 17 * i + 3)
        .collect()
}

fn noised(
    latents: &[f32],
    ids: &[i64],
    labels: &[i32],
    schedule: &Schedule,
    epoch: i32,
    null: i32,
) -> Launch {
    let (batch, zeros) = (ids.len(), vec![0f32; latents.len()]);
    let count = latents.len() / batch;
    let launch = Launch::new("noised_f32", grid(batch, count), 256)
        .arg(latents)
        .arg(ids)
        .arg(labels);
    let launch = launch
        .arg(&schedule.alphas_cumprod[..])
        .arg(&zeros[..])
        .arg(&zeros[..])
        .arg(&zeros[..]);
    let launch = launch
        .arg(&vec![0i32; batch][..])
        .arg(&vec![0i32; batch][..])
        .arg(SEED as i64)
        .arg(epoch);
    launch
        .arg(count as i32)
        .arg(schedule.len() as i32)
        .arg(null)
        .arg(0.18215f32)
        .arg(0.3f64)
}

fn normals(ids: &[i64], count: usize, stream: Stream, step: i32) -> Launch {
    let out = vec![0f32; ids.len() * count];
    let launch = Launch::new("normals_f32", grid(ids.len(), count), 256)
        .arg(ids)
        .arg(&out[..])
        .arg(SEED as i64);
    launch.arg(stream as i32).arg(step).arg(count as i32)
}

fn posterior(mean: &[f32], log_variance: &[f32], ids: &[i64], mirrored: &[i32], epoch: i32) -> Launch {
    let count = mean.len() / ids.len();
    let launch = Launch::new("posterior_sample_f32", grid(ids.len(), count), 256)
        .arg(mean)
        .arg(log_variance);
    launch
        .arg(ids)
        .arg(mirrored)
        .arg(SEED as i64)
        .arg(epoch)
        .arg(count as i32)
}

struct Step<'a> {
    schedule: &'a Schedule,
    tables: &'a [f64],
    index: usize,
    /// Of DDIM.
    eta: Option<f64>,
    is_learned: bool,
}

impl Step<'_> {
    fn launch(&self, kind: Kind, x: &[f32], output: &[f32], ids: &[i64]) -> Launch {
        let (count, index) = (x.len() / ids.len(), self.index);
        let name = format!("sampler_step_{}", kind.suffix());
        let launch = Launch::new(name, grid(ids.len(), count), 256)
            .arg(x)
            .arg(kind.arg(output))
            .arg(ids);
        let launch = launch
            .arg(self.tables)
            .arg(SEED as i64)
            .arg(self.schedule.len() as i32)
            .arg(index as i32);
        let launch = launch
            .arg(self.schedule.timestep_map[index] as i32)
            .arg(count as i32);
        let launch = launch
            .arg(i32::from(self.is_learned))
            .arg(i32::from(self.eta.is_some()));
        launch
            .arg(self.schedule.alphas_cumprod_prev[index])
            .arg(self.eta.unwrap_or(0.0))
    }
}

fn guided(kind: Kind, output: &[f32], batch: usize, count: usize, scale: f64) -> Launch {
    let width = output.len() / 2 / batch;
    let name = format!("guided_{}", kind.suffix());
    let launch = Launch::new(name, ((batch * count).div_ceil(256), 1), 256).arg(kind.arg(output));
    launch
        .arg(batch as i32)
        .arg(width as i32)
        .arg(count as i32)
        .arg(scale)
}

struct Loss<'a> {
    schedule: &'a Schedule,
    timesteps: &'a [i32],
    is_learned: bool,
    weight: f64,
}

impl Loss<'_> {
    fn launch(&self, kind: Kind, x_start: &[f32], noise: &[f32], output: &[f32]) -> Launch {
        let batch = self.timesteps.len();
        let launch = Launch::new(format!("training_loss_{}", kind.suffix()), (batch, 1), 256)
            .arg(x_start)
            .arg(noise);
        let launch = launch
            .arg(kind.arg(output))
            .arg(self.timesteps)
            .arg(&tables(self.schedule)[..]);
        let launch = launch
            .arg(kind.arg(&vec![0.0; output.len()]))
            .arg(&vec![0f64; 2 * batch][..]);
        let launch = launch
            .arg((x_start.len() / batch) as i32)
            .arg(self.schedule.len() as i32);
        launch.arg(i32::from(self.is_learned)).arg(self.weight)
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let (batch, count) = (2, 1024);
    let (x, output, ids) = (wave(batch * count, 0.3), wave(2 * batch * count, 0.8), ids(batch));
    let schedule = Schedule::linear(1000);
    let tables = tables(&schedule);
    let step = Step {
        schedule: &schedule,
        tables: &tables,
        index: 500,
        eta: None,
        is_learned: true,
    };
    let loss = Loss {
        schedule: &schedule,
        timesteps: &[3, 900],
        is_learned: true,
        weight: 1.0,
    };
    let mut cases = vec![
        Case::new(
            noised(&x, &ids, &[1, 2], &schedule, 3, 9),
            work::noised(batch, count),
        ),
        Case::new(
            normals(&ids, count, Stream::InitialNoise, 0),
            work::normals(batch, count),
        ),
        Case::new(
            posterior(&x, &x, &ids, &[0, 1], 2),
            work::posterior_sample(batch, count),
        ),
    ];
    for kind in Kind::BOTH {
        let element = kind.bytes();
        cases.extend([
            Case::new(
                step.launch(kind, &x, &output, &ids),
                work::sampler_step(batch, count, element),
            ),
            Case::new(
                guided(kind, &output, batch / 2, 2 * count, 4.0),
                work::guided(batch / 2, 2 * count, element),
            ),
            Case::new(
                loss.launch(kind, &x, &x, &output),
                work::training_loss(batch, count, element),
            ),
        ]);
    }
    cases
}

#[test]
fn training_starts_from_the_cpus_numbers() {
    let Some(mut emulator) = Emulator::start() else {
        return;
    };
    let (schedule, rng) = (Schedule::linear(1000), Philox::new(SEED));
    for (batch, count, epoch, null) in [(40, 48, 7, 5), (3, 1030, 0, -1)] {
        let (latents, ids) = (wave(batch * count, 0.7), ids(batch));
        let labels: Vec<i32> = (0..batch as i32).map(|b| b % 5).collect();
        let run = emulator.run(&noised(&latents, &ids, &labels, &schedule, epoch as i32, null));
        let (timesteps, out_labels) = (run.get::<i32>(7), run.get::<i32>(8));
        let mut noise = vec![0f32; count];
        for (b, &id) in ids.iter().enumerate() {
            let id = id as u64;
            let t = rng.below(Stream::Timestep, id, epoch, 0, 1000) as usize;
            assert_eq!(timesteps[b], t as i32);
            let is_dropped = null >= 0 && rng.uniform(Stream::LabelDrop, id, epoch, 0) < 0.3;
            assert_eq!(out_labels[b], if is_dropped { null } else { labels[b] });
            let span = b * count..(b + 1) * count;
            rng.fill_normal(Stream::TrainingNoise, id, epoch, &mut noise);
            assert_eq!(
                run.f32s(5)[span.clone()],
                noise,
                "the noise of record {id}, to the bit"
            );
            let x_start: Vec<f32> = latents[span.clone()].iter().map(|x| x * 0.18215).collect();
            assert_eq!(run.f32s(4)[span.clone()], x_start);
            let mut x_t = vec![0.0; count];
            schedule.q_sample(t, &x_start, &noise, &mut x_t);
            assert_eq!(run.f32s(6)[span], x_t);
        }
        let dropped = out_labels.iter().filter(|&&label| label == null).count();
        assert!(null < 0 || dropped > 3, "{dropped} labels dropped");
    }
}

#[test]
fn noise_and_posterior_samples_are_the_cpus() {
    let Some(mut emulator) = Emulator::start() else {
        return;
    };
    let (batch, count, rng) = (3, 102, Philox::new(SEED));
    let (ids, mean, log_variance) = (ids(batch), wave(batch * count, 0.4), wave(batch * count, 1.4));
    let found = emulator
        .run(&normals(&ids, count, Stream::InitialNoise, 0))
        .f32s(1);
    let sampled = emulator
        .run(&posterior(&mean, &log_variance, &ids, &[0, 1, 1], 6))
        .f32s(0);
    let mut noise = vec![0f32; count];
    for (b, &id) in ids.iter().enumerate() {
        let span = b * count..(b + 1) * count;
        rng.fill_normal(Stream::InitialNoise, id as u64, 0, &mut noise);
        assert_eq!(found[span.clone()], noise);
        rng.fill_normal(
            Stream::PosteriorNoise,
            id as u64,
            6 | u32::from(b > 0) << 31,
            &mut noise,
        );
        let want: Vec<f32> = (span.clone())
            .map(|i| mean[i] + (0.5 * log_variance[i]).exp() * noise[i % count])
            .collect();
        assert_near("a posterior sample", &sampled[span], &want, 1e-6, 1e-6);
    }
}

#[test]
fn whole_chains_of_samples_are_the_cpus() {
    let Some(mut emulator) = Emulator::start() else {
        return;
    };
    let schedule = Schedule::linear(1000).respaced("7").unwrap();
    let (batch, count, tables) = (2, 36, tables(&schedule));
    let indices = [11, 5_000_000_003];
    let model = |x: &[f32], t: f32| -> Vec<f32> {
        let images = x.chunks_exact(count);
        images
            .flat_map(|x| {
                [
                    x.iter().map(|x| 0.9 * x).collect(),
                    x.iter().map(|x| (x - t / 1000.0).tanh()).collect::<Vec<f32>>(),
                ]
            })
            .flatten()
            .collect()
    };
    for (sampler, eta) in [
        (Sampler::Ddpm, None),
        (Sampler::Ddim { eta: 0.0 }, Some(0.0)),
        (Sampler::Ddim { eta: 0.7 }, Some(0.7)),
    ] {
        let config = SampleConfig {
            seed: SEED,
            sampler,
            guidance: Guidance::default(),
        };
        let of = Batch {
            indices: &indices,
            labels: &[0, 0],
            null_label: None,
            channels: 1,
            area: count,
        };
        let want = sample(&schedule, &config, &of, |x, t, _| {
            Ok::<_, Infallible>(model(x, t[0]))
        })
        .unwrap();
        let ids = indices.map(|index| index as i64);
        let mut x = emulator
            .run(&normals(&ids, count, Stream::InitialNoise, 0))
            .f32s(1);
        for index in (0..schedule.len()).rev() {
            let output = model(&x, schedule.timestep_map[index] as f32);
            let step = Step {
                schedule: &schedule,
                tables: &tables,
                index,
                eta,
                is_learned: true,
            };
            x = emulator.run(&step.launch(Kind::F32, &x, &output, &ids)).f32s(0);
        }
        assert_near(&format!("{sampler:?}"), &x, &want, 1e-6, 1e-6);
    }
    // Without learned variance, and with an output in bf16.
    let (x, output, ids) = (wave(batch * count, 0.2), wave(batch * count, 0.9), ids(batch));
    let output = Kind::Bf16.rounded(&output);
    let step = Step {
        schedule: &schedule,
        tables: &tables,
        index: 3,
        eta: None,
        is_learned: false,
    };
    let [wide, narrow] = Kind::BOTH.map(|kind| emulator.run(&step.launch(kind, &x, &output, &ids)).f32s(0));
    assert_eq!(wide, narrow);
}

#[test]
fn guidance_moves_the_first_channels_only() {
    let Some(mut emulator) = Emulator::start() else {
        return;
    };
    let (batch, width, count) = (3, 20, 7);
    for kind in Kind::BOTH {
        let output = kind.rounded(&wave(2 * batch * width, 0.5));
        let found = emulator
            .run(&guided(kind, &output, batch, count, 4.0))
            .values(kind, 0);
        let mut want = output.clone();
        for i in (0..batch * width).filter(|i| i % width < count) {
            let (c, u) = (f64::from(output[i]), f64::from(output[batch * width + i]));
            want[i] = (u + 4.0 * (c - u)) as f32;
        }
        assert_near("guidance", &found, &want, kind.epsilon(), 0.0);
    }
}

#[test]
fn the_loss_is_the_cpus() {
    let Some(mut emulator) = Emulator::start() else {
        return;
    };
    let schedule = Schedule::linear(1000);
    let timesteps = [0, 1, 500, 999, 0];
    for (kind, is_learned, count) in [
        (Kind::F32, true, 300),
        (Kind::Bf16, true, 64),
        (Kind::F32, false, 37),
    ] {
        let batch = timesteps.len();
        // Values beyond the outermost bins, too.
        let x_start: Vec<f32> = wave(batch * count, 0.1)
            .iter()
            .map(|v| v.clamp(-1.0, 1.0))
            .collect();
        let noise = wave(batch * count, 1.3);
        let width = if is_learned { 2 * count } else { count };
        let output = kind.rounded(&wave(batch * width, 0.6));
        let loss = Loss {
            schedule: &schedule,
            timesteps: &timesteps,
            is_learned,
            weight: 0.125,
        };
        let run = emulator.run(&loss.launch(kind, &x_start, &noise, &output));
        let losses = run.get::<f64>(6);
        let mut want = vec![0.0; output.len()];
        for (b, &t) in timesteps.iter().enumerate() {
            let of = b * count..(b + 1) * count;
            let out = b * width..(b + 1) * width;
            let part = training_loss(
                &schedule,
                t as usize,
                &x_start[of.clone()],
                &noise[of],
                &output[out.clone()],
                0.125,
                &mut want[out],
            );
            assert!((losses[2 * b] - part.mse).abs() < 1e-12 * part.mse, "{part:?}");
            assert!(
                (losses[2 * b + 1] - part.vb).abs() <= 1e-9 * part.vb.abs(),
                "{part:?} {}",
                losses[2 * b + 1]
            );
        }
        assert_near(
            "d_output",
            &run.values(kind, 5),
            &want,
            1e-6 + kind.epsilon(),
            1e-12,
        );
    }
}
