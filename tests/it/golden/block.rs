//! Kind `block`: one block, forward and backward.

use anyhow::Result;
use trainer::model::{Block, ParamLayout};
use trainer::ops::buffer::Pool;
use trainer::ops::long_conv::LongConv;

use super::case::{Case, Computed, Outcome, widen};

pub(super) fn run(case: &Case) -> Result<Outcome> {
    let config = match case.model_config()? {
        Ok(config) => config,
        Err(choice) => return Ok(Outcome::Unsupported(choice)),
    };
    config.validate()?;
    let mut layout = ParamLayout::default();
    layout.block("", &config);
    let params = case.weights(&layout)?;
    let pool = Pool::default();
    let block = Block::new(&config, &layout, "", LongConv::new(config.length()), pool.clone());
    let condition = case.f32("in.c")?;
    let spectra = block.spectra(&params);
    let input = pool.copy(&case.f32("in.i")?);
    let (out, saved) = block.forward(&params, &spectra, input, &condition);
    let mut computed = Computed::from([
        ("out.o".to_owned(), widen(&out)),
        ("mid.u".to_owned(), widen(&saved.u)),
        ("mid.y".to_owned(), widen(&saved.y)),
    ]);

    if case.has("up.o") {
        let mut d_input = case.f32("up.o")?;
        let mut d_condition = vec![0f32; condition.len()];
        let mut grads = vec![0f32; layout.total()];
        let dk = block.backward(
            &params,
            &spectra,
            saved,
            &mut d_input,
            &mut d_condition,
            &mut grads,
        );
        block.kernels_backward(&params, &dk, &mut grads);
        computed.insert("grad.i".into(), widen(&d_input));
        computed.insert("grad.c".into(), widen(&d_condition));
        case.put_flat(&mut computed, "grad.", &layout, &grads);
    }
    Ok(Outcome::Computed(computed))
}
