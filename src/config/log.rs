//! The agent's log.

use super::settings::Settings;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// The name of the log in the spool.
pub const LOG_FILE_NAME: &str = "agent.log";

/// `[log]`
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Where messages go; `None`: to the journal if stderr is its stream, else to the file.
    pub destination: Option<LogDestination>,
    /// The file, which also takes the messages that another destination does not.
    pub file: PathBuf,
    /// How a message is written.
    pub format: LogFormat,
    /// The least severe messages that are logged.
    pub level: LogLevel,
}

/// Where messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogDestination {
    /// A file of limited size.
    File,
    /// The standard error of the agent, unless it is detached.
    Stderr,
    /// The host's syslog.
    Syslog,
}

/// How a message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object in each line.
    Json,
}

/// The severity of messages, from the most severe to the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// An operation failed.
    Error,
    /// A condition that needs attention.
    Warn,
    /// What the agent does.
    Info,
    /// Single requests.
    Debug,
    /// The steps of requests.
    Trace,
}

impl LogSettings {
    pub(super) fn read(settings: &Settings) -> LogSettings {
        LogSettings {
            destination: settings.optional_text("log.destination").map(|word| match word.as_str() {
                "stderr" => LogDestination::Stderr,
                "syslog" => LogDestination::Syslog,
                _ => LogDestination::File,
            }),
            file: settings
                .optional_path("log.file")
                .unwrap_or_else(|| settings.path("spool.directory").join(LOG_FILE_NAME)),
            format: match settings.word("log.format") {
                "json" => LogFormat::Json,
                _ => LogFormat::Text,
            },
            level: {
                let word = settings.word("log.level");
                LogLevel::ALL.into_iter().find(|level| level.word() == word).unwrap_or(LogLevel::Info)
            },
        }
    }
}

impl fmt::Display for LogSettings {
    /// Where to look for the log of a detached agent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.destination {
            Some(LogDestination::Syslog) => {
                write!(f, "syslog, or \"{}\" while that is unavailable", self.file.display())
            }
            _ => write!(f, "\"{}\"", self.file.display()),
        }
    }
}

impl LogLevel {
    /// All levels, in order.
    pub const ALL: [LogLevel; 5] =
        [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];

    /// The word in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}
