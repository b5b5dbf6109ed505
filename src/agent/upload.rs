//! Stores WAL: requested files at once, and ahead of requests every file that the server has marked as ready.
//! Uploads start in PostgreSQL's order, because of two segments the later one proves that the earlier one
//! existed.
//!
//! One task owns all state and makes all decisions; transfers run on threads. The answer to a request is sent
//! when the file is stored, and is valid for the file that has the name at that moment. During an outage of
//! the repository ([`Outage`]) every request is answered soon with the last error, and one file at a time is
//! retried with growing pauses until one is stored. If the repository is merely slow, the first request for a
//! file may take as long as `push.deadline`; later requests for it are soon told that the upload is still
//! running.

mod entry;

use super::backfill::{Backfill, BackfillSummary};
use super::histories::Histories;
use super::places::Places;
use super::ready::{ArchiveOrder, ReadyEvent, ReadyWatcher, is_ready, scan};
use super::rivals::{self, Rival, Rivals};
use super::status::{FailureStatus, MissingStatus, RivalStatus, UploadStatus};
use crate::config::{Compression, Config};
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{SegmentName, SegmentSize, SystemIdentifier, TimelineId, WalFileName};
use crate::repository::{Repository, wal};
use crate::spool::{PushRequest, Spool};
use crate::store::PutOutcome;
use entry::{Entry, State};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info, warn};
use wal::{FileIdentity, PageCheck, PutError, StoredWal, WalSource};

/// The most files that are tracked, and stored ahead of requests.
const AHEAD_FILES_MAX: usize = 1024;
/// How often `archive_status` is listed, although the kernel reports every change.
const RESCAN: Duration = Duration::from_secs(10);
/// The same, while there are more ready files than are tracked.
const RESCAN_MORE: Duration = Duration::from_secs(1);
/// The pause after a failure, doubled each time up to `agent.retry_max`.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// How long a request waits when the repository is known to be unavailable, or when an earlier request for
/// the file timed out. PostgreSQL retries, and a fast shutdown of the server waits for up to six answers.
const PATIENCE: Duration = Duration::from_secs(1);
/// The capacity of the request queue.
const QUESTIONS_MAX: usize = 64;

/// A handle for requests to the upload task.
#[derive(Clone, Debug)]
pub struct Uploads(mpsc::Sender<Question>);

/// A handle for queries that does not keep the task alive: it works as long as an [`Uploads`] exists.
#[derive(Clone, Debug)]
pub struct UploadsWatch(mpsc::WeakSender<Question>);

/// The upload task.
#[derive(Debug)]
pub struct Uploading(Option<JoinHandle<()>>);

#[derive(Debug)]
enum Question {
    Push(PushRequest, oneshot::Sender<Result<()>>),
    Status(oneshot::Sender<UploadStatus>),
    Reason(WalFileName, oneshot::Sender<Option<Error>>),
    Coming(SystemIdentifier, WalFileName, oneshot::Sender<bool>),
}

/// The server whose files are read ahead. Known from the first request on.
struct Server {
    /// Distinguishes this server from its predecessors, so that a thread's result for one is not applied to
    /// another.
    number: u64,
    repository: Arc<Repository>,
    pg_wal: PathBuf,
    segment_size: SegmentSize,
    last_asked: Instant,
    watcher: Option<ReadyWatcher>,
    /// Whether `archive_status` was listed since the kernel last lost events.
    listed: bool,
    /// The newest timeline of the server seen so far, and the state of the back-fill of its ancestors'
    /// segments.
    backfill: Option<(TimelineId, BackfillState)>,
    /// What the archive still lacked after the last back-fill: first segment, last segment, number of
    /// segments.
    missing: Option<(SegmentName, SegmentName, u64)>,
    histories: Arc<Histories>,
    rivals: Rivals,
}

#[derive(Clone, Copy, Debug)]
enum BackfillState {
    Running,
    Done,
    RetryAt(Instant),
}

/// A period in which the repository cannot be reached or written to.
#[derive(Debug)]
struct Outage {
    error: Error,
    since: std::time::SystemTime,
    pause: Duration,
    retry_at: Instant,
}

/// The result of a thread, for the server with this number.
struct Finished(u64, Outcome);

