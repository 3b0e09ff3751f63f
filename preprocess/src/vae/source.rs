//! Which autoencoder: the text that users give.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::error::Error;
use super::hub;

/// Where an autoencoder comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaeSource {
    /// A model of the Hugging Face hub, `owner/name` or `owner/name@revision`.
    Hub {
        /// `owner/name`.
        id: String,
        /// Branch, tag or commit; `None` is `main`.
        revision: Option<String>,
    },
    /// A diffusers folder: `config.json` and `diffusion_pytorch_model.safetensors` or `.bin`.
    Folder(PathBuf),
    /// A single `.safetensors`, `.ckpt`, `.pt` or `.bin` file in diffusers' or CompVis' layout.
    File(PathBuf),
    /// The small autoencoder embedded in the program.
    Tiny,
    /// The identity: the diffusion model sees pixels.
    None,
}

impl VaeSource {
    /// Whether loading it needs no network.
    pub fn is_at_hand(&self) -> bool {
        match self {
            Self::Hub { id, revision } => hub::is_cached(id, revision.as_deref()),
            _ => true,
        }
    }
}

impl FromStr for VaeSource {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "tiny" => return Ok(Self::Tiny),
            "none" => return Ok(Self::None),
            _ => {}
        }
        let path = Path::new(text);
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        if path.is_file() {
            return Ok(Self::File(path.to_owned()));
        }
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        let is_name = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        match id.split_once('/') {
            Some((owner, name)) if is_name(owner) && is_name(name) && revision != Some("") => Ok(Self::Hub {
                id: id.to_owned(),
                revision: revision.map(str::to_owned),
            }),
            _ => Err(Error::Source(text.to_owned())),
        }
    }
}

impl fmt::Display for VaeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub { id, revision: None } => f.write_str(id),
            Self::Hub {
                id,
                revision: Some(revision),
            } => write!(f, "{id}@{revision}"),
            Self::Folder(path) | Self::File(path) => write!(f, "{}", path.display()),
            Self::Tiny => f.write_str("tiny"),
            Self::None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_source_is_recognised_and_printed_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.ckpt");
        std::fs::write(&file, b"x").unwrap();
        let hub = |id: &str, revision: Option<&str>| VaeSource::Hub {
            id: id.to_owned(),
            revision: revision.map(str::to_owned),
        };
        let cases = [
            ("tiny", VaeSource::Tiny),
            ("none", VaeSource::None),
            (
                "stabilityai/sd-vae-ft-ema",
                hub("stabilityai/sd-vae-ft-ema", None),
            ),
            ("a/b@31f26f", hub("a/b", Some("31f26f"))),
            (
                dir.path().to_str().unwrap(),
                VaeSource::Folder(dir.path().to_owned()),
            ),
            (file.to_str().unwrap(), VaeSource::File(file.clone())),
        ];
        for (text, expected) in cases {
            let source: VaeSource = text.parse().unwrap();
            assert_eq!(source, expected);
            assert_eq!(source.to_string(), text);
        }
    }

    #[test]
    fn neither_missing_paths_nor_odd_words_are_hub_ids() {
        for text in [
            "",
            "huge",
            "./missing/dir",
            "/missing",
            "a/b/c",
            "a b/c",
            "a/",
            "a/b@",
            "../x",
        ] {
            let error = text.parse::<VaeSource>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
