//! Settings outside files: the variables `PGARK_…` of the environment, and the arguments `--set KEY=VALUE`.

use super::keys::{KEYS, Key};
use super::location::{DIRECTORY_VARIABLE, ENVIRONMENT_VARIABLE};
use super::settings::{Setting, SettingOrigin};
use super::unknown::{unknown_key, unknown_variable};
use super::value::Value;
use crate::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use toml::de::DeValue;

/// The beginning of the name of every variable of pgark.
const PREFIX: &str = "PGARK_";

/// Variables of pgark that are not settings: those that name files, the filter of the log, and those of `failpoint`.
const OTHER_VARIABLES: [&str; 9] = [
    ENVIRONMENT_VARIABLE,
    DIRECTORY_VARIABLE,
    "PGARK_LOG",
    "PGARK_POSTGRES_BUILDS",
    "PGARK_DIE_BEFORE",
    "PGARK_FAIL_AT",
    "PGARK_SLOW_MS",
    "PGARK_RECORD",
    "PGARK_MUTANT",
];

/// Beginnings of the names of variables that scripts and tests read.
const OTHER_PREFIXES: [&str; 4] = ["PGARK_TEST_", "PGARK_BENCH_", "PGARK_DEMO", "PGARK_SOAK_"];

/// The variables of pgark in the environment of a program, without empty ones, which count as not set.
#[derive(Clone, Default)]
pub struct Environment(Vec<(OsString, OsString)>);

impl Environment {
    /// Selects the variables of pgark from all `variables`.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Environment {
        let ours = |name: &OsStr| name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
        let mut variables: Vec<_> =
            variables.into_iter().filter(|(name, value)| ours(name) && !value.is_empty()).collect();
        // Of several errors, always the same one is reported.
        variables.sort_unstable();
        Environment(variables)
    }

    /// The value of a variable.
    pub(super) fn get(&self, name: &str) -> Option<OsString> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone())
    }

    /// The settings among the variables.
    ///
    /// # Errors
    /// Usage, beginning with the name of the variable: it is unknown, or its value is invalid.
    pub(super) fn settings(&self) -> Result<Vec<Setting>> {
        let mut settings = Vec::new();
        for (name, value) in &self.0 {
            let name = name.to_string_lossy();
            let is_other = OTHER_VARIABLES.contains(&name.as_ref())
                || OTHER_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
            if is_other {
                continue;
            }
            let Some(key) = KEYS.iter().find(|key| key.variable() == name) else {
                return Err(unknown_variable(&name, &value.to_string_lossy()));
            };
            let value = read(key, value).map_err(|error| error.context(name.clone()))?;
            settings.push(Setting { key, value: Some(value), origin: SettingOrigin::Variable });
        }
        Ok(settings)
    }
}

impl std::fmt::Debug for Environment {
    /// Only the names: a value may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// The settings of the arguments `--set`, the last one of each key first.
///
/// # Errors
/// Usage, beginning with `--set`: not `KEY=VALUE`, an unknown key, or an invalid value.
pub(super) fn set_by_arguments(arguments: &[OsString]) -> Result<Vec<Setting>> {
    let settings = arguments
        .iter()
        .rev()
        .map(|argument| set_by_argument(argument).map_err(|error| error.context("--set")));
    settings.collect()
}

fn set_by_argument(argument: &OsStr) -> Result<Setting> {
    let text = argument.to_str().ok_or_else(|| Error::usage("not valid UTF-8"))?;
    let (name, value) = text.split_once('=').ok_or_else(|| {
        // Not repeated: it may be a password.
        Error::usage("a key and its value are required").hint("Write KEY=VALUE: --set push.deadline=60s.")
    })?;
    let name = name.trim();
    let key = Key::find(name).ok_or_else(|| unknown_key(name, &DeValue::String(value.into())))?;
    Ok(Setting { key, value: Some(Value::parse(key, value)?), origin: SettingOrigin::Set })
}

fn read(key: &Key, value: &OsStr) -> Result<Value> {
    let text = value.to_str().ok_or_else(|| Error::usage("not valid UTF-8"))?;
    Value::parse(key, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Vec<(&'static str, String)>> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        let settings = Environment::new(variables).settings()?;
        Ok(settings.into_iter().map(|s| (s.key.name, s.value.unwrap().to_string())).collect())
    }

    #[test]
    fn every_key_has_a_variable_of_its_own() {
        let names: Vec<_> = KEYS.iter().map(Key::variable).collect();
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name}");
            assert!(!OTHER_VARIABLES.contains(&name.as_str()), "{name}");
            assert!(!OTHER_PREFIXES.iter().any(|prefix| name.starts_with(prefix)), "{name}");
        }
        assert!(names.contains(&"PGARK_PUSH_DEADLINE".to_owned()));
        assert!(names.contains(&"PGARK_S3_CA_FILE".to_owned()));
    }

