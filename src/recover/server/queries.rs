//! Queries a server's recovery progress over one persistent connection.

use super::point::{Awaited, ReachedPoint, ReachedState};
use crate::config::Conninfo;
use crate::error::{Error, Result};
use crate::postgres::cluster::control_file::ServerLimits;
use crate::postgres::{Lsn, MajorVersion, PgTimestamp, TimelineId};
use crate::server::{Connection, LocalServer};
use nix::unistd::{Uid, User};
use std::time::{Duration, Instant};

/// The configured database, and those that every cluster has unless they were dropped.
pub(super) const DATABASES: [Option<&str>; 3] = [None, Some("postgres"), Some("template1")];
/// Time limit for one query, which only reads.
pub(super) const QUERY_MAX: Duration = Duration::from_secs(20);
/// How long a standby may make no progress before it counts as not streaming.
const STALLED_MAX: Duration = Duration::from_secs(30);

/// The server's response.
pub(super) struct RecoveryStatus {
    /// The server's state if its recovery has ended or waits: [`ReachedState::Paused`], wherever that is.
    pub(super) state: Option<ReachedState>,
    /// Recovery progress.
    pub(super) progress: ReplayProgress,
    /// The timeline that it writes to.
    pub(super) timeline: Option<TimelineId>,
    /// Its values of the settings that a server in recovery must not undercut.
    pub(super) limits: Option<ServerLimits>,
}

/// Replay progress of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplayProgress {
    pub(super) replayed: Option<Lsn>,
    pub(super) last_transaction: Option<PgTimestamp>,
    pub(super) streams: bool,
}

/// The client's connection settings, and the last connection that worked.
pub(super) struct RecoveryQueries<'a> {
    version: MajorVersion,
    conninfo: &'a Conninfo,
    connection: Option<Connection>,
}

impl<'a> RecoveryQueries<'a> {
    pub(super) fn new(version: MajorVersion, conninfo: &'a Conninfo) -> RecoveryQueries<'a> {
        RecoveryQueries { version, conninfo, connection: None }
    }

    /// Queries the server at `place`.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) if it does not respond,
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if it rejects every known user. Both may be
    /// temporary during replay.
    pub(super) fn query(&mut self, place: &LocalServer) -> Result<RecoveryStatus> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(place, self.conninfo, &DATABASES)?,
        };
        let status = self.query_once(&connection)?;
        self.connection = Some(connection);
        Ok(status)
    }

    fn query_once(&self, connection: &Connection) -> Result<RecoveryStatus> {
        let pause = self.version.facts().replay_pause_state;
        // pg_walfile_name fails in recovery; CASE prevents the call.
        let query = format!(
            "SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN {pause} END, pg_last_wal_replay_lsn(), \
             (extract(epoch FROM pg_last_xact_replay_timestamp() - '2000-01-01 00:00:00+00') * 1000000)::int8, \
             CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END, \
             EXISTS (SELECT FROM pg_stat_wal_receiver WHERE coalesce(status, 'streaming') = 'streaming'), \
             current_setting('max_connections'), current_setting('max_worker_processes'), \
             current_setting('max_wal_senders'), current_setting('max_prepared_transactions'), \
             current_setting('max_locks_per_transaction')"
        );
        let row = connection.query_row_within("query the recovered server", &query, QUERY_MAX)?;
        let number = |column: usize| row.optional(column).and_then(|text| text.parse::<u32>().ok());
        let limits = || {
            Some(ServerLimits {
                max_connections: number(6)?,
                max_worker_processes: number(7)?,
                max_wal_senders: number(8)?,
                max_prepared_transactions: number(9)?,
                max_locks_per_transaction: number(10)?,
            })
        };
        Ok(RecoveryStatus {
            state: match (row.optional(0), row.optional(1)) {
                (Some("f"), _) => Some(ReachedState::Promoted),
                (_, Some("paused")) => Some(ReachedState::Paused),
                _ => None,
            },
            progress: ReplayProgress {
                replayed: row.optional(2).and_then(|text| text.parse().ok()),
                last_transaction: row.optional(3).and_then(|text| text.parse().ok()).map(PgTimestamp::new),
                // A user without permission to see the receiver's state still sees that it exists.
                streams: row.is_true(5),
            },
            timeline: row
                .optional(4)
                .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                .and_then(TimelineId::new),
            limits: limits(),
        })
    }
}

/// Connects to the first database that accepts the connection. The configured database and user may not exist
/// at the target.
///
/// # Errors
/// Those of the first attempt.
pub(super) fn connect(
    place: &LocalServer,
    conninfo: &Conninfo,
    databases: &[Option<&str>],
) -> Result<Connection> {
    let mut first_error = None;
    let own_name = User::from_uid(Uid::effective()).ok().flatten().map(|user| user.name);
    let users = [None].into_iter().chain(own_name.as_deref().map(Some));
    for (user, database) in users.flat_map(|user| databases.iter().map(move |database| (user, *database))) {
        match Connection::open_local(place, conninfo, database, user, "pgark recover") {
            Ok(connection) => return Ok(connection),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| Error::unavailable("the server does not respond")))
}

impl RecoveryStatus {
    /// The point that the server has reached, in this state.
    pub(super) fn reached(&self, state: ReachedState) -> ReachedPoint {
        let ReplayProgress { replayed, last_transaction, .. } = self.progress;
        ReachedPoint { state, replayed, last_transaction, timeline: self.timeline }
    }
}

/// The last replay position, and since when it has not changed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StandbyProgress(Option<(Option<Lsn>, Instant)>);

impl StandbyProgress {
    /// The state of a standby, if it is the awaited one. A standby that has replayed the whole archive and
    /// cannot stream makes no progress either.
    pub(super) fn follows(
        &mut self,
        awaited: Awaited,
        progress: &ReplayProgress,
        now: Instant,
    ) -> Option<ReachedState> {
        let since = match self.0 {
            Some((replayed, since)) if replayed == progress.replayed => since,
            _ => now,
        };
        self.0 = Some((progress.replayed, since));
        match awaited {
            Awaited::Target | Awaited::Opening | Awaited::Stop => None,
            _ if progress.streams => Some(ReachedState::Streaming),
            Awaited::Following => Some(ReachedState::Following),
            Awaited::Streaming if now.duration_since(since) >= STALLED_MAX => Some(ReachedState::Following),
            Awaited::Streaming => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_that_cannot_stream_stands_still() {
        let began = Instant::now();
        let mut standby_progress = StandbyProgress::default();
        let mut state = |awaited, replayed: &str, streams, after_s| {
            let progress =
                ReplayProgress { replayed: Some(replayed.parse().unwrap()), last_transaction: None, streams };
            standby_progress.follows(awaited, &progress, began + Duration::from_secs(after_s))
        };
        assert_eq!(state(Awaited::Target, "0/1000028", true, 0), None);
        assert_eq!(state(Awaited::Following, "0/1000028", false, 0), Some(ReachedState::Following));
        assert_eq!(state(Awaited::Streaming, "0/1000028", false, 29), None);
        assert_eq!(state(Awaited::Streaming, "0/2000028", false, 31), None, "it has replayed something");
        assert_eq!(state(Awaited::Streaming, "0/2000028", true, 32), Some(ReachedState::Streaming));
        assert_eq!(state(Awaited::Streaming, "0/2000028", false, 61), Some(ReachedState::Following));
    }
}
