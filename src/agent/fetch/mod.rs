//! Fetches WAL: requested files at once, and ahead of requests the files that the same recovery will need
//! next.
//!
//! Absence is never cached: the repository is asked each time. A prefetched file is complete and verified
//! before it is served. Until then it is in the spool under a name known to this process only.

mod ahead;
mod rules;
mod waits;

use super::places::Places;
use super::status::{FailureStatus, FetchStatus};
use super::upload::UploadsWatch;
use crate::config::Config;
use crate::error::{Context, Error, ErrorKind, RecoveryMode, Result};
use crate::failpoint;
use crate::postgres::{SegmentName, SegmentSize, SystemIdentifier, WalFileName};
use crate::repository::{Repository, wal};
use crate::spool::{GetRequest, Spool};
use ahead::Ahead;
use rules::RecoveryDestination;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tempfile::{NamedTempFile, TempPath};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};
use waits::Waits;

/// The pause after a failure, doubled each time.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// The prefix of files that are being fetched or wait to be taken. In `pg_wal` PostgreSQL ignores them.
pub const TEMPORARY_PREFIX: &str = ".pgark-fetch-";

/// A recovery that requests its WAL.
#[derive(Clone, Copy, Debug)]
struct CurrentRecovery {
    system: SystemIdentifier,
    server_start_s: u64,
    /// The segment of the newest timeline that was last found absent, if none was found since. The server
    /// then requests the same segment of the ancestors.
    absent: Option<SegmentName>,
}

/// Fetches WAL for one configuration.
#[derive(Debug)]
pub struct Fetcher {
    places: Arc<Places>,
    spool: Spool,
    directory: PathBuf,
    workers: usize,
    max_bytes: u64,
    /// The prefetched files of the system that made the last request.
    ahead: Mutex<Option<(SystemIdentifier, Arc<Ahead>)>>,
    /// The recovery that made the last request.
    recovery: Mutex<Option<CurrentRecovery>>,
    fetched: AtomicU64,
    fetched_ahead: AtomicU64,
    waits: Arc<Waits>,
    uploads: UploadsWatch,
    /// Why the last file was not fetched into the spool.
    spool_trouble: Mutex<Option<Error>>,
}

/// A file that was fetched.
#[derive(Debug)]
pub struct Fetched {
    /// The path of the file, which is removed when this is dropped.
    pub path: TempPath,
    /// Why the file is not in the spool.
    pub instead: Option<Error>,
}

impl Fetcher {
    /// A fetcher that puts files into the spool.
    pub fn new(config: &Config, places: Arc<Places>, spool: Spool, uploads: UploadsWatch) -> Fetcher {
        Fetcher {
            places,
            directory: spool.prefetch(),
            spool,
            workers: config.agent.workers.get(),
            max_bytes: if config.agent.resident { config.get.prefetch_max_bytes } else { 0 },
            ahead: Mutex::default(),
            recovery: Mutex::default(),
            fetched: AtomicU64::new(0),
            fetched_ahead: AtomicU64::new(0),
            waits: Arc::default(),
            uploads,
            spool_trouble: Mutex::default(),
        }
    }

