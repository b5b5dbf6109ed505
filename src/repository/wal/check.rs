//! Checks that a file is what its name says.

use crate::error::{Context, Error, ErrorKind, Result};
use crate::postgres::value::timeline::HISTORY_BYTES_MAX;
use crate::postgres::wal::header::LongPageHeader;
use crate::postgres::{
    MajorVersion, SegmentName, SegmentSize, SystemIdentifier, TimelineHistory, TimelineId, WalFileName,
};
use crate::repository::Repository;

/// The length of the longest file of each form, in bytes. An object that decodes to more is damaged.
pub fn length_max(name: WalFileName) -> u64 {
    match name {
        // The largest segment size.
        WalFileName::Segment(_) | WalFileName::Partial(_) | WalFileName::FurtherPartial(..) => 1 << 30,
        WalFileName::History(_) => HISTORY_BYTES_MAX as u64,
        WalFileName::BackupHistory(..) => 64 << 10,
    }
}

/// Looks up the history of a timeline.
pub type HistoryLookup<'a> = &'a dyn Fn(TimelineId) -> Result<Option<TimelineHistory>>;

/// What a WAL file must be.
#[derive(Clone, Copy, Debug)]
pub struct WalExpectation {
    /// Its name.
    pub name: WalFileName,
    /// Its system.
    pub system: SystemIdentifier,
    /// The system's segment size, if it is known; otherwise that in the file applies.
    pub segment_size: Option<SegmentSize>,
    /// The version that is assumed for an unknown one.
    pub assumed_version: Option<MajorVersion>,
    /// The version of the system's servers, if it is known.
    pub version: Option<MajorVersion>,
}

impl WalExpectation {
    /// The expectation for the file of this name in a repository.
    pub fn of(
        repository: &Repository,
        name: WalFileName,
        segment_size: Option<SegmentSize>,
    ) -> WalExpectation {
        WalExpectation {
            name,
            system: repository.layout().system(),
            segment_size,
            assumed_version: repository.assumed_version(),
            version: repository.version(),
        }
    }

    /// Checks a file by its length and its first bytes: at least its first page, or all of a small file.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`], [`ErrorKind::Foreign`]; those of `history`.
    pub fn check(&self, start: &[u8], length_bytes: u64, history: HistoryLookup<'_>) -> Result<()> {
        if length_bytes == 0 {
            return Err(Error::damaged("the file is empty"));
        }
        match self.name {
            WalFileName::Segment(segment)
            | WalFileName::Partial(segment)
            | WalFileName::FurtherPartial(segment, _) => {
                self.check_segment(segment, start, length_bytes, history)
            }
            WalFileName::History(timeline) => TimelineHistory::parse(timeline, start).map(drop),
            WalFileName::BackupHistory(segment, _) => check_backup_history(segment, start),
        }
    }

    fn check_segment(
        &self,
        name: SegmentName,
        start: &[u8],
        length_bytes: u64,
        history: HistoryLookup<'_>,
    ) -> Result<()> {
        let header = LongPageHeader::parse(start, self.assumed_version)
            .context(|| "the file does not start with the header of a WAL segment")?;
        if header.system != self.system {
            return Err(Error::new(
                ErrorKind::Foreign,
                format!(
                    "the file has the system identifier {}, but this cluster has {}",
                    header.system, self.system
                ),
            )
            .hint("Check whether it was copied from another cluster."));
        }
        if let Some(version) = self.version.filter(|version| *version != header.page.version) {
            return Err(Error::new(
                ErrorKind::Foreign,
                format!("the file is WAL of PostgreSQL {}, but this cluster is of {version}", header.page.version),
            )
            .hint("It has this cluster's system identifier. Check whether another installation left it in pg_wal."));
        }
        let size = self.segment_size.unwrap_or(header.segment_size);
        if header.segment_size != size || length_bytes != size.as_u64() {
            return Err(Error::damaged(format!(
                "the file has {length_bytes} bytes and a segment size of {} in its header; {} is expected",
                header.segment_size.as_u64(),
                size.as_u64()
            )));
        }
        let expected = name.number(size).and_then(|number| number.start(size)).ok_or_else(|| {
            Error::damaged(format!("there is no segment {name} with {} bytes a segment", size.as_u64()))
        })?;
        if header.page.address != expected {
            return Err(Error::damaged(format!(
                "the file contains WAL from {} on, but its name stands for {expected}",
                header.page.address
            ))
            .hint("The file has another segment's name. PostgreSQL never creates such a file."));
        }
        let (timeline, in_page) = (name.timeline(), header.page.timeline);
        if in_page == timeline {
            return Ok(());
        }
        // A timeline's first segment is a copy of its parent's up to the switch point, so its first page is older than
        // the timeline.
        let history = history(timeline)?;
        if history.is_none() {
            return Err(Error::damaged(format!(
                "the file starts on timeline {in_page}, which cannot be verified without {} for timeline {timeline}",
                WalFileName::History(timeline)
            ))
            .hint("Archive that history file first. In the server's data directory, run archive-push with pg_wal/ and its name."));
        }
        if history.is_some_and(|history| {
            history.timeline_at(expected) == in_page
                && history.timeline_of_segment(expected.segment(size), size) == timeline
        }) {
            return Ok(());
        }
        Err(Error::damaged(format!(
            "the file contains WAL of timeline {in_page}, but its name stands for {timeline}"
        )))
    }
}

fn check_backup_history(name: SegmentName, content: &[u8]) -> Result<()> {
    // Only people read these files, and an unusual one must not stop archiving. It only has to belong to this segment.
    let text = String::from_utf8_lossy(content);
    let first = text.lines().next().unwrap_or_default();
    if first.starts_with("START WAL LOCATION: ") && first.ends_with(&format!("(file {name})")) {
        return Ok(());
    }
    Err(Error::damaged(format!(
        "the backup history file does not begin with the start of a backup in {name}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wal_of_another_major_version_is_foreign() {
        let mut start = vec![0_u8; 8192];
        start[0..4].copy_from_slice(&[0x10, 0xD1, 0x02, 0x00]); // PostgreSQL 15
        start[4..8].copy_from_slice(&1_u32.to_le_bytes());
        start[8..16].copy_from_slice(&(3_u64 << 20).to_le_bytes());
        start[24..32].copy_from_slice(&7_u64.to_le_bytes());
        start[32..36].copy_from_slice(&(1_u32 << 20).to_le_bytes());
        start[36..40].copy_from_slice(&8192_u32.to_le_bytes());
        for (version, kind) in [
            (None, None),
            (Some(MajorVersion::V15), None),
            (Some(MajorVersion::V14), Some(ErrorKind::Foreign)),
            (Some(MajorVersion::V16), Some(ErrorKind::Foreign)),
        ] {
            let expectation = WalExpectation {
                name: "000000010000000000000003".parse().unwrap(),
                system: SystemIdentifier::new(7).unwrap(),
                segment_size: None,
                assumed_version: None,
                version,
            };
            let checked = expectation.check(&start, 1 << 20, &|_| Ok(None));
            assert_eq!(checked.err().map(|error| error.kind()), kind, "{version:?}");
        }
    }
}
