//! Kind `s4d`: the bidirectional state space model of one block, with its skip term.

use anyhow::Result;
use trainer::ops::long_conv::LongConv;
use trainer::ops::ssm_kernel::{SsmParams, kernels, kernels_backward};

use super::case::{Case, Computed, Outcome, widen};

const STATES: [&str; 6] = ["log_a_real", "a_imag", "b_re", "b_im", "c_re", "c_im"];

pub(super) fn run(case: &Case) -> Result<Outcome> {
    let config = match case.model_config()? {
        Ok(config) => config,
        Err(choice) => return Ok(Outcome::Unsupported(choice)),
    };
    let [batch, dim, length] = case.shape("in.u")?;
    let half = config.state_size / 2;
    let log_dt = case.f32("w.log_dt")?;
    let skip = case.f32("w.d")?;
    let mut states = Vec::new();
    for name in STATES {
        states.push(case.f32(&format!("w.{name}"))?);
    }
    let params = SsmParams {
        log_dt: &log_dt,
        log_a_real: &states[0],
        a_imag: &states[1],
        b_re: &states[2],
        b_im: &states[3],
        c_re: &states[4],
        c_im: &states[5],
    };
    let kernel = kernels(&params, config.disc, length);

    let conv = LongConv::new(length);
    let u = transpose(&case.f32("in.u")?, batch, dim, length); // [B, L, D]
    let mut y = vec![0f32; batch * length * 2 * dim];
    let spectra = conv.spectra(&kernel);
    conv.forward(&u, &spectra, &skip, false, &mut y);
    let mut computed = Computed::from([
        ("mid.kernel".to_owned(), widen(&kernel)),
        ("out.y".to_owned(), widen(&transpose(&y, batch, length, 2 * dim))),
    ]);

    if case.has("up.y") {
        let dy = transpose(&case.f32("up.y")?, batch, 2 * dim, length);
        let mut du = vec![0f32; u.len()];
        let mut dk = vec![0f32; kernel.len()];
        let mut d_skip = vec![0f32; skip.len()];
        conv.backward(&u, &spectra, &skip, false, &dy, &mut du, &mut dk, &mut d_skip);
        let grads = kernels_backward(&params, config.disc, length, &dk);
        computed.insert("grad.u".into(), widen(&transpose(&du, batch, length, dim)));
        computed.insert("grad.d".into(), widen(&d_skip));
        computed.insert("grad.kernel".into(), widen(&dk));
        computed.insert(
            "grad.log_dt".into(),
            grads.iter().map(|g| f64::from(g.log_dt)).collect(),
        );
        for (i, name) in STATES.iter().enumerate() {
            let values: Vec<f64> = grads
                .iter()
                .flat_map(|g| g.states.iter().map(|s| f64::from(s[i])))
                .collect();
            assert_eq!(values.len(), 2 * dim * half);
            computed.insert(format!("grad.{name}"), values);
        }
    }
    Ok(Outcome::Computed(computed))
}

/// `[batch, rows, columns]` -> `[batch, columns, rows]`
fn transpose(x: &[f32], batch: usize, rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0f32; x.len()];
    for b in 0..batch {
        for r in 0..rows {
            for c in 0..columns {
                out[(b * columns + c) * rows + r] = x[(b * rows + r) * columns + c];
            }
        }
    }
    out
}