    /// Fetches a file into the spool, complete and verified. The file is removed when the path is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Absent`] when the repository does not hold the file and recovery may rely on that,
    /// [`ErrorKind::Hole`] when it may not, and after the deadline the error that prevented an answer.
    pub async fn get(&self, request: &GetRequest) -> Result<Fetched> {
        let wait = self.waits.begin(request.name);
        let deadline = Instant::now() + self.waits.patience(request);
        let mut pause = RETRY_FIRST;
        let mut last = None;
        loop {
            let error = match timeout_at(deadline, self.attempt(request)).await {
                Ok(Ok(fetched)) => {
                    self.fetched.fetch_add(1, Ordering::Relaxed);
                    self.waits.answered();
                    return Ok(fetched);
                }
                // Damage is permanent: a retry would only delay the report to the operator.
                Ok(Err(error)) if !error.kind().is_transient() => {
                    self.waits.answered();
                    return Err(error);
                }
                Ok(Err(error)) => error,
                Err(_) => {
                    let error = self.too_late(request, last);
                    wait.failed(&error);
                    return Err(error);
                }
            };
            wait.failed(&error);
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            warn!(name = %request.name, %error, "could not be fetched; retrying");
            last = Some(error);
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// The error for a deadline that passed during an attempt: the store's current trouble, or else the
    /// result of the previous attempt.
    fn too_late(&self, request: &GetRequest, last: Option<Error>) -> Error {
        const WHAT: &str = "the repository did not respond before the deadline";
        match self.trouble(request).or(last) {
            Some(cause) => cause.context(WHAT).with_kind(ErrorKind::Unavailable),
            None => Error::unavailable(WHAT).hint(
                "Check the connection to the repository. get.deadline and the related settings set the deadlines.",
            ),
        }
    }

    /// The store's current trouble.
    fn trouble(&self, request: &GetRequest) -> Option<Error> {
        self.places.of(request.system, request.version).ok().and_then(|place| place.store().trouble())
    }

    /// Why a request for a file waits; `None` if none does.
    pub fn reason(&self, request: &GetRequest) -> Option<Error> {
        self.waits.reason(request.name).map(|reason| self.trouble(request).unwrap_or(reason))
    }

    /// The current state of the downloads.
    pub fn status(&self) -> FetchStatus {
        FetchStatus {
            ready_files: self.current().map_or(0, |ahead| ahead.ready_files()),
            fetched_files: self.fetched.load(Ordering::Relaxed),
            fetched_ahead_files: self.fetched_ahead.load(Ordering::Relaxed),
            waiting: self.waits.status(),
            spool: self.spool_trouble().as_ref().map(|error| FailureStatus::new(None, error, None)),
        }
    }

    /// Stops prefetching and drops the files that were not requested.
    pub async fn finish(&self) {
        if let Some(ahead) = self.current() {
            ahead.finish().await;
        }
    }

    fn current(&self) -> Option<Arc<Ahead>> {
        let ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        ahead.as_ref().map(|(_, ahead)| ahead.clone())
    }

    /// The prefetched files of this system. File names are the same in every system, so files of another one
    /// that used the data directory before are dropped.
    fn ahead_of(&self, system: SystemIdentifier) -> Arc<Ahead> {
        let mut current = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, ahead)) = current.as_ref() {
            if *known == system {
                return ahead.clone();
            }
            ahead.abandon();
        }
        let ahead = Arc::new(Ahead::new(self.directory.clone(), self.workers, self.max_bytes));
        *current = Some((system, ahead.clone()));
        ahead
    }

    fn spool_trouble(&self) -> MutexGuard<'_, Option<Error>> {
        self.spool_trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches one file into the spool, or into the server's `pg_wal` when the spool cannot be written.
    /// `None` as for [`fetch`].
    async fn fetch(&self, repository: &Arc<Repository>, request: &GetRequest) -> Result<Option<Fetched>> {
        let (name, size, mode) = (request.name, request.segment_size, request.mode);
        let error = match fetch(repository, name, size, mode, &self.directory).await? {
            Ok(path) => {
                *self.spool_trouble() = None;
                return Ok(path.map(|path| Fetched { path, instead: None }));
            }
            Err(error) => self.spool.failed(error),
        };
        warn!(%name, %error, "the spool is not usable; fetching into pg_wal");
        *self.spool_trouble() = Some(error.replica());
        // The spool may be full of prefetched files.
        if let Some(ahead) = self.current() {
            ahead.drop_ready();
        }
        match fetch(repository, name, size, mode, &request.pg_wal).await? {
            Ok(path) => Ok(path.map(|path| Fetched { path, instead: Some(error) })),
            Err(second) => Err(second.context(error.to_string())),
        }
    }

    async fn attempt(&self, request: &GetRequest) -> Result<Fetched> {
        let repository = self.places.of(request.system, request.version)?;
        let ahead = self.ahead_of(request.system);
        let destination = self.destination(request);
        let WalFileName::Segment(segment) = request.name else {
            let fetched = self.fetch(&repository, request).await?;
            if let (Some(_), WalFileName::History(timeline)) = (&fetched, request.name) {
                ahead.goes_to(timeline);
            }
            return match fetched {
                Some(fetched) => Ok(fetched),
                None => Err(self.judge_absence(repository, request, destination).await?),
            };
        };
        let (rules_repository, rules_request) = (repository.clone(), request.clone());
        blocking(move || rules::check_destination(&rules_repository, &rules_request, segment, destination))
            .await?;
        let fetched = match ahead.take(segment, request.segment_size).await {
            Some(fetched) => {
                self.fetched_ahead.fetch_add(1, Ordering::Relaxed);
                Some(Fetched { path: fetched, instead: None })
            }
            None => self.fetch(&repository, request).await?,
        };
        match fetched {
            Some(fetched) => {
                self.remember(request, None);
                Ok(fetched)
            }
            None => {
                self.remember(request, Some(segment));
                Err(self.judge_absence(repository, request, destination).await?)
            }
        }
    }

