//! The repository's contents for a cluster: backups, the WAL of each timeline with its gaps, and the recovery windows.

use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{
    Lsn, MajorVersion, SegmentName, SegmentNumber, SystemIdentifier, TimelineHistory, TimelineId, WalFileName,
};
use crate::repository::backup::manifest::StoredBackup;
use crate::repository::backup::{Chain, check_objects, inventory};
use crate::repository::wal::{self, PathRun, PathWal, SegmentRun, TimelinePath, WalSearch, WalSnapshot};
use crate::repository::{Repository, systems};
use crate::store::Store;
use jiff::Timestamp;
use serde::Serialize;
use std::sync::Arc;

/// The contents of the repository for one cluster.
#[derive(Debug, Serialize)]
pub struct ClusterInfo {
    /// The cluster's name.
    pub cluster: String,
    /// The repository.
    pub repository: String,
    /// Whether every WAL segment was looked up; if not, gaps between the first and the last one are unknown.
    pub every_segment: bool,
    /// Its systems: one, or several after `initdb` or `pg_upgrade`.
    pub systems: Vec<SystemInfo>,
}

/// The contents of the repository for one system.
#[derive(Debug, Serialize)]
pub struct SystemInfo {
    /// Its identifier.
    pub system_identifier: SystemIdentifier,
    /// The segment size in bytes; the newest one if it was changed. `None` if there is neither a backup nor a segment.
    pub segment_bytes: Option<u64>,
    /// The backups, oldest first.
    pub backups: Vec<BackupInfo>,
    /// The reason why this system cannot be read at all: it is damaged, or was written by a newer pgark.
    pub unusable: Option<Trouble>,
    /// Backups that cannot be used, because they are damaged or were taken by a newer pgark.
    pub damaged: Vec<DamagedInfo>,
    /// Labels of backups in progress.
    pub running: Vec<String>,
    /// The WAL.
    pub timelines: Vec<TimelineInfo>,
    /// The recovery window of each timeline that ends with WAL of its own, newest timeline first.
    pub windows: Vec<RecoveryWindow>,
}

/// One backup.
#[derive(Debug, Serialize)]
pub struct BackupInfo {
    /// Its label.
    pub label: String,
    /// The backup that an incremental one builds on.
    pub parent: Option<String>,
    /// Why the chain of an incremental backup is unusable.
    pub broken_chain: Option<Trouble>,
    /// Start time.
    pub start_time: Timestamp,
    /// Stop time, at which it is consistent.
    pub stop_time: Timestamp,
    /// Its start point.
    pub start_lsn: Lsn,
    /// Its stop point.
    pub stop_lsn: Lsn,
    /// The timeline of its start point.
    pub timeline: TimelineId,
    /// The major version of PostgreSQL.
    pub postgresql: u32,
    /// Number of files.
    pub files: u64,
    /// Total size of the files, in bytes.
    pub raw_bytes: u64,
    /// Stored size in the repository, in bytes.
    pub stored_bytes: u64,
    /// Number of pages that had wrong checksums when they were read.
    pub damaged_pages: u64,
    /// The first required segment that is missing, which makes the backup unusable.
    pub missing_wal: Option<SegmentName>,
}

/// A backup whose manifest or mark cannot be read.
#[derive(Debug, Serialize)]
pub struct DamagedInfo {
    /// Its label.
    pub label: String,
    /// The problem.
    #[serde(flatten)]
    pub trouble: Trouble,
}

/// A problem.
#[derive(Debug, Serialize)]
pub struct Trouble {
    /// The description.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The kind of the error, which determines the exit status.
    #[serde(skip)]
    pub kind: ErrorKind,
}

impl Trouble {
    fn of(error: &Error) -> Trouble {
        Trouble { reason: error.to_string(), hint: error.hint_text().map(str::to_owned), kind: error.kind() }
    }
}

/// The WAL of one timeline.
#[derive(Debug, Serialize)]
pub struct TimelineInfo {
    /// The timeline.
    pub timeline: TimelineId,
    /// The size of these segments in bytes; a timeline on which it was changed is listed once for each size.
    pub segment_bytes: u64,
    /// The parent timeline; `None` for the first one, and if its history file is missing.
    pub parent: Option<TimelineId>,
    /// The switch point from the parent.
    pub switch_point: Option<Lsn>,
    /// Number of ancestors.
    pub depth: usize,
    /// The first segment.
    pub first: Option<SegmentName>,
    /// The last segment.
    pub last: Option<SegmentName>,
    /// Number of segments from the first to the last if none is missing.
    pub span_segments: u64,
    /// Number of stored segments; `None` if they were not listed.
    pub segments: Option<u64>,
    /// Stored size in the repository, in bytes; `None` if the segments were not listed.
    pub stored_bytes: Option<u64>,
    /// Missing segments that are proven to have existed; `None` if the segments were not listed.
    pub gaps: Option<Vec<Gap>>,
    /// Segments missing before the first backup, where the archive begins, which no recovery needs; `None` if the
    /// segments were not listed.
    pub never_archived: Option<Vec<Gap>>,
    /// Partial segments, which no recovery reads automatically; `None` if the segments were not listed.
    pub partials: Option<Vec<WalFileName>>,
}

