//! What the kernels and the programs made of them must give, whatever runs them: the emulation, or a GPU.
//!
//! The test that includes this has a module `device` with a `Runner` of launches and `open`, a device for programs; either is
//! `None` where there is none.

pub(crate) mod autoencoder;
pub(crate) mod chunked;
pub(crate) mod conv;
pub(crate) mod diffusion;
pub(crate) mod elementwise;
pub(crate) mod embed;
pub(crate) mod golden;
pub(crate) mod norm;
pub(crate) mod optimizer;
pub(crate) mod runner;
pub(crate) mod sampling;
pub(crate) mod ssm;
pub(crate) mod training;
mod values;

use runner::Launch;

/// A launch large enough to show what it moves, and small enough to be repeated for every barrier.
pub(crate) struct Case {
    pub(crate) launch: Launch,
}

impl From<Launch> for Case {
    fn from(launch: Launch) -> Self {
        Self { launch }
    }
}

/// One of every kernel.
pub(crate) fn all_cases() -> Vec<Case> {
    let cases = [
        elementwise::cases(),
        embed::cases(),
        norm::cases(),
        conv::cases(),
        chunked::cases(),
        ssm::cases(),
        diffusion::cases(),
        optimizer::cases(),
        autoencoder::cases(),
    ];
    cases.into_iter().flatten().collect()
}

/// Hands the list of all checks to a macro.
macro_rules! for_each_check {
    ($then:ident) => {
        $then! {
            autoencoder {
                group_norm_is_the_cpus_even_far_from_zero
                bytes_follow_dits_rule_and_return
            }
            conv {
                the_convolution_is_the_cpus
                the_convolution_of_long_sequences_is_the_cpus
            }
            chunked {
                the_chunked_convolution_and_its_gradients_are_the_cpus
            }
            diffusion {
                training_starts_from_the_cpus_numbers
                noise_and_posterior_samples_are_the_cpus
                whole_chains_of_samples_are_the_cpus
                guidance_moves_the_first_channels_only
                the_loss_is_the_cpus
            }
            elementwise {
                bias_and_gelu_are_the_cpus
                the_gate_is_the_cpus
                the_residual_is_the_cpus
                sums_of_columns_are_the_cpus
            }
            embed {
                rows_begin_with_bias_and_position
                timesteps_become_the_cpus_features
                silu_adds_bias_and_label
                label_rows_are_summed_image_after_image
                patches_lie_as_the_cpus
            }
            norm {
                the_modulated_norm_is_the_cpus
            }
            optimizer {
                three_steps_are_the_cpus
                the_norm_of_the_gradients_decides_the_scale
            }
            ssm {
                kernels_and_their_gradients_are_the_cpus
            }
            training {
                ten_steps_are_those_of_the_processor
                ten_steps_in_bf16_stay_near_the_processors_f32
                every_option_of_the_model_is_the_processors
                the_convolution_by_chunks_trains_alike
                micro_batches_and_recomputation_change_nothing
                a_step_without_a_finite_loss_changes_nothing
                a_run_is_told_of_its_steps_late_and_completely
            }
            sampling {
                samples_are_those_of_the_processor
            }
            golden {
                golden_models_are_reproduced
            }
        }
    };
}
pub(crate) use for_each_check;
