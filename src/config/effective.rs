//! Output of a configuration: setting by setting, and as a file.

use super::Config;
use super::keys::DefaultValue;
use super::settings::{Setting, SettingOrigin, Settings};
use super::value::Value;
use std::path::{Path, PathBuf};
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
    /// The file that the value comes from, if one does.
    pub file: Option<PathBuf>,
    /// The name of the environment variable of the key.
    pub variable: String,
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
            file: self.settings.file_of(setting).map(Path::to_owned),
            variable: setting.key.variable(),
            description: setting.key.description,
        };
        self.settings.all().iter().map(shown).collect()
    }

    /// The `defaults.toml` that was read, if there is one.
    pub fn defaults_file(&self) -> Option<&Path> {
        self.settings.files().defaults.as_deref()
    }

    /// A configuration file with all settings that are not built-in defaults, whatever their source.
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
    /// See [`Config::to_toml`]. A setting stays even if it is equal to the default, because it may override one of
    /// `defaults.toml`.
    fn to_toml(&self) -> String {
        self.lines(|setting| setting.origin != SettingOrigin::Default)
    }

    /// All settings as text, secrets included.
    pub(super) fn effective_text(&self) -> String {
        self.lines(|_| true)
    }

    fn lines(&self, which: impl Fn(&Setting) -> bool) -> String {
        let settings = self.all().iter().filter(|setting| which(setting));
        settings
            .filter_map(|setting| {
                Some(format!("{} = {}\n", setting.key.name, setting.value.as_ref()?.to_toml()))
            })
            .collect()
    }
}