/// Missing segments.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The first missing segment.
    pub first: SegmentName,
    /// The last missing segment.
    pub last: SegmentName,
    /// Number of missing segments.
    pub segments: u64,
}

/// The range of points that recovery can reach.
#[derive(Debug, Serialize)]
pub struct RecoveryWindow {
    /// The oldest backup from which the WAL continues without a gap.
    pub oldest_backup: String,
    /// The time at which it is consistent.
    pub earliest: Timestamp,
    /// The timeline on which recovery ends.
    pub timeline: TimelineId,
    /// The last segment that it reads.
    pub last_segment: SegmentName,
    /// The latest possible end of the WAL.
    pub end_lsn: Lsn,
    /// The segments missing after that end, if the WAL continues.
    pub interrupted_by: Option<Gap>,
}

/// Reads the repository's contents.
///
/// # Errors
/// [`ErrorKind::Absent`] if the repository holds nothing of the cluster; those of the store.
pub fn gather(
    store: &Arc<dyn Store>,
    cluster: &str,
    assumed_version: Option<MajorVersion>,
    search: WalSearch,
) -> Result<ClusterInfo> {
    let systems = systems(store.as_ref(), cluster)?;
    if systems.is_empty() {
        return Err(Error::absent(format!(
            "the repository \"{}\" holds nothing of cluster \"{cluster}\"",
            store.location()
        ))
        .hint("The first archived file or the first backup creates its place."));
    }
    // Called after the listing, whose response contains the service's time, to avoid another request.
    let now = store.now()?;
    let systems = systems
        .into_iter()
        .map(|system| {
            let repository = Repository::new(store.clone(), cluster, system)?.assuming(assumed_version);
            system_info(&repository, search, now)
        })
        .collect::<Result<_>>()?;
    let every_segment = search == WalSearch::EverySegment;
    Ok(ClusterInfo { cluster: cluster.to_owned(), repository: store.location(), every_segment, systems })
}

fn system_info(repository: &Repository, search: WalSearch, now: Timestamp) -> Result<SystemInfo> {
    if let Err(error) = repository.exists() {
        return match error.kind() {
            ErrorKind::Damaged | ErrorKind::Usage => Ok(SystemInfo::unusable(repository, &error)),
            _ => Err(error),
        };
    }
    let mut found = inventory::survey(repository, now)?;
    let mut backups = Vec::new();
    for backup in found.usable {
        match search {
            WalSearch::EverySegment => match check_objects(repository, &backup) {
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    found.damaged.push((backup.label.clone(), error));
                }
                checked => {
                    checked?;
                    backups.push(backup);
                }
            },
            WalSearch::Ends => backups.push(backup),
        }
    }
    let timelines = wal::timelines(repository)?;
    let mut info = SystemInfo {
        system_identifier: repository.layout().system(),
        segment_bytes: None,
        backups: Vec::new(),
        unusable: None,
        damaged: found
            .damaged
            .into_iter()
            .map(|(label, error)| DamagedInfo { label: label.to_string(), trouble: Trouble::of(&error) })
            .collect(),
        running: found.running.iter().map(ToString::to_string).collect(),
        timelines: Vec::new(),
        windows: Vec::new(),
    };
    // pg_resetwal may have changed the size: no recovery path crosses the change, and names denote other positions.
    let mut sizes = Vec::new();
    for backup in backups.iter().rev() {
        let size = backup.segment_size()?;
        if !sizes.contains(&size) {
            sizes.push(size);
        }
    }
    let snapshots = WalSnapshot::read_by_size(repository, &timelines, &sizes, search)?;
    info.segment_bytes = snapshots.first().map(|wal| wal.segment_size.as_u64());
    for wal in &snapshots {
        let mut alike = Vec::new();
        for backup in &backups {
            if backup.segment_size()? == wal.segment_size {
                alike.push(backup.clone());
            }
        }
        let begins = |timeline| is_first_size(&snapshots, wal, timeline);
        let mut listed = timeline_infos(wal, search, first_needed(wal, &alike, &info.damaged), &begins)?;
        // The oldest size first.
        listed.append(&mut info.timelines);
        info.timelines = listed;
        for timeline in wal.tips().into_iter().rev() {
            info.windows.extend(window(wal, timeline, &alike)?);
        }
        for backup in &alike {
            info.backups.push(backup_info(wal, backup, &backups)?);
        }
    }
    info.backups.sort_by_key(|backup| (backup.stop_time, backup.stop_lsn));
    Ok(info)
}

