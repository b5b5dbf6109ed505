//! Decides which file is stored next, and what each request is told. Pure: knows no clocks, threads, or paths.
//!
//! The task feeds it events, each with the time and the facts that the decision needs, and carries out its actions. The
//! answer to a request is positive only if the stored bytes are those of the file that has the name at that moment.
//! During an outage of the repository every request is answered soon with the last error, and one file at a time is
//! retried with growing pauses until one is stored. If the repository is merely slow, the first request for a file may
//! take as long as its deadline; later requests for it are soon told that the upload is still running.

use super::file::{TrackedFile, UploadState};
use super::lane::Lane;
use super::messages::{Action, Event, Limits, RequestId, ServerNumber, StoredAs, Work};
use crate::agent::backfill::MissingSegments;
use crate::agent::competing_timelines::{CompetingTimeline, CompetingTimelines};
use crate::agent::ready::ReadyFiles;
use crate::agent::status::{CompetingTimelineStatus, FailureStatus, MissingStatus, UploadStatus};
use crate::error::{Error, Result};
use crate::postgres::{TimelineId, WalFileName};
use crate::repository::wal::{FileIdentity, PutError, StoredWal};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant, SystemTime};
use tracing::{debug, error, info, warn};

/// The most files that are tracked, and stored ahead of requests.
pub const FILES_MAX: usize = 1024;
/// How often `archive_status` is listed, although the kernel reports every change.
const RESCAN: Duration = Duration::from_secs(10);
/// The same, while there are more ready files than are tracked.
const RESCAN_MORE: Duration = Duration::from_secs(1);
/// How long a request waits when the repository is known to be unavailable, or when an earlier request for
/// the file timed out. PostgreSQL retries, and a fast shutdown of the server waits for up to six answers.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// The server whose files are read ahead.
#[derive(Debug)]
struct ArchivedServer {
    number: ServerNumber,
    last_asked: Instant,
    /// Whether `archive_status` was listed since the kernel last lost marks.
    listed: bool,
    /// The newest timeline of the server seen so far, and the back-fill of its ancestors' segments.
    backfill: Option<(TimelineId, BackfillState)>,
    /// What the archive still lacked after the last back-fill.
    missing: Option<MissingSegments>,
    competing: CompetingTimelines,
}

#[derive(Clone, Copy, Debug)]
enum BackfillState {
    Running,
    Done,
    RetryAt(Instant),
}

/// The state of all uploads.
#[derive(Debug)]
pub struct Machine {
    limits: Limits,
    server: Option<ArchivedServer>,
    files: BTreeMap<WalFileName, TrackedFile>,
    lane: Lane,
    list_at: Instant,
    listing: bool,
    stored_files: u64,
    last_stored: Option<WalFileName>,
}

impl Machine {
    /// A machine that knows no server.
    pub fn new(limits: Limits, now: Instant) -> Machine {
        Machine {
            limits,
            server: None,
            files: BTreeMap::new(),
            lane: Lane::new(limits.retry_max),
            list_at: now,
            listing: false,
            stored_files: 0,
            last_stored: None,
        }
    }

