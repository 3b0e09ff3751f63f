//! Classes of the validation images: their files do not tell them.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::super::Error;
use super::mat::{self, Value};

/// The devkit as it is downloaded.
const ARCHIVE: &str = "ILSVRC2012_devkit_t12.tar.gz";
const FOLDER: &str = "ILSVRC2012_devkit_t12";
const GROUND_TRUTH: &str = "ILSVRC2012_validation_ground_truth.txt";
const SYNSETS: &str = "meta.mat";
/// Kaggle's table: image, class and boxes.
const KAGGLE: &str = "LOC_val_solution.csv";
/// A file of the devkit is never larger.
const MAX_FILE: u64 = 64 << 20;

/// WordNet ids of the validation images.
#[derive(Debug)]
pub(super) enum Classes {
    /// By the number in the file's name, from 1 on.
    ByNumber(Vec<String>),
    /// By the file's name without its extension.
    ByName(HashMap<String, String>),
}

impl Classes {
    /// The WordNet id of a file such as `ILSVRC2012_val_00000001.JPEG`.
    pub(super) fn of(&self, file: &str) -> Option<&str> {
        let stem = file.split('.').next()?;
        match self {
            Self::ByNumber(all) => {
                let number: usize = stem.rsplit('_').next()?.parse().ok()?;
                all.get(number.checked_sub(1)?).map(String::as_str)
            }
            Self::ByName(all) => all.get(stem).map(String::as_str),
        }
    }
}

/// Looks for the devkit (packed or not) or Kaggle's table, in the folders given.
///
/// # Errors
/// When none is there, or what is there is damaged.
pub(super) fn find(folders: &[PathBuf]) -> Result<Classes, Error> {
    for folder in folders {
        let packed = folder.join(ARCHIVE);
        if packed.is_file() {
            return devkit(&packed, &unpack(&packed)?);
        }
        for folder in [folder.clone(), folder.join(FOLDER)] {
            for folder in [folder.join("data"), folder] {
                let (truth, synsets) = (folder.join(GROUND_TRUTH), folder.join(SYNSETS));
                if truth.is_file() && synsets.is_file() {
                    let files = [
                        (GROUND_TRUTH, fs_err::read(truth)?),
                        (SYNSETS, fs_err::read(synsets)?),
                    ];
                    return devkit(
                        &folder,
                        &files.map(|(name, bytes)| (name.to_owned(), bytes)).into(),
                    );
                }
            }
        }
        let table = folder.join(KAGGLE);
        if table.is_file() {
            return kaggle(&table);
        }
    }
    Err(Error::Unknown {
        path: folders.first().cloned().unwrap_or_default(),
        what: format!(
            "the validation images are in no class folders, and nothing tells their classes: neither `{ARCHIVE}` nor `{KAGGLE}` is here"
        ),
        hint: format!("put `{ARCHIVE}` (from image-net.org) beside the images"),
    })
}

fn unpack(path: &Path) -> Result<HashMap<String, Vec<u8>>, Error> {
    let file = std::io::BufReader::new(fs_err::File::open(path)?);
    let failed = |error: std::io::Error| unknown(path, error.to_string());
    let mut all = HashMap::new();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    for entry in archive.entries().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry
            .path()
            .map_err(failed)?
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        if let Some(name) = name.filter(|name| name == GROUND_TRUTH || name == SYNSETS) {
            let mut bytes = Vec::new();
            entry.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
            all.insert(name, bytes);
        }
    }
    Ok(all)
}

/// Line i of the ground truth is an ILSVRC2012_ID, the devkit's own numbering, which `meta.mat` maps to WordNet ids.
fn devkit(path: &Path, files: &HashMap<String, Vec<u8>>) -> Result<Classes, Error> {
    let file = |name: &str| {
        files
            .get(name)
            .ok_or_else(|| unknown(path, format!("it has no `{name}`")))
    };
    let synsets =
        mat::structures(file(SYNSETS)?).map_err(|what| unknown(path, format!("{SYNSETS}: {what}")))?;
    let mut ids = HashMap::new();
    for synset in &synsets {
        let field = |name: &str| {
            synset
                .iter()
                .find(|(field, _)| field == name)
                .map(|(_, value)| value)
        };
        if let (Some(Value::Number(id)), Some(Value::Text(wnid)), Some(Value::Number(0.0))) =
            (field("ILSVRC2012_ID"), field("WNID"), field("num_children"))
        {
            ids.insert(*id as u32, wnid.clone());
        }
    }
    let truth = String::from_utf8_lossy(file(GROUND_TRUTH)?).into_owned();
    let classes = truth
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .enumerate();
    let classes = classes.map(|(number, line)| {
        let wnid = line.parse().ok().and_then(|id: u32| ids.get(&id)).cloned();
        wnid.ok_or_else(|| {
            unknown(
                path,
                format!(
                    "{GROUND_TRUTH}: line {}: `{line}` is no class of {SYNSETS}",
                    number + 1
                ),
            )
        })
    });
    Ok(Classes::ByNumber(classes.collect::<Result<_, _>>()?))
}

/// `ImageId,PredictionString`: the class is the first word of the second column.
fn kaggle(path: &Path) -> Result<Classes, Error> {
    let text = fs_err::read_to_string(path)?;
    let lines = text.lines().skip(1).filter(|line| !line.is_empty());
    let all = lines.map(|line| {
        let parts = line
            .split_once(',')
            .and_then(|(image, boxes)| Some((image, boxes.split_whitespace().next()?)));
        let (image, wnid) = parts.ok_or_else(|| unknown(path, format!("the line `{line}` has no class")))?;
        Ok((image.to_owned(), wnid.to_owned()))
    });
    Ok(Classes::ByName(all.collect::<Result<_, Error>>()?))
}

fn unknown(path: &Path, what: String) -> Error {
    Error::Unknown {
        path: path.to_owned(),
        what,
        hint: "fetch the file again".to_owned(),
    }
}
