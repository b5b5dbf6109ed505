//! Takes a base backup without access to the server's files: start → pack the stream → wait for WAL →
//! publish.
//!
//! Owns: the order of these steps. The server reads its files, checks their pages and applies the exclusions
//! of a base backup; its own manifest is compared with the packed files. Does not own: the protocol (see
//! `server/`). The stored result is indistinguishable from a backup copied from the data directory.

mod base_backup;
mod built_on;
mod changes;
mod damage;
mod increment;
mod notices;
mod pings;
mod repack;
mod sent;

use crate::backup::draft::BackupDraft;
use crate::backup::files::required::Required;
use crate::backup::parent::{BackupType, Build};
use crate::backup::publish;
use crate::backup::running::{self, RunningBackup};
use crate::backup::server::primary::{Primary, archiving_server, primary_of};
use crate::backup::server::session::{ServerFacts, Session, StoppedBackup};
use crate::backup::server::wal::WalWait;
use crate::backup::server::{APPLICATION_NAME, archiver, warn_of_assumption};
use crate::backup::summary::BackupSummary;
use crate::config::{Checkpoint, Compression, Conninfo};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::interruption::Interruption;
use crate::monitor::{CommandStep, CommandWarning, MeasuredWork, Monitor, UnsavedConfiguration};
use crate::pace::Pace;
use crate::postgres::backup::label::{BackupLabel, BackupSource, IncrementalFrom};
use crate::postgres::cluster::control_file::CONTROL_FILE_BYTES;
use crate::postgres::{BackupManifestReader, ControlFile, MajorVersion, SegmentSize, SystemIdentifier};
use crate::repository::Repository;
use crate::repository::backup::file_set::FileSetSum;
use crate::repository::backup::manifest::{BackupPoint, DamagedPages, StoredConfigurationFile};
use crate::repository::backup::{Label, NewLabel, StoredBackup, StoredText};
use crate::server::{Connection, ReplicationConnection};
use base_backup::{BaseBackup, BaseBackupPart};
use built_on::BuiltOn;
use repack::{Repacked, Repacking};
use std::fs::File;
use std::io::{self, BufReader, Seek};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Parameters of a streamed backup.
#[derive(Debug)]
pub struct StreamRequest<'a> {
    /// Label of the new backup.
    pub label: NewLabel,
    /// Full, incremental or differential.
    pub kind: BackupType,
    /// Upper limit for the number of incremental backups that follow a full one.
    pub chain_max: usize,
    /// How to reach the server.
    pub conninfo: &'a Conninfo,
    /// How to reach the primary if the server is a standby.
    pub primary: Option<&'a Conninfo>,
    /// The checkpoint that begins the backup.
    pub checkpoint: Checkpoint,
    /// Limits on the use of this machine's and the server's resources.
    pub pace: Pace,
    /// How packs are compressed.
    pub compression: Compression,
    /// Time limit for the arrival of each WAL segment in the repository.
    pub wal_deadline: Duration,
}

/// The facts about a server that must be known before it sends data.
#[derive(Clone, Copy, Debug)]
struct StreamedServer {
    system: SystemIdentifier,
    build: Build,
    segment_size: SegmentSize,
}

/// Returns the system identifier of a server.
///
/// # Errors
/// Those of [`Connection::open_remote`] and [`Connection::query`].
pub fn system_of(
    conninfo: &Conninfo,
    assumed_version: Option<MajorVersion>,
    interrupted: &AtomicBool,
) -> Result<SystemIdentifier> {
    let interruption = Interruption::new(interrupted);
    let connection = Connection::open_remote(conninfo, APPLICATION_NAME)?;
    let session = Session::begin(connection, assumed_version, &interruption)?;
    Ok(examine(&session, &interruption)?.system)
}

