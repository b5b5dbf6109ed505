//! The error type, and its mapping to exit statuses.
//!
//! Owns: the kinds of failure, what each means to PostgreSQL and to an operator, and the wording of errors. Does not
//! own: printing (that is `bin/`) and retrying (that is the agent and the store).

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// The result of every fallible function in pgark.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error: the failure, its object, and advice for the operator.
///
/// `Display` prints the message and its causes on one line, lower case, without a full stop: `could not archive
/// 0000000100000000000000A1: access denied`. The hint is separate, because it is printed on a line of its own.
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The kinds of failure that callers treat differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The repository itself has reported that it does not hold the requested object.
    Absent,
    /// The command line, the configuration, or the environment of the call is wrong; a retry cannot help.
    Usage,
    /// The result is unknown or the operation is impossible for now: disk full, network, permissions,
    /// deadline exceeded.
    Unavailable,
    /// Bytes are not what they must be: a checksum, a length, a header, a format.
    Damaged,
    /// The archive already holds something else under this name.
    Conflict,
    /// The file or directory belongs to another cluster.
    Foreign,
    /// WAL that must have existed is missing between WAL that exists.
    Hole,
}

/// How the server that calls `archive-get` recovers. The meaning of a failing `restore_command` depends on
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryMode {
    /// `recovery.signal`, or no signal file at all (`pg_rewind`): recovery ends where the archive ends.
    OneShot,
    /// `standby.signal`: the server retries forever and may stream meanwhile.
    Standby,
}

impl ErrorKind {
    /// Every kind, in the order of the exit statuses.
    pub const ALL: [ErrorKind; 7] = [
        ErrorKind::Absent,
        ErrorKind::Usage,
        ErrorKind::Unavailable,
        ErrorKind::Damaged,
        ErrorKind::Conflict,
        ErrorKind::Foreign,
        ErrorKind::Hole,
    ];

    /// Whether the same call may succeed later without any intervention.
    pub fn is_transient(self) -> bool {
        self == ErrorKind::Unavailable
    }

    /// The name used in `--json` and on the socket.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Absent => "absent",
            ErrorKind::Usage => "usage",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Damaged => "damaged",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Foreign => "foreign",
            ErrorKind::Hole => "hole",
        }
    }

    /// Exit status of `pgark`: 1 to 4.
    pub fn companion_status(self) -> u8 {
        match self {
            ErrorKind::Absent => 1,
            ErrorKind::Usage => 2,
            ErrorKind::Unavailable => 3,
            ErrorKind::Damaged | ErrorKind::Conflict | ErrorKind::Foreign | ErrorKind::Hole => 4,
        }
    }

    /// Exit status of `archive-push`: 2 to 4.
    ///
    /// PostgreSQL's archiver retries on 1 to 125. It treats a higher status as a crash of its own child, and restarts
    /// itself without counting the failure in `pg_stat_archiver` (`src/backend/postmaster/pgarch.c`).
    pub fn push_status(self) -> u8 {
        match self {
            // A push cannot fail by absence; a source file that is gone is an invalid call.
            ErrorKind::Absent => 2,
            other => other.companion_status(),
        }
    }

    /// Exit status of `archive-get`: 1 or 126.
    ///
    /// PostgreSQL treats 1 to 125 as "no such file", which ends a one-shot recovery and promotes the server; above 125,
    /// recovery stops with an error (`src/backend/access/transam/xlogarchive.c`). A standby exits on the latter, so
    /// there every failure is 1, and the server requests the file again.
    pub fn get_status(self, mode: RecoveryMode) -> u8 {
        match (self, mode) {
            (ErrorKind::Absent, _) | (_, RecoveryMode::Standby) => 1,
            (_, RecoveryMode::OneShot) => 126,
        }
    }
}

