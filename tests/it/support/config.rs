//! The `pgark.toml` of a cluster.

use super::account::write_file;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Settings, and the file to which they are written after each change.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    pub path: PathBuf,
    /// Full names, with values in TOML syntax.
    settings: Vec<(String, String)>,
}

impl ConfigFile {
    pub fn new(path: PathBuf) -> ConfigFile {
        ConfigFile { path, settings: Vec::new() }
    }

    /// Sets a key (`get.deadline`) to a number or a text; keeps its position if it is already set.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into().0;
        match self.settings.iter_mut().find(|(name, _)| name == key) {
            Some(setting) => setting.1 = value,
            None => self.settings.push((key.to_owned(), value)),
        }
        self.write();
    }

    fn write(&self) {
        let mut text = String::new();
        for (key, value) in &self.settings {
            writeln!(text, "{key} = {value}").unwrap();
        }
        write_file(&self.path, text);
    }
}

/// A value in TOML syntax.
#[derive(Debug)]
pub struct Value(String);

impl From<u32> for Value {
    fn from(number: u32) -> Value {
        Value(number.to_string())
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Value {
        Value(truth.to_string())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        // The strings in the tests need no more escaping than in Rust, whose syntax TOML understands.
        Value(format!("{text:?}"))
    }
}

impl From<&Path> for Value {
    fn from(path: &Path) -> Value {
        path.to_str().unwrap().into()
    }
}
