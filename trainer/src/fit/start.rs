//! The start of a new run: from chance, or from the weights of another.

use std::path::Path;

use super::{Error, Event, Learner};
use crate::checkpoint::{Buffers, DatasetRecord, InitRecord, State, flat};
use crate::config::{Config, entries};
use crate::export;
use crate::model::ParamLayout;

/// Keys of the model that the weights do not depend on once they are drawn; label dropping shows in the layout.
const FREE: [&str; 5] = [
    "model.a_init",
    "model.dt_min",
    "model.dt_max",
    "model.train_b",
    "model.class_dropout_prob",
];

/// State and learner before the first step; `init` is an export, checkpoint or run whose weights are taken, averaged and
/// all. Keys in `allow` may differ from those that the weights were trained with.
pub(super) fn anew(
    config: &Config,
    record: DatasetRecord,
    init: Option<&Path>,
    allow: &[String],
    listener: &mut dyn FnMut(Event<'_>),
) -> Result<(State, Learner), Error> {
    let mut state = State::new(config.clone(), record);
    let Some(path) = init else {
        return Ok((state, Learner::new(config)?));
    };
    let weights = export::open(path)?;
    check_fits(path, &weights.config, config, allow)?;
    state.init = Some(InitRecord {
        path: path.display().to_string(),
        step: weights.step,
        xxh64: flat::hash(&weights.values),
    });
    listener(Event::Note(&format!(
        "starting from the weights of step {} of {}",
        weights.step,
        path.display()
    )));
    let zeros = vec![0.0; weights.values.len()];
    let buffers = Buffers {
        ema: weights.values.clone(),
        params: weights.values,
        first: zeros.clone(),
        second: zeros,
    };
    Ok((state, Learner::resume(config, buffers)?))
}

/// Refuses weights of a model that computes something else.
fn check_fits(path: &Path, theirs: &Config, ours: &Config, allow: &[String]) -> Result<(), Error> {
    let differs = |key: String, was: String, now: String| Error::InitModel {
        path: path.to_owned(),
        key,
        was,
        now,
    };
    for ((key, was), (_, now)) in entries(theirs).into_iter().zip(entries(ours)) {
        let is_of_weights = key.starts_with("model.") || key.starts_with("diffusion.");
        let is_free = FREE.contains(&key.as_str()) || allow.contains(&key);
        if is_of_weights && was != now && !is_free {
            return Err(differs(key, was.to_string(), now.to_string()));
        }
    }
    // Whatever was allowed, the tensors must be the same.
    let (was, now) = (ParamLayout::model(&theirs.model), ParamLayout::model(&ours.model));
    let shape = |layout: &ParamLayout, name: &str| {
        layout
            .get(name)
            .map_or_else(|| "missing".to_owned(), |tensor| format!("{:?}", tensor.shape))
    };
    for tensor in was.tensors().iter().chain(now.tensors()) {
        let (was, now) = (shape(&was, &tensor.name), shape(&now, &tensor.name));
        if was != now {
            return Err(differs(format!("tensor `{}`", tensor.name), was, now));
        }
    }
    Ok(())
}