impl SystemInfo {
    /// A system whose contents were not read.
    fn unusable(repository: &Repository, error: &Error) -> SystemInfo {
        SystemInfo {
            system_identifier: repository.layout().system(),
            segment_bytes: None,
            backups: Vec::new(),
            unusable: Some(Trouble::of(error)),
            damaged: Vec::new(),
            running: Vec::new(),
            timelines: Vec::new(),
            windows: Vec::new(),
        }
    }

    /// All problems.
    pub fn troubles(&self) -> impl Iterator<Item = &Trouble> {
        let damaged = self.damaged.iter().map(|damaged| &damaged.trouble);
        let broken = self.backups.iter().filter_map(|backup| backup.broken_chain.as_ref());
        self.unusable.iter().chain(damaged).chain(broken)
    }
}

/// Whether a timeline's WAL of this segment size precedes its WAL of other sizes.
fn is_first_size(all: &[WalSnapshot], wal: &WalSnapshot, timeline: TimelineId) -> bool {
    let start = |wal: &WalSnapshot| {
        let first = wal.runs().get(&timeline)?.first()?.first;
        first.as_u64().checked_mul(wal.segment_size.as_u64())
    };
    start(wal) == all.iter().filter_map(start).min()
}

/// The first segment of the oldest backup on the first timeline; no recovery needs earlier WAL of that timeline, and
/// the servers that `pg_upgrade` starts leave some behind, with gaps. `None` if an unreadable backup may need it.
fn first_needed(
    wal: &WalSnapshot,
    backups: &[StoredBackup],
    damaged: &[DamagedInfo],
) -> Option<SegmentNumber> {
    let on_first = backups.iter().filter(|backup| backup.start.timeline == TimelineId::FIRST);
    let first = on_first.map(|backup| backup.start.lsn.segment(wal.segment_size)).min();
    first.filter(|_| damaged.is_empty())
}

/// The timelines with WAL, each after its parent. `first_needed` is the result of the function of that name; `begins`
/// tells whether a timeline begins with WAL of this size.
fn timeline_infos(
    wal: &WalSnapshot,
    search: WalSearch,
    first_needed: Option<SegmentNumber>,
    begins: &dyn Fn(TimelineId) -> bool,
) -> Result<Vec<TimelineInfo>> {
    let mut infos: Vec<TimelineInfo> = Vec::new();
    for (&timeline, runs) in wal.runs() {
        let history = wal.history_of(timeline);
        let parent = history.parent();
        let name = |number| SegmentName::new(timeline, number, wal.segment_size);
        let every = search == WalSearch::EverySegment;
        let (first, last) = (runs.first().map(|run| run.first), runs.last().map(|run| run.last));
        let missing = every.then(|| gaps(wal, &history, first, begins(timeline))).transpose()?;
        let first_needed = first_needed.filter(|_| timeline == TimelineId::FIRST);
        let needed = |gap: &Gap| {
            let last = gap.last.number(wal.segment_size);
            first_needed.is_none_or(|first| last.is_none_or(|last| last >= first))
        };
        let (gaps, never_archived) =
            missing.map(|missing| missing.into_iter().partition::<Vec<_>, _>(needed)).unzip();
        let span = first.zip(last).map(|(first, last)| last.as_u64() - first.as_u64() + 1);
        let info = TimelineInfo {
            timeline,
            segment_bytes: wal.segment_size.as_u64(),
            parent: parent.map(|parent| parent.timeline),
            switch_point: parent.map(|parent| parent.switch_point),
            depth: history.switches().len(),
            first: first.and_then(name),
            last: last.and_then(name),
            span_segments: span.unwrap_or_default(),
            segments: every.then(|| runs.iter().map(count).sum()),
            stored_bytes: every.then(|| runs.iter().map(|run| run.stored_bytes).sum()),
            gaps,
            never_archived,
            partials: every
                .then(|| if begins(timeline) { wal.partials(timeline).to_vec() } else { Vec::new() }),
        };
        // Orders the tree as rows: after the parent, and after all branches of the previous siblings.
        let place = infos.iter().rposition(|known| {
            Some(known.timeline) == info.parent
                || history.switches().iter().any(|switch| switch.timeline == known.timeline)
                || infos_share_parent(known, &info)
        });
        infos.insert(place.map_or(infos.len(), |place| place + 1), info);
    }
    Ok(infos)
}