    #[test]
    fn values_are_written_without_quotes() {
        let found = settings(&[
            ("PGARK_PUSH_DEADLINE", "90s"),
            ("PGARK_AGENT_WORKERS", "3"),
            ("PGARK_AGENT_RESIDENT", "false"),
            ("PGARK_ASSUME_VERSION", "18"),
            ("PGARK_BACKUP_MAX_RATE", "50MB"),
            ("PGARK_SYSTEM_IDENTIFIER", "18446744073709551615"),
            ("PGARK_S3_REGION", ""),
            ("PGARK_CONFIG", "/x"),
            ("PGARK_TEST_SEED", "1"),
            ("PGARK_DEMO", "1"),
            ("PGPASSWORD", "x"),
            ("pgark_push_deadline", "x"),
        ]);
        assert_eq!(
            found.unwrap(),
            [
                ("agent.resident", "false".to_owned()),
                ("agent.workers", "3".to_owned()),
                ("assume_version", "18".to_owned()),
                ("backup.max_rate", "50MB".to_owned()),
                ("push.deadline", "90s".to_owned()),
                ("system_identifier", "18446744073709551615".to_owned()),
            ]
        );
    }

    #[test]
    fn names_the_variable_that_is_wrong() {
        let report = |name, value| settings(&[(name, value)]).unwrap_err().report();
        for (name, value, expected) in [
            (
                "PGARK_PUSH_DEADLINE",
                "90",
                "PGARK_PUSH_DEADLINE: \"push.deadline\" must be a time from 1s to 1d, not \"90\"\n\
                 HINT: Write a whole number with a unit: 90s. Valid units are \"us\", \"ms\", \"s\", \"min\", \"h\" and \"d\".",
            ),
            (
                "PGARK_AGENT_WORKERS",
                "+2",
                "PGARK_AGENT_WORKERS: \"agent.workers\" must be a whole number from 1 to 64, not \"+2\"\n\
                 HINT: The number of WAL files to store or fetch in parallel. The default is 2.",
            ),
            (
                "PGARK_AGENT_RESIDENT",
                "on",
                "PGARK_AGENT_RESIDENT: \"agent.resident\" must be true or false, not \"on\"\n\
                 HINT: Whether an agent started on demand stays resident. If false, it ends with the call, and nothing is \
                 stored or fetched ahead. The default is true.",
            ),
            (
                "PGARK_PUSH_DEADLIN",
                "90s",
                "unknown variable PGARK_PUSH_DEADLIN\nHINT: Did you mean PGARK_PUSH_DEADLINE?",
            ),
            (
                "PGARK_PUSH_DEADLINE_S",
                "90",
                "unknown variable PGARK_PUSH_DEADLINE_S\n\
                 HINT: The unit is part of the value: PGARK_PUSH_DEADLINE=90s.",
            ),
            (
                "PGARK_NONSENSE",
                "1",
                "unknown variable PGARK_NONSENSE\n\
                 HINT: The variable of push.deadline is PGARK_PUSH_DEADLINE; pgark config lists all settings.",
            ),
        ] {
            assert_eq!(report(name, value), expected);
        }
        let secret = report("PGARK_CONNECTION_CONNINFO", "password geheim");
        assert!(!secret.contains("geheim"), "{secret}");
    }

    #[test]
    fn the_last_argument_of_a_key_counts() {
        let arguments = ["push.deadline=90s", "connection.conninfo=", "push.deadline = 1min"];
        let found = set_by_arguments(&arguments.map(OsString::from));
        let error = found.unwrap_err().report();
        assert!(
            error.starts_with("--set: \"push.deadline\" must be a time from 1s to 1d, not \" 1min\""),
            "{error}"
        );

        let arguments = ["push.deadline=90s", "connection.conninfo=host=a password=b", "push.deadline=1min"];
        let found = set_by_arguments(&arguments.map(OsString::from)).unwrap();
        let shown: Vec<_> =
            found.iter().map(|s| (s.key.name, s.value.as_ref().unwrap().to_string())).collect();
        assert_eq!(
            shown,
            [
                ("push.deadline", "1min".to_owned()),
                ("connection.conninfo", "host=a password=***".to_owned()),
                ("push.deadline", "90s".to_owned())
            ]
        );
        for (argument, expected) in [
            ("push.deadline", "--set: a key and its value are required"),
            ("push.deadlin=1s", "--set: unknown key \"push.deadlin\""),
        ] {
            let error = set_by_arguments(&[argument.into()]).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}
