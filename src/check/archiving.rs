//! The server's settings for archiving, and the state of its archiver.

use super::Finding;
use super::round_trip::ARCHIVER;
use crate::config::{Config, DIRECTORY};
use crate::error::{Error, ErrorKind, Result};
use crate::interruption::Interruption;
use crate::postgres::ControlFile;
use crate::server::Connection;
use std::path::Path;

/// The archiving settings and archiver state of the server.
#[derive(Clone, Debug, Default)]
struct ArchiverStatus {
    wal_level: String,
    archive_mode: String,
    archive_command: String,
    archive_library: String,
    archive_timeout_s: u64,
    full_page_writes: bool,
    in_recovery: bool,
    failing: Option<String>,
    last_archived: Option<String>,
}

/// Queries the settings. `archive_library` exists since version 15, and `effective_wal_level`, which can exceed
/// `wal_level`, since 19.
const SETTINGS: &str = "SELECT coalesce(current_setting('effective_wal_level', true), current_setting('wal_level')), current_setting('archive_mode'), \
     current_setting('archive_command'), coalesce(current_setting('archive_library', true), ''), \
     (SELECT setting FROM pg_settings WHERE name = 'archive_timeout'), \
     current_setting('full_page_writes') = 'on', pg_is_in_recovery()";
const IDENTIFIER: &str = "SELECT system_identifier FROM pg_control_system()";

/// Checks the server.
///
/// # Errors
/// Those of the connection.
pub fn look(
    config: &Config,
    control: &ControlFile,
    connection: &Connection,
    interruption: &Interruption<'_>,
) -> Result<Vec<Finding>> {
    let identifier: u64 =
        connection.query_row("ask for the system identifier", IDENTIFIER, interruption)?.parsed(0)?;
    if identifier != control.system.as_u64() {
        return Err(Error::new(
            ErrorKind::Foreign,
            format!("the server at connection.conninfo has system identifier {identifier}, but the data directory has {}", control.system),
        )
        .hint("connection.conninfo and data_directory must belong to the same server."));
    }
    let settings = connection.query_row("ask for the server's settings", SETTINGS, interruption)?;
    let archiver = connection.query_row("ask for the state of the archiver", ARCHIVER, interruption)?;
    let archiving = ArchiverStatus {
        wal_level: settings.text(0)?.to_owned(),
        archive_mode: settings.text(1)?.to_owned(),
        archive_command: settings.text(2)?.to_owned(),
        archive_library: settings.text(3)?.to_owned(),
        archive_timeout_s: settings.parsed(4)?,
        full_page_writes: settings.is_true(5),
        in_recovery: settings.is_true(6),
        last_archived: archiver.optional(0).map(str::to_owned),
        failing: archiver.optional(1).map(str::to_owned),
    };
    let executable = |path: &Path| path.is_file();
    Ok(judge(&archiving, config.path.as_deref(), &executable))
}

/// Judges the settings. `is_program` reports whether a path is a program.
fn judge(
    archiving: &ArchiverStatus,
    config: Option<&Path>,
    is_program: &dyn Fn(&Path) -> bool,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let wrong = |what, message: String, hint: &str| Finding::failed(what, &Error::usage(message).hint(hint));
    findings.push(match archiving.wal_level.as_str() {
        "minimal" => wrong(
            "wal_level",
            "wal_level is minimal: nothing can be archived".to_owned(),
            "Set wal_level = replica and restart the server.",
        ),
        level => Finding::passed("wal_level", level),
    });
    findings.push(match (archiving.archive_mode.as_str(), archiving.in_recovery) {
        ("off", _) => wrong(
            "archive_mode",
            "archive_mode is off: nothing is archived".to_owned(),
            "Set archive_mode = on and restart the server. If pgark recover wrote the setting into postgresql.auto.conf, \
             remove that line once this server is the production server.",
        ),
        ("on", true) => Finding::warning(
            "archive_mode",
            "on, but the server is in recovery: it archives only after promotion",
            "Set archive_mode = always to archive from a standby as well.",
        ),
        (mode, _) => Finding::passed("archive_mode", mode),
    });
    findings.push(command(archiving, config, is_program, &wrong));
    if archiving.archive_timeout_s == 0 {
        findings.push(Finding::warning(
            "archive_timeout",
            "0: an idle server archives its last transactions only when their segment is full",
            "Set archive_timeout = 60 to limit a loss to about one minute.",
        ));
    }
    if !archiving.full_page_writes {
        findings.push(Finding::warning(
            "full_page_writes",
            "off: a crash of this server can leave torn pages; base backups turn it on while they run",
            "Set full_page_writes = on unless the file system prevents torn pages.",
        ));
    }
    findings.push(match (&archiving.failing, &archiving.last_archived) {
        (Some(file), _) => Finding::failed(
            "archiver",
            &Error::unavailable(format!("the server's archiver fails at {file}")).hint(
                "See the errors of archive-push in the server's log, and the state of the agent with pgark status.",
            ),
        ),
        (None, Some(file)) => Finding::passed("archiver", format!("the last archived file is {file}")),
        (None, None) => Finding::passed("archiver", "nothing has been archived yet"),
    });
    findings
}