enum Outcome {
    Put(ArchiveOrder, std::result::Result<StoredWal, PutError>),
    /// Whether a file that was stored with this identity still exists in the repository.
    Confirmed(ArchiveOrder, FileIdentity, WalFileName, Result<bool>),
    Scanned(Result<(Vec<ArchiveOrder>, bool)>),
    Backfilled(TimelineId, Result<BackfillSummary>),
    Looked(Result<Option<Rival>>),
}

struct Actor {
    compression: Compression,
    workers: usize,
    ahead_for: Duration,
    retry_max: Duration,
    spool: Spool,
    places: Arc<Places>,
    server: Option<Server>,
    /// The number of servers so far.
    servers: u64,
    files: BTreeMap<ArchiveOrder, Entry>,
    transfers: usize,
    running: JoinSet<Finished>,
    outage: Option<Outage>,
    rescan_at: Instant,
    scanning: bool,
    stored_files: u64,
    last_stored: Option<String>,
}

impl Uploads {
    /// Starts the task. Data that does not fit into memory goes to the spool.
    pub fn start(config: &Config, places: Arc<Places>, spool: Spool) -> (Uploads, Uploading) {
        let (sender, receiver) = mpsc::channel(QUESTIONS_MAX);
        let actor = Actor::new(config, places, spool);
        (Uploads(sender), Uploading(Some(tokio::spawn(actor.run(receiver)))))
    }

    /// Waits until a file is stored or has failed. `None` when the agent ends first; the request is then
    /// still open.
    pub async fn push(&self, request: PushRequest) -> Option<Result<()>> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(Question::Push(request, sender)).await.ok()?;
        receiver.await.ok()
    }

    /// The current state of the uploads.
    pub async fn status(&self) -> Option<UploadStatus> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(Question::Status(sender)).await.ok()?;
        receiver.await.ok()
    }
}

impl Uploads {
    /// Why a request for a file waits; `None` if none does.
    pub async fn reason(&self, name: WalFileName) -> Option<Error> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(Question::Reason(name, sender)).await.ok()?;
        receiver.await.ok()?
    }
}

impl Uploads {
    /// A handle that does not keep the task from ending.
    pub fn watch(&self) -> UploadsWatch {
        UploadsWatch(self.0.downgrade())
    }
}

impl UploadsWatch {
    /// Whether this file of a system is being stored, or will be stored ahead of a request.
    pub async fn is_coming(&self, system: SystemIdentifier, name: WalFileName) -> bool {
        let Some(uploads) = self.0.upgrade() else { return false };
        let (sender, receiver) = oneshot::channel();
        uploads.send(Question::Coming(system, name, sender)).await.is_ok() && receiver.await.unwrap_or(false)
    }
}

impl Uploading {
    /// Returns when the task has ended early, which is a defect.
    pub async fn failed(&mut self) {
        if let Some(task) = &mut self.0
            && let Err(error) = task.await
        {
            error!(%error, "the upload task failed");
        }
        self.0 = None;
    }

    /// Waits for the transfers in flight. Every [`Uploads`] must have been dropped.
    pub async fn finish(mut self) {
        self.failed().await;
    }
}

impl Actor {
    fn new(config: &Config, places: Arc<Places>, spool: Spool) -> Actor {
        Actor {
            compression: config.compression,
            workers: config.agent.workers.get(),
            // An agent that ends with its call could not finish what it begins ahead.
            ahead_for: if config.agent.resident { config.agent.idle } else { Duration::ZERO },
            retry_max: config.agent.retry_max,
            spool,
            places,
            server: None,
            servers: 0,
            files: BTreeMap::new(),
            transfers: 0,
            running: JoinSet::new(),
            outage: None,
            rescan_at: Instant::now(),
            scanning: false,
            stored_files: 0,
            last_stored: None,
        }
    }

