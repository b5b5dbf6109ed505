//! Takes a base backup from the server's files: start → copy → stop → wait for WAL → publish.
//!
//! Owns: the order of these steps and the conditions for a valid backup.

use super::copy::last_pack::LastFile;
use super::copy::pages::PageRules;
use super::copy::{Copied, DataDirectoryCopy};
use super::draft::BackupDraft;
use super::files::FileList;
use super::files::required::Required;
use super::increment::Increment;
use super::increment::summaries::Summaries;
use super::parent::{self, BackupType, Build, Child};
use super::publish;
use super::running::{self, RunningBackup};
use super::server::primary::{Primary, archiving_server, primary_of};
use super::server::session::{ServerFacts, Session, StoppedBackup};
use super::server::wal::WalWait;
use super::server::{APPLICATION_NAME, configuration_files, warn_of_assumption};
use super::summary::BackupSummary;
use crate::config::{Checkpoint, Compression, Conninfo};
use crate::data_directory::DataDirectory;
use crate::error::{Error, ErrorKind, Result};
use crate::interruption::Interruption;
use crate::monitor::{CommandStep, CommandWarning, MeasuredWork, Monitor};
use crate::pace::Pace;
use crate::postgres::backup::label::{BackupLabel, BackupSource, IncrementalFrom, with_incremental_from};
use crate::postgres::page::PAGE_BYTES;
use crate::postgres::{ControlFile, ServerVersion, TimelineHistory};
use crate::repository::Repository;
use crate::repository::backup::manifest::{BackupPoint, StoredCollations};
use crate::repository::backup::pack::PackOwner;
use crate::repository::backup::{Chain, Label, NewLabel, StoredBackup};
use crate::server::{Connection, c_library};
use nix::unistd::{Gid, Uid};
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Parameters of a backup.
#[derive(Debug)]
pub struct BackupRequest<'a> {
    /// Label of the new backup.
    pub label: NewLabel,
    /// Full, incremental or differential.
    pub kind: BackupType,
    /// Longest permitted chain of incremental backups on a full one.
    pub chain_max: usize,
    /// The running server's data directory.
    pub data_directory: &'a DataDirectory,
    /// How to reach the server.
    pub conninfo: &'a Conninfo,
    /// How to reach the primary if the server is a standby.
    pub primary: Option<&'a Conninfo>,
    /// The checkpoint that begins the backup.
    pub checkpoint: Checkpoint,
    /// Number of packs written in parallel.
    pub workers: NonZeroUsize,
    /// Limits on the use of the machine's resources.
    pub pace: Pace,
    /// How packs are compressed.
    pub compression: Compression,
    /// Time limit for the arrival of each WAL segment in the repository.
    pub wal_deadline: Duration,
}

/// Takes a backup. On return, it is complete and durable, with all the WAL that it needs.
///
/// Stops early, without listing a backup, if `interrupted` becomes true.
///
/// # Errors
/// [`ErrorKind::Usage`] if the server cannot be backed up with these parameters, [`ErrorKind::Foreign`] if it is not
/// the server of the data directory, [`ErrorKind::Conflict`] if the label is in use, [`ErrorKind::Unavailable`] if the
/// server, the operating system or the store fails, WAL does not arrive in time, or the backup is interrupted.
pub fn run(
    request: &BackupRequest<'_>,
    repository: &Repository,
    interrupted: &AtomicBool,
    monitor: &dyn Monitor,
) -> Result<BackupSummary> {
    let began = Instant::now();
    let interruption = Interruption::new(interrupted);
    let control = request.data_directory.control_file()?;
    let connection = Connection::open(request.conninfo, request.data_directory, APPLICATION_NAME)?;
    let session = Session::begin(connection, request.data_directory.assumed_version(), &interruption)?;
    let server = session.server_version(control.catalog_version)?;
    session.check(request.data_directory, control.system, control.version, &interruption)?;
    warn_of_assumption(server, monitor);
    let primary = primary_of(request.primary, &session, control.system, &interruption)?;
    repository.make()?;
    running::sweep_store(repository, monitor);
    running::sweep_abandoned(repository, monitor);
    let running = RunningBackup::begin(repository, &request.label)?;
    let label = running.label().clone();
    let backup = Backup {
        request,
        label: &label,
        repository,
        session: &session,
        primary: primary.as_ref(),
        control,
        server,
        interruption: &interruption,
        monitor,
    };
    let taken = running.during(&interruption, |running| backup.take(running))?;
    let Taken { stored, wal_segments, read_bytes } = taken;
    let summary = BackupSummary::of(&stored, wal_segments, began.elapsed());
    Ok(BackupSummary { read_bytes: Some(read_bytes), ..summary })
}

