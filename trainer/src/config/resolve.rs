//! From defaults, a file, `--set` and the dataset to one configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use preprocess::console::count::parse_count;
use serde::{Deserialize, Serialize};
use shards::manifest::Manifest;
use toml::{Table, Value};

use super::{Config, Error, PRESETS, preset};

/// Where the value of a key came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// The built-in configuration or file of this name.
    File(String),
    /// `--set`.
    Flag,
    /// The dataset.
    Dataset,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(name) => f.write_str(name),
            Self::Flag => f.write_str("--set"),
            Self::Dataset => f.write_str("dataset"),
        }
    }
}

/// A configuration and where its values came from; keys without an entry have their default.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Resolved {
    /// The configuration.
    pub config: Config,
    /// Dotted key to origin.
    pub origins: BTreeMap<String, Origin>,
}

impl Resolved {
    /// The defaults, with the built-in configuration or file `name` over them.
    ///
    /// # Errors
    /// When there is no such name, or the text is wrong.
    pub fn named(name: &str) -> Result<Self, Error> {
        if let Some(text) = preset(name) {
            return Self::from_text(text, name);
        }
        if !Path::new(name).is_file() {
            return Err(Error::UnknownPreset {
                name: name.to_owned(),
                known: PRESETS.map(|(name, _)| name).to_vec(),
            });
        }
        Self::from_text(&fs_err::read_to_string(name)?, name)
    }

    /// The defaults, with `text` over them.
    ///
    /// # Errors
    /// When the text is not TOML, or has unknown keys or wrong values.
    pub fn from_text(text: &str, origin: &str) -> Result<Self, Error> {
        let table: Table = text.parse().map_err(|source| Error::Toml {
            origin: origin.to_owned(),
            source: Box::new(source),
        })?;
        let mut resolved = Self {
            config: Config::default(),
            origins: BTreeMap::new(),
        };
        for (key, value) in flatten(&table) {
            resolved.put(&key, value, Origin::File(origin.to_owned()))?;
        }
        Ok(resolved)
    }

    /// Puts `section.key=value` over what is there.
    ///
    /// # Errors
    /// When it is not of this form, the key does not exist, or the value does not fit.
    pub fn set(&mut self, assignment: &str) -> Result<(), Error> {
        let (key, text) = assignment
            .split_once('=')
            .ok_or_else(|| Error::Set(assignment.to_owned()))?;
        // What is no TOML value is a string: names and paths need no quotes.
        let value = format!("v = {text}")
            .parse::<Table>()
            .ok()
            .and_then(|mut table| table.remove("v"))
            .unwrap_or_else(|| Value::String(text.to_owned()));
        self.put(key.trim(), value, Origin::Flag)
    }

    /// Takes latent shape and classes from the dataset where nothing else was said, and checks them where it was.
    ///
    /// # Errors
    /// When configuration and dataset contradict each other.
    pub fn adopt(&mut self, manifest: &Manifest) -> Result<(), Error> {
        let [channels, height, width] = manifest.shape;
        if height != width {
            return Err(Error::value(
                "data.path",
                format!("the latents are {height} x {width}; the model takes squares"),
            ));
        }
        // One class is no class: there is nothing to tell apart.
        let classes = if manifest.num_classes < 2 {
            0
        } else {
            manifest.num_classes
        };
        for (key, what, found) in [
            ("model.input_size", "the height of the latents", height),
            ("model.in_channels", "the number of channels", channels),
            ("model.num_classes", "the number of classes", classes),
        ] {
            let configured = match key {
                "model.input_size" => self.config.model.input_size,
                "model.in_channels" => self.config.model.in_channels,
                _ => self.config.model.num_classes,
            };
            match self.origins.get(key) {
                // An unconditional model of labelled data is a choice; labels that the table lacks are not.
                Some(_) if key == "model.num_classes" && configured == 0 => {}
                Some(origin) if configured != found => {
                    return Err(Error::Dataset {
                        key,
                        configured,
                        origin: origin.to_string(),
                        what,
                        dataset: manifest.name.clone(),
                        found,
                    });
                }
                Some(_) => {}
                None => self.put(key, Value::Integer(found as i64), Origin::Dataset)?,
            }
        }
        Ok(())
    }

