//! Fetching WAL: what is asked for at once, and ahead of that what the same recovery will ask for next.
//!
//! Nothing negative is remembered: that a file is absent is asked of the repository each time. What was fetched ahead
//! lies in the spool under a name that only this process knows, and is complete and checked before anybody sees it.

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
use rules::Way;
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
/// What the names of files begin with that are being fetched, or wait to be taken. In `pg_wal` PostgreSQL passes over them.
pub const TEMPORARY_PREFIX: &str = ".pgark-fetch-";

/// A recovery that asks for its WAL.
#[derive(Clone, Copy, Debug)]
struct Asking {
    system: SystemIdentifier,
    server_start_s: u64,
    /// The newest timeline's segment that was found absent last, if nothing was found since: the server asks for the same
    /// segment of the ancestors next.
    absent: Option<SegmentName>,
}

/// Fetches for one configuration.
#[derive(Debug)]
pub struct Fetcher {
    places: Arc<Places>,
    spool: Spool,
    directory: PathBuf,
    workers: usize,
    max_bytes: u64,
    /// What was fetched ahead, of the one system that was last asked for.
    ahead: Mutex<Option<(SystemIdentifier, Arc<Ahead>)>>,
    /// The recovery that asked last.
    recovery: Mutex<Option<Asking>>,
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
    /// Where it lies; removed when this is dropped.
    pub path: TempPath,
    /// Why that is not in the spool.
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

    /// Fetches a file into the spool, complete and checked. The file is removed when the path is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Absent`] when the repository says that there is no such file and recovery may believe it,
    /// [`ErrorKind::Hole`] when it may not, and after the deadline what kept us from finding out.
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
                // Damage stays: asking again would only delay what an operator must see.
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

    /// The deadline has passed in the middle of an attempt: with what kept the store at that moment, or else with how the
    /// attempt before ended.
    fn too_late(&self, request: &GetRequest, last: Option<Error>) -> Error {
        const WHAT: &str = "the repository did not answer before the deadline";
        match self.trouble(request).or(last) {
            Some(cause) => cause.context(WHAT).with_kind(ErrorKind::Unavailable),
            None => Error::unavailable(WHAT).hint(
                "Check the connection to the repository. get.deadline_s and the related settings set the deadlines.",
            ),
        }
    }

    /// What keeps the store at this moment.
    fn trouble(&self, request: &GetRequest) -> Option<Error> {
        self.places.of(request.system, request.version).ok().and_then(|place| place.store().trouble())
    }

    /// Why a request for a file waits; `None` if none does.
    pub fn reason(&self, request: &GetRequest) -> Option<Error> {
        self.waits.reason(request.name).map(|reason| self.trouble(request).unwrap_or(reason))
    }

    /// What goes on.
    pub fn status(&self) -> FetchStatus {
        FetchStatus {
            ready_files: self.current().map_or(0, |ahead| ahead.ready_files()),
            fetched_files: self.fetched.load(Ordering::Relaxed),
            fetched_ahead_files: self.fetched_ahead.load(Ordering::Relaxed),
            waiting: self.waits.status(),
            spool: self.spool_trouble().as_ref().map(|error| FailureStatus::new(None, error, None)),
        }
    }

    /// Stops fetching ahead and drops what nobody took.
    pub async fn finish(&self) {
        if let Some(ahead) = self.current() {
            ahead.finish().await;
        }
    }

    fn current(&self) -> Option<Arc<Ahead>> {
        let ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        ahead.as_ref().map(|(_, ahead)| ahead.clone())
    }

    /// What was fetched ahead of this system. Names are the same in every system: what was fetched of another one, which
    /// had the data directory before, is dropped.
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

    /// Fetches one file into the spool; into the server's `pg_wal` when that takes nothing. `None` as for [`fetch`].
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
        // It may be full of what was fetched ahead.
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
        let way = self.way(request);
        let WalFileName::Segment(segment) = request.name else {
            let fetched = self.fetch(&repository, request).await?;
            if let (Some(_), WalFileName::History(timeline)) = (&fetched, request.name) {
                ahead.goes_to(timeline);
            }
            return match fetched {
                Some(fetched) => Ok(fetched),
                None => Err(self.judge_absence(repository, request, way).await?),
            };
        };
        let (rules_repository, rules_request) = (repository.clone(), request.clone());
        blocking(move || rules::check_way(&rules_repository, &rules_request, segment, way)).await?;
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
                Err(self.judge_absence(repository, request, way).await?)
            }
        }
    }

    /// The answer for a file that the repository does not hold. What we are storing ourselves is not lost.
    async fn judge_absence(
        &self,
        repository: Arc<Repository>,
        request: &GetRequest,
        way: Way,
    ) -> Result<Error> {
        // Asked before the repository is: what arrives in between is seen there.
        let coming = self.uploads.is_coming(request.system, request.name).await;
        let request = request.clone();
        blocking(move || rules::judge_absence(&repository, &request, way, coming)).await
    }

    /// Where the recovery goes that asks for this file.
    fn way(&self, request: &GetRequest) -> Way {
        if let Some(timeline) = request.timeline {
            return Way::To(timeline);
        }
        let (WalFileName::Segment(segment), size) = (request.name, request.segment_size) else {
            return Way::AsAsked;
        };
        match *self.recovery() {
            Some(known) if known.is_of(request) => match known.absent {
                Some(absent)
                    if absent.number(size) == segment.number(size)
                        && absent.timeline() > segment.timeline() =>
                {
                    Way::To(absent.timeline())
                }
                _ => Way::AsAsked,
            },
            // pg_rewind asks for one file, which it knows to be the right one.
            _ if !request.prefetch => Way::AsAsked,
            _ => Way::Unknown,
        }
    }

    /// Keeps which segment was found absent, until one is found: a question may be asked twice, and an ancestor's ancestor
    /// comes after it.
    fn remember(&self, request: &GetRequest, absent: Option<SegmentName>) {
        let size = request.segment_size;
        let mut recovery = self.recovery();
        let before = recovery.filter(|known| known.is_of(request)).and_then(|known| known.absent);
        let same_number =
            |before: &SegmentName| absent.is_some_and(|now| now.number(size) == before.number(size));
        *recovery = Some(Asking {
            system: request.system,
            server_start_s: request.server_start_s,
            // The newest timeline's, which has all the others as its ancestors.
            absent: before.filter(same_number).max(absent),
        });
    }

    /// Fetches ahead what follows a file that was fetched. Once that was taken: before, it would only take the processors from
    /// whoever waits for it.
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

    fn recovery(&self) -> std::sync::MutexGuard<'_, Option<Asking>> {
        self.recovery.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asking {
    fn is_of(&self, request: &GetRequest) -> bool {
        (self.system, self.server_start_s) == (request.system, request.server_start_s)
    }
}

/// Fetches one file into `directory`; `None` when a repository that is there says that it does not hold it. The inner error is
/// that of the directory, to which nothing can be written.
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
            // A standby may wait for the first file of its cluster, and asks again by itself.
            None if mode == RecoveryMode::Standby => Ok(Ok(None)),
            // An empty mount point has no file of any name.
            None => repository.check().map(|()| Ok(None)),
        }
    })
    .await
}

/// A file that remembers whether writing to it has failed.
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

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(job: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match spawn_blocking(job).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(ErrorKind::Damaged, "internal error in the agent")
            .hint("This is a bug in pgark. Report it with the agent's log.")),
    }
}
