//! Takes a base backup: start → copy → stop → wait for WAL → publish.
//!
//! Owns: the order of these steps and the conditions for a valid backup. Does not own: the stored formats
//! (see `repository/backup`). A crash at any moment leaves no backup, and the next run removes the remains.

mod archiver;
mod candidate;
mod combine;
mod configuration_files;
mod copy;
mod exclusions;
mod files;
mod increment;
mod last_pack;
mod lists;
mod pages;
mod parent;
mod primary;
mod publish;
mod required;
mod running;
mod session;
mod source;
pub mod stream;
mod summaries;
mod summary;
mod summary_row;
mod visibility;
mod wal;
mod walk;

pub use combine::{CombineRequest, combine};
pub use parent::BackupType;
pub use summary::BackupSummary;

use crate::config::{Checkpoint, Compression, Conninfo};
use crate::data_directory::DataDirectory;
use crate::error::{Error, ErrorKind, Result};
use crate::monitor::Monitor;
use crate::pace::Pace;
use crate::postgres::backup_label::{BackupLabel, BackupSource, IncrementalFrom, with_incremental_from};
use crate::postgres::page::PAGE_BYTES;
use crate::postgres::{ControlFile, ManifestVersion, ServerVersion, SystemIdentifier, TimelineHistory};
use crate::repository::Repository;
use crate::repository::backup::manifest::{
    BackupKind, BackupPoint, BackupTotals, StoredCollations, StoredServer, StoredTablespace, StoredWalRange,
};
use crate::repository::backup::pack::PackOwner;
use crate::repository::backup::{Chain, Label, NewLabel, StoredBackup, StoredText};
use crate::server::{Connection, Watch, c_library};
use copy::{Copied, DataDirectoryCopy};
use files::FileList;
use increment::Increment;
use lists::{BackedUp, Scope};
use nix::unistd::{Gid, Uid};
use pages::PageRules;
use parent::{Build, Child};
use primary::Primary;
use required::Required;
use running::RunningBackup;
use session::{ServerFacts, Session, StoppedBackup};
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use summaries::Summaries;
use wal::WalWait;

/// Application name of the connections in the server's views.
const APPLICATION_NAME: &str = "pgark base-backup";

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
    let watch = Watch::new(interrupted);
    let control = request.data_directory.control_file()?;
    let connection = Connection::open(request.conninfo, request.data_directory, APPLICATION_NAME)?;
    let session = Session::begin(connection, request.data_directory.assumed_version(), &watch)?;
    let server = session.server_version(control.catalog_version)?;
    session.check(request.data_directory, control.system, control.version, &watch)?;
    warn_of_assumption(server, monitor);
    let primary = primary_of(request.primary, &session, control.system, &watch)?;
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
        watch: &watch,
        monitor,
    };
    let taken = running.during(&watch, |running| backup.take(running))?;
    let Taken { stored, wal_segments, read_bytes } = taken;
    let summary = BackupSummary::of(&stored, wal_segments, began.elapsed());
    Ok(BackupSummary { read_bytes: Some(read_bytes), ..summary })
}

/// Warns that pgark has not been tested with this version.
fn warn_of_assumption(version: ServerVersion, monitor: &dyn Monitor) {
    if version.is_assumed() {
        monitor.warning(&format!("pgark does not know this version: PostgreSQL {version}"));
    }
}

/// A completed backup.
struct Taken {
    stored: StoredBackup,
    /// Number of WAL segments that the backup needs.
    wal_segments: u64,
    /// Number of bytes read from the server's files.
    read_bytes: u64,
}

/// Connects to the primary if the server is a standby and its primary is configured.
fn primary_of(
    conninfo: Option<&Conninfo>,
    session: &Session,
    system: SystemIdentifier,
    watch: &Watch<'_>,
) -> Result<Option<Primary>> {
    match (session.source(), conninfo) {
        (BackupSource::Standby, Some(conninfo)) => {
            let connection = Connection::open_remote(conninfo, APPLICATION_NAME)?;
            Primary::begin(connection, system, watch).map(Some)
        }
        // Promoted since the configuration was written: it is its own primary.
        _ => Ok(None),
    }
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
    watch: &'a Watch<'a>,
    monitor: &'a dyn Monitor,
}