fn command(
    archiving: &ArchiverStatus,
    config: Option<&Path>,
    is_program: &dyn Fn(&Path) -> bool,
    wrong: &dyn Fn(&'static str, String, &str) -> Finding,
) -> Finding {
    const WHAT: &str = "archive_command";
    const USUAL: &str = "archive_command = '/usr/local/bin/archive-push %p'";
    let command = archiving.archive_command.trim();
    if !archiving.archive_library.is_empty() {
        return wrong(
            WHAT,
            format!("archive_library is \"{}\": archive_command is not used", archiving.archive_library),
            "Set archive_library = '' so that archive-push is called.",
        );
    }
    let words = words(command);
    let program = words.iter().map(String::as_str).find(|word| !leads_to_a_command(word)).unwrap_or_default();
    if !is_archive_push(program) {
        if words.iter().any(|word| is_archive_push(word) && !leads_to_a_command(word)) {
            return Finding::warning(
                WHAT,
                format!("\"{command}\" calls archive-push through \"{program}\""),
                "That program must return the exit status of archive-push unchanged: PostgreSQL takes 0 as stored.",
            );
        }
        return wrong(
            WHAT,
            format!("\"{command}\" does not call archive-push"),
            &format!("Set {USUAL} and reload."),
        );
    }
    if !words.iter().any(|word| word.contains("%p")) {
        return wrong(WHAT, format!("\"{command}\" does not pass %p"), &format!("Set {USUAL} and reload."));
    }
    if Path::new(program).is_absolute() && !is_program(Path::new(program)) {
        return wrong(
            WHAT,
            format!("\"{program}\" does not exist"),
            "Install archive-push there, or correct the path.",
        );
    }
    if let Some(path) = config.filter(|path| !leads_to(path, command, &words)) {
        return Finding::warning(
            WHAT,
            format!("\"{command}\" does not name the configuration \"{}\" of this check", path.display()),
            "Add --config with that path, unless PGARK_CONFIG is set for the server.",
        );
    }
    Finding::passed(WHAT, command)
}

/// Whether the command, split into words, reads the configuration at `path`: the default one, or one that it names.
fn leads_to(path: &Path, command: &str, words: &[String]) -> bool {
    let default = Path::new(DIRECTORY).join("pgark.toml");
    let after = |option: &str| words.iter().skip_while(move |word| *word != option).nth(1);
    let attached = words.iter().find_map(|word| word.strip_prefix("--cluster="));
    let cluster = attached.or(after("--cluster").map(String::as_str));
    let by_name =
        cluster.is_some_and(|name| path.file_name().is_some_and(|file| *file == *format!("{name}.toml")));
    path == default || by_name || command.contains(&path.display().to_string())
}

/// Splits a command into words as a shell does, without expanding variables.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for letter in command.chars() {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (None, '"' | '\'') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, _) if letter.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// Whether a word may precede the actual command: `exec`, `env`, and variable assignments.
fn leads_to_a_command(word: &str) -> bool {
    let is_name = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && name.bytes().all(|letter| letter.is_ascii_alphanumeric() || letter == b'_')
    };
    matches!(word, "exec" | "env" | "/usr/bin/env")
        || word.split_once('=').is_some_and(|(name, _)| is_name(name))
}

