//! Autoencoders of the Hugging Face hub, through its usual cache (`HF_HOME`, `~/.cache/huggingface`).

use std::path::PathBuf;

use hf_hub::{HFClientSync, HFError};

use super::error::Error;
use super::load::{CONFIG_FILE, WEIGHT_FILES};

/// The variable that forbids the network, as in Hugging Face's own library.
const OFFLINE: &str = "HF_HUB_OFFLINE";

const HINT_NETWORK: &str = "without network, download the model elsewhere and give its folder, or set HF_HOME to a cache \
                            that holds it";
const HINT_TOKEN: &str = "accept the model's terms on the hub's site, then set HF_TOKEN to an access token";
const HINT_NAME: &str =
    "check the spelling of owner, name and revision, and set HF_TOKEN if the model is private";

/// The files of a model, in the cache.
pub(crate) struct HubFiles {
    pub(crate) config: PathBuf,
    pub(crate) weights: PathBuf,
    /// The commit they belong to.
    pub(crate) commit: Option<String>,
}

/// Finds a model in the cache or downloads it.
pub(crate) fn fetch(id: &str, revision: Option<&str>) -> Result<HubFiles, Error> {
    let offline =
        std::env::var(OFFLINE).is_ok_and(|value| !["", "0", "false", "no"].contains(&value.as_str()));
    let client = HFClientSync::new().map_err(|error| explain(id, CONFIG_FILE, &error))?;
    let (owner, name) = id.split_once('/').ok_or_else(|| Error::Source(id.to_owned()))?;
    let model = client.model(owner, name);
    let get = |file: &str, revision: Option<String>, local: bool| {
        model
            .download_file()
            .filename(file)
            .maybe_revision(revision)
            .local_files_only(local)
            .send()
    };
    let cached_or_downloaded = |file: &str, revision: Option<String>| match get(file, revision.clone(), true)
    {
        Err(HFError::LocalEntryNotFound { .. }) if !offline => get(file, revision, false),
        result => result,
    };
    let config = cached_or_downloaded(CONFIG_FILE, revision.map(str::to_owned))
        .map_err(|error| explain(id, CONFIG_FILE, &error))?;
    // The cache keeps files in `snapshots/<commit>/`; the weights must be of the same commit.
    let commit = config
        .parent()
        .and_then(|folder| folder.file_name())
        .and_then(|commit| commit.to_str())
        .map(str::to_owned);
    let pinned = || commit.clone().or_else(|| revision.map(str::to_owned));
    let in_cache = WEIGHT_FILES
        .iter()
        .find_map(|file| get(file, pinned(), true).ok());
    let weights = match in_cache {
        Some(path) => path,
        None => match cached_or_downloaded(WEIGHT_FILES[0], pinned()) {
            Err(HFError::EntryNotFound { .. }) => cached_or_downloaded(WEIGHT_FILES[1], pinned())
                .map_err(|error| explain(id, WEIGHT_FILES[1], &error))?,
            result => result.map_err(|error| explain(id, WEIGHT_FILES[0], &error))?,
        },
    };
    Ok(HubFiles {
        config,
        weights,
        commit,
    })
}

/// The hub's error, with what the user can do.
fn explain(id: &str, file: &str, error: &HFError) -> Error {
    let hint = match error {
        HFError::AuthRequired { .. } | HFError::Forbidden { .. } => HINT_TOKEN,
        HFError::RepoNotFound { .. } | HFError::RevisionNotFound { .. } | HFError::EntryNotFound { .. } => {
            HINT_NAME
        }
        _ => HINT_NETWORK,
    };
    Error::Hub {
        id: id.to_owned(),
        file: file.to_owned(),
        reason: error.to_string(),
        hint,
    }
}
