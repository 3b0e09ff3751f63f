//! Where the network's weights come from: the published file, a local file, or random numbers for tests.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use candle_core::Device;
use fs_err::File;
use sha2::{Digest, Sha256};
use shards::rng::{Philox, Stream};

use super::{Inception, download, pth_legacy};
use crate::error::{Error, Result};

/// SHA-256 of the published file.
pub const PUBLISHED_SHA256: &str = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2";

/// Tensors by name: shape and row-major values.
pub type Tensors = HashMap<String, (Vec<usize>, Vec<f32>)>;

/// What `--inception` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightSource {
    /// The published file, downloaded once.
    Auto,
    /// A `.pth` (either of PyTorch's formats) or a safetensors file.
    File(PathBuf),
    /// Random weights: for tests and demonstrations; the numbers compare with nothing but themselves.
    Random(u64),
}

impl FromStr for WeightSource {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            _ if text == "auto" => Ok(Self::Auto),
            Some(("random", seed)) => {
                let seed = seed
                    .parse()
                    .map_err(|_| format!("`{seed}` is not a seed; write random:0"))?;
                Ok(Self::Random(seed))
            }
            _ if text.is_empty() || text == "random" => {
                Err("write `auto`, `random:SEED` or the path of a weights file".into())
            }
            _ => Ok(Self::File(PathBuf::from(text))),
        }
    }
}

/// The network and what its numbers may be compared with.
pub struct LoadedInception {
    /// The network.
    pub network: Inception,
    /// `sha256:...` of the file, or `random:SEED`.
    pub id: String,
    /// Whether these are the published weights that the literature's numbers were computed with.
    pub comparable: bool,
}

impl LoadedInception {
    /// What decides features to the last bit: the weights, and after a `+` the arithmetic where it is not that of the
    /// processor. Features are kept under this name.
    pub fn features_id(&self) -> String {
        match self.network.arithmetic() {
            None => self.id.clone(),
            Some(arithmetic) => format!("{}+{}", self.id, arithmetic.replace(' ', "-")),
        }
    }
}

impl WeightSource {
    /// Loads the network, to work on the processor.
    ///
    /// # Errors
    /// If the file cannot be fetched or read, or is not this network.
    pub fn load(&self) -> Result<LoadedInception> {
        self.load_on(&Device::Cpu)
    }

    /// Loads the network, to work on `device`.
    ///
    /// # Errors
    /// If the file cannot be fetched or read, is not this network, or the device has no room for it.
    pub fn load_on(&self, device: &Device) -> Result<LoadedInception> {
        match self {
            Self::Random(seed) => Ok(LoadedInception {
                network: random(*seed, device)?,
                id: format!("random:{seed}"),
                comparable: false,
            }),
            Self::File(path) => from_file(path, device),
            Self::Auto => from_file(&download::published_file()?, device),
        }
    }
}

fn from_file(path: &Path, device: &Device) -> Result<LoadedInception> {
    let sha256 = sha256_of(path)?;
    let mut tensors = read_tensors(path)?;
    let network = Inception::on(device, &mut |name, shape| {
        let (found, values) = tensors.remove(name).ok_or_else(|| {
            Error::format(
                path,
                format!("no tensor `{name}`: this is not the FID Inception network"),
            )
        })?;
        if found != shape {
            return Err(Error::format(
                path,
                format!("tensor `{name}` is {found:?}, the network needs {shape:?}"),
            ));
        }
        Ok(values)
    })?;
    Ok(LoadedInception {
        network,
        comparable: sha256 == PUBLISHED_SHA256,
        id: format!("sha256:{sha256}"),
    })
}

/// All float tensors of a weights file, whatever its format.
///
/// # Errors
/// If the file is in none of the three formats, or is damaged.
pub fn read_tensors(path: &Path) -> Result<Tensors> {
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(16).read_to_end(&mut start))
        .map_err(Error::io(path))?;
    if start.starts_with(b"PK\x03\x04") {
        return flatten(candle_core::pickle::read_all(path)?);
    }
    if start.starts_with(&[0x80])
        && start.get(1).is_some_and(|version| *version < 6)
        && start.get(2) != Some(&0)
    {
        return pth_legacy::read(path);
    }
    if start.get(8) == Some(&b'{') {
        return flatten(candle_core::safetensors::load(path, &Device::Cpu)?);
    }
    Err(Error::format(path, "neither a PyTorch nor a safetensors file"))
}

fn flatten(tensors: impl IntoIterator<Item = (String, candle_core::Tensor)>) -> Result<Tensors> {
    let mut flat = Tensors::new();
    for (name, tensor) in tensors {
        let shape = tensor.dims().to_vec();
        let values = tensor
            .to_dtype(candle_core::DType::F32)?
            .flatten_all()?
            .to_vec1()?;
        flat.insert(name, (shape, values));
    }
    Ok(flat)
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// If it cannot be read.
pub fn sha256_of(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).map_err(Error::io(path))?;
        if count == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
    }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Weights that keep activations near one (He et al. 2015), from the counter-based generator.
fn random(seed: u64, device: &Device) -> Result<Inception> {
    let philox = Philox::new(seed);
    let mut ordinal = 0;
    Inception::on(device, &mut |name, shape| {
        ordinal += 1;
        let mut values = vec![0.0; shape.iter().product()];
        if shape.len() >= 2 {
            philox.fill_normal(Stream::WeightInit, ordinal, 0, &mut values);
            let scale = (2.0 / shape[1..].iter().product::<usize>() as f32).sqrt();
            values.iter_mut().for_each(|value| *value *= scale);
        } else if name.ends_with("running_var") || name.ends_with("bn.weight") {
            values.fill(1.0);
        }
        Ok(values)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_parsed() {
        assert_eq!("auto".parse(), Ok(WeightSource::Auto));
        assert_eq!("random:7".parse(), Ok(WeightSource::Random(7)));
        assert_eq!("a/b.pth".parse(), Ok(WeightSource::File("a/b.pth".into())));
        assert!("random".parse::<WeightSource>().is_err());
        assert!("random:x".parse::<WeightSource>().is_err());
    }

    #[test]
    fn a_file_that_is_not_the_network_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.pth");
        fs_err::write(&path, b"hello, this is text").unwrap();
        let message = WeightSource::File(path.clone()).load().err().unwrap().to_string();
        assert!(
            message.contains("weights.pth") && message.contains("neither"),
            "{message}"
        );
        fs_err::remove_file(&path).unwrap();
        assert!(WeightSource::File(path).load().is_err());
    }

    #[test]
    fn a_safetensors_file_without_the_tensors_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let tensor = candle_core::Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        candle_core::safetensors::save(&HashMap::from([("fc.weight", tensor)]), &path).unwrap();
        assert_eq!(read_tensors(&path).unwrap()["fc.weight"].0, [2, 3]);
        let message = WeightSource::File(path).load().err().unwrap().to_string();
        assert!(message.contains("Conv2d_1a_3x3"), "{message}");
    }
}
