//! All settings of a configuration by name: given values, defaults, and the source of each.

use super::cluster_name::ClusterName;
use super::conninfo::Conninfo;
use super::keys::{DefaultValue, KEYS, Key, list};
use super::url::RepositoryUrl;
use super::value::Value;
use crate::error::{Error, Result};
use crate::postgres::{MajorVersion, SystemIdentifier};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One key with its value.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) key: &'static Key,
    pub(super) value: Option<Value>,
    pub(super) origin: SettingOrigin,
}

/// The source of the value of a setting.
///
/// From top to bottom of the precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingOrigin {
    /// The argument `--set`.
    Set,
    /// Another argument of the command line.
    Given,
    /// The variable of the setting.
    Variable,
    /// The configuration file.
    File {
        /// The line, counted from 1.
        line: usize,
    },
    /// `defaults.toml`, which lies below every configuration file.
    Defaults {
        /// The line, counted from 1.
        line: usize,
    },
    /// The built-in default.
    Default,
}

/// The absolute paths of the files that were read.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    /// The configuration file.
    pub(super) file: Option<PathBuf>,
    /// `defaults.toml`.
    pub(super) defaults: Option<PathBuf>,
}

/// A setting for each key of the table, in its order.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    files: Files,
    all: Vec<Setting>,
}

/// The smallest valid file, as an example for an operator without one.
const SMALLEST_FILE: &str = "cluster = \"main\"\n\
                             data_directory = \"/var/lib/postgresql/15/main\"\n\
                             repository.url = \"/srv/pgark\"";

/// A line of a file as errors begin with it.
pub(super) fn place(path: &Path, line: usize) -> String {
    format!("\"{}\", line {line}", path.display())
}

impl Settings {
    /// Adds the built-in defaults to the `given` settings, of which the first one of each key counts.
    ///
    /// # Errors
    /// Usage: a required key is missing.
    pub(super) fn new(files: Files, given: Vec<Setting>) -> Result<Settings> {
        let missing: Vec<_> = KEYS
            .iter()
            .filter(|key| matches!(key.default, DefaultValue::Required))
            .filter(|key| given.iter().all(|setting| setting.key.name != key.name))
            .map(|key| format!("\"{}\"", key.name))
            .collect();
        if !missing.is_empty() {
            return Err(missing_keys(files.file.as_deref(), &missing));
        }
        let cluster = match given.iter().find(|setting| setting.key.name == "cluster").map(|s| &s.value) {
            Some(Some(Value::ClusterName(name))) => name.clone(),
            _ => unreachable!("cluster is required and a name"),
        };
        let mut all = Vec::with_capacity(KEYS.len());
        for key in KEYS {
            all.push(match given.iter().find(|setting| setting.key.name == key.name) {
                Some(setting) => setting.clone(),
                None => {
                    let value = Value::default_of(key, &cluster)?;
                    Setting { key, value, origin: SettingOrigin::Default }
                }
            });
        }
        Ok(Settings { files, all })
    }

    /// The files that were read.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// The file that the setting comes from, if one does.
    pub(super) fn file_of(&self, setting: &Setting) -> Option<&Path> {
        match setting.origin {
            SettingOrigin::File { .. } => self.files.file.as_deref(),
            SettingOrigin::Defaults { .. } => self.files.defaults.as_deref(),
            _ => None,
        }
    }

    /// Every setting in the order of the table.
    pub(super) fn all(&self) -> &[Setting] {
        &self.all
    }

    /// Overrides the value of a key.
    pub(super) fn give(&mut self, name: &str, value: Value) {
        for setting in self.all.iter_mut().filter(|setting| setting.key.name == name) {
            (setting.value, setting.origin) = (Some(value.clone()), SettingOrigin::Given);
        }
    }