    /// Takes an event; returns what to do, in order.
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        self.take(event, now, &mut actions);
        self.begin_transfers(now, &mut actions);
        actions
    }

    fn take(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        match event {
            Event::ServerChanged(number) => self.change_server(number, now, actions),
            Event::Asked { request, name, deadline, identity } => {
                self.asked(request, name, deadline, identity, now, actions);
            }
            Event::Marked(name) if self.files.len() < FILES_MAX => {
                self.files.entry(name).or_insert_with(TrackedFile::waiting);
            }
            Event::Marked(_) => self.list_at = self.list_at.min(now + RESCAN_MORE),
            Event::MarksLost => {
                self.list_at = now;
                if let Some(server) = &mut self.server {
                    server.listed = false;
                }
            }
            Event::Listed { server, ready, unmarked } => {
                self.listing = false;
                if self.is_current(server) {
                    self.listed(ready, &unmarked, now);
                }
            }
            Event::Stored { server, name, result, identity } => {
                self.lane.transfer_ended();
                if self.is_current(server) {
                    self.stored(name, result, identity, now, actions);
                }
            }
            Event::Confirmed { server, name, stored, result, identity } => {
                self.lane.transfer_ended();
                if self.is_current(server) {
                    self.confirmed(name, stored, result, identity, now, actions);
                }
            }
            Event::Backfilled { server, timeline, result } if self.is_current(server) => {
                self.backfilled(timeline, result, now);
            }
            Event::CheckedTimelines { server, result } if self.is_current(server) => {
                self.checked_timelines(result);
            }
            Event::Backfilled { .. } | Event::CheckedTimelines { .. } => {}
            Event::Woken { trouble } => self.woken(trouble.as_ref(), now, actions),
        }
    }

    /// The name may belong to another server's file by now, so the result for a previous one must not answer requests.
    fn is_current(&self, number: ServerNumber) -> bool {
        self.server.as_ref().is_some_and(|server| server.number == number)
    }

    fn change_server(&mut self, number: ServerNumber, now: Instant, actions: &mut Vec<Action>) {
        for mut file in std::mem::take(&mut self.files).into_values() {
            actions.extend(file.waiters.drain(..).map(Action::Drop));
        }
        self.server = Some(ArchivedServer {
            number,
            last_asked: now,
            listed: false,
            backfill: None,
            missing: None,
            competing: CompetingTimelines::default(),
        });
        self.list_at = now;
    }

    fn asked(
        &mut self,
        request: RequestId,
        name: WalFileName,
        deadline: Duration,
        identity: Option<FileIdentity>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some(server) = &mut self.server else { return };
        server.last_asked = now;
        self.begin_backfill(name.timeline(), now, actions);
        let file = self.files.entry(name).or_insert_with(TrackedFile::waiting);
        let hopeless = file.asked(now, deadline, request) || self.lane.outage().is_some();
        file.patience_ends = hopeless.then(|| now + PATIENCE);
        match &file.state {
            UploadState::Running => {}
            UploadState::Stored(stored) if identity == Some(stored.identity) => {
                let stored = *stored;
                file.state = UploadState::Running;
                self.lane.transfer_begins();
                actions.push(Action::Begin(Work::Confirm { name, stored }));
            }
            // The name means another file by now, or the last attempt failed permanently and the file is
            // requested again.
            UploadState::Stored(_) | UploadState::Failed(_) | UploadState::Waiting => {
                file.state = UploadState::Waiting;
            }
        }
    }

    /// Starts the back-fill. A server on a timeline other than the first was promoted or recovered, so its
    /// ancestors' segments may be missing.
    fn begin_backfill(&mut self, timeline: TimelineId, now: Instant, actions: &mut Vec<Action>) {
        let Some(server) = &mut self.server else { return };
        let due = match server.backfill {
            _ if timeline == TimelineId::FIRST => false,
            Some((known, BackfillState::RetryAt(at))) => timeline > known || now >= at,
            Some((known, BackfillState::Done)) => timeline > known,
            Some((_, BackfillState::Running)) => false,
            None => true,
        };
        if due {
            server.backfill = Some((timeline, BackfillState::Running));
            actions.push(Action::Begin(Work::Backfill { timeline }));
        }
    }

    fn backfilled(&mut self, timeline: TimelineId, result: Result<Option<MissingSegments>>, now: Instant) {
        let Some(server) = &mut self.server else { return };
        let state = match result {
            Ok(missing) => {
                server.missing = missing;
                BackfillState::Done
            }
            Err(error) => {
                warn!(%error, "could not check for segments that the old primary had not archived; retrying");
                BackfillState::RetryAt(now + self.limits.retry_max)
            }
        };
        server.backfill = Some((timeline, state));
    }

    /// Checks from time to time whether another timeline is in use. No request waits for this.
    fn check_timelines(&mut self, name: WalFileName, now: Instant, actions: &mut Vec<Action>) {
        let (WalFileName::Segment(segment), Some(server)) = (name, &mut self.server) else { return };
        if server.competing.is_due(now) {
            actions.push(Action::Begin(Work::CheckTimelines { segment }));
        }
    }

    fn checked_timelines(&mut self, result: Result<Option<CompetingTimeline>>) {
        let Some(server) = &mut self.server else { return };
        let rival = match result {
            Ok(rival) => rival,
            // Nothing depends on the result, and the check is repeated.
            Err(error) => return debug!(%error, "could not check for other timelines"),
        };
        if let (true, Some(CompetingTimeline { timeline, left_at })) = (server.competing.keep(rival), rival) {
            warn!(
                %timeline, %left_at,
                "another server archives under the same name on a timeline that branched off this one; recovery must choose \
                 between them"
            );
        }
    }

    fn stored(
        &mut self,
        name: WalFileName,
        result: std::result::Result<StoredWal, PutError>,
        identity: Option<FileIdentity>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        match result {
            Ok(stored) => {
                self.check_timelines(name, now, actions);
                if let Some(outage) = self.lane.end_outage() {
                    let seconds = now.duration_since(outage.since).as_secs();
                    info!(seconds, "the repository is available again");
                }
                self.stored_files += 1;
                self.last_stored = Some(name);
                let stored = StoredAs { identity: stored.identity, name: stored.name };
                self.acknowledge(name, stored, identity, actions);
            }
            Err(error) => self.failed(name, error, now, actions),
        }
    }

    /// Answers the requests for a stored file, unless the name means another file by now.
    fn acknowledge(
        &mut self,
        name: WalFileName,
        stored: StoredAs,
        identity: Option<FileIdentity>,
        actions: &mut Vec<Action>,
    ) {
        let Some(file) = self.files.get_mut(&name) else { return };
        if file.waiters.is_empty() || identity == Some(stored.identity) {
            file.state = UploadState::Stored(stored);
            file.answer(&Ok(()), actions);
        } else {
            // The new file may have been requested in the meantime.
            file.state = UploadState::Waiting;
        }
    }

    fn confirmed(
        &mut self,
        name: WalFileName,
        stored: StoredAs,
        result: Result<bool>,
        identity: Option<FileIdentity>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        match result {
            Ok(true) => self.acknowledge(name, stored, identity, actions),
            Ok(false) => {
                warn!(%name, "was stored and has since disappeared");
                if let Some(file) = self.files.get_mut(&name) {
                    file.state = UploadState::Waiting;
                }
            }
            Err(error) => self.failed(name, PutError::Repository(error), now, actions),
        }
    }

    /// A file that fails for a reason of its own is retried on the next request. A failure of the repository
    /// concerns all files.
    fn failed(&mut self, name: WalFileName, error: PutError, now: Instant, actions: &mut Vec<Action>) {
        let is_outage = matches!(&error, PutError::Repository(error) if error.kind().is_transient());
        let error = Error::from(error);
        if is_outage {
            let pause = self.lane.fail(error.replica(), now);
            warn!(%name, %error, retry_in_ms = pause.as_millis() as u64, "could not be stored; retrying");
        } else {
            error!(%name, %error, hint = error.hint_text(), "cannot be stored");
        }
        if let Some(file) = self.files.get_mut(&name) {
            file.answer(&Err(error.replica()), actions);
            file.state = if is_outage { UploadState::Waiting } else { UploadState::Failed(error) };
        }
    }

    fn woken(&mut self, trouble: Option<&Error>, now: Instant, actions: &mut Vec<Action>) {
        if self.next_file(now).is_none() {
            self.lane.nothing_to_retry(now);
        }
        self.end_patience(trouble, now, actions);
        // Retried without a request, too: its segments may be recycled before the next one is full.
        if let Some((timeline, BackfillState::RetryAt(_))) =
            self.server.as_ref().and_then(|server| server.backfill)
        {
            self.begin_backfill(timeline, now, actions);
        }
        if now >= self.list_at && !self.listing {
            self.list_at = now + RESCAN;
            if self.reads_ahead(now) {
                actions.push(Action::Begin(Work::List));
                self.listing = true;
            }
        }
    }

    /// Tells requests that have waited long enough what they wait for. If the repository has recovered
    /// meanwhile, they keep waiting.
    fn end_patience(&mut self, trouble: Option<&Error>, now: Instant, actions: &mut Vec<Action>) {
        let outage = self.lane.outage().map(|outage| &outage.error);
        let is_over = |file: &&mut TrackedFile| file.patience_ends.is_some_and(|ends| now >= ends);
        for file in self.files.values_mut().filter(is_over) {
            file.patience_ends = None;
            if let Some(error) = outage {
                file.tell(&Err(error.replica()), actions);
            } else if file.is_overdue(now) {
                let reason = trouble.map_or_else(|| file.delay(now), Error::replica);
                file.tell(&Err(reason), actions);
            }
        }
    }

    /// Drops the files that PostgreSQL has marked as done, and adds the ones that are now ready.
    fn listed(&mut self, ready: Result<ReadyFiles>, unmarked: &[WalFileName], now: Instant) {
        if let Some(server) = &mut self.server {
            server.listed = true;
        }
        for name in unmarked {
            if self.files.get(name).is_some_and(TrackedFile::is_idle) {
                self.files.remove(name);
            }
        }
        match ready {
            Ok(ReadyFiles { first, more }) => {
                for name in first {
                    if self.files.len() < FILES_MAX {
                        self.files.entry(name).or_insert_with(TrackedFile::waiting);
                    }
                }
                if more {
                    self.list_at = now + RESCAN_MORE;
                }
            }
            Err(error) => warn!(%error, "cannot read ahead"),
        }
    }

    /// Begins as many transfers as the limits allow.
    fn begin_transfers(&mut self, now: Instant, actions: &mut Vec<Action>) {
        while self.lane.transfers() < self.limits.workers {
            let Some(name) = self.next_file(now) else { return };
            let threads = self.threads();
            let Some(file) = self.files.get_mut(&name) else { return };
            file.state = UploadState::Running;
            self.lane.transfer_begins();
            actions.push(Action::Begin(Work::Store { name, threads }));
        }
    }

    /// The number of threads for the next file: all of them for a single segment, one each for several.
    fn threads(&self) -> NonZeroUsize {
        let free = self.limits.workers.saturating_sub(self.lane.transfers());
        let waiting = self.files.values().filter(|file| matches!(file.state, UploadState::Waiting));
        NonZeroUsize::new(free / waiting.take(free).count().max(1)).unwrap_or(NonZeroUsize::MIN)
    }

    /// The next file to store: the first in order, or only requested files where nothing may be read ahead.
    fn next_file(&self, now: Instant) -> Option<WalFileName> {
        let may_read_ahead = self.may_read_ahead(now);
        let may_begin = |file: &TrackedFile| {
            matches!(file.state, UploadState::Waiting) && (may_read_ahead || !file.waiters.is_empty())
        };
        self.files.iter().find(|(_, file)| may_begin(file)).map(|(name, _)| *name)
    }

    fn may_read_ahead(&self, now: Instant) -> bool {
        // Until the first listing, the marks of later files may arrive first.
        let listed = self.server.as_ref().is_some_and(|server| server.listed);
        listed && self.reads_ahead(now) && self.lane.may_try(now)
    }

    /// Whether files are stored ahead of requests, now or after the outage.
    fn reads_ahead(&self, now: Instant) -> bool {
        self.server.as_ref().is_some_and(|server| now < server.last_asked + self.limits.ahead_for)
    }

    /// When to send [`Event::Woken`], unless another event comes first.
    pub fn wake_at(&self, now: Instant) -> Instant {
        let patience = self.files.values().filter_map(|file| file.patience_ends).min();
        let list = if self.listing { now + RESCAN } else { self.list_at };
        let backfill = self.server.as_ref().and_then(|server| match server.backfill {
            Some((_, BackfillState::RetryAt(at))) => Some(at),
            _ => None,
        });
        [patience, self.lane.retry_at(), backfill].into_iter().flatten().fold(list, Instant::min)
    }

    /// The files that a listing may drop: neither being stored nor requested.
    pub fn idle_files(&self) -> impl Iterator<Item = WalFileName> + '_ {
        self.files.iter().filter(|(_, file)| file.is_idle()).map(|(name, _)| *name)
    }

    /// Whether this file is being stored, or will be stored ahead of a request.
    pub fn is_coming(&self, name: WalFileName, now: Instant) -> bool {
        self.files.get(&name).is_some_and(|file| match file.state {
            UploadState::Running => true,
            UploadState::Waiting => !file.waiters.is_empty() || self.reads_ahead(now),
            UploadState::Stored(_) | UploadState::Failed(_) => false,
        })
    }

    /// Why a request for a file waits; `None` if none does.
    pub fn reason(&self, name: WalFileName, trouble: Option<Error>, now: Instant) -> Option<Error> {
        let file = self.files.get(&name).filter(|file| !file.waiters.is_empty())?;
        let outage = self.lane.outage().map(|outage| outage.error.replica());
        Some(outage.or(trouble).unwrap_or_else(|| file.delay(now)))
    }

    /// The state, as `pgark status` shows it.
    pub fn status(&self, trouble: Option<Error>, now: Instant, clock: SystemTime) -> UploadStatus {
        let count = |is: fn(&UploadState) -> bool| self.files.values().filter(|file| is(&file.state)).count();
        let outage = self.lane.outage().map(|outage| {
            let since = clock.checked_sub(now.duration_since(outage.since));
            FailureStatus::new(None, &outage.error, since)
        });
        let trouble = trouble.filter(|_| outage.is_none());
        let refused = self.files.iter().find_map(|(name, file)| match &file.state {
            UploadState::Failed(error) => Some(FailureStatus::new(Some(name.to_string()), error, None)),
            _ => None,
        });
        let server = self.server.as_ref();
        UploadStatus {
            waiting_files: count(|state| matches!(state, UploadState::Waiting)),
            running_files: count(|state| matches!(state, UploadState::Running)),
            stored_ahead_files: count(|state| matches!(state, UploadState::Stored(_))),
            stored_files: self.stored_files,
            last_stored: self.last_stored.map(|name| name.to_string()),
            outage,
            trouble: trouble.map(|error| FailureStatus::new(None, &error, None)),
            refused,
            rival: server.and_then(|server| server.competing.found()).map(|rival| CompetingTimelineStatus {
                timeline: rival.timeline.as_u32(),
                left_at: rival.left_at.to_string(),
            }),
            missing: server.and_then(|server| server.missing).map(|missing| MissingStatus {
                first: missing.first.to_string(),
                last: missing.last.to_string(),
                segments: missing.segments,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