fn infos_share_parent(known: &TimelineInfo, new: &TimelineInfo) -> bool {
    known.parent.is_some() && known.parent == new.parent
}

fn backup_info(wal: &WalSnapshot, backup: &StoredBackup, all: &[StoredBackup]) -> Result<BackupInfo> {
    let size = backup.segment_size()?;
    let timeline = backup.start.timeline;
    let last = backup.stop.lsn.previous().unwrap_or(backup.stop.lsn).segment(size);
    let first = backup.start.lsn.segment(size);
    // The WAL that the backup needs on its own timeline; later switches to other timelines do not matter.
    let path = TimelinePath::new(wal.history_of(timeline), size);
    let held = PathWal::find(path, first, wal)?.readable();
    let missing = match held {
        Some(run) if run.last >= last => None,
        Some(run) => SegmentName::new(timeline, run.last.next(), size),
        None => SegmentName::new(timeline, first, size),
    };
    Ok(BackupInfo {
        label: backup.label.to_string(),
        parent: backup.parent().map(|link| link.parent.to_string()),
        broken_chain: Chain::of(backup, all).err().map(|error| Trouble::of(&error)),
        start_time: backup.start.time,
        stop_time: backup.stop.time,
        start_lsn: backup.start.lsn,
        stop_lsn: backup.stop.lsn,
        timeline,
        postgresql: backup.server.version_num / 10_000,
        files: backup.totals.files,
        raw_bytes: backup.whole_bytes(),
        stored_bytes: backup.totals.stored_bytes,
        damaged_pages: backup.damaged_pages.count,
        missing_wal: missing,
    })
}

/// The recovery window of a timeline: from the oldest backup whose WAL continues without a gap, to the end of the WAL.
/// `None` if no backup leads there.
fn window(
    wal: &WalSnapshot,
    timeline: TimelineId,
    backups: &[StoredBackup],
) -> Result<Option<RecoveryWindow>> {
    let path = TimelinePath::find(wal, wal.history_of(timeline), wal.segment_size)?;
    let mut window: Option<(&StoredBackup, PathWal)> = None;
    // From the newest backup backwards, as long as the WAL is complete.
    for backup in backups.iter().rev() {
        let leads = path.holds(backup.stop.timeline, backup.start.lsn, backup.stop.lsn);
        if !leads || Chain::of(backup, backups).is_err() {
            continue;
        }
        let held = PathWal::find(path.clone(), path.segment_at(backup.start.lsn), wal)?;
        let stop = path.segment_at(backup.stop.lsn.previous().unwrap_or(backup.stop.lsn));
        let Some(run) = held.readable().filter(|run| run.last >= stop) else { continue };
        match &window {
            Some((_, newer)) if newer.readable().is_some_and(|newer| newer.last != run.last) => break,
            _ => window = Some((backup, held)),
        }
    }
    let Some((oldest, held)) = window else { return Ok(None) };
    let (Some(run), Some(end_lsn)) = (held.readable(), held.readable_end()) else { return Ok(None) };
    Ok(Some(RecoveryWindow {
        oldest_backup: oldest.label.to_string(),
        earliest: oldest.stop.time,
        timeline,
        last_segment: held.name_of(run.last)?,
        end_lsn,
        interrupted_by: held.gap().map(|gap| gap_of(&path, gap)).transpose()?,
    }))
}

fn count(run: &SegmentRun) -> u64 {
    run.last.as_u64() - run.first.as_u64() + 1
}

/// The missing segments of a timeline itself, from its first segment (from its history, or the first stored one) to the
/// last that is proven to have existed. If it began with another segment size, segments between the two sizes are
/// unknown.
fn gaps(
    wal: &WalSnapshot,
    history: &TimelineHistory,
    first: Option<SegmentNumber>,
    begins: bool,
) -> Result<Vec<Gap>> {
    let told = history.first_segment(wal.segment_size).filter(|_| begins);
    let Some(from) = told.or(first) else { return Ok(Vec::new()) };
    let path = TimelinePath::find(wal, history.clone(), wal.segment_size)?;
    PathWal::find(path.clone(), from, wal)?.gaps().map(|gap| gap_of(&path, gap)).collect()
}

fn gap_of(path: &TimelinePath, gap: PathRun) -> Result<Gap> {
    let name = |number| {
        path.name_of(number).ok_or_else(|| Error::damaged("the repository names segments that cannot exist"))
    };
    Ok(Gap { first: name(gap.first)?, last: name(gap.last)?, segments: gap.count() })
}
