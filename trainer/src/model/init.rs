//! Initial weights: DiT's for the linear layers and embeddings, S4D's for the state space models.
//!
//! Every value comes from the counter-based generator, keyed by the ordinal of its tensor in name order.

use shards::rng::{Philox, Stream};

use super::Error;
use super::config::{AInit, ModelConfig};
use super::params::ParamLayout;

/// Eigenvalues with positive imaginary half, in the order of the published formulas, and B, of one channel:
/// `(a_real, a_imag, b_re, b_im)`, each `[N/2]`.
pub type SsmInit = (Vec<f64>, Vec<f64>, Vec<f64>, Vec<f64>);

/// The initial A and B of a channel with N states (Gu et al. 2022, section 4.2).
///
/// # Errors
/// When the eigenvalues of the LegS matrix do not converge.
pub fn ssm_init(kind: AInit, state_size: usize) -> Result<SsmInit, Error> {
    let half = state_size / 2;
    let n = state_size as f64;
    let pi = std::f64::consts::PI;
    let flat = |imag: Vec<f64>| (vec![-0.5; half], imag, vec![1.0; half], vec![0.0; half]);
    match kind {
        AInit::Lin => Ok(flat((0..half).map(|i| pi * i as f64).collect())),
        AInit::Inv => Ok(flat(
            (0..half)
                .map(|i| n / pi * (n / (2 * i + 1) as f64 - 1.0))
                .collect(),
        )),
        AInit::Legs => legs(state_size),
    }
}

/// The normal part of HiPPO-LegS, `S - 1/2 I` with S skew-symmetric: eigenvalues and `V^* B`, |B| clipped at 2.
///
/// `S = -i H` with H Hermitian; H is embedded in a real symmetric matrix of twice the size, whose eigenvectors come
/// in pairs for each eigenvalue of H.
fn legs(n: usize) -> Result<SsmInit, Error> {
    let p: Vec<f64> = (0..n).map(|q| ((2 * q + 1) as f64).sqrt()).collect();
    // normal = A + low low^T: skew part -p_i p_j / 2 below the diagonal and +p_i p_j / 2 above.
    let skew = |i: usize, j: usize| match i.cmp(&j) {
        std::cmp::Ordering::Greater => -0.5 * p[i] * p[j],
        std::cmp::Ordering::Less => 0.5 * p[i] * p[j],
        std::cmp::Ordering::Equal => 0.0,
    };
    // S v = i w v  <=>  H v = w v with H = -i S, and S^T S = S^2 negated has w^2 twice, for v and its conjugate.
    // With v = x + i y: S x = -w y, S y = w x. Jacobi rotations on the symmetric [[0, S^T], [S, 0]] would mix pairs, so
    // take the real symmetric K = -S^2 = S^T S: each w^2 has the plane spanned by x and y.
    let mut k = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..n {
            k[i * n + j] = (0..n).map(|m| skew(m, i) * skew(m, j)).sum();
        }
    }
    let (values, vectors) = symmetric_eigen(k, n)?;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let (mut a_imag, mut b_re, mut b_im) = (Vec::new(), Vec::new(), Vec::new());
    for pair in order.chunks_exact(2) {
        let x: Vec<f64> = (0..n).map(|i| vectors[i * n + pair[1]]).collect();
        let w = values[pair[1]].max(0.0).sqrt();
        // y = -S x / w has the length of x; v = (x + i y) / sqrt 2 is a unit eigenvector of S for i w.
        let y: Vec<f64> = (0..n)
            .map(|i| -(0..n).map(|j| skew(i, j) * x[j]).sum::<f64>() / w)
            .collect();
        let dot = |v: &[f64]| v.iter().zip(&p).map(|(a, b)| a * b).sum::<f64>() / 2f64.sqrt();
        let (re, im) = (dot(&x), -dot(&y));
        let scale = 1f64.min(2.0 / re.hypot(im).max(1e-30));
        a_imag.push(w);
        b_re.push(re * scale);
        b_im.push(im * scale);
    }
    Ok((vec![-0.5; n / 2], a_imag, b_re, b_im))
}