    async fn run(mut self, mut questions: mpsc::Receiver<Question>) {
        loop {
            self.start_transfers();
            let wake_at = self.wake_at();
            tokio::select! {
                question = questions.recv() => match question {
                    Some(Question::Push(request, answer)) => self.asked(request, answer),
                    Some(Question::Status(answer)) => drop(answer.send(self.status())),
                    Some(Question::Reason(name, answer)) => drop(answer.send(self.reason(name))),
                    Some(Question::Coming(system, name, answer)) => drop(answer.send(self.is_coming(system, name))),
                    None => break,
                },
                Some(finished) = self.running.join_next() => self.joined(finished),
                event = marked(self.server.as_mut()) => self.marked(event),
                () = sleep_until(wake_at) => self.woken(),
            }
        }
        while let Some(finished) = self.running.join_next().await {
            self.joined(finished);
        }
    }

    /// Handles a request to store a file.
    fn asked(&mut self, request: PushRequest, answer: oneshot::Sender<Result<()>>) {
        let order = ArchiveOrder::of(request.name);
        if let Err(error) = self.serve(&request) {
            drop(answer.send(Err(error)));
            return;
        }
        self.start_backfill(request.name.timeline());
        let Some(server) = &self.server else { return };
        let path = server.pg_wal.join(request.name.to_string());
        let now = Instant::now();
        let entry = self.files.entry(order.clone()).or_insert_with(Entry::waiting);
        let hopeless = entry.asked(now, request.deadline, answer) || self.outage.is_some();
        entry.patience_ends = hopeless.then(|| now + PATIENCE);
        match &entry.state {
            State::Running => {}
            State::Stored(identity, stored_name)
                if FileIdentity::of(&path).is_ok_and(|now| now == *identity) =>
            {
                let (identity, stored_name) = (*identity, *stored_name);
                entry.state = State::Running;
                let (number, repository) = (server.number, server.repository.clone());
                self.transfers += 1;
                self.running.spawn_blocking(move || {
                    let confirmed = guarded(|| {
                        let key = repository.layout().wal_file(stored_name)?;
                        repository.store().still_holds(&key)
                    });
                    Finished(number, Outcome::Confirmed(order, identity, stored_name, confirmed))
                });
            }
            // The name means another file by now, or the last attempt failed permanently and the file is
            // requested again.
            State::Stored(..) | State::Failed(_) | State::Waiting => entry.state = State::Waiting,
        }
    }

    /// Makes the requesting server the current one, whose `archive_status` is read ahead from now on.
    fn serve(&mut self, request: &PushRequest) -> Result<()> {
        let repository = self.places.of(request.system, request.version)?;
        let pg_wal = request.path.parent().unwrap_or(Path::new("/")).to_owned();
        let known = self.server.as_mut().filter(|server| {
            server.pg_wal == pg_wal
                && server.segment_size == request.segment_size
                && server.repository.layout().system() == request.system
                && server.repository.version() == request.version
        });
        if let Some(server) = known {
            server.last_asked = Instant::now();
            return Ok(());
        }
        // Requests of the previous server end with a closed connection.
        self.files.clear();
        let watcher = ReadyWatcher::new(&pg_wal.join("archive_status"))
            .inspect_err(|error| warn!(%error, "cannot watch archive_status; listing it periodically"));
        info!(pg_wal = %pg_wal.display(), system = %request.system, "reads ahead");
        self.servers += 1;
        self.server = Some(Server {
            number: self.servers,
            repository,
            pg_wal,
            segment_size: request.segment_size,
            last_asked: Instant::now(),
            watcher: watcher.ok(),
            listed: false,
            backfill: None,
            missing: None,
            histories: Arc::default(),
            rivals: Rivals::default(),
        });
        self.rescan_at = Instant::now();
        Ok(())
    }

    /// Starts the back-fill. A server on a timeline other than the first was promoted or recovered, so its
    /// ancestors' segments may be missing.
    fn start_backfill(&mut self, timeline: TimelineId) {
        let Some(server) = &mut self.server else { return };
        let due = match server.backfill {
            _ if timeline == TimelineId::FIRST => false,
            Some((known, BackfillState::RetryAt(at))) => timeline > known || Instant::now() >= at,
            Some((known, BackfillState::Done)) => timeline > known,
            Some((_, BackfillState::Running)) => false,
            None => true,
        };
        if !due {
            return;
        }
        server.backfill = Some((timeline, BackfillState::Running));
        let backfill = Backfill {
            timeline,
            pg_wal: server.pg_wal.clone(),
            segment_size: server.segment_size,
            compression: self.compression,
            scratch: self.spool.directory().to_owned(),
        };
        let (number, repository, places) = (server.number, server.repository.clone(), self.places.clone());
        self.running.spawn_blocking(move || {
            let stored = guarded(|| {
                places.make(&repository)?;
                backfill.run(&repository)
            });
            Finished(number, Outcome::Backfilled(timeline, stored))
        });
    }

