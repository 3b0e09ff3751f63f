//! Kind `diffusion`: schedules, one training batch, sampling steps, guidance, two whole chains with a stub model.

use anyhow::{Context as _, Result};
use trainer::diffusion::{Schedule, training_loss};

use super::case::{Case, Computed, Outcome, widen};

pub(super) fn run(case: &Case) -> Result<Outcome> {
    for (key, offered) in [
        ("schedule", "linear"),
        ("predict", "epsilon"),
        ("variance", "learned_range"),
    ] {
        if let Some(value) = case.args[key].as_str()
            && value != offered
        {
            return Ok(Outcome::Unsupported(format!("{key}={value}")));
        }
    }
    let number = |key: &str| case.args[key].as_f64().with_context(|| format!("args `{key}`"));
    let text = |key: &str| case.args[key].as_str().with_context(|| format!("args `{key}`"));
    let num_timesteps = number("num_timesteps")? as usize;
    let base = Schedule::linear_between(num_timesteps, number("beta_start")?, number("beta_end")?);
    let spaced = base.respaced(text("spacing")?)?;
    let ddim = base.respaced(text("ddim")?)?;
    let mut computed = Computed::new();
    for (name, schedule) in [("base", &base), ("spaced", &spaced), ("ddim", &ddim)] {
        put_tables(&mut computed, name, schedule);
    }
    training_batch(case, &base, &mut computed)?;
    sampling_steps(case, &base, &spaced, &ddim, &mut computed)?;
    guidance(case, number("guidance_scale")?, &mut computed)?;
    chains(
        case,
        &base.respaced(text("chain")?)?,
        &base.respaced(text("ddim_chain")?)?,
        num_timesteps,
        &mut computed,
    )?;
    Ok(Outcome::Computed(computed))
}

fn put_tables(computed: &mut Computed, name: &str, s: &Schedule) {
    let of_cumprod = |f: &dyn Fn(f64) -> f64| s.alphas_cumprod.iter().map(|&a| f(a)).collect::<Vec<f64>>();
    let tables = [
        ("betas", s.betas.clone()),
        ("alphas_cumprod", s.alphas_cumprod.clone()),
        ("alphas_cumprod_prev", s.alphas_cumprod_prev.clone()),
        ("log_betas", s.log_betas.clone()),
        (
            "posterior_log_variance_clipped",
            s.posterior_log_variance_clipped.clone(),
        ),
        ("posterior_mean_coef1", s.posterior_mean_coef1.clone()),
        ("posterior_mean_coef2", s.posterior_mean_coef2.clone()),
        ("posterior_variance", s.posterior_variance.clone()),
        ("sqrt_alphas_cumprod", of_cumprod(&f64::sqrt)),
        ("sqrt_one_minus_alphas_cumprod", of_cumprod(&|a| (1.0 - a).sqrt())),
        (
            "sqrt_recip_alphas_cumprod",
            (0..s.len()).map(|t| s.sqrt_recip(t)).collect(),
        ),
        (
            "sqrt_recipm1_alphas_cumprod",
            (0..s.len()).map(|t| s.sqrt_recipm1(t)).collect(),
        ),
        (
            "timestep_map",
            s.timestep_map.iter().map(|&t| f64::from(t)).collect(),
        ),
    ];
    for (table, values) in tables {
        computed.insert(format!("out.{name}.{table}"), values);
    }
}

/// The model's output of image `b`, its noise channels and its variance channels.
fn split(output: &[f64], b: usize, count: usize) -> (&[f64], &[f64]) {
    output[2 * b * count..][..2 * count].split_at(count)
}

fn training_batch(case: &Case, s: &Schedule, computed: &mut Computed) -> Result<()> {
    let (x_start, noise, output) = (
        case.f32("in.x_start")?,
        case.f32("in.noise")?,
        case.f32("in.model_output")?,
    );
    let timesteps = case.indices("in.t")?;
    let count = x_start.len() / timesteps.len();
    let mut x_t = vec![0f32; x_start.len()];
    let mut d_output = vec![0f32; output.len()];
    let (mut mse, mut vb) = (Vec::new(), Vec::new());
    for (b, &t) in timesteps.iter().enumerate() {
        let (image, both) = (b * count..(b + 1) * count, 2 * b * count..2 * (b + 1) * count);
        let (x0, n) = (&x_start[image.clone()], &noise[image.clone()]);
        s.q_sample(t as usize, x0, n, &mut x_t[image]);
        let weight = 1.0 / timesteps.len() as f64;
        let loss = training_loss(
            s,
            t as usize,
            x0,
            n,
            &output[both.clone()],
            weight,
            &mut d_output[both],
        );
        mse.push(loss.mse);
        vb.push(loss.vb);
    }
    let total = mse.iter().zip(&vb).map(|(m, v)| m + v).sum::<f64>() / mse.len() as f64;
    computed.insert("out.q_sample".into(), widen(&x_t));
    computed.insert("out.loss_mse".into(), mse);
    computed.insert("out.loss_vb".into(), vb);
    computed.insert("out.loss".into(), vec![total]);
    computed.insert("grad.model_output".into(), widen(&d_output));
    Ok(())
}

