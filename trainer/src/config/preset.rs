//! The configurations that come with the program.

use super::{Error, Resolved};

/// Name and text of every built-in configuration.
pub const PRESETS: [(&str, &str); 12] = [
    ("imagenet256-s", include_str!("../../configs/imagenet256-s.toml")),
    ("imagenet256-l", include_str!("../../configs/imagenet256-l.toml")),
    (
        "imagenet256-xl",
        include_str!("../../configs/imagenet256-xl.toml"),
    ),
    (
        "imagenet512-xl",
        include_str!("../../configs/imagenet512-xl.toml"),
    ),
    ("ablation-m1", include_str!("../../configs/ablation-m1.toml")),
    ("ablation-m2", include_str!("../../configs/ablation-m2.toml")),
    ("ablation-p2", include_str!("../../configs/ablation-p2.toml")),
    ("lsun-church", include_str!("../../configs/lsun-church.toml")),
    ("lsun-bedroom", include_str!("../../configs/lsun-bedroom.toml")),
    ("pixel128", include_str!("../../configs/pixel128.toml")),
    ("demo", include_str!("../../configs/demo.toml")),
    ("fashion-mnist", include_str!("../../configs/fashion-mnist.toml")),
];

/// The text of the configuration called `name`.
pub fn preset(name: &str) -> Option<&'static str> {
    PRESETS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, text)| *text)
}

/// A built-in configuration with what data would say of its shape, where it leaves that open: for plans before there are
/// data.
///
/// # Errors
/// When there is no such configuration.
pub fn preset_with_shape(name: &str) -> Result<Resolved, Error> {
    let mut resolved = Resolved::named(name)?;
    let shape: &[&str] = match name {
        "demo" => &["model.input_size=8", "model.num_classes=10"],
        "fashion-mnist" => &["model.in_channels=3", "model.num_classes=10"],
        _ => &[],
    };
    for assignment in shape {
        resolved.set(assignment)?;
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Resolved;

    #[test]
    fn every_built_in_configuration_is_valid() {
        for (name, _) in PRESETS {
            let resolved = Resolved::named(name).unwrap();
            resolved.config.validate().unwrap();
        }
        let ablation = Resolved::named("ablation-m2").unwrap().config;
        assert_eq!(ablation, Resolved::named("imagenet256-l").unwrap().config);
        let xl = Resolved::named("imagenet256-xl").unwrap().config.model;
        assert_eq!(xl, crate::model::ModelConfig::default());
    }

    #[test]
    fn every_built_in_configuration_fits_a_machine_with_24_gb() {
        for (name, _) in PRESETS {
            let config = Resolved::named(name).unwrap().config;
            let total = crate::memory::MemoryPlan::training(&config).total();
            assert!(total < 22 << 30, "{name}: {total}");
        }
    }
}