/// A completed backup.
struct Taken {
    stored: StoredBackup,
    /// Number of WAL segments that the backup needs.
    wal_segments: u64,
    /// Number of bytes read from the server's files.
    read_bytes: u64,
}

/// A backup in progress.
struct Backup<'a> {
    request: &'a BackupRequest<'a>,
    label: &'a Label,
    repository: &'a Repository,
    session: &'a Session,
    primary: Option<&'a Primary>,
    control: ControlFile,
    server: ServerVersion,
    interruption: &'a Interruption<'a>,
    monitor: &'a dyn Monitor,
}

impl Backup<'_> {
    /// Runs the steps of the backup in order.
    fn take(&self, running: &RunningBackup<'_>) -> Result<Taken> {
        let start = self.start()?;
        let wal = self.wal_wait();
        let history = publish::history(self.repository, &start)?;
        wal.before_copy(&start, history.as_ref())?;
        let mut facts = self.session.facts(self.interruption)?;
        self.complete_collations(&mut facts.collations);
        let configuration_files =
            configuration_files::read(&facts, self.request.data_directory, self.monitor);
        let required = self.required()?;
        let files = self.list_files()?;
        let parent = self.choose_parent(&start, history.as_ref(), running, &files, &facts)?;
        let (parent, increment) = parent.unzip();
        let copy = self.copy(&files, &start, increment);
        let mut copied = self.copy_files(&copy, &files)?;
        required.intersection(&self.required()?).check(&files, &copied.files)?;
        let read = self.request.data_directory.read_control_file()?;
        let control = read.control.clone();
        let control_file = LastFile::control_file(read);
        let mut stopped = self.stop(&start, &control)?;
        if let Some(parent) = &parent {
            self.mark_incremental(&mut stopped, parent.newest());
        }
        let last_pack = copy.begin_pack(copied.packs.len() as u32 + 1, 0)?;
        let read_bytes = copied.read_bytes;
        let damaged_pages = std::mem::take(&mut copied.findings).judge(stopped.stop.lsn);
        let draft = BackupDraft {
            repository: self.repository,
            label: self.label,
            session: self.session,
            compression: self.request.compression,
            parent: parent.as_ref(),
            start,
            history,
            facts,
            configuration_files,
            files: &files,
            copied,
        };
        let draft = draft.stop(control, control_file, stopped, last_pack)?;
        let wal_segments = wal.after_stop(draft.start_point(), draft.stop_point())?;
        let stored = draft.list(damaged_pages)?;
        publish::warn_of_damage(&stored, self.monitor);
        publish::publish(self.repository, &stored, parent.as_ref(), running, self.interruption)?;
        Ok(Taken { stored, wal_segments, read_bytes })
    }

    fn start(&self) -> Result<BackupPoint> {
        let checkpoint = self.request.checkpoint;
        self.monitor.step(CommandStep::StartingBackup { label: self.label.as_str(), checkpoint });
        self.session.start(self.label, checkpoint, self.interruption)
    }

    fn wal_wait(&self) -> WalWait<'_> {
        WalWait {
            repository: self.repository,
            archiving: archiving_server(self.session, self.primary),
            source: self.session.source(),
            segment_size: self.control.segment_size,
            deadline: self.request.wal_deadline,
            monitor: self.monitor,
            interruption: self.interruption,
        }
    }

    fn required(&self) -> Result<Required> {
        Required::query(self.session.connection(), self.server, self.interruption)
    }

    fn list_files(&self) -> Result<FileList> {
        FileList::scan(self.request.data_directory, self.server, self.monitor, self.interruption)
    }

    /// Fills in a missing C library version from the library that the server process has loaded.
    fn complete_collations(&self, collations: &mut StoredCollations) {
        let loaded = || c_library::of_process(self.request.data_directory.server_process_id()?);
        collations.libc_version = collations.libc_version.take().or_else(loaded);
    }

    /// Chooses the parent and the pages to store; `None` for a full backup.
    fn choose_parent(
        &self,
        start: &BackupPoint,
        history: Option<&TimelineHistory>,
        running: &RunningBackup<'_>,
        files: &FileList,
        facts: &ServerFacts,
    ) -> Result<Option<(Chain, Increment)>> {
        let first = TimelineHistory::without_ancestors(start.timeline);
        let history = history.unwrap_or(&first);
        let child = Child {
            kind: self.request.kind,
            start,
            history,
            build: Build::of(&self.control, self.server),
            chain_max: self.request.chain_max,
        };
        let Some(chain) = parent::choose(&child, self.repository, self.monitor)? else { return Ok(None) };
        let label = &chain.newest().label;
        running.name_parent(label)?;
        // Removal checks the marks first, so everything still present now remains.
        let increment = parent::check_intact(&chain, self.repository).and_then(|()| {
            let server = self.server;
            Increment::find(
                self.repository,
                chain.newest(),
                files,
                &facts.databases,
                server,
                self.interruption,
            )
        });
        let summarized =
            Summaries::read(self.session, history, &chain.newest().start, start, self.interruption)?;
        match increment {
            Ok(increment) => {
                let increment = match summarized {
                    Ok(summaries) => {
                        let (count, parent) = (summaries.count, label.as_str());
                        self.monitor.step(CommandStep::FindingChangesInSummaries { count, parent });
                        increment.with(summaries)
                    }
                    Err(why) => {
                        let why = Some(why.as_str()).filter(|why| !why.is_empty());
                        self.monitor.step(CommandStep::FindingChangesInFiles { parent: label.as_str(), why });
                        increment
                    }
                };
                Ok(Some((chain, increment)))
            }
            Err(error) if error.kind() == ErrorKind::Damaged => {
                let (label, why) = (label.as_str(), &error.to_string());
                self.monitor.warn(CommandWarning::ParentUnusable { label, why });
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Marks the label as version 17 and later mark a backup for `pg_combinebackup`; the server refuses to
    /// start from it.
    fn mark_incremental(&self, stopped: &mut StoppedBackup, parent: &StoredBackup) {
        if self.control.version.facts().has_wal_summaries {
            let from = IncrementalFrom { start_point: parent.start.lsn, timeline: parent.start.timeline };
            stopped.label = with_incremental_from(&stopped.label, from);
        }
    }

    fn copy<'a>(
        &'a self,
        files: &'a FileList,
        start: &BackupPoint,
        increment: Option<Increment>,
    ) -> DataDirectoryCopy<'a> {
        let rules = PageRules { start: start.lsn, pages_per_file: self.control.pages_per_file };
        let checked = self.control.data_checksums && self.control.page_bytes as usize == PAGE_BYTES;
        DataDirectoryCopy {
            disk: self.request.data_directory.disk(),
            repository: self.repository,
            label: self.label,
            files,
            version: self.server,
            pages: checked.then_some(rules),
            increment,
            compression: self.request.compression,
            owner: PackOwner { uid: Uid::effective().as_raw(), gid: Gid::effective().as_raw() },
            workers: self.request.workers,
            pace: &self.request.pace,
            monitor: self.monitor,
            interruption: self.interruption,
        }
    }

    fn copy_files(&self, copy: &DataDirectoryCopy<'_>, files: &FileList) -> Result<Copied> {
        let work = MeasuredWork::CopyingFiles { count: files.files.len() };
        self.monitor.during(work, Some(files.total_bytes()), || {
            copy.run(&mut || self.session.ping(self.interruption))
        })
    }

    fn stop(&self, start: &BackupPoint, control: &ControlFile) -> Result<StoppedBackup> {
        self.monitor.step(CommandStep::StoppingBackup);
        let stopped = self.session.stop(start, control, self.interruption)?;
        let label = BackupLabel::parse(&stopped.label)?;
        if label.source == BackupSource::Standby && stopped.stop.timeline != label.start_timeline {
            return Err(Error::unavailable(format!(
                "the standby switched from timeline {} to {} during the backup",
                label.start_timeline, stopped.stop.timeline
            ))
            .hint("Its primary was replaced. Take the backup again."));
        }
        if label.start_point != start.lsn
            || label.start_timeline != start.timeline
            || stopped.stop.timeline != start.timeline
        {
            return Err(Error::damaged(format!(
                "the server began the backup at {} on timeline {}, but then reported {} on timeline {}",
                start.lsn, start.timeline, label.start_point, stopped.stop.timeline
            )));
        }
        if let Some(primary) = self.primary {
            primary.complete_segment(stopped.stop.lsn, self.control.segment_size, self.interruption)?;
        }
        Ok(stopped)
    }
}
