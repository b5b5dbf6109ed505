//! Asking the agent, and starting one where none answers.

use super::launch::{self, Started};
use super::path::Spool;
use super::protocol::{Answer, Request, read_answer, write_request};
use crate::config::Config;
use crate::error::{Context, Error, Result};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Uid;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

/// The pause after an agent that was not there, doubled each time: a crash loop must not burn a core.
const PAUSE_FIRST: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// How often an agent that ends while it starts is followed by another, when the asker is not patient.
const STARTS_MAX: u32 = 5;

/// What to do while no agent can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Say so soon: whoever calls us tries again by itself, and may want to end meanwhile.
    Brief,
    /// Try until the deadline.
    UntilDeadline,
}

/// An answer, with the connection that it came over: what the agent lent with it is returned when this is dropped.
#[derive(Debug)]
pub struct Conversation {
    /// What the agent said.
    pub answer: Answer,
    /// Held for the agent, which sees it close when we end, however we end.
    _connection: UnixStream,
}

/// Asks the agent of this configuration, starting one where none answers, until `deadline`.
///
/// An agent that dies before it has answered is noticed at once, because its socket closes; another one is started
/// and asked again. Every request may be asked twice.
///
/// # Errors
/// What stands in the way of an agent, and [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) when the
/// deadline passes. That the agent could not do it is an [`Answer::Failed`].
pub fn ask(
    config: &Config,
    request: &Request,
    deadline: Instant,
    patience: Patience,
) -> Result<Conversation> {
    let spool = Spool::of(config)?;
    let mut pause = PAUSE_FIRST;
    let mut starts = 0;
    loop {
        if let Some(conversation) = ask_running(&spool, request, deadline)? {
            return Ok(conversation);
        }
        let started = launch::start(config, &spool, deadline);
        starts += 1;
        let left = deadline.saturating_duration_since(Instant::now());
        match started {
            Ok(Started::Listens) if left.is_zero() => return Err(too_late(&spool)),
            Ok(Started::Listens) => {}
            Ok(Started::Ended(error))
                if left.is_zero() || (patience == Patience::Brief && starts == STARTS_MAX) =>
            {
                return Err(error);
            }
            Ok(Started::Ended(_)) => {}
            Err(error)
                if error.kind().is_transient() && patience == Patience::UntilDeadline && !left.is_zero() => {}
            Err(error) => return Err(error),
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Asks the agent if one is running: `None` when there is none, or when it died before it answered.
///
/// # Errors
/// As [`ask`].
pub fn ask_running(spool: &Spool, request: &Request, deadline: Instant) -> Result<Option<Conversation>> {
    let mut connection = match UnixStream::connect(spool.socket()) {
        Ok(connection) => connection,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        // What another user left in our spool is no agent of ours, and the next one removes it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && is_foreign(spool) => {
            return Ok(None);
        }
        Err(error) => {
            return Err(Error::io(
                format!("could not connect to the agent's socket \"{}\"", spool.socket().display()),
                error,
            ));
        }
    };
    check_peer(&connection, spool)?;
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(too_late(spool));
    }
    let what = || "could not set a time limit on the agent's socket";
    connection.set_read_timeout(Some(left)).context(what)?;
    connection.set_write_timeout(Some(left)).context(what)?;
    if let Err(error) = write_request(&mut connection, request) {
        // Gone between accepting us and listening to us; but a request that is wrong in itself is our error.
        return if error.kind().is_transient() { Ok(None) } else { Err(error) };
    }
    match read_answer(&mut connection) {
        Ok(Some(answer)) => Ok(Some(Conversation { answer, _connection: connection })),
        Ok(None) => Ok(None),
        Err(_) if Instant::now() >= deadline => Err(too_late(spool)),
        Err(error) => Err(error),
    }
}

fn is_foreign(spool: &Spool) -> bool {
    std::fs::symlink_metadata(spool.socket())
        .is_ok_and(|metadata| metadata.uid() != Uid::effective().as_raw())
}

/// A socket that another user listens on would tell us whatever it likes.
fn check_peer(connection: &UnixStream, spool: &Spool) -> Result<()> {
    let peer = getsockopt(connection, PeerCredentials)
        .context(|| format!("could not find out who listens on \"{}\"", spool.socket().display()))?;
    if peer.uid() == Uid::effective().as_raw() {
        return Ok(());
    }
    Err(Error::usage(format!("the agent's socket \"{}\" belongs to another user", spool.socket().display()))
        .hint("Stop that agent and remove its spool; all of pgark runs as the owner of the data directory."))
}

fn too_late(spool: &Spool) -> Error {
    Error::unavailable("the agent did not answer before the deadline").hint(format!(
        "The agent goes on by itself; its log is \"{}\". The deadlines are push.deadline_s and get.deadline_s.",
        spool.log().display()
    ))
}