    /// The configuration as TOML, each value that is not a default with its origin behind it.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        let all = entries(&self.config);
        for (key, value) in &all {
            let (head, name) = key.split_once('.').unwrap_or(("", key));
            if head != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                text.push_str(&format!("{gap}[{head}]\n"));
                section = head;
            }
            let origin = self.origins.get(key).map(|origin| format!("  # {origin}"));
            text.push_str(&format!("{name} = {value}{}\n", origin.unwrap_or_default()));
        }
        text
    }

    fn put(&mut self, key: &str, value: Value, origin: Origin) -> Result<(), Error> {
        let mut table =
            Table::try_from(&self.config).map_err(|error| Error::value(key, error.to_string()))?;
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let Some(slot) = table
            .get_mut(section)
            .and_then(Value::as_table_mut)
            .and_then(|section| section.get_mut(name))
        else {
            return Err(Error::UnknownKey {
                origin: origin.to_string(),
                key: key.to_owned(),
                nearest: nearest(key),
            });
        };
        *slot = coerce(key, value, slot)?;
        self.config = table
            .try_into()
            .map_err(|error: toml::de::Error| Error::value(key, error.message()))?;
        self.origins.insert(key.to_owned(), origin);
        Ok(())
    }
}

/// All keys, dotted, with their values, section by section.
pub fn entries(config: &Config) -> Vec<(String, Value)> {
    Table::try_from(config).map_or_else(|_| Vec::new(), |table| flatten(&table))
}

fn flatten(table: &Table) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for (section, value) in table {
        match value {
            Value::Table(keys) => {
                all.extend(
                    keys.iter()
                        .map(|(key, value)| (format!("{section}.{key}"), value.clone())),
                );
            }
            value => all.push((section.clone(), value.clone())),
        }
    }
    all
}

/// Whole numbers are fine where fractions are asked for, and `50k` where a count is.
fn coerce(key: &str, value: Value, current: &Value) -> Result<Value, Error> {
    let wrong = |wanted: &str, value: &Value| Error::value(key, format!("{value} is not {wanted}"));
    Ok(match (current, value) {
        (Value::Float(_), Value::Integer(value)) => Value::Float(value as f64),
        (Value::Integer(_), Value::String(text)) => {
            let count = parse_count(&text).map_err(|why| Error::value(key, why))?;
            Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))
        }
        (Value::Integer(_), Value::Float(value)) if value.fract() == 0.0 && value.abs() < 9e15 => {
            Value::Integer(value as i64)
        }
        (Value::Integer(_), value @ Value::Integer(_)) if value.as_integer() < Some(0) => {
            return Err(wrong("a number of at least 0", &value));
        }
        (Value::Integer(_), value) if !value.is_integer() => return Err(wrong("a whole number", &value)),
        (Value::Float(_), value) if !value.is_float() => return Err(wrong("a number", &value)),
        (Value::Boolean(_), value) if !value.is_bool() => return Err(wrong("true or false", &value)),
        (Value::String(_), value) if !value.is_str() => return Err(wrong("a text", &value)),
        (_, value) => value,
    })
}

/// The key that looks most like `key`.
fn nearest(key: &str) -> Option<String> {
    let name = |key: &str| key.rsplit('.').next().map_or_else(String::new, str::to_owned);
    entries(&Config::default())
        .into_iter()
        .map(|(known, _)| {
            let score =
                strsim::jaro_winkler(key, &known).max(strsim::jaro_winkler(&name(key), &name(&known)));
            (score, known)
        })
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(score, _)| *score > 0.75)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_layers_win_and_every_value_knows_its_origin() {
        let mut resolved = Resolved::from_text("[optim]\nlr = 2e-3\n[run]\nnum_steps = 7", "a.toml").unwrap();
        resolved.set("optim.lr=1").unwrap();
        resolved.set("run.num_steps=50k").unwrap();
        resolved.set("model.modulation=gate").unwrap();
        assert_eq!(
            (resolved.config.optim.lr, resolved.config.run.num_steps),
            (1.0, 50_000)
        );
        assert_eq!(resolved.origins["optim.lr"], Origin::Flag);
        let text = resolved.to_text();
        assert!(text.contains("lr = 1.0  # --set"), "{text}");
        let again = Resolved::from_text(&text, "b").unwrap();
        assert_eq!(again.config, resolved.config);
    }

    #[test]
    fn wrong_keys_and_values_are_told_with_the_nearest_name() {
        let error = Resolved::from_text("[optim]\nlearning_rate = 1", "x").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("x: there is no key `optim.learning_rate`"),
            "{error}"
        );
        let mut resolved = Resolved::named("demo").unwrap();
        let mut error = |set: &str| resolved.set(set).unwrap_err().to_string();
        assert!(error("optim.ema_dekay=0.9").contains("`optim.ema_decay`"));
        assert!(error("hidden_size=3").contains("`model.hidden_size`"));
        assert!(error("optim.lr").contains("--set optim.lr"));
        assert!(error("run.num_steps=ten").contains("run.num_steps"));
        assert!(error("run.num_steps=-1").contains("at least 0"));
        assert!(error("model.gelu=relu").contains("model.gelu"));
        assert!(error("model.learn_sigma=3").contains("true or false"));
        assert!(
            Resolved::named("huge")
                .unwrap_err()
                .to_string()
                .contains("imagenet256-xl")
        );
    }
}
