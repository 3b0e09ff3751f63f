//! The configurations that come with the program.

/// Name and text of every built-in configuration.
pub const PRESETS: [(&str, &str); 5] = [
    ("imagenet256-s", include_str!("../../configs/imagenet256-s.toml")),
    ("imagenet256-l", include_str!("../../configs/imagenet256-l.toml")),
    (
        "imagenet256-xl",
        include_str!("../../configs/imagenet256-xl.toml"),
    ),
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
        let xl = Resolved::named("imagenet256-xl").unwrap().config.model;
        assert_eq!(xl, crate::model::ModelConfig::default());
    }
}