impl Error {
    /// A new error of `kind`; `message` is lower case, without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), hint: None, source: None }
    }

    /// The repository has reported that it does not hold this.
    pub fn absent(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Absent, message)
    }

    /// A wrong call or configuration.
    pub fn usage(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Usage, message)
    }

    /// A temporary failure: a retry may succeed.
    pub fn unavailable(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Unavailable, message)
    }

    /// Invalid bytes.
    pub fn damaged(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Damaged, message)
    }

    /// A failed operation of the operating system: kind [`ErrorKind::Unavailable`], with a hint if the cause has a
    /// common remedy. `message` names the operation and its object.
    pub fn io(message: impl Into<String>, cause: io::Error) -> Error {
        let hint = match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Some("Free some space on that file system, or move it to a larger one.")
            }
            io::ErrorKind::PermissionDenied => {
                Some("Check owner and permissions: pgark runs as the owner of the data directory.")
            }
            io::ErrorKind::ReadOnlyFilesystem => Some("The file system is mounted read-only."),
            _ => None,
        };
        Error {
            kind: ErrorKind::Unavailable,
            message: message.into(),
            hint: hint.map(str::to_owned),
            source: Some(Box::new(PlainIoError(cause))),
        }
    }

    /// Adds advice for the operator, in a sentence or two.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Error {
        self.source = Some(Box::new(source));
        self
    }

    /// Makes this error the cause of a broader failure; keeps its kind and hint.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Error {
        Error {
            kind: self.kind,
            message: message.into(),
            hint: self.hint.clone(),
            source: Some(Box::new(self)),
        }
    }

    /// Changes the kind, for callers that know more about the context.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Error {
        self.kind = kind;
        self
    }

    /// A copy of the failure for another receiver, with its causes folded into its message.
    #[must_use]
    pub fn replica(&self) -> Error {
        Error { kind: self.kind, message: self.to_string(), hint: self.hint.clone(), source: None }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Advice for the operator.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The kind of the operating system's error, if the failure is one.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        let mut cause: Option<&(dyn StdError + 'static)> = self.source();
        while let Some(error) = cause {
            if let Some(PlainIoError(error)) = error.downcast_ref() {
                return Some(error.kind());
            }
            cause = error.source();
        }
        None
    }

    /// The text for users: the message with its causes, then `HINT:` if there is one.
    pub fn report(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{self}\nHINT: {hint}"),
            None => self.to_string(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        // An `Error` prints its own causes, so the walk stops at the first one.
        let mut cause: Option<&dyn StdError> = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = if error.is::<Error>() { None } else { error.source() };
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.report())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as &(dyn StdError + 'static))
    }
}

/// Adds the attempted operation to an error.
pub trait Context<T> {
    /// Wraps an error in `message`, which is computed only if there is one.
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|error| error.context(message()))
    }
}

impl<T> Context<T> for io::Result<T> {
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|error| Error::io(message(), error))
    }
}

impl<T> Context<T> for nix::Result<T> {
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|errno| Error::io(message(), io::Error::from(errno)))
    }
}

/// An [`io::Error`] in readable form: lower case, without "(os error 2)".
#[derive(Debug)]
struct PlainIoError(io::Error);

impl fmt::Display for PlainIoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        let mut letters = text.chars();
        match letters.next() {
            Some(first) => write!(f, "{}{}", first.to_lowercase(), letters.as_str()),
            None => f.write_str("unknown error"),
        }
    }
}

impl StdError for PlainIoError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_follow_the_table() {
        for kind in ErrorKind::ALL {
            assert!((1..=4).contains(&kind.companion_status()));
            assert!((2..=4).contains(&kind.push_status()), "the archiver must be able to retry");
            assert_eq!(kind.get_status(RecoveryMode::Standby), 1, "126 kills a standby");
            let expected = if kind == ErrorKind::Absent { 1 } else { 126 };
            assert_eq!(kind.get_status(RecoveryMode::OneShot), expected);
        }
    }

    #[test]
    fn prints_each_level_once_and_the_hint_last() {
        let error = Error::io("could not open \"x\"", io::Error::from_raw_os_error(28))
            .context("could not archive y");
        assert_eq!(
            error.report(),
            "could not archive y: could not open \"x\": no space left on device\n\
             HINT: Free some space on that file system, or move it to a larger one."
        );
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(error.io_kind(), Some(io::ErrorKind::StorageFull));
        assert_eq!(error.replica().io_kind(), None, "words only");
    }
}