    /// Checks from time to time whether another timeline is in use. No request waits for this.
    fn look_for_rivals(&mut self, name: WalFileName) {
        let (WalFileName::Segment(segment), Some(server)) = (name, &mut self.server) else { return };
        if !server.rivals.is_due(Instant::now()) {
            return;
        }
        let (number, repository, size) = (server.number, server.repository.clone(), server.segment_size);
        self.running.spawn_blocking(move || {
            Finished(number, Outcome::Looked(guarded(|| rivals::look(&repository, segment, size))))
        });
    }

    fn looked(&mut self, rival: Option<Rival>) {
        let Some(server) = &mut self.server else { return };
        let is_news = server.rivals.keep(rival);
        if let (true, Some(Rival { timeline, left_at })) = (is_news, rival) {
            warn!(
                %timeline, %left_at,
                "another server archives under the same name on a timeline that branched off this one; recovery must choose \
                 between them"
            );
        }
    }

    fn backfilled(&mut self, timeline: TimelineId, result: Result<BackfillSummary>) {
        let Some(server) = &mut self.server else { return };
        let state = match result {
            Ok(summary) => {
                server.missing = summary.missing;
                BackfillState::Done
            }
            Err(error) => {
                warn!(%error, "could not check for segments that the old primary had not archived; retrying");
                BackfillState::RetryAt(Instant::now() + self.retry_max)
            }
        };
        server.backfill = Some((timeline, state));
    }

    fn marked(&mut self, event: std::io::Result<ReadyEvent>) {
        match event {
            Ok(ReadyEvent::Marked(name)) if self.files.len() < AHEAD_FILES_MAX => {
                self.files.entry(ArchiveOrder::of(name)).or_insert_with(Entry::waiting);
            }
            Ok(ReadyEvent::Marked(_)) => self.rescan_at = self.rescan_at.min(Instant::now() + RESCAN_MORE),
            Ok(ReadyEvent::Overflow) => {
                self.rescan_at = Instant::now();
                if let Some(server) = &mut self.server {
                    server.listed = false;
                }
            }
            Err(error) => {
                warn!(%error, "cannot watch archive_status; listing it periodically");
                if let Some(server) = &mut self.server {
                    server.watcher = None;
                }
            }
        }
    }

    /// Starts as many transfers as the limits allow.
    fn start_transfers(&mut self) {
        while self.transfers < self.workers {
            let Some(order) = self.next_file() else { return };
            let threads = self.threads();
            let Some(server) = &self.server else { return };
            let Some(entry) = self.files.get_mut(&order) else { return };
            entry.state = State::Running;
            let (number, repository) = (server.number, server.repository.clone());
            let source = WalSource {
                name: order.name(),
                path: server.pg_wal.join(order.name().to_string()),
                segment_size: server.segment_size,
                pages: PageCheck::FirstPage,
            };
            let (compression, spool) = (self.compression, self.spool.clone());
            let scratch = spool.directory().to_owned();
            let (places, histories) = (self.places.clone(), server.histories.clone());
            self.transfers += 1;
            self.running.spawn_blocking(move || {
                let stored = guarded(|| {
                    Ok(places
                        .make(&repository)
                        .and_then(|()| histories.put_before(&source, &repository, compression, &scratch))
                        .and_then(|()| wal::put(&repository, &source, compression, &scratch, threads)))
                });
                let stored = stored.unwrap_or_else(|defect| Err(PutError::Local(defect)));
                let stored = stored.map_err(|error| error.map_local(|error| spool.failed(error)));
                Finished(number, Outcome::Put(order, stored))
            });
        }
    }

