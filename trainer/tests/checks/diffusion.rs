//! Noise, timesteps, labels, the samplers' steps and the loss, beside the CPU's.

use std::convert::Infallible;

use shards::rng::{Philox, Stream};
use trainer::diffusion::{Schedule, training_loss};
use trainer::gpu::Element;
use trainer::gpu::kernels;
use trainer::gpu::kernels::diffusion::{Noised, NoisedFrom, Noising};
use trainer::gpu::kernels::sampler::{self, SamplerStep};
use trainer::gpu::model::schedule_tables as tables;
use trainer::sampler::{Batch, Guidance, SampleConfig, Sampler, sample};

use crate::device::Runner;

use super::Case;
use super::runner::{Bytes, Launch, Numbers as _};
use super::values::{assert_near, wave};

const SEED: u64 = 0x1234_5678_9abc_def0;

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
    null: Option<u32>,
) -> Launch {
    let (batch, len) = (ids.len(), latents.len());
    let how = Noising {
        seed: SEED,
        steps: schedule.len(),
        null_label: null,
        scaling: 0.18215,
        dropout: 0.3,
    };
    let from = NoisedFrom {
        latents: latents.into(),
        ids: ids.into(),
        labels: labels.into(),
        epoch: [epoch][..].into(),
        alphas_cumprod: schedule.alphas_cumprod[..].into(),
    };
    let to = Noised {
        x_start: Bytes::zeros::<f32>(len),
        noise: Bytes::zeros::<f32>(len),
        x_t: Bytes::zeros::<f32>(len),
        timesteps: Bytes::zeros::<i32>(batch),
        labels: Bytes::zeros::<i32>(batch),
    };
    kernels::diffusion::noised([batch, len / batch], how, from, to)
}

fn normals(ids: &[i64], count: usize, stream: Stream, step: u32) -> Launch {
    let out = Bytes::zeros::<f32>(ids.len() * count);
    sampler::normals([ids.len(), count], SEED, stream, step, ids.into(), out)
}

fn posterior(mean: &[f32], log_variance: &[f32], ids: &[i64], mirrored: &[i32], epoch: u32) -> Launch {
    let shape = [ids.len(), mean.len() / ids.len()];
    let moments = [mean.into(), log_variance.into()];
    sampler::posterior_sample(shape, SEED, epoch, moments, ids.into(), mirrored.into())
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
    fn launch(&self, kind: Element, x: &[f32], output: &[f32], ids: &[i64]) -> Launch {
        let (schedule, index) = (self.schedule, self.index);
        let step = SamplerStep {
            seed: SEED,
            steps: schedule.len(),
            index,
            timestep: schedule.timestep_map[index],
            is_learned: self.is_learned,
            ddim: self.eta.map(|eta| (schedule.alphas_cumprod_prev[index], eta)),
        };
        let shape = [ids.len(), x.len() / ids.len()];
        let (output, tables) = (kind.buffer(output), self.tables.into());
        sampler::sampler_step(kind, shape, step, x.into(), output, ids.into(), tables)
    }
}

fn guided(kind: Element, output: &[f32], batch: usize, count: usize, scale: f64) -> Launch {
    let width = output.len() / 2 / batch;
    sampler::guided(kind, [batch, width, count], scale, kind.buffer(output))
}

struct Loss<'a> {
    schedule: &'a Schedule,
    timesteps: &'a [i32],
    is_learned: bool,
    weight: f64,
}

impl Loss<'_> {
    fn launch(&self, kind: Element, x_start: &[f32], noise: &[f32], output: &[f32]) -> Launch {
        let batch = self.timesteps.len();
        kernels::diffusion::training_loss(
            kind,
            [batch, x_start.len() / batch],
            self.schedule.len(),
            self.is_learned,
            self.weight,
            [x_start.into(), noise.into()],
            kind.buffer(output),
            [self.timesteps.into(), tables(self.schedule)[..].into()],
            [kind.zeros(output.len()), Bytes::zeros::<f64>(2 * batch)],
        )
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
        noised(&x, &ids, &[1, 2], &schedule, 3, Some(9)),
        normals(&ids, count, Stream::InitialNoise, 0),
        posterior(&x, &x, &ids, &[0, 1], 2),
    ];
    for kind in Element::ALL {
        cases.extend([
            step.launch(kind, &x, &output, &ids),
            guided(kind, &output, batch / 2, 2 * count, 4.0),
            loss.launch(kind, &x, &x, &output),
        ]);
    }
    cases.into_iter().map(Case::from).collect()
}

