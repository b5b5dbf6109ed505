//! `pgark config`.

use super::CommandContext;
use clap::Args;
use pgark::config::{SettingOrigin, SettingValue};
use pgark::error::Result;
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;

pub const MORE_HELP: &str = "\
Exit status:
  0  the configuration is valid
  2  wrong command line or configuration
  3  the configuration file cannot be read now

Examples:
  pgark config
  pgark config --cluster main --json
  pgark config --set push.deadline=90s";

/// Arguments of `pgark config`.
#[derive(Args, Debug)]
pub struct ConfigArguments {
    #[command(flatten)]
    place: super::PlaceArguments,
}

#[derive(Serialize)]
struct SettingsDocument {
    file: Option<String>,
    defaults_file: Option<String>,
    settings: Vec<SettingDocument>,
}

#[derive(Serialize)]
struct SettingDocument {
    name: &'static str,
    /// Times in seconds, sizes in bytes, rates in bytes per second.
    value: Option<TypedValue>,
    unit: Option<&'static str>,
    /// The value as one writes it, or the effect of none.
    text: String,
    origin: &'static str,
    file: Option<String>,
    line: Option<usize>,
    /// The environment variable that sets the key.
    variable: String,
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

pub fn run(context: &CommandContext, arguments: ConfigArguments) -> Result<ExitCode> {
    let config = context.resolve(&context.request_of(&arguments.place))?;
    let settings = config
        .effective()
        .into_iter()
        .map(|setting| {
            let (origin, line) = match setting.origin {
                SettingOrigin::Set => ("--set", None),
                SettingOrigin::Given => ("command line", None),
                SettingOrigin::Variable => ("variable", None),
                SettingOrigin::File { line } => ("file", Some(line)),
                SettingOrigin::Defaults { line } => ("defaults file", Some(line)),
                SettingOrigin::Default => ("default", None),
            };
            let (value, unit) = setting.value.map(typed).unzip();
            SettingDocument {
                name: setting.name,
                value,
                unit: unit.flatten(),
                text: setting.text,
                origin,
                file: setting.file.as_deref().map(shown),
                line,
                variable: setting.variable,
                description: setting.description,
            }
        })
        .collect();
    let settings = SettingsDocument {
        file: config.path.as_deref().map(shown),
        defaults_file: config.defaults_file().map(shown),
        settings,
    };
    context.output.result(&settings, || text(&settings));
    Ok(ExitCode::SUCCESS)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn text(settings: &SettingsDocument) -> String {
    let width =
        |of: fn(&SettingDocument) -> usize| settings.settings.iter().map(of).max().unwrap_or_default();
    let (names, values) = (width(|s| s.name.len()), width(|s| s.text.len()));
    let mut text = format!("# {}\n", settings.file.as_deref().unwrap_or("no file"));
    for setting in &settings.settings {
        let origin = match (&setting.file, setting.line, setting.origin) {
            (Some(file), Some(line), _) => format!("{file}, line {line}"),
            (_, _, "variable") => setting.variable.clone(),
            (_, _, origin) => origin.to_owned(),
        };
        text.push_str(&format!("{:names$}  {:values$}  {origin}\n", setting.name, setting.text));
    }
    text
}
