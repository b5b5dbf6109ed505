//! What the repository holds of a cluster: backups, the WAL of each timeline with its gaps, and what can be reached.

use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{
    Lsn, MajorVersion, SegmentName, SegmentNumber, SegmentSize, SystemIdentifier, TimelineHistory,
    TimelineId, WalFileName,
};
use crate::repository::backup::Chain;
use crate::repository::backup::inventory;
use crate::repository::backup::manifest::StoredBackup;
use crate::repository::wal::{self, SegmentRun, Timelines};
use crate::repository::{Repository, systems};
use crate::store::Store;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// All that is held of one cluster.
#[derive(Debug, Serialize)]
pub struct ClusterInfo {
    /// The cluster's name.
    pub cluster: String,
    /// Where.
    pub repository: String,
    /// Whether every WAL segment was looked for; else what stands between the first and the last is not known.
    pub every_segment: bool,
    /// Its systems: one, or after `initdb` or `pg_upgrade` more.
    pub systems: Vec<SystemInfo>,
}

/// What is held of one system.
#[derive(Debug, Serialize)]
pub struct SystemInfo {
    /// Its identifier.
    pub system_identifier: SystemIdentifier,
    /// The length of its segments in bytes; `None` when there is neither a backup nor a segment.
    pub segment_bytes: Option<u64>,
    /// The backups, oldest first.
    pub backups: Vec<BackupInfo>,
    /// Why the place of this system cannot be used, so that nothing else is known of it: it is damaged, or a newer pgark made
    /// it.
    pub unusable: Option<Trouble>,
    /// Backups that cannot be used because they are damaged, or because a newer pgark took them.
    pub damaged: Vec<DamagedInfo>,
    /// Labels of backups that are being taken.
    pub running: Vec<String>,
    /// The WAL.
    pub timelines: Vec<TimelineInfo>,
    /// What can be reached on the newest timeline that a backup leads to.
    pub window: Option<RecoveryWindow>,
}

/// One backup.
#[derive(Debug, Serialize)]
pub struct BackupInfo {
    /// Its label.
    pub label: String,
    /// The backup that an incremental one builds on.
    pub parent: Option<String>,
    /// Why an incremental backup cannot be put together.
    pub broken_chain: Option<String>,
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
    /// What is wrong with it.
    #[serde(flatten)]
    pub trouble: Trouble,
}

/// What is wrong with something.
#[derive(Debug, Serialize)]
pub struct Trouble {
    /// In words.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The exit status that it stands for.
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
    /// The timeline that it came out of; `None` for the first, and when its history file is missing.
    pub parent: Option<TimelineId>,
    /// Where it came out of it.
    pub switch_point: Option<Lsn>,
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
    /// What is missing between the first and the last; `None` when it was not looked for.
    pub gaps: Option<Vec<Gap>>,
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
}

/// How closely the WAL is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalSearch {
    /// Every segment, so that what is missing is found: a request to a bucket for each thousand of them.
    EverySegment,
    /// The first and the last of each timeline: a handful of requests, however many there are.
    Ends,
}

/// Looks at `now`.
///
/// # Errors
/// [`ErrorKind::Absent`] when the repository holds nothing of the cluster, and the store's own.
pub fn gather(
    store: &Arc<dyn Store>,
    cluster: &str,
    assumed_version: Option<MajorVersion>,
    search: WalSearch,
    now: Timestamp,
) -> Result<ClusterInfo> {
    let systems = systems(store.as_ref(), cluster)?;
    if systems.is_empty() {
        return Err(Error::absent(format!(
            "the repository \"{}\" holds nothing of cluster \"{cluster}\"",
            store.location()
        ))
        .hint("The first archived file or the first backup makes its place."));
    }
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
    let found = inventory::survey(repository, now)?;
    let backups = found.usable;
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
        window: None,
    };
    let Some(size) = segment_size(repository, &backups, &timelines)? else { return Ok(info) };
    let archive = Archive::read(repository, &timelines, size, search)?;
    info.segment_bytes = Some(size.as_u64());
    info.timelines = archive.timelines();
    info.window = archive.window(&backups)?;
    info.backups =
        backups.iter().map(|backup| archive.backup_info(backup, &backups)).collect::<Result<_>>()?;
    Ok(info)
}

impl SystemInfo {
    /// A place in which nothing was looked at.
    fn unusable(repository: &Repository, error: &Error) -> SystemInfo {
        SystemInfo {
            system_identifier: repository.layout().system(),
            segment_bytes: None,
            backups: Vec::new(),
            unusable: Some(Trouble::of(error)),
            damaged: Vec::new(),
            running: Vec::new(),
            timelines: Vec::new(),
            window: None,
        }
    }