fn sampling_steps(
    case: &Case,
    base: &Schedule,
    spaced: &Schedule,
    ddim: &Schedule,
    computed: &mut Computed,
) -> Result<()> {
    let (x_start, x_t) = (case.f64("in.x_start")?, case.f64("in.x_t")?);
    let (output, noise) = (case.f64("in.model_output")?, case.f64("in.sample_noise")?);
    let timesteps = case.indices("in.t")?;
    let (spaced_index, ddim_index) = (case.indices("in.spaced.index")?, case.indices("in.ddim.index")?);
    let count = x_t.len() / timesteps.len();
    let mut put = |name: &str, values: &[f64]| {
        computed
            .entry(format!("out.{name}"))
            .or_default()
            .extend_from_slice(values);
    };
    for (b, &t) in timesteps.iter().enumerate() {
        let image = b * count..(b + 1) * count;
        let (x, z) = (&x_t[image.clone()], &noise[image.clone()]);
        let (eps, v) = split(output, b, count);
        let t = t as usize;
        let mean: Vec<f64> = x_start[image]
            .iter()
            .zip(x)
            .map(|(x0, x)| base.posterior_mean(t, *x0, *x))
            .collect();
        put("posterior_mean", &mean);
        for (clip, suffix) in [(false, ""), (true, "_clip")] {
            let p = base.p_mean_variance(t, x, eps, v, clip);
            put(&format!("p_sample{suffix}"), &base.p_sample(t, &p, z));
            put(&format!("p_mean{suffix}"), &p.mean);
            put(&format!("p_log_variance{suffix}"), &p.log_variance);
            put(&format!("p_x_start{suffix}"), &p.x_start);
        }
        let k = spaced_index[b] as usize;
        let p = spaced.p_mean_variance(k, x, eps, v, false);
        put("spaced.p_sample", &spaced.p_sample(k, &p, z));
        let k = ddim_index[b] as usize;
        let p = ddim.p_mean_variance(k, x, eps, v, false);
        for (eta, name) in [(0.0, "ddim.sample_eta0"), (1.0, "ddim.sample_eta1")] {
            let step = ddim.ddim_step(k, x, &p.x_start, eta);
            let next: Vec<f64> = step.mean.iter().zip(z).map(|(m, z)| m + step.sigma * z).collect();
            put(name, &next);
        }
    }
    Ok(())
}

fn guidance(case: &Case, scale: f64, computed: &mut Computed) -> Result<()> {
    let (cond, uncond) = (case.f64("in.model_output")?, case.f64("in.uncond_output")?);
    let batch = case.indices("in.t")?.len();
    let count = cond.len() / batch / 2;
    let mut guided = Vec::with_capacity(cond.len());
    for b in 0..batch {
        let ((eps, v), (null, _)) = (split(cond, b, count), split(uncond, b, count));
        guided.extend(eps.iter().zip(null).map(|(e, u)| u + scale * (e - u)));
        guided.extend_from_slice(v);
    }
    computed.insert("out.guided".into(), guided);
    Ok(())
}

/// The stub model at the original timestep `t`: noise and variance prediction.
fn stub(x: &[f64], t: u32, num_timesteps: usize) -> (Vec<f64>, Vec<f64>) {
    let u = f64::from(t) / num_timesteps as f64;
    let noise = x
        .iter()
        .map(|x| 0.9 * x + 0.2 * (3.0 * u).sin() * x.cos())
        .collect();
    (noise, x.iter().map(|x| (x - u).tanh()).collect())
}

fn chains(
    case: &Case,
    ancestral: &Schedule,
    ddim: &Schedule,
    num_timesteps: usize,
    computed: &mut Computed,
) -> Result<()> {
    let mut x = case.f64("in.chain.x_T")?.to_vec();
    let noise = case.f64("in.chain.noise")?;
    for (step, k) in (0..ancestral.len()).rev().enumerate() {
        let (eps, v) = stub(&x, ancestral.timestep_map[k], num_timesteps);
        let p = ancestral.p_mean_variance(k, &x, &eps, &v, false);
        x = ancestral.p_sample(k, &p, &noise[step * x.len()..][..x.len()]);
    }
    computed.insert("out.chain.x_0".into(), x);
    let mut x = case.f64("in.ddim_chain.x_T")?.to_vec();
    for k in (0..ddim.len()).rev() {
        let (eps, v) = stub(&x, ddim.timestep_map[k], num_timesteps);
        let p = ddim.p_mean_variance(k, &x, &eps, &v, false);
        x = ddim.ddim_step(k, &x, &p.x_start, 0.0).mean;
    }
    computed.insert("out.ddim_chain.x_0".into(), x);
    Ok(())
}
