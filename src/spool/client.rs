//! The client of the agent, which starts one if none runs.

use super::launch::{self, Started, Transient};
use super::path::Spool;
use super::process::AgentProcess;
use super::protocol::{Answer, Request, read_answer, write_request};
use super::wait::{Waiting, left, readable};
use crate::config::{AgentStart, Config};
use crate::error::{Context, Error, ErrorKind, Result};
use nix::sys::socket::sockopt::{PeerCredentials, SendTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, getsockopt, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Uid;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// The pause before retrying when no agent was there, doubled each time: a crash loop must not burn a core.
const PAUSE_FIRST: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// How long the agent may take to accept a connection, which it does at once.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long the rest of a message may take once its first bytes have arrived: it is sent in one piece.
const MESSAGE_MAX: Duration = Duration::from_secs(2);

/// How many agents in succession may fail to start before a client with brief patience gives up.
const STARTS_MAX: u32 = 5;

/// What to do while no agent can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Report the failure soon: the caller retries, and may have to end before.
    Brief,
    /// Try until the deadline.
    UntilDeadline,
}

/// An answer with its connection. Dropping this returns what the agent lent with the answer.
#[derive(Debug)]
pub struct Conversation {
    /// The agent's answer.
    pub answer: Answer,
    /// Kept open for the agent, which sees it close when this process ends, in whatever way.
    _connection: UnixStream,
    /// The agent, if it was started for this conversation alone. It ends after the connection.
    _transient: Option<Transient>,
}

