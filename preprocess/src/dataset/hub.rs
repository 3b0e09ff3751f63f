//! Data sets of the Hugging Face hub: parquet files, fetched one at a time into the hub's usual cache.
//!
//! What is in the cache is not fetched again, so that an interrupted command can simply be repeated: at most one file,
//! half a gigabyte, is begun anew.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, HFClientSync, HFError};

use super::Error;

/// A data set of the hub.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repository {
    owner: &'static str,
    name: &'static str,
    /// Where its parquet files lie.
    folder: &'static str,
}

/// ImageNet, for those who accepted its terms.
pub(super) const IMAGENET: Repository = Repository {
    owner: "ILSVRC",
    name: "imagenet-1k",
    folder: "data",
};

/// How long the hub may take for its list of files.
const PATIENCE: Duration = Duration::from_secs(20);
/// Further attempts at a request that failed.
const RETRIES: usize = 4;

/// Files in the cache.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) files: Vec<PathBuf>,
    /// `hub:owner/name@commit`.
    pub(super) place: String,
}

impl Repository {
    pub(super) fn id(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }
}

/// Fetches the parquet files of a split, or the first of them that hold `limit` rows; `rows` counts those of a file.
///
/// # Errors
/// [`Error::Hub`], with what the user can do.
pub(super) fn fetch(
    repository: &Repository,
    split: &str,
    limit: Option<u64>,
    rows: impl Fn(&Path) -> std::io::Result<u64>,
    note: &mut dyn FnMut(String),
) -> Result<Fetched, Error> {
    let id = repository.id();
    if std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !["", "0", "false", "no"].contains(&value.as_str()))
    {
        return Err(Error::Hub(format!(
            "{id}: HF_HUB_OFFLINE forbids the network\nhint: give the cached files themselves, --source .../snapshots/<commit>/data"
        )));
    }
    let explain = |error: &HFError| Error::Hub(explain(&id, error));
    let client = HFClient::builder()
        .retry_max_attempts(RETRIES)
        .build_sync()
        .map_err(|error| explain(&error))?;
    let mut names = list(&client, repository)?;
    let splits = super::split_names(split);
    names.retain(|name| {
        let file = name.rsplit('/').next().unwrap_or(name);
        splits.iter().any(|split| file.starts_with(&format!("{split}-"))) && name.ends_with(".parquet")
    });
    names.sort_unstable();
    if names.is_empty() {
        return Err(Error::Hub(format!(
            "{id}: it has no parquet files of the split `{split}`\nhint: --split train or validation"
        )));
    }
    let count = names.len();
    let (mut files, mut commit, mut found) = (Vec::new(), None::<String>, 0);
    for (number, name) in names.into_iter().enumerate() {
        if limit.is_some_and(|limit| found >= limit) {
            break;
        }
        note(format!("fetch    {name} ({} of {count}) of {id}", number + 1));
        let path = client
            .dataset(repository.owner, repository.name)
            .download_file()
            .filename(name)
            .maybe_revision(commit.clone())
            .send()
            .map_err(|error| explain(&error))?;
        // The cache keeps files in `snapshots/<commit>/data/`: all must be of the first one's commit.
        if commit.is_none() {
            commit = path
                .ancestors()
                .nth(2)
                .and_then(Path::file_name)
                .map(|name| name.to_string_lossy().into_owned());
        }
        found += rows(&path)?;
        files.push(path);
    }
    let place = format!("hub:{id}@{}", commit.as_deref().unwrap_or("main"));
    Ok(Fetched { files, place })
}

/// The names of the data set's files; gives up on a hub that does not answer.
fn list(client: &HFClientSync, repository: &Repository) -> Result<Vec<String>, Error> {
    let (sender, answer) = crossbeam_channel::bounded(1);
    let (client, repository) = (client.clone(), *repository);
    let id = repository.id();
    std::thread::spawn(move || {
        let tree = client
            .dataset(repository.owner, repository.name)
            .list_tree()
            .path_in_repo(repository.folder)
            .send();
        sender.send(tree)
    });
    let entries = match answer.recv_timeout(PATIENCE) {
        Ok(entries) => entries.map_err(|error| Error::Hub(explain(&id, &error)))?,
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            return Err(Error::Hub(format!(
                "{id}: the hub gave no answer within {seconds} s\nhint: --source DIR or FILE"
            )));
        }
    };
    let files = entries.into_iter().filter_map(|entry| match entry {
        RepoTreeEntry::File { path, .. } => Some(path),
        RepoTreeEntry::Directory { .. } => None,
    });
    Ok(files.collect())
}

/// The hub's error, with what the user can do.
fn explain(id: &str, error: &HFError) -> String {
    let refused = match error {
        HFError::AuthRequired { .. } | HFError::Forbidden { .. } | HFError::RepoNotFound { .. } => true,
        // A gated data set: 401 without a token, 403 with one whose owner has not agreed.
        HFError::Http { context } => [401, 403].contains(&context.status.as_u16()),
        _ => false,
    };
    let hint = match refused {
        true => format!(
            "its terms must be accepted first: open huggingface.co/datasets/{id}, agree, and set HF_TOKEN to an access token"
        ),
        false => {
            "run the same command again, files that are there are not fetched twice; or --source DIR or FILE"
                .to_owned()
        }
    };
    format!("{id}: {error}\nhint: {hint}")
}
