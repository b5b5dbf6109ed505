//! What the repository holds of a cluster: backups, the WAL of each timeline with its gaps, and what can be reached.

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
    /// Its systems: one, or after `initdb` or `pg_upgrade` more.
    pub systems: Vec<SystemInfo>,
}

/// The contents of the repository for one system.
#[derive(Debug, Serialize)]
pub struct SystemInfo {
    /// Its identifier.
    pub system_identifier: SystemIdentifier,
    /// The length of its segments in bytes, of the newest ones where it was changed; `None` when there is neither a backup nor a segment.
    pub segment_bytes: Option<u64>,
    /// The backups, oldest first.
    pub backups: Vec<BackupInfo>,
    /// Why the place of this system cannot be used, so that nothing else is known of it: it is damaged, or a newer pgark made
    /// it.
    pub unusable: Option<Trouble>,
    /// Backups that cannot be used because they are damaged, or because a newer pgark took them.
    pub damaged: Vec<DamagedInfo>,
    /// Labels of backups in progress.
    pub running: Vec<String>,
    /// The WAL.
    pub timelines: Vec<TimelineInfo>,
    /// What can be reached on each timeline that ends with WAL of its own, newest timeline first.
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
    /// When it started and stopped.
    pub start_time: Timestamp,
    /// When it was consistent.
    pub stop_time: Timestamp,
    /// Its start point.
    pub start_lsn: Lsn,
    /// Its stop point.
    pub stop_lsn: Lsn,
    /// The timeline of its start point.
    pub timeline: TimelineId,
    /// The major version of PostgreSQL.
    pub postgresql: u32,
    /// How many files it holds.
    pub files: u64,
    /// Their length in bytes.
    pub raw_bytes: u64,
    /// What it takes in the repository, in bytes.
    pub stored_bytes: u64,
    /// Pages whose checksum did not hold when they were read.
    pub damaged_pages: u64,
    /// The first segment that it needs and that is not there: it cannot be used.
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
    /// The length of these segments in bytes: a timeline on which it was changed is listed for each.
    pub segment_bytes: u64,
    /// The timeline that it came out of; `None` for the first, and when its history file is missing.
    pub parent: Option<TimelineId>,
    /// Where it came out of it.
    pub switch_point: Option<Lsn>,
    /// How many ancestors it has.
    pub depth: usize,
    /// The first segment.
    pub first: Option<SegmentName>,
    /// The last segment.
    pub last: Option<SegmentName>,
    /// How many there would be from the first to the last if none is missing.
    pub span_segments: u64,
    /// How many there are; `None` when they were not looked for.
    pub segments: Option<u64>,
    /// What they take in the repository, in bytes; `None` when they were not looked for.
    pub stored_bytes: Option<u64>,
    /// What is missing of the segments that are proven to have existed; `None` when it was not looked for.
    pub gaps: Option<Vec<Gap>>,
    /// What is missing before the first backup, where the archive begins: no recovery needs it. `None` when it was not looked
    /// for.
    pub never_archived: Option<Vec<Gap>>,
    /// Partial segments, which no recovery reads by itself; `None` when they were not looked for.
    pub partials: Option<Vec<WalFileName>>,
}

/// Missing segments.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The first of them.
    pub first: SegmentName,
    /// The last of them.
    pub last: SegmentName,
    /// How many they are.
    pub segments: u64,
}

/// From when to where recovery can go.
#[derive(Debug, Serialize)]
pub struct RecoveryWindow {
    /// The oldest backup from which the WAL goes on without a gap.
    pub oldest_backup: String,
    /// The moment at which it is consistent.
    pub earliest: Timestamp,
    /// The timeline that recovery ends on.
    pub timeline: TimelineId,
    /// The last segment that it reads.
    pub last_segment: SegmentName,
    /// Where the WAL ends, at the latest.
    pub end_lsn: Lsn,
    /// What is missing there, if the WAL went on.
    pub interrupted_by: Option<Gap>,
}

/// Reads the state.
///
/// # Errors
/// [`ErrorKind::Absent`] when the repository holds nothing of the cluster, and the store's own.
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
    // After the listing, whose answer says what time it is for the service: otherwise a bucket is asked once more.
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
    // pg_resetwal may have changed the size: no WAL leads across that, and the names mean other positions.
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

/// Whether what a timeline holds in the size of this snapshot comes before what it holds in others.
fn is_first_size(all: &[WalSnapshot], wal: &WalSnapshot, timeline: TimelineId) -> bool {
    let start = |wal: &WalSnapshot| {
        let first = wal.runs().get(&timeline)?.first()?.first;
        first.as_u64().checked_mul(wal.segment_size.as_u64())
    };
    start(wal) == all.iter().filter_map(start).min()
}

/// The segment with which the oldest backup on the first timeline begins, before which no recovery needs WAL of that timeline:
/// the servers that `pg_upgrade` starts by itself leave some behind, with gaps. `None` where a backup that cannot be read may
/// need it.
fn first_needed(
    wal: &WalSnapshot,
    backups: &[StoredBackup],
    damaged: &[DamagedInfo],
) -> Option<SegmentNumber> {
    let on_first = backups.iter().filter(|backup| backup.start.timeline == TimelineId::FIRST);
    let first = on_first.map(|backup| backup.start.lsn.segment(wal.segment_size)).min();
    first.filter(|_| damaged.is_empty())
}

/// The timelines with WAL, each after the one that it came out of. `first_needed`: as the function of that name gives it;
/// `begins`: whether a timeline begins with WAL of this size.
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
        // A tree in rows: behind its parent and the branches of that which came before.
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
    // What its own timeline needs; that other timelines left it later does not matter here.
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

/// From the oldest backup whose WAL goes on without a gap to the end of a timeline, to where that is; `None` when no backup
/// leads to it.
fn window(
    wal: &WalSnapshot,
    timeline: TimelineId,
    backups: &[StoredBackup],
) -> Result<Option<RecoveryWindow>> {
    let path = TimelinePath::find(wal, wal.history_of(timeline), wal.segment_size)?;
    let mut window: Option<(&StoredBackup, PathWal)> = None;
    // From the newest backup backwards, as far as the WAL is whole.
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

/// What is missing on a timeline itself: from its first segment, which its history tells, or the first one that is stored,
/// to the last that is proven to have existed. Where it began with segments of another size, what lies between the two is not
/// known.
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
