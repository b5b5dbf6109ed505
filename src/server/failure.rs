//! Turns errors of the server and of connections into pgark's errors.

use super::authentication::not_bound;
use super::connect::Failure;
use crate::error::{Error, ErrorKind};
use std::io;
use std::sync::{Arc, OnceLock};
use tokio_postgres::error::SqlState;

/// The operating system's error code of a connection that ended between two queries.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectionFailure(Arc<OnceLock<i32>>);

impl ConnectionFailure {
    pub(super) fn note(&self, error: &tokio_postgres::Error) {
        if let Some(code) = system_code(error) {
            let _ = self.0.set(code);
        }
    }
}

/// The reason why a session did not begin.
pub(super) fn not_begun(error: &tokio_postgres::Error) -> Failure {
    if let Some(said) = error.as_db_error() {
        let (message, detail) = (said.message(), said.detail());
        return refused_to_begin(said.code(), refusal(said.code(), message, detail, said.hint()));
    }
    let cause = std::error::Error::source(error);
    match cause.is_some_and(|cause| cause.is::<io::Error>()) || error.is_closed() {
        true => Failure::NotReached(broken(
            "the session did not start".to_owned(),
            error,
            &ConnectionFailure::default(),
        )),
        false => Failure::Final(not_authenticated(error, cause)),
    }
}

/// tokio-postgres reports the cause only as text.
fn not_authenticated(error: &tokio_postgres::Error, cause: Option<&dyn std::error::Error>) -> Error {
    match cause.map(ToString::to_string) {
        Some(said) if said == "server did not use channel binding" => not_bound(),
        Some(said) => Error::usage(format!("could not authenticate: {said}")),
        None => Error::usage(error.to_string()),
    }
}

/// Classifies a server's refusal to start a session, for the choice of the next attempt.
pub(super) fn refused_to_begin(code: &SqlState, error: Error) -> Failure {
    match *code == SqlState::CANNOT_CONNECT_NOW {
        true => Failure::NotReached(error),
        false => Failure::Refused(error),
    }
}

/// The error for a failed query, from the server or the connection.
pub(super) fn failure(
    what: String,
    error: &tokio_postgres::Error,
    connection_failure: &ConnectionFailure,
) -> Error {
    let Some(said) = error.as_db_error() else {
        return broken(what, error, connection_failure);
    };
    refused(what, said.code(), said.message(), said.detail(), said.hint())
}

/// The error for an error response of the server.
pub(super) fn refused(
    what: String,
    code: &SqlState,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) -> Error {
    refusal(code, &format!("{what}: {message}"), detail, hint)
}

fn refusal(code: &SqlState, message: &str, detail: Option<&str>, hint: Option<&str>) -> Error {
    let refused = *code == SqlState::INSUFFICIENT_PRIVILEGE
        || *code == SqlState::INVALID_PASSWORD
        || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION;
    let kind = if refused { ErrorKind::Usage } else { ErrorKind::Unavailable };
    let detail = detail.map(|detail| format!(" ({detail})")).unwrap_or_default();
    let error = Error::new(kind, format!("{message}{detail}"));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// The error for a connection that the server has closed.
pub(super) fn broken_off(what: &str) -> Error {
    Error::unavailable(format!("{what}: the server closed the connection"))
        .hint("The server was stopped or restarted, or the session was terminated; check the server's log. A backup ends with \
               its session.")
}

/// The error for a connection that failed or broke.
fn broken(what: String, error: &tokio_postgres::Error, connection_failure: &ConnectionFailure) -> Error {
    if let Some(code) = system_code(error).or(connection_failure.0.get().copied()) {
        return lost(what, io::Error::from_raw_os_error(code));
    }
    if error.is_closed() {
        return broken_off(&what);
    }
    let cause = std::error::Error::source(error);
    Error::unavailable(format!("{what}: {}", cause.map_or_else(|| error.to_string(), ToString::to_string)))
}

/// The error for a connection that the operating system has given up.
pub(super) fn lost(what: String, error: io::Error) -> Error {
    let is_silence = error.kind() == io::ErrorKind::TimedOut;
    let error = Error::new(ErrorKind::Unavailable, what).caused_by(Error::io("the connection failed", error));
    match is_silence {
        true => error.hint(
            "The server or the network became unreachable. The connection parameters keepalives_idle, keepalives_interval, \
             keepalives_count and tcp_user_timeout set how long pgark waits.",
        ),
        false => error,
    }
}

fn system_code(error: &tokio_postgres::Error) -> Option<i32> {
    let cause = std::error::Error::source(error)?;
    cause.downcast_ref::<io::Error>()?.raw_os_error()
}
