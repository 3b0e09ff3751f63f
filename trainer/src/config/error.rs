//! Every way in which a configuration can be wrong.

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key that does not exist.
    #[error("{origin}: there is no key `{key}`{}", nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey {
        /// Where it stands.
        origin: String,
        /// The key, dotted.
        key: String,
        /// The valid key that looks most like it.
        nearest: Option<String>,
    },
    /// A value that a key cannot have.
    #[error("{key}: {why}")]
    Value {
        /// The key, dotted.
        key: String,
        /// What it must be.
        why: String,
    },
    /// The architecture does not fit together.
    #[error(transparent)]
    Model(#[from] crate::model::Error),
    /// The text is not TOML.
    #[error("{origin} is not valid TOML: {source}")]
    Toml {
        /// Which text.
        origin: String,
        /// What the parser says, with the line.
        source: Box<toml::de::Error>,
    },
    /// A `--set` without `=`.
    #[error("--set {0}: expected section.key=value, such as --set optim.lr=1e-4")]
    Set(String),
    /// A name that is neither a file nor a built-in configuration.
    #[error("there is no configuration `{name}`: neither a file nor one of {}", known.join(", "))]
    UnknownPreset {
        /// The name.
        name: String,
        /// The built-in names.
        known: Vec<&'static str>,
    },
    /// A configuration file that cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The dataset and the configuration contradict each other.
    #[error(
        "{key} is {configured} ({origin}), but {what} of the dataset {dataset} is {found}\nhint: --set {key}={found}, or \
         another dataset with --data"
    )]
    Dataset {
        /// The key, dotted.
        key: &'static str,
        /// Its value.
        configured: usize,
        /// Where the value came from.
        origin: String,
        /// What the dataset says it of.
        what: &'static str,
        /// The dataset.
        dataset: String,
        /// What the dataset has.
        found: usize,
    },
}

impl Error {
    pub(crate) fn value(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Value {
            key: key.into(),
            why: why.into(),
        }
    }
}