/// Takes a backup. On return, it is complete and durable, with all the WAL that it needs.
///
/// Stops early, without listing a backup, if `interrupted` becomes true.
///
/// # Errors
/// Those of [`crate::backup::run`], and [`ErrorKind::Damaged`] if the received files differ from the server's manifest.
pub fn run(
    request: &StreamRequest<'_>,
    repository: &Repository,
    interrupted: &AtomicBool,
    monitor: &dyn Monitor,
) -> Result<BackupSummary> {
    let began = Instant::now();
    let interruption = Interruption::new(interrupted);
    let connection = Connection::open_remote(request.conninfo, APPLICATION_NAME)?;
    let session = Session::begin(connection, repository.assumed_version(), &interruption)?;
    let server = examine(&session, &interruption)?;
    warn_of_assumption(server.build.version, monitor);
    let mut replication = ReplicationConnection::open(request.conninfo, APPLICATION_NAME, &interruption)?;
    check_same(&mut replication, server.system, repository, &interruption)?;
    let primary = primary_of(request.primary, &session, server.system, &interruption)?;
    if session.source() == BackupSource::Primary {
        archiver::check_settings(session.connection(), &interruption)?;
    }
    repository.make()?;
    running::sweep_store(repository, monitor);
    running::sweep_abandoned(repository, monitor);
    let running = RunningBackup::begin(repository, &request.label)?;
    let label = running.label().clone();
    let backup = StreamedBackup {
        request,
        label: &label,
        repository,
        session: &session,
        primary: primary.as_ref(),
        server,
        interruption: &interruption,
        monitor,
    };
    let (stored, wal_segments) = running.during(&interruption, |running| {
        pings::during(&session, &interruption, || backup.take(&mut replication, running))
    })?;
    Ok(BackupSummary::of(&stored, wal_segments, began.elapsed()))
}

/// Queries the system identifier, version and build of the server.
fn examine(session: &Session, interruption: &Interruption<'_>) -> Result<StreamedServer> {
    let sql = "SELECT system_identifier, catalog_version_no, \
               (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'), \
               (SELECT setting FROM pg_settings WHERE name = 'block_size'), \
               (SELECT setting FROM pg_settings WHERE name = 'segment_size'), \
               (SELECT setting = 'on' FROM pg_settings WHERE name = 'data_checksums') FROM pg_control_system()";
    let row = session.connection().query_row("identify the server", sql, interruption)?;
    let (catalog, segment_bytes): (u32, u32) = (row.parsed(1)?, row.parsed(2)?);
    let version = session.server_version(catalog)?;
    let segment_size = SegmentSize::new(segment_bytes)
        .ok_or_else(|| Error::damaged(format!("{segment_bytes} is not the length of a WAL segment")))?;
    let build = Build {
        version,
        page_bytes: row.parsed(3)?,
        pages_per_file: row.parsed(4)?,
        data_checksums: row.is_true(5),
    };
    Ok(StreamedServer { system: row.parsed(0)?, build, segment_size })
}

/// Checks that both connections lead to the server of this repository: one host name may stand for several hosts.
fn check_same(
    replication: &mut ReplicationConnection,
    system: SystemIdentifier,
    repository: &Repository,
    interruption: &Interruption<'_>,
) -> Result<()> {
    let found: SystemIdentifier = replication.query_row("IDENTIFY_SYSTEM", interruption)?.parsed(0)?;
    if found != system || system != repository.layout().system() {
        return Err(Error::new(
            ErrorKind::Foreign,
            format!("the connection's parameters lead to the systems {system} and {found}"),
        )
        .hint("Name a single host that is a server, not a pooler."));
    }
    Ok(())
}

/// A backup in progress.
struct StreamedBackup<'a> {
    request: &'a StreamRequest<'a>,
    label: &'a Label,
    repository: &'a Repository,
    session: &'a Session,
    primary: Option<&'a Primary>,
    server: StreamedServer,
    interruption: &'a Interruption<'a>,
    monitor: &'a dyn Monitor,
}