    /// The number of threads for the next file: all of them for a single segment, one each for several.
    fn threads(&self) -> NonZeroUsize {
        let free = self.workers.saturating_sub(self.transfers);
        let waiting = self.files.values().filter(|entry| matches!(entry.state, State::Waiting));
        NonZeroUsize::new(free / waiting.take(free).count().max(1)).unwrap_or(NonZeroUsize::MIN)
    }

    /// The next file to start: the first in order, or only requested files where nothing may be read ahead.
    fn next_file(&self) -> Option<ArchiveOrder> {
        let may_read_ahead = self.may_read_ahead();
        let may_begin = |entry: &Entry| {
            matches!(entry.state, State::Waiting) && (may_read_ahead || !entry.waiters.is_empty())
        };
        self.files.iter().find(|(_, entry)| may_begin(entry)).map(|(order, _)| order.clone())
    }

    fn may_read_ahead(&self) -> bool {
        // Until the first listing, the marks of later files may arrive first.
        let listed = self.server.as_ref().is_some_and(|server| server.listed);
        listed
            && self.reads_ahead()
            && match &self.outage {
                None => true,
                // One at a time, until one is stored.
                Some(outage) => Instant::now() >= outage.retry_at && self.transfers == 0,
            }
    }

    /// Whether files are stored ahead of requests, now or after the outage.
    fn reads_ahead(&self) -> bool {
        self.server.as_ref().is_some_and(|server| Instant::now() < server.last_asked + self.ahead_for)
    }

    fn is_coming(&self, system: SystemIdentifier, name: WalFileName) -> bool {
        let is_ours =
            self.server.as_ref().is_some_and(|server| server.repository.layout().system() == system);
        let entry = self.files.get(&ArchiveOrder::of(name)).filter(|_| is_ours);
        entry.is_some_and(|entry| match entry.state {
            State::Running => true,
            State::Waiting => !entry.waiters.is_empty() || self.reads_ahead(),
            State::Stored(..) | State::Failed(_) => false,
        })
    }

    fn joined(&mut self, finished: std::result::Result<Finished, tokio::task::JoinError>) {
        let Finished(number, outcome) = match finished {
            Ok(finished) => finished,
            // Threads catch their panics and are never aborted.
            Err(error) => return error!(%error, "a thread failed"),
        };
        match &outcome {
            Outcome::Put(..) | Outcome::Confirmed(..) => self.transfers -= 1,
            Outcome::Scanned(_) => self.scanning = false,
            Outcome::Backfilled(..) | Outcome::Looked(_) => {}
        }
        // The name may belong to another server's file by now, so this result must not answer its requests.
        if self.server.as_ref().is_none_or(|server| server.number != number) {
            return;
        }
        match outcome {
            Outcome::Put(order, result) => self.put(order, result),
            Outcome::Confirmed(order, identity, stored_name, result) => {
                self.confirmed(order, identity, stored_name, result);
            }
            Outcome::Scanned(result) => self.scanned(result),
            Outcome::Backfilled(timeline, result) => self.backfilled(timeline, result),
            Outcome::Looked(Ok(rival)) => self.looked(rival),
            // Nothing depends on the result, and the check is repeated.
            Outcome::Looked(Err(error)) => debug!(%error, "could not check for other timelines"),
        }
    }

    fn put(&mut self, order: ArchiveOrder, result: std::result::Result<StoredWal, PutError>) {
        let name = order.name();
        match result {
            Ok(stored) => {
                let already = stored.outcome == PutOutcome::Exists;
                debug!(%name, bytes = stored.sum.length_bytes, already, "stored");
                self.look_for_rivals(name);
                if let Some(damage) = &stored.damage_beside {
                    warn!(
                        %name, stored_as = %stored.name, %damage,
                        "the repository's partial segment of this name is damaged; stored this one beside it"
                    );
                } else if stored.name != name {
                    warn!(
                        %name, stored_as = %stored.name,
                        "differs from the repository's partial segment of this name and was stored beside it: two servers were \
                         promoted out of the same segment"
                    );
                }
                self.end_outage();
                self.stored_files += 1;
                self.last_stored = Some(name.to_string());
                self.stored(&order, stored.identity, stored.name);
            }
            Err(error) => self.failed(&order, error),
        }
    }