    /// Whether this key was set explicitly.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.setting(name).origin != SettingOrigin::Default
    }

    /// Adds the place where the key `name` was set to an error about it.
    pub(super) fn blame(&self, name: &str, error: Error) -> Error {
        let setting = self.setting(name);
        match (self.file_of(setting), &self.files.file, setting.origin) {
            (Some(path), _, SettingOrigin::File { line } | SettingOrigin::Defaults { line }) => {
                error.context(place(path, line))
            }
            (_, _, SettingOrigin::Set) => error.context("--set"),
            (_, _, SettingOrigin::Variable) => error.context(setting.key.variable()),
            (_, Some(path), _) => error.context(format!("\"{}\"", path.display())),
            (_, None, _) => error,
        }
    }

    /// The value of a key that has a time.
    pub(super) fn time(&self, name: &str) -> Duration {
        self.optional_time(name).unwrap_or_else(|| wrong_kind(name))
    }

    /// The value of a key that may have a time.
    pub(super) fn optional_time(&self, name: &str) -> Option<Duration> {
        match &self.setting(name).value {
            Some(Value::Time(time)) => Some(*time),
            None => None,
            Some(_) => wrong_kind(name),
        }
    }

    /// The value, in bytes, of a key that has a size or a rate.
    pub(super) fn bytes(&self, name: &str) -> u64 {
        match &self.setting(name).value {
            Some(Value::Size(bytes) | Value::Rate(bytes)) => *bytes,
            _ => wrong_kind(name),
        }
    }

    /// The value of a key with a minimum of 1.
    pub(super) fn count(&self, name: &str) -> NonZeroUsize {
        let number = usize::try_from(self.number(name)).unwrap_or(usize::MAX);
        NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN)
    }

    /// The value of a key that has a number.
    pub(super) fn number(&self, name: &str) -> u64 {
        match &self.setting(name).value {
            Some(Value::Number(number)) => *number,
            _ => wrong_kind(name),
        }
    }

    /// The value of a key that may have a text, or one of several words.
    pub(super) fn optional_text(&self, name: &str) -> Option<String> {
        match &self.setting(name).value {
            Some(Value::Text(text)) => Some(text.clone()),
            Some(Value::Word(word)) => Some((*word).to_owned()),
            None => None,
            Some(_) => wrong_kind(name),
        }
    }

    /// The value of a key that may be true or false.
    pub(super) fn optional_truth(&self, name: &str) -> Option<bool> {
        match &self.setting(name).value {
            Some(Value::Truth(truth)) => Some(*truth),
            None => None,
            Some(_) => wrong_kind(name),
        }
    }

    /// The value of a key that is true or false.
    pub(super) fn truth(&self, name: &str) -> bool {
        self.optional_truth(name).unwrap_or_else(|| wrong_kind(name))
    }

    /// The value of a key that has one of several words.
    pub(super) fn word(&self, name: &str) -> &'static str {
        match &self.setting(name).value {
            Some(Value::Word(word)) => word,
            _ => wrong_kind(name),
        }
    }

    /// The value of a key that always has a path.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.optional_path(name).unwrap_or_else(|| wrong_kind(name))
    }

    /// The value of a key that may have a path.
    pub(super) fn optional_path(&self, name: &str) -> Option<PathBuf> {
        match &self.setting(name).value {
            Some(Value::Path(path)) => Some(path.clone()),
            None => None,
            Some(_) => wrong_kind(name),
        }
    }

    /// The value of a key that has the name of a cluster.
    pub(super) fn cluster_name(&self, name: &str) -> ClusterName {
        match &self.setting(name).value {
            Some(Value::ClusterName(cluster)) => cluster.clone(),
            _ => wrong_kind(name),
        }
    }

    /// The value of a key that may have a system identifier.
    pub(super) fn system_identifier(&self, name: &str) -> Option<SystemIdentifier> {
        match &self.setting(name).value {
            Some(Value::SystemIdentifier(number)) => Some(*number),
            None => None,
            Some(_) => wrong_kind(name),
        }
    }

    /// The value of a key that may have a major version.
    pub(super) fn major_version(&self, name: &str) -> Option<MajorVersion> {
        match &self.setting(name).value {
            Some(Value::MajorVersion(version)) => Some(*version),
            None => None,
            Some(_) => wrong_kind(name),
        }
    }

    /// The value of a key that has the place of a repository.
    pub(super) fn repository_url(&self, name: &str) -> RepositoryUrl {
        match &self.setting(name).value {
            Some(Value::RepositoryUrl(url)) => url.clone(),
            _ => wrong_kind(name),
        }
    }

    /// The value of a key that has connection parameters.
    pub(super) fn conninfo(&self, name: &str) -> Conninfo {
        match &self.setting(name).value {
            Some(Value::Conninfo(conninfo)) => conninfo.clone(),
            _ => wrong_kind(name),
        }
    }

    /// The value of a key that may have connection parameters.
    pub(super) fn optional_conninfo(&self, name: &str) -> Option<Conninfo> {
        match &self.setting(name).value {
            Some(Value::Conninfo(conninfo)) => Some(conninfo.clone()),
            None => None,
            Some(_) => wrong_kind(name),
        }
    }

    fn setting(&self, name: &str) -> &Setting {
        self.all.iter().find(|setting| setting.key.name == name).unwrap_or_else(|| wrong_kind(name))
    }
}

/// Reports a mismatch between a name in `sections.rs` and its row in `keys.rs`. It would affect every configuration, so
/// the first test finds it.
fn wrong_kind(name: &str) -> ! {
    unreachable!("the table of keys knows {name} otherwise")
}

fn missing_keys(path: Option<&Path>, missing: &[String]) -> Error {
    let verb = if missing.len() == 1 { "is" } else { "are" };
    let error = Error::usage(format!("{} {verb} missing", list(missing, "and")))
        .hint(format!("The smallest file has three lines:\n{SMALLEST_FILE}"));
    match path {
        Some(path) => error.context(format!("\"{}\"", path.display())),
        None => error,
    }
}