impl Backup<'_> {
    /// Runs the steps of the backup in order.
    fn take(&self, running: &RunningBackup<'_>) -> Result<Taken> {
        let start = self.start()?;
        let wal = self.wal_wait();
        let history = publish::history(self.repository, &start)?;
        wal.before_copy(&start, history.as_ref())?;
        let facts = self.session.facts(self.watch)?;
        let configuration_files =
            configuration_files::read(&facts, self.request.data_directory, self.monitor);
        let required = self.required()?;
        let files = self.list_files()?;
        let parent = self.choose_parent(&start, history.as_ref(), running, &files, &facts)?;
        let (parent, increment) = parent.unzip();
        let copy = self.copy(&files, &start, increment);
        let mut copied = self.copy_files(&copy, &files)?;
        required.and_still(&self.required()?).check(&files, &copied.files)?;
        let (control, control_file) = last_pack::read_control_file(self.request.data_directory)?;
        let mut stopped = self.stop(&start, &control)?;
        if let Some(parent) = &parent {
            self.mark_incremental(&mut stopped, parent.newest());
        }
        let last = last_pack::files(control_file, &stopped);
        let last_packed = last_pack::write(copy.begin_pack(copied.packs.len() as u32 + 1, 0)?, &last)?;
        copied.packs.push(last_packed.pack);
        let wal_segments = wal.after_stop(&start, &stopped.stop)?;
        let range = StoredWalRange { timeline: start.timeline, start: start.lsn, end: stopped.stop.lsn };
        let scope = if parent.is_some() { Scope::Incremental } else { Scope::Full };
        let backed_up =
            BackedUp { files: &files, copied: &copied.files, last: &last, last_placed: &last_packed.files };
        let version = ManifestVersion::written_by(control.version, control.system);
        let lists = lists::write(
            backed_up.entries(),
            scope,
            self.repository,
            self.label,
            version,
            &[range.into()],
            self.request.compression,
        )?;
        let packed_bytes: u64 = copied.packs.iter().map(|pack| pack.stored_bytes).sum();
        let kind = parent
            .as_ref()
            .map_or(BackupKind::Full, |parent| BackupKind::Incremental(parent.newest().link()));
        let stored = StoredBackup {
            version: StoredBackup::version_of(&kind),
            label: self.label.clone(),
            kind,
            created_by: concat!("pgark ", env!("CARGO_PKG_VERSION")).to_owned(),
            cluster: self.repository.layout().cluster().to_owned(),
            system_identifier: control.system,
            server: StoredServer::of(&control, self.session.version_num()),
            from_standby: self.session.source() == BackupSource::Standby,
            wal_ranges: vec![range],
            timeline_history: history
                .map(|history| history.switches().iter().map(|switch| (*switch).into()).collect())
                .unwrap_or_default(),
            tablespaces: tablespaces(&files, &facts),
            databases: facts.databases,
            collations: Some(self.collations(facts.collations)),
            settings: facts.settings,
            configuration_files,
            backup_label: StoredText::new(stopped.label),
            tablespace_map: Some(stopped.tablespace_map).filter(|map| !map.is_empty()).map(StoredText::new),
            totals: BackupTotals {
                files: lists.file_count,
                directories: lists.directory_count,
                file_bytes: lists.file_bytes,
                whole_bytes: parent.as_ref().map(|_| lists.whole_bytes),
                stored_bytes: packed_bytes
                    + lists.index.object.stored_bytes
                    + lists.postgres_manifest.stored_bytes,
            },
            packs: std::mem::take(&mut copied.packs),
            index: lists.index,
            postgres_manifest: lists.postgres_manifest,
            damaged_pages: std::mem::take(&mut copied.findings).judge(stopped.stop.lsn),
            start,
            stop: stopped.stop,
        };
        publish::warn_of_damage(&stored, self.monitor);
        publish::publish(self.repository, &stored, parent.as_ref(), running, self.watch)?;
        Ok(Taken { stored, wal_segments, read_bytes: copied.read_bytes })
    }

    fn start(&self) -> Result<BackupPoint> {
        let checkpoint = match self.request.checkpoint {
            Checkpoint::Fast => "fast",
            Checkpoint::Spread => "spread",
        };
        self.monitor
            .step(&format!("starting the backup {}: waiting for a {checkpoint} checkpoint", self.label));
        self.session.start(self.label, self.request.checkpoint, self.watch)
    }

    fn wal_wait(&self) -> WalWait<'_> {
        WalWait {
            repository: self.repository,
            archiving: match self.session.source() {
                BackupSource::Primary => Some(self.session.connection()),
                BackupSource::Standby => self.primary.map(Primary::connection),
            },
            source: self.session.source(),
            segment_size: self.control.segment_size,
            deadline: self.request.wal_deadline,
            monitor: self.monitor,
            watch: self.watch,
        }
    }

    fn required(&self) -> Result<Required> {
        Required::ask(self.session.connection(), self.server, self.watch)
    }

    fn list_files(&self) -> Result<FileList> {
        let data_directory = self.request.data_directory.path();
        FileList::scan(data_directory, self.server, self.monitor, self.watch)
    }

    /// Fills in a missing C library version from the library that the server process has loaded.
    fn collations(&self, said: StoredCollations) -> StoredCollations {
        let loaded = || c_library::of_process(self.request.data_directory.server_process_id()?);
        StoredCollations { libc_version: said.libc_version.clone().or_else(loaded), ..said }
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
            Increment::find(self.repository, chain.newest(), files, &facts.databases, server, self.watch)
        });
        let summarized = Summaries::read(self.session, history, &chain.newest().start, start, self.watch)?;
        match increment {
            Ok(increment) => {
                let increment = match summarized {
                    Ok(summaries) => {
                        let count = summaries.count;
                        self.monitor.step(&format!(
                            "using {count} WAL summaries to find changes since backup {label}"
                        ));
                        increment.with(summaries)
                    }
                    Err(why) => {
                        if !why.is_empty() {
                            self.monitor.step(&format!("reading all files to find changes: {why}"));
                        }
                        self.monitor.step(&format!("finding changes since backup {label}"));
                        increment
                    }
                };
                Ok(Some((chain, increment)))
            }
            Err(error) if error.kind() == ErrorKind::Damaged => {
                self.monitor.warning(&format!(
                    "backup {label} cannot be used as a parent: {error}; taking a full backup"
                ));
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
            watch: self.watch,
        }
    }

    fn copy_files(&self, copy: &DataDirectoryCopy<'_>, files: &FileList) -> Result<Copied> {
        self.monitor.begin(&format!("copying {} files", files.files.len()), files.total_bytes());
        let copied = copy.run(&mut || self.session.ping(self.watch));
        self.monitor.end();
        copied
    }

    fn stop(&self, start: &BackupPoint, control: &ControlFile) -> Result<StoppedBackup> {
        self.monitor.step("stopping the backup");
        let stopped = self.session.stop(start, control, self.watch)?;
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
            primary.complete_segment(stopped.stop.lsn, self.control.segment_size, self.watch)?;
        }
        Ok(stopped)
    }
}

/// The manifest entries of the tablespaces.
fn tablespaces(files: &FileList, facts: &ServerFacts) -> Vec<StoredTablespace> {
    let name = |oid: &u32| facts.tablespace_names.get(oid).cloned().unwrap_or_default();
    let linked = files.roots.iter().filter_map(|root| {
        let oid = root.tablespace?;
        Some(StoredTablespace { oid, name: name(&oid), path: Some(StoredText::new(root.target.clone())) })
    });
    let in_place = files.in_place_tablespaces.iter().map(|oid| StoredTablespace {
        oid: *oid,
        name: name(oid),
        path: None,
    });
    let mut tablespaces: Vec<StoredTablespace> = linked.chain(in_place).collect();
    tablespaces.sort_by_key(|tablespace| tablespace.oid);
    tablespaces
}
