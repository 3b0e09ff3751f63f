//! Kind `model`: the whole network, forward and backward.

use anyhow::Result;
use trainer::model::{DiffuSsm, Inference};

use super::case::{Case, Computed, Outcome, widen};

pub(super) fn run(case: &Case) -> Result<Outcome> {
    let config = match case.model_config()? {
        Ok(config) => config,
        Err(choice) => return Ok(Outcome::Unsupported(choice)),
    };
    let model = DiffuSsm::new(config)?;
    let params = case.weights(model.layout())?;
    let (x, t) = (case.f32("in.x")?, case.f32("in.t")?);
    let y = if case.has("in.y") {
        case.indices("in.y")?
    } else {
        Vec::new()
    };
    let (out, saved) = model.forward_train(&params, None, &x, &t, &y)?;
    let mut computed = Computed::from([("out.o".to_owned(), widen(&out))]);

    if case.has("up.o") {
        let mut grads = vec![0f32; model.layout().total()];
        let d_x = model.backward(&params, saved, &case.f32("up.o")?, &mut grads)?;
        computed.insert("grad.x".into(), widen(&d_x));
        case.put_flat(&mut computed, "grad.", model.layout(), &grads);
    }
    // What sampling runs must agree with what training runs, to the last bit.
    anyhow::ensure!(
        model.forward(&params, &x, &t, &y)? == out,
        "forward and forward_train differ"
    );
    anyhow::ensure!(
        Inference::new(model, params)?.forward(&x, &t, &y)? == out,
        "inference and forward_train differ"
    );
    Ok(Outcome::Computed(computed))
}
