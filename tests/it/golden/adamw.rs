//! Kind `adamw`: a few optimiser steps of a whole model on one batch.

use anyhow::{Context as _, Result, ensure};
use trainer::model::DiffuSsm;
use trainer::optim::{AdamW, AdamWConfig, Rates};

use super::case::{Case, Computed, Outcome};

pub(super) fn run(case: &Case) -> Result<Outcome> {
    let config = match case.model_config()? {
        Ok(config) => config,
        Err(choice) => return Ok(Outcome::Unsupported(choice)),
    };
    let number = |value: &serde_json::Value, key: &str| {
        value.as_f64().with_context(|| format!("no number args.{key}"))
    };
    let arg = |key: &str| number(&case.args[key], key);
    let model = DiffuSsm::new(config)?;
    let layout = model.layout();
    let mut params = case.weights(layout)?;
    let optimizer_config = AdamWConfig {
        beta1: number(&case.args["betas"][0], "betas")?,
        beta2: number(&case.args["betas"][1], "betas")?,
        eps: arg("eps")?,
        weight_decay: arg("weight_decay")?,
        ..AdamWConfig::default()
    };
    // The program decides which parameters these are; the file must mean the same ones.
    let suffixes: Vec<String> = serde_json::from_value(case.args["no_decay_suffixes"].clone())?;
    let named = layout
        .tensors()
        .iter()
        .filter(|t| suffixes.iter().any(|suffix| t.name.ends_with(suffix)));
    let named: Vec<_> = named.map(trainer::model::TensorInfo::range).collect();
    ensure!(
        named == layout.ssm_ranges(),
        "no_decay_suffixes are not dt, A and B"
    );

    let mut optimizer = AdamW::new(optimizer_config, layout.total(), layout.ssm_ranges());
    let rates = Rates {
        lr: arg("lr")?,
        ssm_lr: arg("ssm_lr")?,
        grad_scale: 1.0,
    };
    let (x, t, target) = (case.f32("in.x")?, case.f32("in.t")?, case.f32("in.target")?);
    let y = if case.has("in.y") {
        case.indices("in.y")?
    } else {
        Vec::new()
    };
    let mut ema = params.clone();
    let mut losses = Vec::new();
    for step in 1..=arg("steps")? as u64 {
        let (out, saved) = model.forward_train(&params, None, &x, &t, &y)?;
        let count = out.len() as f64;
        let differences = out.iter().zip(&target).map(|(o, t)| f64::from(o - t));
        losses.push(differences.clone().map(|d| d * d).sum::<f64>() / count);
        let d_out: Vec<f32> = differences.map(|d| (2.0 * d / count) as f32).collect();
        let mut grads = vec![0f32; layout.total()];
        model.backward(&params, saved, &d_out, &mut grads)?;
        optimizer.step(step, rates, &mut params, &grads, &mut ema);
    }
    let mut computed = Computed::from([("out.losses".to_owned(), losses)]);
    case.put_flat(&mut computed, "out.w.", layout, &params);
    Ok(Outcome::Computed(computed))
}