pub(crate) fn training_starts_from_the_cpus_numbers() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    let (schedule, rng) = (Schedule::linear(1000), Philox::new(SEED));
    for (batch, count, epoch, null) in [(40, 48, 7, Some(5)), (3, 1030, 0, None)] {
        let (latents, ids) = (wave(batch * count, 0.7), ids(batch));
        let labels: Vec<i32> = (0..batch as i32).map(|b| b % 5).collect();
        let run = runner.run(&noised(&latents, &ids, &labels, &schedule, epoch as i32, null));
        let (timesteps, out_labels) = (run.get::<i32>(8), run.get::<i32>(9));
        let mut noise = vec![0f32; count];
        for (b, &id) in ids.iter().enumerate() {
            let id = id as u64;
            let t = rng.below(Stream::Timestep, id, epoch, 0, 1000) as usize;
            assert_eq!(timesteps[b], t as i32);
            let is_dropped = rng.uniform(Stream::LabelDrop, id, epoch, 0) < 0.3;
            let dropped = null.filter(|_| is_dropped);
            assert_eq!(out_labels[b], dropped.map_or(labels[b], |null| null as i32));
            let span = b * count..(b + 1) * count;
            rng.fill_normal(Stream::TrainingNoise, id, epoch, &mut noise);
            assert_eq!(
                run.f32s(6)[span.clone()],
                noise,
                "the noise of record {id}, to the bit"
            );
            let x_start: Vec<f32> = latents[span.clone()].iter().map(|x| x * 0.18215).collect();
            assert_eq!(run.f32s(5)[span.clone()], x_start);
            let mut x_t = vec![0.0; count];
            schedule.q_sample(t, &x_start, &noise, &mut x_t);
            assert_eq!(run.f32s(7)[span], x_t);
        }
        if let Some(null) = null {
            let dropped = out_labels.iter().filter(|&&label| label == null as i32).count();
            assert!(dropped > 3, "{dropped} labels dropped");
        }
    }
}

pub(crate) fn noise_and_posterior_samples_are_the_cpus() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    let (batch, count, rng) = (3, 102, Philox::new(SEED));
    let (ids, mean, log_variance) = (ids(batch), wave(batch * count, 0.4), wave(batch * count, 1.4));
    let found = runner.run(&normals(&ids, count, Stream::InitialNoise, 0)).f32s(1);
    let sampled = runner
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

pub(crate) fn whole_chains_of_samples_are_the_cpus() {
    let Some(mut runner) = Runner::start() else {
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
        let mut x = runner.run(&normals(&ids, count, Stream::InitialNoise, 0)).f32s(1);
        for index in (0..schedule.len()).rev() {
            let output = model(&x, schedule.timestep_map[index] as f32);
            let step = Step {
                schedule: &schedule,
                tables: &tables,
                index,
                eta,
                is_learned: true,
            };
            x = runner.run(&step.launch(Element::F32, &x, &output, &ids)).f32s(0);
        }
        assert_near(&format!("{sampler:?}"), &x, &want, 1e-6, 1e-6);
    }
    // Without learned variance, and with an output in bf16.
    let (x, output, ids) = (wave(batch * count, 0.2), wave(batch * count, 0.9), ids(batch));
    let output = Element::Bf16.rounded(&output);
    let step = Step {
        schedule: &schedule,
        tables: &tables,
        index: 3,
        eta: None,
        is_learned: false,
    };
    let [wide, narrow] = Element::ALL.map(|kind| runner.run(&step.launch(kind, &x, &output, &ids)).f32s(0));
    assert_eq!(wide, narrow);
}

pub(crate) fn guidance_moves_the_first_channels_only() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    let (batch, width, count) = (3, 20, 7);
    for kind in Element::ALL {
        let output = kind.rounded(&wave(2 * batch * width, 0.5));
        let found = runner
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

pub(crate) fn the_loss_is_the_cpus() {
    let Some(mut runner) = Runner::start() else {
        return;
    };
    let schedule = Schedule::linear(1000);
    let timesteps = [0, 1, 500, 999, 0];
    for (kind, is_learned, count) in [
        (Element::F32, true, 300),
        (Element::Bf16, true, 64),
        (Element::F32, false, 37),
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
        let run = runner.run(&loss.launch(kind, &x_start, &noise, &output));
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
