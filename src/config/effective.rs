//! Output of a configuration: setting by setting, and as a file.

use super::Config;
use super::keys::DefaultValue;
use super::settings::{Setting, SettingOrigin, Settings};
use super::value::Value;
use std::time::Duration;

/// The value of a setting by type, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingValue {
    /// A text, a path, or a word.
    Text(String),
    /// A count, or a level.
    Number(u64),
    /// True or false.
    Truth(bool),
    /// A time.
    Time(Duration),
    /// A size in bytes.
    Size(u64),
    /// A size per second in bytes; 0 is unlimited.
    Rate(u64),
}

/// One setting as `pgark config` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveSetting {
    /// The full name of the key.
    pub name: &'static str,
    /// The effective value, without secrets; `None` if there is none.
    pub value: Option<SettingValue>,
    /// The value as one writes it, without quotes; the effect if there is none.
    pub text: String,
    /// The source of the value.
    pub origin: SettingOrigin,
    /// What the key is for, in a sentence or two.
    pub description: &'static str,
}

impl Config {
    /// Every setting with its effective value, in the order of the table of keys.
    pub fn effective(&self) -> Vec<EffectiveSetting> {
        let shown = |setting: &Setting| EffectiveSetting {
            name: setting.key.name,
            value: setting.value.as_ref().map(SettingValue::of),
            text: match (&setting.value, setting.key.default) {
                (Some(value), _) => value.to_string(),
                (None, DefaultValue::Absent(meaning)) => meaning.to_owned(),
                (None, _) => String::new(),
            },
            origin: setting.origin,
            description: setting.key.description,
        };
        self.settings.all().iter().map(shown).collect()
    }

    /// An equivalent configuration file, with the settings that differ from the defaults.
    ///
    /// It repeats a password in `connection.conninfo`: write it readable by the owner only.
    pub fn to_toml(&self) -> String {
        self.settings.to_toml()
    }
}

impl SettingValue {
    fn of(value: &Value) -> SettingValue {
        match value {
            Value::Number(number) => SettingValue::Number(*number),
            Value::MajorVersion(version) => SettingValue::Number(u64::from(version.as_u32())),
            Value::Truth(truth) => SettingValue::Truth(*truth),
            Value::Time(time) => SettingValue::Time(*time),
            Value::Size(bytes) => SettingValue::Size(*bytes),
            Value::Rate(bytes) => SettingValue::Rate(*bytes),
            other => SettingValue::Text(other.to_string()),
        }
    }
}

impl Settings {
    /// See [`Config::to_toml`].
    pub(super) fn to_toml(&self) -> String {
        let mut toml = String::new();
        for setting in self.all() {
            let Some(value) = &setting.value else { continue };
            if self.default_of(setting.key).as_ref() != Some(value) {
                toml.push_str(&format!("{} = {}\n", setting.key.name, value.to_toml()));
            }
        }
        toml
    }
}