impl StreamedBackup<'_> {
    /// Runs the steps of the backup in order; also returns the number of WAL segments that it needs.
    fn take(
        &self,
        replication: &mut ReplicationConnection,
        running: &RunningBackup<'_>,
    ) -> Result<(StoredBackup, u64)> {
        let label = self.label;
        let facts = self.session.facts(self.interruption)?;
        let required = self.required()?;
        let offered = self.offer(replication, running, &facts)?;
        let checkpoint = self.request.checkpoint;
        self.monitor.step(CommandStep::StartingBackup { label: label.as_str(), checkpoint });
        let (announced, chain) = self.begin(replication, offered)?;
        let start = self.session.point(announced.start.lsn, announced.start.timeline, self.interruption)?;
        let wal = self.wal_wait();
        let history = publish::history(self.repository, &start)?;
        wal.before_copy(&start, history.as_ref())?;
        let built_on = chain.map(|chain| self.build_on(chain, &start, history.as_ref())).transpose()?;
        let parent = built_on.as_ref().map(|built_on| built_on.chain.newest());

        let repacking = self.repacking(built_on.as_ref());
        let mut packed = repacking.begin();
        let total_bytes = Some(announced.bytes).filter(|bytes| *bytes > 0);
        let mut sending = BaseBackup::receive(replication, announced, self.interruption);
        let listed = self.monitor.during(MeasuredWork::ReceivingBackup, total_bytes, || {
            self.receive(&mut sending, &repacking, &mut packed)
        })?;
        let ending = sending.end()?;
        notices::check(&ending.warnings, &packed.files, self.monitor)?;
        check_complete(&packed, listed, &facts)?;
        required.intersection(&self.required()?).check(&packed.files, &packed.copied.files)?;
        if let Some(parent) = parent {
            self.check_built_on(parent, &packed, &facts)?;
        }

        let control_file = packed.control_file.take().ok_or_else(|| nothing_sent("global/pg_control"))?;
        let control = parse_control(control_file.content(), self.repository.assumed_version())?;
        check_build(&control, self.server.build)?;
        let stop = self.session.stop_point(ending.stop.lsn, &start, &control, self.interruption)?;
        check_label(&packed.backup_label, &start, &stop, parent)?;
        if let Some(primary) = self.primary {
            primary.complete_segment(stop.lsn, self.server.segment_size, self.interruption)?;
        }
        let damaged_pages = match ending.pages_are_damaged {
            true => damage::damaged_pages(&ending.warnings, &packed.files, control.pages_per_file),
            false => DamagedPages::default(),
        };
        let stopped = StoppedBackup {
            stop,
            label: std::mem::take(&mut packed.backup_label),
            tablespace_map: std::mem::take(&mut packed.tablespace_map),
        };
        let last_pack = repacking.begin_pack(&packed, 0)?;
        let Repacked { files, copied, .. } = packed;
        let draft = BackupDraft {
            repository: self.repository,
            label,
            session: self.session,
            compression: self.request.compression,
            parent: built_on.as_ref().map(|built_on| &built_on.chain),
            start,
            history,
            configuration_files: self.configuration_files(&facts),
            facts,
            files: &files,
            copied,
        };
        let draft = draft.stop(control, control_file, stopped, last_pack)?;
        let wal_segments = wal.after_stop(draft.start_point(), draft.stop_point())?;
        let stored = draft.list(damaged_pages)?;
        publish::warn_of_damage(&stored, self.monitor);
        let chain = built_on.as_ref().map(|built_on| &built_on.chain);
        publish::publish(self.repository, &stored, chain, running, self.interruption)?;
        Ok((stored, wal_segments))
    }

    fn required(&self) -> Result<Required> {
        Required::query(self.session.connection(), self.server.build.version, self.interruption)
    }

    fn wal_wait(&self) -> WalWait<'_> {
        WalWait {
            repository: self.repository,
            archiving: archiving_server(self.session, self.primary),
            source: self.session.source(),
            segment_size: self.server.segment_size,
            deadline: self.request.wal_deadline,
            monitor: self.monitor,
            interruption: self.interruption,
        }
    }

    fn repacking<'b>(&'b self, built_on: Option<&'b BuiltOn>) -> Repacking<'b> {
        Repacking {
            repository: self.repository,
            label: self.label,
            build: self.server.build,
            built_on,
            compression: self.request.compression,
            pace: &self.request.pace,
            monitor: self.monitor,
        }
    }

    /// Packs all archives; returns the sum of the files that the server's manifest lists.
    fn receive(
        &self,
        sending: &mut BaseBackup<'_>,
        repacking: &Repacking<'_>,
        packed: &mut Repacked,
    ) -> Result<FileSetSum> {
        self.request.pace.give_way(self.monitor);
        let mut listed = None;
        while let Some(part) = sending.next_part()? {
            match part {
                BaseBackupPart::Manifest => listed = Some(read_manifest(sending)?),
                archive => repacking.archive(sending, &archive, packed)?,
            }
        }
        repacking.end(packed)?;
        listed.ok_or_else(|| nothing_sent("backup_manifest"))
    }

    /// Records the paths of the configuration files; their content is on the server's host.
    fn configuration_files(&self, facts: &ServerFacts) -> Vec<StoredConfigurationFile> {
        let paths = facts.configuration_files.iter().flatten();
        let data_directory = facts.settings.get("data_directory");
        let outside =
            paths.filter(|path| data_directory.is_none_or(|directory| !path.starts_with(directory)));
        let files: Vec<_> = outside
            .map(|path| StoredConfigurationFile {
                path: StoredText::new(path.as_os_str().as_bytes()),
                content: None,
            })
            .collect();
        if !files.is_empty() {
            self.monitor.warn(CommandWarning::ConfigurationNotSaved(UnsavedConfiguration::Streamed));
        }
        files
    }
}