/// Sends a request to the agent of this configuration, starting one if none runs, for as long as `waiting`
/// allows.
///
/// If an agent dies before it has answered, its socket closes. The client notices at once, starts another
/// agent and repeats the request. Every request may therefore be sent twice.
///
/// # Errors
/// What prevents an agent from starting, and [`ErrorKind::Unavailable`] when the deadline passes. A failure
/// of the request itself is an [`Answer::Failed`].
pub fn ask(
    config: &Config,
    request: &Request,
    patience: Patience,
    waiting: &mut dyn Waiting,
) -> Result<Conversation> {
    let spool = Spool::of(config)?;
    let mut pause = PAUSE_FIRST;
    let mut starts = 0;
    let mut kept_from_starting: Option<Error> = None;
    let mut transient = None;
    loop {
        if let Some(conversation) = ask_running(&spool, request, waiting)? {
            return Ok(Conversation { _transient: transient, ..conversation });
        }
        let (started, patience) = match config.agent.start {
            AgentStart::Needed => (launch::start(config, &spool, waiting), patience),
            AgentStart::Never => (Err(none_is_started(&spool)), Patience::UntilDeadline),
        };
        starts += 1;
        let left = left(waiting);
        match started {
            Ok(Started::Listens(_)) if left.is_zero() => return Err(too_late(&spool, None)),
            Ok(Started::Listens(one)) => transient = one.or(transient),
            Ok(Started::Ended(error))
                if left.is_zero() || (patience == Patience::Brief && starts == STARTS_MAX) =>
            {
                return Err(error);
            }
            Ok(Started::Ended(error)) => kept_from_starting = Some(error),
            Err(error)
                if error.kind().is_transient() && patience == Patience::UntilDeadline && !left.is_zero() =>
            {
                waiting.no_agent(&error);
                kept_from_starting = Some(error);
            }
            // The deadline that passed meanwhile is not the cause.
            Err(error) if error.kind().is_transient() => return Err(kept_from_starting.unwrap_or(error)),
            Err(error) => return Err(error),
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Sends a request if an agent runs: `None` when none does, or when it died before it answered.
///
/// # Errors
/// As [`ask`].
pub fn ask_running(
    spool: &Spool,
    request: &Request,
    waiting: &mut dyn Waiting,
) -> Result<Option<Conversation>> {
    let mut connection = match connect(spool.socket(), left(waiting).min(CONNECT_MAX)) {
        Ok(connection) => connection,
        // It accepts no connections: the process is stopped, or hangs.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(too_late(spool, None)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        // A file that another user left in our spool is not our agent; the next agent removes it.
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
    let left = left(waiting);
    if left.is_zero() {
        return Err(too_late(spool, None));
    }
    let what = || "could not set a time limit on the agent's socket";
    connection.set_read_timeout(Some(MESSAGE_MAX)).context(what)?;
    connection.set_write_timeout(Some(left)).context(what)?;
    if let Err(error) = write_request(&mut connection, request) {
        // It ended between accepting us and reading our request. An invalid request, however, is our own
        // error.
        return if error.kind().is_transient() { Ok(None) } else { Err(error) };
    }
    let mut last = None;
    while readable(connection.as_fd(), waiting).context(|| "could not wait for the agent's response")? {
        match read_answer(&mut connection)? {
            Some(Answer::Waits(reason)) => {
                waiting.told(&reason);
                last = Some(reason);
            }
            Some(answer) => {
                return Ok(Some(Conversation { answer, _connection: connection, _transient: None }));
            }
            None => return Ok(None),
        }
    }
    Err(too_late(spool, last))
}

/// The process that listens on the agent's socket; `None` when none does, or when it accepts no more
/// connections.
pub fn listener(spool: &Spool) -> Option<AgentProcess> {
    let connection = connect(spool.socket(), CONNECT_MAX).ok()?;
    let peer = getsockopt(&connection, PeerCredentials).ok()?;
    u32::try_from(peer.pid()).ok().map(AgentProcess)
}

/// Connects to the agent's socket within `limit`: the backlog of a socket fills up if no process accepts.
///
/// # Errors
/// The operating system's; [`io::ErrorKind::WouldBlock`] when the time is over.
fn connect(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // Zero would mean no limit.
    let limit = TimeVal::milliseconds(i64::try_from(limit.as_millis()).unwrap_or(i64::MAX).max(1));
    setsockopt(&socket, SendTimeout, &limit)?;
    nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(socket))
}

fn is_foreign(spool: &Spool) -> bool {
    std::fs::symlink_metadata(spool.socket())
        .is_ok_and(|metadata| metadata.uid() != Uid::effective().as_raw())
}

/// Checks the listener's owner: another user's process could send false answers.
fn check_peer(connection: &UnixStream, spool: &Spool) -> Result<()> {
    let peer = getsockopt(connection, PeerCredentials)
        .context(|| format!("could not determine the peer of socket \"{}\"", spool.socket().display()))?;
    if peer.uid() == Uid::effective().as_raw() {
        return Ok(());
    }
    Err(Error::usage(format!("the agent's socket \"{}\" belongs to another user", spool.socket().display()))
        .hint("Stop that agent and remove its spool. Run every pgark program as the owner of the data directory."))
}

fn none_is_started(spool: &Spool) -> Error {
    Error::unavailable(format!(
        "no agent is running in the spool \"{}\", and agent.start = \"never\" does not allow starting one",
        spool.directory().display()
    ))
    .hint("Check the service or sidecar that starts it: pgark agent --config …")
}

/// The error for a deadline that has passed, with the last reason that the agent gave.
fn too_late(spool: &Spool, reason: Option<Error>) -> Error {
    if let Some(reason) = reason {
        return reason.context("it did not finish before the deadline").with_kind(ErrorKind::Unavailable);
    }
    Error::unavailable("the agent did not respond before the deadline").hint(format!(
        "The agent continues; its log is {}. push.deadline and get.deadline set the deadlines.",
        spool.log()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Backlog, bind, listen};
    use std::time::Instant;

    #[test]
    fn a_socket_that_takes_no_more_connections_keeps_nobody() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("agent.sock");
        let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&listener, Backlog::new(1).unwrap()).unwrap();
        let limit = Duration::from_millis(50);
        let mut waiting = Vec::new();
        let began = Instant::now();
        let refused = loop {
            match connect(&path, limit) {
                Ok(connection) => waiting.push(connection),
                Err(error) => break error,
            }
            assert!(waiting.len() < 100);
        };
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        assert!(began.elapsed() >= limit);
    }
}