/// Eigenvalues and eigenvectors (columns) of a small symmetric matrix, by cyclic Jacobi rotations.
fn symmetric_eigen(mut a: Vec<f64>, n: usize) -> Result<(Vec<f64>, Vec<f64>), Error> {
    const SWEEPS: usize = 60;
    let mut v = vec![0.0; n * n];
    for i in 0..n {
        v[i * n + i] = 1.0;
    }
    for _ in 0..SWEEPS {
        let off: f64 = (0..n * n).filter(|i| i / n != i % n).map(|i| a[i] * a[i]).sum();
        let total: f64 = a.iter().map(|x| x * x).sum();
        if off <= 1e-30 * total {
            return Ok(((0..n).map(|i| a[i * n + i]).collect(), v));
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p * n + q].abs() < 1e-300 {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * a[p * n + q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let cos = 1.0 / (t * t + 1.0).sqrt();
                let sin = t * cos;
                for i in 0..n {
                    let (x, y) = (a[i * n + p], a[i * n + q]);
                    a[i * n + p] = cos * x - sin * y;
                    a[i * n + q] = sin * x + cos * y;
                }
                for i in 0..n {
                    let (x, y) = (a[p * n + i], a[q * n + i]);
                    a[p * n + i] = cos * x - sin * y;
                    a[q * n + i] = sin * x + cos * y;
                    let (x, y) = (v[i * n + p], v[i * n + q]);
                    v[i * n + p] = cos * x - sin * y;
                    v[i * n + q] = sin * x + cos * y;
                }
            }
        }
    }
    Err(Error::Eigen { size: n })
}

/// All initial weights, `[layout.total()]`.
///
/// # Errors
/// See [`ssm_init`].
pub fn initial_weights(config: &ModelConfig, layout: &ParamLayout, seed: u64) -> Result<Vec<f32>, Error> {
    let rng = Philox::new(seed);
    let half = config.state_size / 2;
    let (a_real, a_imag, b_re, b_im) = ssm_init(config.a_init, config.state_size)?;
    let mut names: Vec<&str> = layout.tensors().iter().map(|t| t.name.as_str()).collect();
    names.sort_unstable();
    let mut out = vec![0f32; layout.total()];
    for tensor in layout.tensors() {
        let ordinal = names.binary_search(&tensor.name.as_str()).unwrap_or_default() as u64;
        let values = &mut out[tensor.range()];
        let uniform = |i: usize| rng.uniform(Stream::WeightInit, ordinal, 0, i as u32);
        let xavier = |values: &mut [f32], outputs: usize, inputs: usize| {
            let bound = (6.0 / (outputs + inputs) as f64).sqrt();
            for (i, value) in values.iter_mut().enumerate() {
                *value = ((2.0 * uniform(i) - 1.0) * bound) as f32;
            }
        };
        let normal = |values: &mut [f32], std: f32| {
            rng.fill_normal(Stream::WeightInit, ordinal, 0, values);
            values.iter_mut().for_each(|v| *v *= std);
        };
        let per_state = |values: &mut [f32], init: &[f64]| {
            for (i, value) in values.iter_mut().enumerate() {
                *value = init[i % half] as f32;
            }
        };
        let leaf = tensor
            .name
            .strip_prefix("blocks.")
            .and_then(|n| n.split_once('.'))
            .map(|(_, leaf)| leaf);
        match leaf.unwrap_or(&tensor.name) {
            "t_mlp1.weight" | "t_mlp2.weight" | "y_embed.weight" => normal(values, 0.02),
            "mod.weight" | "final_mod.weight" | "final.weight" | "b_down" => {}
            "ssm.log_dt" => {
                let (low, high) = (config.dt_min.ln(), config.dt_max.ln());
                for (i, value) in values.iter_mut().enumerate() {
                    *value = (low + (high - low) * uniform(i)) as f32;
                }
            }
            "ssm.log_a_real" => {
                let logs: Vec<f64> = a_real.iter().map(|a| (-a).ln()).collect();
                per_state(values, &logs);
            }
            "ssm.a_imag" => per_state(values, &a_imag),
            "ssm.b_re" => per_state(values, &b_re),
            "ssm.b_im" => per_state(values, &b_im),
            // A complex standard normal: variance 1/2 in each plane.
            "ssm.c_re" | "ssm.c_im" => normal(values, std::f32::consts::FRAC_1_SQRT_2),
            "ssm.d" => normal(values, 1.0),
            // Each of the M matrices as a matrix of its own: bounds from D x D, not from D x M D.
            "w_up.weight" => xavier(values, config.hidden_size, config.hidden_size),
            name if name.ends_with(".bias") => {}
            _ => {
                let (outputs, inputs) = (
                    tensor.shape[tensor.shape.len() - 2],
                    tensor.shape[tensor.shape.len() - 1],
                );
                xavier(values, outputs, inputs);
            }
        }
    }
    Ok(out)
}