/// Reads the server's manifest through an unnamed file, because it is as long as the file list.
fn read_manifest(sending: &mut BaseBackup<'_>) -> Result<FileSetSum> {
    let what = || "could not receive the server's backup manifest";
    let mut file: File = tempfile::tempfile().context(what)?;
    io::copy(sending, &mut file).map_err(|error| match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::io(what(), error),
    })?;
    file.rewind().context(what)?;
    let read = || -> Result<FileSetSum> {
        let mut sum = FileSetSum::default();
        let mut manifest = BackupManifestReader::new(BufReader::new(&file))?;
        while let Some(file) = manifest.next_file()? {
            sum.add(&file.path, file.size_bytes, file.crc32c.unwrap_or_default());
        }
        manifest.finish()?;
        Ok(sum)
    };
    read().context(|| "the server's backup manifest cannot be used")
}

/// Checks that all files arrived unchanged and that no tablespace is missing.
fn check_complete(packed: &Repacked, listed: FileSetSum, facts: &ServerFacts) -> Result<()> {
    if packed.sent != listed {
        return Err(Error::damaged(format!(
            "the server's backup manifest lists different files than the server sent: {} and {}",
            listed.files, packed.sent.files
        )));
    }
    // Before version 16, the server omits in-place tablespaces when it sends its tablespace map.
    for (oid, name) in &facts.tablespace_names {
        let linked = packed.files.roots.iter().any(|root| root.tablespace == Some(*oid));
        if !linked && !packed.files.in_place_tablespaces.contains(oid) {
            return Err(Error::unavailable(format!("the server did not send the tablespace \"{name}\"")).hint(
                "If it has just been dropped, take the backup again. If it is an in-place tablespace, only a backup of the \
                 files contains it: use --method files on the server's host.",
            ));
        }
    }
    Ok(())
}

fn parse_control(content: &[u8], assumed: Option<MajorVersion>) -> Result<ControlFile> {
    ControlFile::parse(content.get(..CONTROL_FILE_BYTES).unwrap_or(content), assumed)
        .context(|| "the server sent a pg_control that cannot be used")
}

/// Checks that `pg_control` matches the properties on which packing relied.
fn check_build(control: &ControlFile, build: Build) -> Result<()> {
    let same_version = control.catalog_version == build.version.catalog_version;
    if same_version && Build::of(control, build.version) == build {
        return Ok(());
    }
    Err(Error::damaged("the server's pg_control does not match its settings"))
}

fn check_label(
    label: &[u8],
    start: &BackupPoint,
    stop: &BackupPoint,
    parent: Option<&StoredBackup>,
) -> Result<()> {
    let label = BackupLabel::parse(label)?;
    let from = parent
        .map(|parent| IncrementalFrom { start_point: parent.start.lsn, timeline: parent.start.timeline });
    if label.incremental_from != from {
        return Err(Error::damaged("the server's backup_label names a different parent backup"));
    }
    if label.start_point != start.lsn
        || label.start_timeline != start.timeline
        || stop.timeline != start.timeline
    {
        return Err(Error::unavailable(format!(
            "the server began the backup at {} on timeline {}, but then reported {} on timeline {}",
            start.lsn, start.timeline, label.start_point, stop.timeline
        ))
        .hint("If a primary was replaced in the meantime, take the backup again."));
    }
    Ok(())
}

fn nothing_sent(name: &str) -> Error {
    Error::damaged(format!("the server sent no {name}"))
}
