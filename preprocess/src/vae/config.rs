//! The shape of the network, as diffusers writes it to `config.json`.

use serde::Deserialize;

use super::error::Error;

/// What Stable Diffusion multiplies latents by, when the configuration does not say.
const DEFAULT_SCALING_FACTOR: f64 = 0.18215;
/// Epsilon of every group norm.
pub(crate) const NORM_EPS: f64 = 1e-6;

/// Widths and depths of an `AutoencoderKL`.
#[derive(Clone, Debug, PartialEq)]
pub struct VaeConfig {
    /// Channels of an image.
    pub in_channels: usize,
    /// Channels of a decoded image.
    pub out_channels: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Width of each level, from the image inwards.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of an encoder level; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// What a latent is multiplied by before the diffusion model sees it.
    pub scaling_factor: f64,
}

/// The keys of `config.json` that matter, with diffusers' defaults.
#[derive(Deserialize)]
struct File {
    #[serde(rename = "_class_name")]
    class_name: Option<String>,
    in_channels: Option<usize>,
    out_channels: Option<usize>,
    latent_channels: Option<usize>,
    block_out_channels: Option<Vec<usize>>,
    layers_per_block: Option<usize>,
    norm_num_groups: Option<usize>,
    scaling_factor: Option<f64>,
    shift_factor: Option<f64>,
    act_fn: Option<String>,
    down_block_types: Option<Vec<String>>,
    up_block_types: Option<Vec<String>>,
    use_quant_conv: Option<bool>,
    use_post_quant_conv: Option<bool>,
    mid_block_add_attention: Option<bool>,
}