fn is_archive_push(word: &str) -> bool {
    Path::new(word).file_name().is_some_and(|name| name == "archive-push")
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    const DEFAULT: &str = "/etc/pgark/pgark.toml";

    fn right() -> ArchiverStatus {
        ArchiverStatus {
            wal_level: "replica".into(),
            archive_mode: "on".into(),
            archive_command: "exec /bin/archive-push %p".into(),
            archive_timeout_s: 60,
            full_page_writes: true,
            ..ArchiverStatus::default()
        }
    }

    fn verdict(archiving: &ArchiverStatus, what: &str) -> Option<Verdict> {
        let findings =
            judge(archiving, Some(Path::new(DEFAULT)), &|path| path == Path::new("/bin/archive-push"));
        findings.iter().find(|finding| finding.what == what).map(|finding| finding.verdict)
    }

    #[test]
    fn a_right_server_passes() {
        let findings = judge(&right(), Some(Path::new(DEFAULT)), &|_| true);
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Passed), "{findings:?}");
    }

    #[test]
    fn every_wrong_setting_is_found() {
        use Verdict::{Failed, Warning};
        for (change, what, expected) in [
            ((|a| a.wal_level = "minimal".into()) as fn(&mut ArchiverStatus), "wal_level", Failed),
            (|a| a.archive_mode = "off".into(), "archive_mode", Failed),
            (|a| a.in_recovery = true, "archive_mode", Warning),
            (|a| a.archive_library = "basic_archive".into(), "archive_command", Failed),
            (|a| a.archive_command = String::new(), "archive_command", Failed),
            (|a| a.archive_command = "cp %p /mnt/%f".into(), "archive_command", Failed),
            (|a| a.archive_command = "archive-push %f".into(), "archive_command", Failed),
            (|a| a.archive_command = "/opt/archive-push %p".into(), "archive_command", Failed),
            (|a| a.archive_timeout_s = 0, "archive_timeout", Warning),
            (|a| a.full_page_writes = false, "full_page_writes", Warning),
            (|a| a.failing = Some("000000010000000000000001".into()), "archiver", Failed),
        ] {
            let mut archiving = right();
            change(&mut archiving);
            assert_eq!(verdict(&archiving, what), Some(expected), "{archiving:?}");
        }
    }

    #[test]
    fn what_stands_before_the_program_is_passed_over() {
        for (command, expected) in [
            ("PGARK_CONFIG=/etc/pgark/pgark.toml /bin/archive-push %p", Verdict::Passed),
            ("PGARK_LOG=debug A='b c' exec /bin/archive-push %p", Verdict::Passed),
            ("env A=\"b c\" '/bin/archive-push' \"%p\"", Verdict::Passed),
            ("ionice -c 3 /bin/archive-push %p", Verdict::Warning),
            ("A=/bin/archive-push cp %p /mnt/%f", Verdict::Failed),
            ("A=b /opt/archive-push %p", Verdict::Failed),
            ("1A=b /bin/archive-push %p", Verdict::Warning),
        ] {
            let archiving = ArchiverStatus { archive_command: command.to_owned(), ..right() };
            assert_eq!(verdict(&archiving, "archive_command"), Some(expected), "{command}");
        }
    }

    #[test]
    fn a_command_for_another_configuration_is_a_warning() {
        for (options, path, expected) in [
            ("", "/etc/other.toml", Verdict::Warning),
            ("", DEFAULT, Verdict::Passed),
            ("--config /etc/other.toml", "/etc/other.toml", Verdict::Passed),
            ("--cluster other", "/etc/pgark/other.toml", Verdict::Passed),
            ("--cluster=other", "/etc/pgark/other.toml", Verdict::Passed),
            ("--cluster other", "/etc/pgark/main.toml", Verdict::Warning),
        ] {
            let archive_command = format!("/bin/archive-push {options} %p");
            let findings =
                judge(&ArchiverStatus { archive_command, ..right() }, Some(Path::new(path)), &|_| true);
            let command = findings.iter().find(|finding| finding.what == "archive_command").unwrap();
            assert_eq!(command.verdict, expected, "{options} for {path}");
        }
    }
}
