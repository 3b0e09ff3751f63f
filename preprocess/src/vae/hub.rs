//! Autoencoders of the Hugging Face hub, through its usual cache (`HF_HOME`, `~/.cache/huggingface`).

use std::path::PathBuf;
use std::time::Duration;

use hf_hub::{HFClient, HFClientSync, HFError};

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

/// Further attempts at a request that failed: a network that is not there should be told of soon.
const RETRIES: usize = 2;
/// How long the hub may take for the configuration, half a kilobyte: connecting itself has no other limit.
const PATIENCE: Duration = Duration::from_secs(15);

/// Finds a model in the cache or downloads it.
pub(crate) fn fetch(id: &str, revision: Option<&str>) -> Result<HubFiles, Error> {
    let offline =
        std::env::var(OFFLINE).is_ok_and(|value| !["", "0", "false", "no"].contains(&value.as_str()));
    let hub = Hub::new(id)?;
    let config = match hub.get(CONFIG_FILE, revision, true) {
        Err(HFError::LocalEntryNotFound { .. }) if !offline => hub.get_soon(CONFIG_FILE, revision)?,
        result => result.map_err(|error| hub.explain(CONFIG_FILE, &error))?,
    };
    // The cache keeps files in `snapshots/<commit>/`; the weights must be of the same commit.
    let commit = config
        .parent()
        .and_then(|folder| folder.file_name())
        .and_then(|commit| commit.to_str())
        .map(str::to_owned);
    let pinned = commit.as_deref().or(revision);
    let weights = match hub.cached_weights(pinned) {
        Some(path) => path,
        None => match hub.get(WEIGHT_FILES[0], pinned, offline) {
            Err(HFError::EntryNotFound { .. }) => hub
                .get(WEIGHT_FILES[1], pinned, offline)
                .map_err(|error| hub.explain(WEIGHT_FILES[1], &error))?,
            result => result.map_err(|error| hub.explain(WEIGHT_FILES[0], &error))?,
        },
    };
    Ok(HubFiles {
        config,
        weights,
        commit,
    })
}

/// Whether the cache holds a model.
pub(crate) fn is_cached(id: &str, revision: Option<&str>) -> bool {
    Hub::new(id).is_ok_and(|hub| {
        hub.get(CONFIG_FILE, revision, true).is_ok() && hub.cached_weights(revision).is_some()
    })
}

/// One model of the hub.
#[derive(Clone)]
struct Hub {
    id: String,
    client: HFClientSync,
}

impl Hub {
    fn new(id: &str) -> Result<Self, Error> {
        let client = HFClient::builder()
            .retry_max_attempts(RETRIES)
            .build_sync()
            .map_err(|error| explain(id, CONFIG_FILE, &error))?;
        Ok(Self {
            id: id.to_owned(),
            client,
        })
    }

    /// A file from the cache or, unless `local`, from the hub.
    fn get(&self, file: &str, revision: Option<&str>, local: bool) -> Result<PathBuf, HFError> {
        let (owner, name) = self.id.split_once('/').unwrap_or(("", &self.id));
        self.client
            .model(owner, name)
            .download_file()
            .filename(file)
            .maybe_revision(revision.map(str::to_owned))
            .local_files_only(local)
            .send()
    }

    fn cached_weights(&self, revision: Option<&str>) -> Option<PathBuf> {
        WEIGHT_FILES
            .iter()
            .find_map(|file| self.get(file, revision, true).ok())
    }

    /// As [`Self::get`], but gives up on a hub that does not answer.
    fn get_soon(&self, file: &'static str, revision: Option<&str>) -> Result<PathBuf, Error> {
        let (sender, answer) = crossbeam_channel::bounded(1);
        let (hub, revision) = (self.clone(), revision.map(str::to_owned));
        std::thread::spawn(move || sender.send(hub.get(file, revision.as_deref(), false)));
        match answer.recv_timeout(PATIENCE) {
            Ok(result) => result.map_err(|error| self.explain(file, &error)),
            Err(_) => Err(Error::Hub {
                id: self.id.clone(),
                file: file.to_owned(),
                reason: format!("no answer within {} s", PATIENCE.as_secs()),
                hint: HINT_NETWORK,
            }),
        }
    }

    fn explain(&self, file: &str, error: &HFError) -> Error {
        explain(&self.id, file, error)
    }
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