    /// All that cannot be used.
    pub fn troubles(&self) -> impl Iterator<Item = &Trouble> {
        self.unusable.iter().chain(self.damaged.iter().map(|damaged| &damaged.trouble))
    }
}

/// The segment size, as a backup or else any segment says it.
fn segment_size(
    repository: &Repository,
    backups: &[StoredBackup],
    timelines: &Timelines,
) -> Result<Option<SegmentSize>> {
    if let Some(backup) = backups.last() {
        return backup.segment_size().map(Some);
    }
    for &timeline in &timelines.with_files {
        let mut any = None;
        wal::visit_segments(repository, timeline, None, &mut |name, _| {
            any = Some(name);
            ControlFlow::Break(())
        })?;
        if let Some(name) = any {
            return Ok(wal::header_of(repository, name)?.map(|header| header.segment_size));
        }
    }
    Ok(None)
}

/// The WAL of all timelines, as runs.
struct Archive {
    size: SegmentSize,
    search: WalSearch,
    runs: BTreeMap<TimelineId, Vec<SegmentRun>>,
    /// Those of timelines that have any; empty when they were not looked for.
    partials: BTreeMap<TimelineId, Vec<WalFileName>>,
    histories: BTreeMap<TimelineId, TimelineHistory>,
}

impl Archive {
    fn read(
        repository: &Repository,
        timelines: &Timelines,
        size: SegmentSize,
        search: WalSearch,
    ) -> Result<Archive> {
        let mut archive = Archive {
            size,
            search,
            runs: BTreeMap::new(),
            partials: BTreeMap::new(),
            histories: BTreeMap::new(),
        };
        archive.histories.insert(TimelineId::FIRST, TimelineHistory::of_first());
        for &timeline in &timelines.with_history {
            archive.histories.extend(repository.history(timeline)?.map(|history| (timeline, history)));
        }
        for &timeline in &timelines.with_files {
            let runs = match search {
                WalSearch::EverySegment => {
                    let files = wal::timeline_files(repository, timeline, size)?;
                    archive.partials.insert(timeline, files.partials);
                    files.runs
                }
                WalSearch::Ends => wal::segment_ends(repository, timeline)?
                    .and_then(|(first, last)| Some((first.number(size)?, last.number(size)?)))
                    .map(|(first, last)| SegmentRun { first, last, stored_bytes: 0 })
                    .into_iter()
                    .collect(),
            };
            archive.runs.insert(timeline, runs);
        }
        Ok(archive)
    }

    fn timelines(&self) -> Vec<TimelineInfo> {
        self.runs
            .iter()
            .map(|(timeline, runs)| {
                let parent = self.histories.get(timeline).and_then(TimelineHistory::parent);
                let name = |number| SegmentName::new(*timeline, number, self.size);
                let every = self.search == WalSearch::EverySegment;
                let (first, last) = (runs.first().map(|run| run.first), runs.last().map(|run| run.last));
                let span = first.zip(last).map(|(first, last)| last.as_u64() - first.as_u64() + 1);
                TimelineInfo {
                    timeline: *timeline,
                    parent: parent.map(|parent| parent.timeline),
                    switch_point: parent.map(|parent| parent.switch_point),
                    first: first.and_then(name),
                    last: last.and_then(name),
                    span_segments: span.unwrap_or_default(),
                    segments: every.then(|| runs.iter().map(count).sum()),
                    stored_bytes: every.then(|| runs.iter().map(|run| run.stored_bytes).sum()),
                    gaps: every.then(|| gaps(*timeline, runs, self.size)),
                    partials: every.then(|| self.partials.get(timeline).cloned().unwrap_or_default()),
                }
            })
            .collect()
    }