    /// A file with this identity is stored: answers its requests, unless the name means another file by now.
    fn stored(&mut self, order: &ArchiveOrder, identity: FileIdentity, stored_name: WalFileName) {
        let Some(server) = &self.server else { return };
        let path = server.pg_wal.join(order.name().to_string());
        let Some(entry) = self.files.get_mut(order) else { return };
        if entry.waiters.is_empty() || FileIdentity::of(&path).is_ok_and(|now| now == identity) {
            entry.state = State::Stored(identity, stored_name);
            entry.answer(&Ok(()));
        } else {
            // The new file may have been requested in the meantime.
            entry.state = State::Waiting;
        }
    }

    fn confirmed(
        &mut self,
        order: ArchiveOrder,
        identity: FileIdentity,
        stored_name: WalFileName,
        result: Result<bool>,
    ) {
        match result {
            Ok(true) => self.stored(&order, identity, stored_name),
            Ok(false) => {
                warn!(name = %order.name(), "was stored and has since disappeared");
                if let Some(entry) = self.files.get_mut(&order) {
                    entry.state = State::Waiting;
                }
            }
            Err(error) => self.failed(&order, PutError::Repository(error)),
        }
    }

    /// A file that fails for a reason of its own is retried on the next request. A failure of the repository
    /// concerns all files.
    fn failed(&mut self, order: &ArchiveOrder, error: PutError) {
        let name = order.name();
        let is_outage = matches!(&error, PutError::Repository(error) if error.kind().is_transient());
        let error = Error::from(error);
        if is_outage {
            let pause =
                self.outage.as_ref().map_or(RETRY_FIRST, |outage| (outage.pause * 2).min(self.retry_max));
            warn!(%name, %error, retry_in_ms = pause.as_millis() as u64, "could not be stored; retrying");
            let since = self.outage.as_ref().map_or_else(std::time::SystemTime::now, |outage| outage.since);
            self.outage =
                Some(Outage { error: error.replica(), since, pause, retry_at: Instant::now() + pause });
        } else {
            error!(%name, %error, hint = error.hint_text(), "cannot be stored");
        }
        if let Some(entry) = self.files.get_mut(order) {
            entry.answer(&Err(error.replica()));
            entry.state = if is_outage { State::Waiting } else { State::Failed(error) };
        }
    }

    /// The store's current error while one of its calls is retried.
    fn trouble(&self) -> Option<Error> {
        self.server.as_ref().and_then(|server| server.repository.store().trouble())
    }

    /// Why a request for a file waits; `None` if none does.
    fn reason(&self, name: WalFileName) -> Option<Error> {
        let entry = self.files.get(&ArchiveOrder::of(name)).filter(|entry| !entry.waiters.is_empty())?;
        let outage = self.outage.as_ref().map(|outage| outage.error.replica());
        Some(outage.or_else(|| self.trouble()).unwrap_or_else(|| entry.delay(Instant::now())))
    }

    fn end_outage(&mut self) {
        if let Some(outage) = self.outage.take() {
            info!(
                seconds = outage.since.elapsed().unwrap_or_default().as_secs(),
                "the repository is available again"
            );
        }
    }

    fn wake_at(&self) -> Instant {
        let patience = self.files.values().filter_map(|entry| entry.patience_ends).min();
        let retry = self.outage.as_ref().map(|outage| outage.retry_at).filter(|_| self.transfers == 0);
        let rescan = if self.scanning { Instant::now() + RESCAN } else { self.rescan_at };
        let backfill = self.server.as_ref().and_then(|server| match server.backfill {
            Some((_, BackfillState::RetryAt(at))) => Some(at),
            _ => None,
        });
        [patience, retry, backfill].into_iter().flatten().fold(rescan, Instant::min)
    }

