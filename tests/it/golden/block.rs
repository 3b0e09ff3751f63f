//! Kind `block`: one block, forward and backward.

use anyhow::Result;
use trainer::model::{Block, ParamLayout};
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
    let block = Block::new(&config, &layout, "", LongConv::new(config.length()));
    let condition = case.f32("in.c")?;
    let kernels = block.kernels(&params);
    let (out, saved) = block.forward(&params, &kernels, case.f32("in.i")?, &condition);
    let mut computed = Computed::from([
        ("out.o".to_owned(), widen(&out)),
        ("mid.u".to_owned(), widen(&saved.u)),
        ("mid.y".to_owned(), widen(&saved.y)),
    ]);

    if case.has("up.o") {
        let mut d_input = case.f32("up.o")?;
        let mut d_condition = vec![0f32; condition.len()];
        let mut grads = vec![0f32; layout.total()];
        block.backward(&params, saved, &mut d_input, &mut d_condition, &mut grads);
        computed.insert("grad.i".into(), widen(&d_input));
        computed.insert("grad.c".into(), widen(&d_condition));
        case.put_flat(&mut computed, "grad.", &layout, &grads);
    }
    Ok(Outcome::Computed(computed))
}