    fn backup_info(&self, backup: &StoredBackup, all: &[StoredBackup]) -> Result<BackupInfo> {
        let last = backup.stop.lsn.previous().unwrap_or(backup.stop.lsn).segment(self.size);
        let first = backup.start.lsn.segment(self.size);
        let timeline = backup.start.timeline;
        let history = self.histories.get(&timeline).cloned();
        let history = history.unwrap_or_else(|| TimelineHistory::without_ancestors(timeline));
        let end = self.readable_end(&history, first);
        let missing = match end {
            Some(end) if end >= last => None,
            Some(end) => SegmentName::new(timeline, end.next(), self.size),
            None => SegmentName::new(timeline, first, self.size),
        };
        Ok(BackupInfo {
            label: backup.label.to_string(),
            parent: backup.parent().map(|link| link.parent.to_string()),
            broken_chain: Chain::of(backup, all).err().map(|error| error.to_string()),
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

    /// From the oldest backup whose WAL goes on without a gap to the end of the newest timeline that the newest backup
    /// leads to.
    fn window(&self, backups: &[StoredBackup]) -> Result<Option<RecoveryWindow>> {
        let Some(newest) = backups.last() else { return Ok(None) };
        // PostgreSQL's "latest": the newest timeline that comes out of the backup's.
        let Some(history) =
            self.histories.values().rev().find(|history| history.contains(newest.stop.timeline))
        else {
            return Ok(None);
        };
        let first = newest.start.lsn.segment(self.size);
        let Some(last) = self.readable_end(history, first) else { return Ok(None) };
        let oldest = backups.iter().filter(|backup| Chain::of(backup, backups).is_ok()).find(|backup| {
            history.contains(backup.start.timeline)
                && history.end_of(backup.start.timeline).is_none_or(|end| backup.stop.lsn <= end)
                && self.readable_end(history, backup.start.lsn.segment(self.size)) == Some(last)
        });
        let name = SegmentName::new(history.timeline_of_segment(last, self.size), last, self.size);
        let (Some(oldest), Some(last_segment), Some(end_lsn)) = (oldest, name, last.next().start(self.size))
        else {
            return Ok(None);
        };
        Ok(Some(RecoveryWindow {
            oldest_backup: oldest.label.to_string(),
            earliest: oldest.stop.time,
            timeline: history.timeline(),
            last_segment,
            end_lsn,
        }))
    }

    /// The last segment that can be read from `first` on along a history, without a gap.
    fn readable_end(&self, history: &TimelineHistory, first: SegmentNumber) -> Option<SegmentNumber> {
        let mut end = None;
        let mut next = first;
        loop {
            let timeline = history.timeline_of_segment(next, self.size);
            // A timeline has a history before it has WAL: it is archived first.
            let runs = self.runs.get(&timeline).map(Vec::as_slice).unwrap_or_default();
            let run = runs.iter().find(|run| run.first <= next && next <= run.last);
            let Some(run) = run else { return end };
            // Where the timeline is left, the next one's copy of the segment is read.
            let left = history.end_of(timeline).map(|end| end.segment(self.size));
            let last = match left {
                Some(left) if left <= run.last => left.previous()?,
                _ => run.last,
            };
            end = Some(last);
            next = last.next();
        }
    }
}

fn count(run: &SegmentRun) -> u64 {
    run.last.as_u64() - run.first.as_u64() + 1
}

fn gaps(timeline: TimelineId, runs: &[SegmentRun], size: SegmentSize) -> Vec<Gap> {
    runs.windows(2)
        .filter_map(|pair| {
            let [before, after] = pair else { return None };
            let (first, last) = (before.last.next(), after.first.previous()?);
            Some(Gap {
                first: SegmentName::new(timeline, first, size)?,
                last: SegmentName::new(timeline, last, size)?,
                segments: last.as_u64() - first.as_u64() + 1,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_without_wal_ends_nothing_before_it() {
        let second = TimelineId::new(2).unwrap();
        let history =
            TimelineHistory::parse(second, b"1\t0/5000100\tno recovery target specified\n").unwrap();
        let run = |first, last| SegmentRun {
            first: SegmentNumber::new(first),
            last: SegmentNumber::new(last),
            stored_bytes: 1,
        };
        let end = |runs: &[(TimelineId, SegmentRun)]| {
            let mut archive = Archive {
                size: SegmentSize::DEFAULT,
                search: WalSearch::EverySegment,
                runs: BTreeMap::new(),
                partials: BTreeMap::new(),
                histories: BTreeMap::from([(second, history.clone())]),
            };
            archive.runs.extend(runs.iter().map(|(timeline, run)| (*timeline, vec![*run])));
            archive.readable_end(&history, SegmentNumber::new(2)).map(SegmentNumber::as_u64)
        };
        assert_eq!(end(&[]), None);
        assert_eq!(end(&[(TimelineId::FIRST, run(1, 5))]), Some(4), "the switch is in segment 5");
        assert_eq!(end(&[(TimelineId::FIRST, run(1, 4))]), Some(4));
        assert_eq!(end(&[(TimelineId::FIRST, run(1, 4)), (second, run(5, 7))]), Some(7));
    }
}
