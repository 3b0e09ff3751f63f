//! Gaussian diffusion as ADM defines it (Ho et al. 2020; Nichol and Dhariwal 2021; Dhariwal and Nichol 2021): noise
//! schedule, posteriors, respacing, training loss. It takes model outputs as slices and never sees the model.

mod gaussian;
mod loss;
mod respace;
mod schedule;

pub use gaussian::{DdimStep, Prediction};
pub use loss::{LossParts, discretized_log_likelihood, normal_kl, prior_bits_per_dimension, training_loss};
pub use respace::respaced_timesteps;
pub use schedule::{NUM_TIMESTEPS, Schedule};

/// What can be wrong with a diffusion process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A respacing specification that does not fit.
    #[error("`{spec}` does not respace {num_timesteps} timesteps: {why}")]
    Respacing {
        /// What was asked for.
        spec: String,
        /// The length of the original process.
        num_timesteps: usize,
        /// Why it does not fit.
        why: String,
    },
}