    fn woken(&mut self) {
        let now = Instant::now();
        let idle = self.next_file().is_none();
        if let Some(outage) = &mut self.outage {
            // There is nothing to try: do not wake up for it again and again.
            if now >= outage.retry_at && idle {
                outage.retry_at = now + outage.pause;
            }
        }
        self.end_patience(now);
        // Retried without a request, too: its segments may be recycled before the next one is full.
        if let Some((timeline, BackfillState::RetryAt(_))) =
            self.server.as_ref().and_then(|server| server.backfill)
        {
            self.start_backfill(timeline);
        }
        if now >= self.rescan_at && !self.scanning {
            self.rescan_at = now + RESCAN;
            if let Some(server) = self.server.as_ref().filter(|_| self.reads_ahead()) {
                let (number, archive_status) = (server.number, server.pg_wal.join("archive_status"));
                self.scanning = true;
                self.running.spawn_blocking(move || {
                    let scanned = guarded(|| scan(&archive_status, AHEAD_FILES_MAX));
                    Finished(number, Outcome::Scanned(scanned))
                });
            }
        }
    }

    /// Tells requests that have waited long enough what they wait for. If the repository has recovered
    /// meanwhile, they keep waiting.
    fn end_patience(&mut self, now: Instant) {
        let trouble = self.trouble();
        let outage = self.outage.as_ref().map(|outage| &outage.error);
        let over = |entry: &&mut Entry| entry.patience_ends.is_some_and(|ends| now >= ends);
        for entry in self.files.values_mut().filter(over) {
            entry.patience_ends = None;
            if let Some(error) = outage {
                entry.tell(&Err(error.replica()));
            } else if entry.is_overdue(now) {
                let reason = trouble.as_ref().map_or_else(|| entry.delay(now), Error::replica);
                entry.tell(&Err(reason));
            }
        }
    }

    /// Drops the files that PostgreSQL has marked as done, and adds the ones that are now ready.
    fn scanned(&mut self, result: Result<(Vec<ArchiveOrder>, bool)>) {
        let Some(server) = &mut self.server else { return };
        server.listed = true;
        let archive_status = server.pg_wal.join("archive_status");
        self.files.retain(|order, entry| {
            matches!(entry.state, State::Running)
                || !entry.waiters.is_empty()
                || is_ready(&archive_status, order.name())
        });
        match result {
            Ok((ready, more)) => {
                for order in ready {
                    if self.files.len() < AHEAD_FILES_MAX {
                        self.files.entry(order).or_insert_with(Entry::waiting);
                    }
                }
                if more {
                    self.rescan_at = Instant::now() + RESCAN_MORE;
                }
            }
            Err(error) => warn!(%error, "cannot read ahead"),
        }
    }

    fn status(&self) -> UploadStatus {
        let count = |of: fn(&State) -> bool| self.files.values().filter(|entry| of(&entry.state)).count();
        let outage =
            self.outage.as_ref().map(|outage| FailureStatus::new(None, &outage.error, Some(outage.since)));
        let trouble = self.trouble().filter(|_| outage.is_none());
        let refused = self.files.iter().find_map(|(order, entry)| match &entry.state {
            State::Failed(error) => Some(FailureStatus::new(Some(order.name().to_string()), error, None)),
            _ => None,
        });
        UploadStatus {
            waiting_files: count(|state| matches!(state, State::Waiting)),
            running_files: count(|state| matches!(state, State::Running)),
            stored_ahead_files: count(|state| matches!(state, State::Stored(..))),
            stored_files: self.stored_files,
            last_stored: self.last_stored.clone(),
            outage,
            trouble: trouble.map(|error| FailureStatus::new(None, &error, None)),
            refused,
            rival: self.server.as_ref().and_then(|server| server.rivals.found()).map(|rival| RivalStatus {
                timeline: rival.timeline.as_u32(),
                left_at: rival.left_at.to_string(),
            }),
            missing: self.server.as_ref().and_then(|server| server.missing).map(|(first, last, segments)| {
                MissingStatus { first: first.to_string(), last: last.to_string(), segments }
            }),
        }
    }
}

/// The next events of the watched server; pending forever if there is none.
async fn marked(server: Option<&mut Server>) -> std::io::Result<ReadyEvent> {
    match server.and_then(|server| server.watcher.as_mut()) {
        Some(watcher) => watcher.next().await,
        None => std::future::pending().await,
    }
}

/// Runs a job and turns a panic into an error, so that its request is always answered.
fn guarded<T>(job: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Damaged, "internal error in the agent")
            .hint("This is a bug in pgark. Report it with the agent's log."))
    })
}

#[cfg(test)]
mod tests;
