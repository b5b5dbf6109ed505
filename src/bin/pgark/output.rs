//! Output of `pgark`: data on stdout, everything else on stderr; text for users or JSON for programs.

use pgark::error::Error;
use serde::Serialize;
use std::io::{self, Write};
use std::process::ExitCode;

/// The version of all `--json` output.
const SCHEMA: u32 = 1;

/// The output format.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
    quiet: bool,
}

/// A JSON document: the schema version beside the fields of `data`.
#[derive(Serialize)]
struct Document<'a, T: Serialize> {
    schema: u32,
    #[serde(flatten)]
    data: &'a T,
}

#[derive(Serialize)]
struct ErrorDocument<'a> {
    error: ErrorFields<'a>,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    kind: &'static str,
    message: String,
    hint: Option<&'a str>,
    exit_status: u8,
}

impl Output {
    pub fn new(json: bool, quiet: bool) -> Output {
        Output { json, quiet }
    }

    /// Whether the output is JSON.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Whether progress is hidden.
    pub fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Prints the result of a command: `data` as JSON, or `text`.
    pub fn result<T: Serialize>(self, data: &T, text: impl FnOnce() -> String) {
        if self.json { json(data) } else { print(&text()) }
    }

    /// Prints an error and returns its exit status.
    pub fn error(self, error: &Error) -> ExitCode {
        let status = error.kind().companion_status();
        if self.json {
            json(&ErrorDocument {
                error: ErrorFields {
                    kind: error.kind().name(),
                    message: error.to_string(),
                    hint: error.hint_text(),
                    exit_status: status,
                },
            });
        } else {
            say(&format!("pgark: {}", error.report()));
        }
        ExitCode::from(status)
    }
}

/// Handles a command line that clap rejected, or a request for help or the version.
pub fn command_line(error: &clap::Error) -> ExitCode {
    let asked_for_json = std::env::args_os().any(|argument| argument == "--json");
    if error.use_stderr() && asked_for_json {
        return Output::new(true, true)
            .error(&Error::usage(error.to_string().trim().to_owned()).hint("Try --help."));
    }
    // A closed stdout or stderr does not change the exit status.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

fn json<T: Serialize>(data: &T) {
    match serde_json::to_string_pretty(&Document { schema: SCHEMA, data }) {
        Ok(text) => print(&text),
        Err(error) => say(&format!("pgark: could not write JSON: {error}")),
    }
}

/// Writes to stdout. A closed stdout does not change the exit status.
pub fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush());
}

/// Writes to stderr. A closed stderr does not change the exit status.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
