//! Which timeline PostgreSQL considers the latest.

use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{TargetTimeline, TimelineId, WalFileName};

/// The timeline that `wanted` means for a backup on the timeline `backup`, given the timelines with an archived history
/// (in order).
///
/// `latest` is what the server makes of it: the newest timeline reached by counting up from the backup's.
///
/// # Errors
/// [`ErrorKind::Hole`] for `latest` if the counting stops at a missing history file and later ones exist: the server
/// would stop there too, silently. [`ErrorKind::Absent`] for a timeline without a history file. Source: PostgreSQL
/// `access/transam/timeline.c`, `findNewestTimeLine`.
pub fn resolve(wanted: TargetTimeline, backup: TimelineId, histories: &[TimelineId]) -> Result<TimelineId> {
    let newest = histories.last().copied().unwrap_or(TimelineId::FIRST);
    match wanted {
        TargetTimeline::Current => Ok(backup),
        TargetTimeline::Id(timeline) if timeline == TimelineId::FIRST || histories.contains(&timeline) => {
            Ok(timeline)
        }
        TargetTimeline::Id(timeline) => Err(Error::absent(format!(
            "timeline {timeline} is not in the repository: there is no {}",
            WalFileName::History(timeline)
        ))
        .hint(format!("The newest timeline there is {newest}."))),
        TargetTimeline::Latest => {
            let mut reached = backup;
            while let Some(next) = TimelineId::new(reached.as_u32().saturating_add(1))
                && next > reached
                && histories.contains(&next)
            {
                reached = next;
            }
            match histories.iter().find(|timeline| **timeline > reached) {
                None => Ok(reached),
                Some(later) => Err(missing_history(reached, *later)),
            }
        }
    }
}

/// The error for a timeline that exists, by its history or its WAL, and is not reached by counting.
pub fn missing_history(reached: TimelineId, later: TimelineId) -> Error {
    let missing = TimelineId::new(reached.as_u32().saturating_add(1)).unwrap_or(later);
    Error::new(
        ErrorKind::Hole,
        format!(
            "{} is missing from the repository, but timeline {later} is stored",
            WalFileName::History(missing)
        ),
    )
    .hint(format!(
        "The latest timeline cannot be determined. Archive the missing file from the pg_wal of the server that has it, or name \
         the timeline: --target-timeline {reached} or --target-timeline {later}."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn timelines(numbers: &[u32]) -> Vec<TimelineId> {
        numbers.iter().copied().map(timeline).collect()
    }

    #[test]
    fn latest_counts_up_from_the_backup() {
        let latest = |backup, histories: &[u32]| {
            resolve(TargetTimeline::Latest, timeline(backup), &timelines(histories)).map(TimelineId::as_u32)
        };
        assert_eq!(latest(1, &[]).unwrap(), 1);
        assert_eq!(latest(1, &[2, 3]).unwrap(), 3);
        assert_eq!(latest(3, &[3]).unwrap(), 3, "older histories are of no interest");
        assert_eq!(latest(9, &[2, 9, 10, 11]).unwrap(), 11, "numbers, not digits");
        let error = latest(1, &[3]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Hole);
        assert_eq!(
            error.to_string(),
            "00000002.history is missing from the repository, but timeline 3 is stored"
        );
        assert!(error.hint_text().unwrap().contains("--target-timeline 1 or --target-timeline 3"));
    }

    #[test]
    fn a_named_timeline_must_be_there() {
        let named = |number| resolve(TargetTimeline::Id(timeline(number)), timeline(1), &timelines(&[3]));
        assert_eq!(named(1).unwrap(), timeline(1));
        assert_eq!(named(3).unwrap(), timeline(3), "a hole below it does not matter");
        assert_eq!(named(2).unwrap_err().kind(), ErrorKind::Absent);
        assert_eq!(resolve(TargetTimeline::Current, timeline(2), &[]).unwrap(), timeline(2));
    }
}
