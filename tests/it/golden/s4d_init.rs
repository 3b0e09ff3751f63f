//! Kind `s4d_init`: the initial A and |B| of a channel.

use anyhow::{Context as _, Result};
use trainer::model::{AInit, ssm_init};

use super::case::{Case, Computed, Outcome};

pub(super) fn run(case: &Case) -> Result<Outcome> {
    let config = match case.model_config()? {
        Ok(config) => config,
        Err(choice) => return Ok(Outcome::Unsupported(choice)),
    };
    let inits = case.args["inits"].as_array().context("args have no `inits`")?;
    let mut computed = Computed::new();
    for init in inits {
        let name = init.as_str().context("an init that is no string")?;
        let Ok(kind) = serde_json::from_value::<AInit>(init.clone()) else {
            return Ok(Outcome::Unsupported(format!("inits={name}")));
        };
        let (a_real, a_imag, b_re, b_im) = ssm_init(kind, config.state_size)?;
        let b_abs: Vec<f64> = b_re.iter().zip(&b_im).map(|(re, im)| re.hypot(*im)).collect();
        computed.insert(format!("out.{name}.a_real"), a_real);
        computed.insert(format!("out.{name}.a_imag"), a_imag);
        computed.insert(format!("out.{name}.b_abs"), b_abs);
    }
    Ok(Outcome::Computed(computed))
}