    /// The answer for a file that the repository does not hold. A file that this agent is storing is not
    /// lost.
    async fn judge_absence(
        &self,
        repository: Arc<Repository>,
        request: &GetRequest,
        destination: RecoveryDestination,
    ) -> Result<Error> {
        // Checked before the repository, which then shows a file that arrives in between.
        let coming = self.uploads.is_coming(request.system, request.name).await;
        let request = request.clone();
        blocking(move || rules::judge_absence(&repository, &request, destination, coming)).await
    }

    /// The destination of the recovery that requests this file.
    fn destination(&self, request: &GetRequest) -> RecoveryDestination {
        if let Some(timeline) = request.timeline {
            return RecoveryDestination::To(timeline);
        }
        let (WalFileName::Segment(segment), size) = (request.name, request.segment_size) else {
            return RecoveryDestination::AsRequested;
        };
        match *self.recovery() {
            Some(known) if known.is_of(request) => match known.absent {
                Some(absent)
                    if absent.number(size) == segment.number(size)
                        && absent.timeline() > segment.timeline() =>
                {
                    RecoveryDestination::To(absent.timeline())
                }
                _ => RecoveryDestination::AsRequested,
            },
            // pg_rewind requests one file, and knows that it is the right one.
            _ if !request.prefetch => RecoveryDestination::AsRequested,
            _ => RecoveryDestination::Unknown,
        }
    }

    /// Remembers the absent segment until one is found. A request may be repeated, and the ancestor's
    /// ancestor follows the ancestor.
    fn remember(&self, request: &GetRequest, absent: Option<SegmentName>) {
        let size = request.segment_size;
        let mut recovery = self.recovery();
        let before = recovery.filter(|known| known.is_of(request)).and_then(|known| known.absent);
        let same_number =
            |before: &SegmentName| absent.is_some_and(|now| now.number(size) == before.number(size));
        *recovery = Some(CurrentRecovery {
            system: request.system,
            server_start_s: request.server_start_s,
            // The newest timeline's, which has all the others as its ancestors.
            absent: before.filter(same_number).max(absent),
        });
    }

    /// Prefetches what follows a file after the client has taken it: the client comes first.
    pub async fn follow(&self, request: &GetRequest) {
        let WalFileName::Segment(segment) = request.name else { return };
        if !request.prefetch {
            return;
        }
        let follow = async {
            let repository = self.places.of(request.system, request.version)?;
            let ahead = self.ahead_of(request.system);
            ahead.follow(repository, segment, request.segment_size, request.timeline).await
        };
        if let Err(error) = follow.await {
            warn!(%error, "cannot fetch ahead");
        }
    }

    fn recovery(&self) -> std::sync::MutexGuard<'_, Option<CurrentRecovery>> {
        self.recovery.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CurrentRecovery {
    fn is_of(&self, request: &GetRequest) -> bool {
        (self.system, self.server_start_s) == (request.system, request.server_start_s)
    }
}

/// Fetches one file into `directory`; `None` when the repository is available and does not hold it. The inner
/// error is that of a directory that cannot be written.
async fn fetch(
    repository: &Arc<Repository>,
    name: WalFileName,
    segment_size: SegmentSize,
    mode: RecoveryMode,
    directory: &Path,
) -> Result<Result<Option<TempPath>>> {
    let (repository, directory) = (repository.clone(), directory.to_owned());
    blocking(move || {
        let what = || format!("could not write to \"{}\"", directory.display());
        let created = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempfile_in(&directory);
        let mut file = match created.context(what) {
            Ok(file) => WatchedFile { file, failed: false },
            Err(error) => return Ok(Err(error)),
        };
        failpoint::step("fetch");
        let fetched = match wal::fetch(&repository, name, Some(segment_size), &mut file) {
            Err(error) if file.failed => return Ok(Err(error.context(what()))),
            other => other?,
        };
        match fetched {
            Some(fetched) => {
                failpoint::step("fetched");
                debug!(%name, stored_bytes = fetched.stored_bytes, "fetched");
                Ok(Ok(Some(file.file.into_temp_path())))
            }
            // A standby may wait for the first file of its cluster, and then retries.
            None if mode == RecoveryMode::Standby => Ok(Ok(None)),
            // An empty mount point holds no file at all.
            None => repository.check().map(|()| Ok(None)),
        }
    })
    .await
}

/// A file that records whether a write to it has failed.
struct WatchedFile {
    file: NamedTempFile,
    failed: bool,
}

impl Write for WatchedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).inspect_err(|_| self.failed = true)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Runs a blocking job on a thread of its own.
async fn blocking<T: Send + 'static>(job: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match spawn_blocking(job).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(ErrorKind::Damaged, "internal error in the agent")
            .hint("This is a bug in pgark. Report it with the agent's log.")),
    }
}
