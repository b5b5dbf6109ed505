//! `pgark config`.

use super::Context;
use pgark::config::{SettingOrigin, SettingValue};
use pgark::error::Result;
use serde::Serialize;
use std::process::ExitCode;

pub const MORE_HELP: &str = "\
Exit status:
  0  the configuration is valid
  2  wrong command line or configuration
  3  the configuration file cannot be read now

Examples:
  pgark config
  pgark config --config /etc/pgark/other.toml --json";

#[derive(Serialize)]
struct Settings {
    file: Option<String>,
    settings: Vec<Setting>,
}

#[derive(Serialize)]
struct Setting {
    name: &'static str,
    /// Times in seconds, sizes in bytes, rates in bytes per second.
    value: Option<TypedValue>,
    unit: Option<&'static str>,
    /// The value as one writes it, or the effect of none.
    text: String,
    origin: &'static str,
    line: Option<usize>,
    description: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum TypedValue {
    Text(String),
    Number(u64),
    Fraction(f64),
    Truth(bool),
}

/// A value and its unit.
fn typed(value: SettingValue) -> (TypedValue, Option<&'static str>) {
    match value {
        SettingValue::Text(text) => (TypedValue::Text(text), None),
        SettingValue::Number(number) => (TypedValue::Number(number), None),
        SettingValue::Truth(truth) => (TypedValue::Truth(truth), None),
        SettingValue::Time(time) if time.subsec_nanos() == 0 => {
            (TypedValue::Number(time.as_secs()), Some("s"))
        }
        SettingValue::Time(time) => (TypedValue::Fraction(time.as_secs_f64()), Some("s")),
        SettingValue::Size(bytes) => (TypedValue::Number(bytes), Some("B")),
        SettingValue::Rate(bytes) => (TypedValue::Number(bytes), Some("B/s")),
    }
}

pub fn run(context: &Context) -> Result<ExitCode> {
    let config = context.config()?;
    let settings = config
        .effective()
        .into_iter()
        .map(|setting| {
            let (origin, line) = match setting.origin {
                SettingOrigin::File { line } => ("file", Some(line)),
                SettingOrigin::Given => ("command line", None),
                SettingOrigin::Default => ("default", None),
            };
            let (value, unit) = setting.value.map(typed).unzip();
            Setting {
                name: setting.name,
                value,
                unit: unit.flatten(),
                text: setting.text,
                origin,
                line,
                description: setting.description,
            }
        })
        .collect();
    let settings = Settings { file: config.path.as_ref().map(|path| path.display().to_string()), settings };
    context.output.result(&settings, || text(&settings));
    Ok(ExitCode::SUCCESS)
}

fn text(settings: &Settings) -> String {
    let width = |of: fn(&Setting) -> usize| settings.settings.iter().map(of).max().unwrap_or_default();
    let (names, values) = (width(|s| s.name.len()), width(|s| s.text.len()));
    let mut text = format!("# {}\n", settings.file.as_deref().unwrap_or("no file"));
    for setting in &settings.settings {
        let origin = match setting.line {
            Some(line) => format!("line {line}"),
            None => setting.origin.to_owned(),
        };
        text.push_str(&format!("{:names$}  {:values$}  {origin}\n", setting.name, setting.text));
    }
    text
}
