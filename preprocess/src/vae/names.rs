//! The names of the tensors in the three layouts that published files use.
//!
//! The program's own names are those of today's diffusers. Older diffusers files call the attention's tensors `query`,
//! `key`, `value` and `proj_attn`; the original CompVis files have a layout of their own, number the decoder's levels from
//! the image inwards, and may hold a whole Stable Diffusion checkpoint, where the autoencoder is `first_stage_model`.

/// Where whole Stable Diffusion checkpoints keep the autoencoder.
const CHECKPOINT_PREFIX: &str = "first_stage_model.";

/// Today's diffusers name for `name`, in a network of `levels` levels; `None` for tensors of something else.
pub(crate) fn canonical(name: &str, levels: usize) -> Option<String> {
    let name = name.strip_prefix(CHECKPOINT_PREFIX).unwrap_or(name);
    let parts: Vec<&str> = name.split('.').collect();
    match parts.as_slice() {
        ["quant_conv" | "post_quant_conv", _] => Some(name.to_owned()),
        [side @ ("encoder" | "decoder"), rest @ ..] => Some(format!("{side}.{}", inner(rest, levels))),
        _ => None,
    }
}

/// The same below `encoder.` or `decoder.`.
fn inner(parts: &[&str], levels: usize) -> String {
    let mirrored = |i: &str| match i.parse::<usize>() {
        Ok(i) if i < levels => (levels - 1 - i).to_string(),
        _ => i.to_owned(),
    };
    match parts {
        ["down", i, "block", j, rest @ ..] => format!("down_blocks.{i}.resnets.{j}.{}", resnet(rest)),
        ["down", i, "downsample", rest @ ..] => format!("down_blocks.{i}.downsamplers.0.{}", rest.join(".")),
        ["up", i, "block", j, rest @ ..] => {
            format!("up_blocks.{}.resnets.{j}.{}", mirrored(i), resnet(rest))
        }
        ["up", i, "upsample", rest @ ..] => {
            format!("up_blocks.{}.upsamplers.0.{}", mirrored(i), rest.join("."))
        }
        ["mid", "block_1", rest @ ..] => format!("mid_block.resnets.0.{}", resnet(rest)),
        ["mid", "block_2", rest @ ..] => format!("mid_block.resnets.1.{}", resnet(rest)),
        ["mid", "attn_1", rest @ ..] => format!("mid_block.attentions.0.{}", attention(rest)),
        ["mid_block", "attentions", n, rest @ ..] => format!("mid_block.attentions.{n}.{}", attention(rest)),
        ["norm_out", kind] => format!("conv_norm_out.{kind}"),
        _ => parts.join("."),
    }
}

fn resnet(parts: &[&str]) -> String {
    parts.join(".").replace("nin_shortcut", "conv_shortcut")
}

fn attention(parts: &[&str]) -> String {
    match parts {
        ["norm", kind] => format!("group_norm.{kind}"),
        ["q" | "query", kind] => format!("to_q.{kind}"),
        ["k" | "key", kind] => format!("to_k.{kind}"),
        ["v" | "value", kind] => format!("to_v.{kind}"),
        ["proj_out" | "proj_attn", kind] => format!("to_out.0.{kind}"),
        _ => parts.join("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_become_todays_names() {
        let cases = [
            ("encoder.conv_in.weight", "encoder.conv_in.weight"),
            ("post_quant_conv.bias", "post_quant_conv.bias"),
            (
                "decoder.mid_block.attentions.0.query.weight",
                "decoder.mid_block.attentions.0.to_q.weight",
            ),
            (
                "decoder.mid_block.attentions.0.proj_attn.bias",
                "decoder.mid_block.attentions.0.to_out.0.bias",
            ),
            (
                "decoder.mid_block.attentions.0.to_out.0.bias",
                "decoder.mid_block.attentions.0.to_out.0.bias",
            ),
            (
                "encoder.down.1.block.0.nin_shortcut.weight",
                "encoder.down_blocks.1.resnets.0.conv_shortcut.weight",
            ),
            (
                "encoder.down.2.downsample.conv.bias",
                "encoder.down_blocks.2.downsamplers.0.conv.bias",
            ),
            (
                "decoder.up.3.block.2.norm1.weight",
                "decoder.up_blocks.0.resnets.2.norm1.weight",
            ),
            (
                "decoder.up.1.upsample.conv.weight",
                "decoder.up_blocks.2.upsamplers.0.conv.weight",
            ),
            (
                "first_stage_model.encoder.mid.block_2.conv1.bias",
                "encoder.mid_block.resnets.1.conv1.bias",
            ),
            (
                "first_stage_model.encoder.mid.attn_1.proj_out.weight",
                "encoder.mid_block.attentions.0.to_out.0.weight",
            ),
            (
                "encoder.mid.attn_1.norm.weight",
                "encoder.mid_block.attentions.0.group_norm.weight",
            ),
            ("decoder.norm_out.bias", "decoder.conv_norm_out.bias"),
        ];
        for (old, new) in cases {
            assert_eq!(canonical(old, 4).as_deref(), Some(new));
        }
        for other in [
            "loss.logvar",
            "model_ema.decay",
            "model.diffusion_model.out.0.weight",
            "encoder_x.y",
        ] {
            assert_eq!(canonical(other, 4), None);
        }
    }
}