impl VaeConfig {
    /// The autoencoder of Stable Diffusion 1 and 2 (`kl-f8`): 83,653,863 parameters.
    pub fn stable_diffusion() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            norm_num_groups: 32,
            scaling_factor: DEFAULT_SCALING_FACTOR,
        }
    }

    /// Pixels per latent element, along one side.
    pub fn downsampling(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    /// Bytes of the largest map of an image of `height` x `width` pixels, in the encoder or the decoder.
    pub(crate) fn map_bytes(&self, height: usize, width: usize) -> u64 {
        // The stage with the largest maps: the first, or the second when it is more than four times as wide.
        let widths = self.block_out_channels.iter().enumerate();
        let widest = widths.map(|(level, width)| (width >> (2 * level)).max(1)).max();
        (size_of::<f32>() * height * width * widest.unwrap_or(1)) as u64
    }

    /// Reads the text of a `config.json` that lies at `origin`.
    ///
    /// # Errors
    /// When it is no JSON or describes a network that this module cannot run.
    pub fn from_json(text: &str, origin: &str) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Config {
            origin: origin.to_owned(),
            reason,
        };
        let file: File = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if let Some(name) = file.class_name.filter(|name| name != "AutoencoderKL") {
            return Err(wrong(format!(
                "`_class_name` is `{name}`, only `AutoencoderKL` is known"
            )));
        }
        if let Some(name) = file.act_fn.filter(|name| name != "silu") {
            return Err(wrong(format!("`act_fn` is `{name}`, only `silu` is known")));
        }
        let levels = file.block_out_channels.as_ref().map_or(1, Vec::len);
        let blocks = [
            ("down_block_types", "DownEncoderBlock2D", file.down_block_types),
            ("up_block_types", "UpDecoderBlock2D", file.up_block_types),
        ];
        for (key, known, types) in blocks {
            let Some(types) = types else { continue };
            if let Some(other) = types.iter().find(|name| *name != known) {
                return Err(wrong(format!("`{key}` has `{other}`, only `{known}` is known")));
            }
            if types.len() != levels {
                let reason = format!(
                    "`{key}` has {} entries, `block_out_channels` {levels}",
                    types.len()
                );
                return Err(wrong(reason));
            }
        }
        let switches = [
            ("use_quant_conv", file.use_quant_conv),
            ("use_post_quant_conv", file.use_post_quant_conv),
            ("mid_block_add_attention", file.mid_block_add_attention),
        ];
        if let Some((key, _)) = switches.iter().find(|(_, value)| *value == Some(false)) {
            return Err(wrong(format!("`{key}` is false, which is not supported")));
        }
        if let Some(shift) = file.shift_factor.filter(|&shift| shift != 0.0) {
            return Err(wrong(format!(
                "`shift_factor` is {shift}, which is not supported"
            )));
        }
        let config = Self {
            in_channels: file.in_channels.unwrap_or(3),
            out_channels: file.out_channels.unwrap_or(3),
            latent_channels: file.latent_channels.unwrap_or(4),
            block_out_channels: file.block_out_channels.unwrap_or_else(|| vec![64]),
            layers_per_block: file.layers_per_block.unwrap_or(1),
            norm_num_groups: file.norm_num_groups.unwrap_or(32),
            scaling_factor: file.scaling_factor.unwrap_or(DEFAULT_SCALING_FACTOR),
        };
        config.check().map_err(wrong)?;
        Ok(config)
    }

    /// Says why no network can have this shape.
    fn check(&self) -> Result<(), String> {
        let Self {
            block_out_channels,
            norm_num_groups,
            ..
        } = self;
        if block_out_channels.is_empty() || block_out_channels.len() > 8 {
            return Err(format!(
                "{} levels, 1 to 8 are possible",
                block_out_channels.len()
            ));
        }
        let widths = [
            self.in_channels,
            self.out_channels,
            self.latent_channels,
            self.layers_per_block,
        ];
        if widths.contains(&0)
            || widths
                .iter()
                .chain(block_out_channels)
                .any(|&width| 1 << 14 < width)
        {
            return Err("widths and depths must be between 1 and 16384".to_owned());
        }
        for &width in block_out_channels {
            if *norm_num_groups == 0 || width == 0 || width % norm_num_groups != 0 {
                return Err(format!(
                    "{width} channels do not divide into {norm_num_groups} groups"
                ));
            }
        }
        if !(self.scaling_factor.is_finite() && 0.0 < self.scaling_factor) {
            return Err(format!("`scaling_factor` is {}", self.scaling_factor));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published `config.json` of `stabilityai/sd-vae-ft-mse`, with an unknown key.
    const PUBLISHED: &str = r#"{
        "_class_name": "AutoencoderKL", "_diffusers_version": "0.4.2", "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
        "in_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3,
        "sample_size": 256,
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]
    }"#;

    #[test]
    fn the_published_file_is_stable_diffusions_network() {
        let config = VaeConfig::from_json(PUBLISHED, "config.json").unwrap();
        assert_eq!(config, VaeConfig::stable_diffusion());
        assert_eq!(config.downsampling(), 8);
    }

    #[test]
    fn other_networks_are_refused_with_the_key_that_differs() {
        let cases = [
            ("\"silu\"", "\"gelu\"", "act_fn"),
            ("\"AutoencoderKL\"", "\"VQModel\"", "VQModel"),
            (
                "[\"DownEncoderBlock2D\"",
                "[\"AttnDownEncoderBlock2D\"",
                "AttnDownEncoderBlock2D",
            ),
            ("[\"UpDecoderBlock2D\", ", "[", "up_block_types"),
            ("[128, 256", "[100, 256", "100 channels"),
            (
                "\"sample_size\": 256",
                "\"use_quant_conv\": false",
                "use_quant_conv",
            ),
            ("\"sample_size\": 256", "\"shift_factor\": 0.06", "shift_factor"),
            ("\"in_channels\": 3", "\"in_channels\": -3", "invalid value"),
            ("\"latent_channels\": 4", "\"latent_channels\": 0", "between 1"),
        ];
        for (from, to, expected) in cases {
            assert!(PUBLISHED.contains(from), "{from}");
            let error =
                VaeConfig::from_json(&PUBLISHED.replacen(from, to, 1), "there/config.json").unwrap_err();
            let message = error.to_string();
            assert!(
                message.contains(expected) && message.contains("there/config.json"),
                "{message}"
            );
        }
    }
}
