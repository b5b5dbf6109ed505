//! Plans over synthetic archives.
//!
//! The clock of these archives: the record at `n << 16` was written in second `n` of 2026, so a segment of 1
//! MiB covers sixteen seconds.

use crate::error::{ErrorKind, Result};
use crate::postgres::cluster::control_file::ServerLimits;
use crate::postgres::{
    Lsn, PgTimestamp, RecoveryTarget, SegmentName, SegmentNumber, SegmentSize, TargetAction, TargetBound,
    TargetTimeline, TimelineHistory, TimelineId, Xid,
};
use crate::recover::target::choice::BackupCandidate;
use crate::recover::target::{Consent, ForkRule, Goal, TargetPlan, TargetRequest, plan_target};
use crate::repository::wal::{
    Archive, PathWal, Timelines, TransactionOutcome, WalCatalog, WalEvent, WalMark,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

/// Segments of 1 MiB, sixteen seconds each.
fn size() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

const SECOND_BYTES: u64 = 1 << 16;
const RECORD_BYTES: u64 = 64;

/// The position of what was written in this second.
fn lsn(second: u64) -> Lsn {
    Lsn::new(second * SECOND_BYTES).unwrap()
}

fn time(second: u64) -> jiff::Timestamp {
    let start: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    start + jiff::SignedDuration::from_secs(i64::try_from(second).unwrap())
}

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

/// What is archived: whole segments, and a commit in each of these seconds (transaction 1000 and the second), except on
/// quiet segments.
#[derive(Default)]
struct MadeUp {
    histories: BTreeMap<u32, &'static str>,
    segments: Vec<(u32, std::ops::RangeInclusive<u64>)>,
    restore_points: Vec<(u64, &'static str)>,
    quiet_seconds: std::ops::Range<u64>,
    /// From this second on, on this timeline and later ones, the clock shows so many seconds more (or fewer).
    clock_steps: Vec<(u32, u64, i64)>,
    /// Records of a server that was started with other settings: when, `max_connections`, and whether with
    /// `wal_level = minimal`.
    restarts: Vec<(u64, u32, bool)>,
}

impl MadeUp {
    fn holds(&self, name: SegmentName) -> bool {
        let number = name.number(size()).unwrap().as_u64();
        self.segments
            .iter()
            .any(|(on, numbers)| timeline(*on) == name.timeline() && numbers.contains(&number))
    }

    fn mark(&self, on: TimelineId, second: u64) -> WalMark {
        let (start, end) = (lsn(second), lsn(second).checked_add(RECORD_BYTES).unwrap());
        let steps = self.clock_steps.iter().filter(|(from, at, _)| on >= timeline(*from) && second >= *at);
        let step: i64 = steps.map(|(_, _, seconds)| seconds).sum();
        let moment = PgTimestamp::from_jiff(time(second) + jiff::SignedDuration::from_secs(step));
        let event = if let Some((_, max_connections, is_minimal)) =
            self.restarts.iter().find(|(at, ..)| *at == second)
        {
            let limits = ServerLimits {
                max_connections: *max_connections,
                max_worker_processes: 8,
                max_wal_senders: 10,
                max_prepared_transactions: 0,
                max_locks_per_transaction: 64,
            };
            WalEvent::ParameterChange { limits, is_minimal: *is_minimal }
        } else if let Some((_, name)) = self.restore_points.iter().find(|(at, _)| *at == second) {
            WalEvent::RestorePoint { name: Some(name.parse().unwrap()), time: moment }
        } else if self.quiet_seconds.contains(&second) {
            WalEvent::Other
        } else {
            let xid = Xid::new(1000 + u32::try_from(second).unwrap());
            WalEvent::TransactionEnd {
                xid,
                time: moment,
                outcome: TransactionOutcome::Commit,
                holds_wanted: false,
            }
        };
        WalMark { start, end, event }
    }
}

impl WalCatalog for MadeUp {
    fn timelines(&self) -> Result<Timelines> {
        let mut with_files: Vec<_> = self.segments.iter().map(|(on, _)| timeline(*on)).collect();
        with_files.sort_unstable();
        Ok(Timelines { with_files, with_history: self.histories.keys().copied().map(timeline).collect() })
    }

    fn history(&self, wanted: TimelineId) -> Result<Option<TimelineHistory>> {
        self.histories
            .get(&wanted.as_u32())
            .map(|text| TimelineHistory::parse(wanted, text.as_bytes()))
            .transpose()
    }

    fn visit_segments(
        &self,
        from: SegmentName,
        visit: &mut dyn FnMut(SegmentNumber) -> ControlFlow<()>,
    ) -> Result<()> {
        for number in from.number(size()).unwrap().as_u64()..200 {
            let number = SegmentNumber::new(number);
            let held = self.holds(SegmentName::new(from.timeline(), number, size()).unwrap());
            if held && visit(number).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Archive for MadeUp {
    fn visit_records(
        &self,
        wal: &PathWal,
        first: SegmentNumber,
        last: SegmentNumber,
        visit: &mut dyn FnMut(&WalMark) -> ControlFlow<()>,
    ) -> Result<Option<Lsn>> {
        let mut end = None;
        for number in first.as_u64()..=last.as_u64() {
            let name = wal.name_of(SegmentNumber::new(number)).unwrap();
            if !self.holds(name) {
                break;
            }
            for second in number * 16..(number + 1) * 16 {
                let mark = self.mark(name.timeline(), second);
                end = Some(mark.end);
                if visit(&mark).is_break() {
                    return Ok(end);
                }
            }
        }
        Ok(end)
    }

    fn read_bytes(&self) -> u64 {
        0
    }
}

/// A backup that began and ended in these seconds.
fn backup(label: &str, on: u32, start: u64, stop: u64) -> BackupCandidate {
    BackupCandidate {
        label: label.to_owned(),
        timeline: timeline(on),
        start_point: lsn(start),
        stop_point: lsn(stop),
        stop_time: time(stop),
    }
}

fn request(goal: Goal) -> TargetRequest {
    TargetRequest {
        goal,
        timeline: TargetTimeline::Latest,
        action: None,
        backup: None,
        consent: Consent::ProvenOnly,
        command: "pgark recover".to_owned(),
        epoch: None,
        prove_bytes: u64::MAX,
        forks: ForkRule::Refuse(Duration::from_secs(60)),
    }
}

fn to(target: RecoveryTarget) -> TargetRequest {
    request(Goal::Target(target, TargetBound::Inclusive))
}

fn just_before(target: RecoveryTarget) -> TargetRequest {
    request(Goal::Target(target, TargetBound::Exclusive))
}

/// One timeline from second 16 to second 159, two backups.
fn one_timeline() -> (MadeUp, Vec<BackupCandidate>) {
    let archive = MadeUp { segments: vec![(1, 1..=9)], ..MadeUp::default() };
    (archive, vec![backup("a", 1, 20, 30), backup("b", 1, 60, 70)])
}

/// A failover: timeline 2 left timeline 1 at second 85, in segment 5, at whose end timeline 1 ended; its clock is 20 seconds
/// ahead, so that all of it was later.
fn two_timelines() -> (MadeUp, Vec<BackupCandidate>) {
    let archive = MadeUp {
        histories: BTreeMap::from([(2, "1 0/550000 before\n")]),
        segments: vec![(1, 1..=5), (2, 5..=9)],
        clock_steps: vec![(2, 85, 20)],
        ..MadeUp::default()
    };
    let mut third = backup("c", 2, 120, 130);
    third.stop_time = time(150);
    (archive, vec![backup("a", 1, 20, 30), third])
}

/// Both timelines went on after second 85, and each has a backup of its own.
fn two_living_timelines() -> (MadeUp, Vec<BackupCandidate>) {
    let archive = MadeUp {
        histories: BTreeMap::from([(2, "1 0/550000 before\n")]),
        segments: vec![(1, 1..=9), (2, 5..=9)],
        ..MadeUp::default()
    };
    (archive, vec![backup("a", 1, 20, 30), backup("b", 1, 100, 110), backup("c", 2, 120, 130)])
}

fn plan(world: &(MadeUp, Vec<BackupCandidate>), request: &TargetRequest) -> Result<TargetPlan> {
    plan_target(request, &world.1, size(), &world.0)
}

/// The error's kind and what is printed of it.
fn refusal(world: &(MadeUp, Vec<BackupCandidate>), request: &TargetRequest) -> (ErrorKind, String) {
    let error = plan(world, request).unwrap_err();
    (error.kind(), error.report())
}

fn last_xid(plan: &TargetPlan) -> u32 {
    plan.expected.last_transaction.unwrap().xid.as_u32()
}

#[test]
fn latest_ends_with_the_last_record() {
    let world = one_timeline();
    let plan = plan(&world, &to(RecoveryTarget::Latest)).unwrap();
    assert_eq!(plan.backup, "b");
    assert_eq!(last_xid(&plan), 1159);
    assert_eq!(plan.expected.end, lsn(159).checked_add(RECORD_BYTES));
    assert_eq!(plan.settings.action, TargetAction::Promote);
    assert_eq!(plan.first_segment.to_string(), "000000010000000000000003");
    assert_eq!((plan.last_segment.to_string().as_str(), plan.segments), ("000000010000000000000009", 7));
}

#[test]
fn a_time_ends_before_the_first_transaction_after_it() {
    let world = one_timeline();
    for second in 71..158 {
        let found = plan(&world, &to(RecoveryTarget::Time(time(second)))).unwrap();
        assert_eq!((found.backup.as_str(), last_xid(&found)), ("b", 1000 + second as u32));
        assert_eq!(found.expected.end, Some(lsn(second + 1)));
        assert_eq!(found.settings.action, TargetAction::Pause);
    }
    let found = plan(&world, &just_before(RecoveryTarget::Time(time(100)))).unwrap();
    assert_eq!((last_xid(&found), found.expected.end), (1099, Some(lsn(100))));
}

#[test]
fn a_time_is_found_among_segments_without_transactions() {
    let mut world = one_timeline();
    world.0.quiet_seconds = 75..120;
    for second in 75..120 {
        let found = plan(&world, &to(RecoveryTarget::Time(time(second)))).unwrap();
        assert_eq!((last_xid(&found), found.expected.end), (1074, Some(lsn(120))), "{second}");
    }
    world.0.quiet_seconds = 70..200;
    let (kind, report) = refusal(&world, &to(RecoveryTarget::Time(time(80))));
    assert_eq!(kind, ErrorKind::Absent);
    assert!(report.contains("no transaction ended after the backup"), "{report}");
}

#[test]
fn the_backup_is_chosen_by_where_it_ended() {
    let world = one_timeline();
    let chosen = |second| plan(&world, &to(RecoveryTarget::Time(time(second)))).unwrap().backup;
    assert_eq!((chosen(65).as_str(), chosen(70).as_str()), ("a", "b"), "65 lies within the second backup");
    let chosen = |second| plan(&world, &to(RecoveryTarget::Lsn(lsn(second)))).unwrap().backup;
    assert_eq!((chosen(69).as_str(), chosen(70).as_str()), ("a", "b"));
    let mut named = to(RecoveryTarget::Time(time(100)));
    named.backup = Some("a".to_owned());
    assert_eq!(plan(&world, &named).unwrap().backup, "a");
    named.backup = Some("z".to_owned());
    assert_eq!(refusal(&world, &named).0, ErrorKind::Absent);
}

#[test]
fn a_target_before_the_first_backup_ended_is_refused() {
    let world = one_timeline();
    let (kind, report) = refusal(&world, &to(RecoveryTarget::Time(time(25))));
    assert_eq!(kind, ErrorKind::Absent);
    assert_eq!(
        report,
        "no backup ended before 2026-01-01 00:00:25.000000+00\n\
         HINT: The oldest backup that leads to timeline 1, a, ended at 2026-01-01 00:00:30.000000+00 (LSN 0/1E0000): no earlier \
         point can be recovered."
    );
    assert_eq!(refusal(&world, &to(RecoveryTarget::Lsn(lsn(29)))).0, ErrorKind::Absent);
    let mut named = to(RecoveryTarget::Lsn(lsn(60)));
    named.backup = Some("b".to_owned());
    assert_eq!(refusal(&world, &named).0, ErrorKind::Usage, "an older backup would do");
    assert_eq!(refusal(&(MadeUp::default(), vec![]), &named).0, ErrorKind::Absent);
}

#[test]
fn a_backup_with_later_transactions_in_it_is_not_for_a_time_before_them() {
    let mut world = one_timeline();
    // Its server's clock was set back while it was taken.
    world.1[1].stop_time = time(50);
    assert_eq!(plan(&world, &to(RecoveryTarget::Time(time(55)))).unwrap().backup, "a");
}

#[test]
fn a_time_after_the_last_transaction_is_never_reached() {
    let world = one_timeline();
    let (kind, report) = refusal(&world, &to(RecoveryTarget::Time(time(159))));
    assert_eq!(kind, ErrorKind::Absent);
    assert_eq!(
        report,
        "the archived WAL does not reach 2026-01-01 00:02:39.000000+00: the last transaction in it, 1159, ended at \
         2026-01-01 00:02:39.000000+00 (LSN 0/9F0000); the WAL ends at 0/9F0040\n\
         HINT: PostgreSQL would not reach this target. To recover all transactions up to that time: pgark recover \
         --latest-before '2026-01-01 00:02:39.000000+00'"
    );
    assert!(plan(&world, &just_before(RecoveryTarget::Time(time(159)))).is_ok(), "159 itself is met");
    let mut accepted = to(RecoveryTarget::Time(time(500)));
    accepted.consent = Consent::AcceptUnproven;
    assert!(plan(&world, &accepted).unwrap().expected.unproven.is_some());
}

#[test]
fn latest_before_becomes_the_position_of_a_transaction() {
    let world = one_timeline();
    let found = plan(&world, &request(Goal::LatestBefore(time(5000)))).unwrap();
    assert_eq!(found.settings.target, RecoveryTarget::Lsn(lsn(159)));
    assert_eq!(last_xid(&found), 1159);
    let found = plan(&world, &request(Goal::LatestBefore(time(100)))).unwrap();
    assert_eq!((found.settings.target.clone(), last_xid(&found)), (RecoveryTarget::Lsn(lsn(100)), 1100));
    assert_eq!(found.expected.first_lost.unwrap().xid, Xid::new(1101));
}

#[test]
fn a_position_needs_a_record_at_or_after_it() {
    let world = one_timeline();
    let between = Lsn::new(lsn(100).as_u64() + 1).unwrap();
    let found = plan(&world, &to(RecoveryTarget::Lsn(between))).unwrap();
    assert_eq!(found.expected.end, lsn(101).checked_add(RECORD_BYTES), "the next record is the last one");
    let found = plan(&world, &just_before(RecoveryTarget::Lsn(between))).unwrap();
    assert_eq!(found.expected.end, Some(lsn(101)));
    assert_eq!(found.last_segment.to_string(), "000000010000000000000006");
    let (kind, report) = refusal(&world, &to(RecoveryTarget::Lsn(lsn(160))));
    assert_eq!(kind, ErrorKind::Absent);
    assert!(report.ends_with("HINT: To recover to the end of the WAL: pgark recover --latest"), "{report}");
}

#[test]
fn transactions_and_restore_points_are_found_by_reading() {
    let mut world = one_timeline();
    world.0.restore_points = vec![(90, "before upgrade"), (62, "within b"), (25, "within a")];
    let named = |name: &str| to(RecoveryTarget::Name(name.parse().unwrap()));
    let found = plan(&world, &named("before upgrade")).unwrap();
    assert_eq!((found.backup.as_str(), found.expected.end), ("b", lsn(90).checked_add(RECORD_BYTES)));
    assert_eq!(plan(&world, &named("within b")).unwrap().backup, "a");
    let (kind, report) = refusal(&world, &named("within a"));
    assert_eq!(kind, ErrorKind::Absent);
    assert!(report.starts_with("no backup ended before restore point \"within a\"\n"), "{report}");
    let (kind, report) = refusal(&world, &named("typo"));
    assert_eq!(kind, ErrorKind::Absent);
    assert!(
        report.starts_with("restore point \"typo\" is not in the archived WAL of timeline 1\n"),
        "{report}"
    );

    let xid = |number| RecoveryTarget::Xid(Xid::new(number));
    let found = plan(&world, &to(xid(1100))).unwrap();
    assert_eq!((last_xid(&found), found.expected.end), (1100, lsn(100).checked_add(RECORD_BYTES)));
    let found = plan(&world, &just_before(xid(1100))).unwrap();
    assert_eq!(
        (found.expected.end, found.expected.first_lost.unwrap().xid),
        (Some(lsn(100)), Xid::new(1100))
    );
    assert_eq!(plan(&world, &to(xid(1040))).unwrap().backup, "a");
    assert_eq!(refusal(&world, &to(xid(7))).0, ErrorKind::Absent);
}

/// A note on other restore points must not stand in the way of a target that is proven.
#[test]
fn a_restore_point_is_reached_although_an_older_backup_lacks_its_wal() {
    let mut world = one_timeline();
    world.0.restore_points = vec![(90, "release"), (100, "release")];
    world.0.segments = vec![(1, 3..=9)];
    let found = plan(&world, &to(RecoveryTarget::Name("release".parse().unwrap()))).unwrap();
    assert_eq!((found.backup.as_str(), found.expected.end), ("b", lsn(90).checked_add(RECORD_BYTES)));
    assert_eq!(found.warnings.len(), 1, "{:?}", found.warnings);
}

/// It was said not to be in the WAL when the backup that was taken meanwhile had begun segments before.
#[test]
fn a_transaction_that_ended_during_a_long_backup_is_reached_from_the_one_before() {
    let mut world = one_timeline();
    world.1[1] = backup("b", 1, 60, 110);
    world.0.restore_points = vec![(99, "within b")];
    let xid = |number| to(RecoveryTarget::Xid(Xid::new(number)));
    let found = plan(&world, &xid(1100)).unwrap();
    assert_eq!((found.backup.as_str(), last_xid(&found)), ("a", 1100));
    assert_eq!(found.expected.end, lsn(100).checked_add(RECORD_BYTES));
    assert_eq!(plan(&world, &to(RecoveryTarget::Name("within b".parse().unwrap()))).unwrap().backup, "a");
    assert_eq!(plan(&world, &xid(1120)).unwrap().backup, "b");
    // Without the WAL between, the older backup does not lead there.
    world.0.segments = vec![(1, 1..=2), (1, 4..=9)];
    world.1[1] = backup("b", 1, 64, 110);
    assert!(plan(&world, &xid(1100)).is_err());
}

#[test]
fn a_gap_is_named_with_what_can_be_reached() {
    let mut world = one_timeline();
    world.0.segments = vec![(1, 1..=6), (1, 8..=9)];
    for request in [
        to(RecoveryTarget::Latest),
        to(RecoveryTarget::Time(time(130))),
        to(RecoveryTarget::Lsn(lsn(130))),
        to(RecoveryTarget::Xid(Xid::new(1130))),
        request(Goal::LatestBefore(time(130))),
    ] {
        let (kind, report) = refusal(&world, &request);
        assert_eq!(kind, ErrorKind::Hole);
        assert!(report.contains("WAL segment 000000010000000000000007 is missing"), "{report}");
        assert!(report.ends_with("To recover that far: pgark recover --target-lsn 0/6F0000"), "{report}");
    }
    assert!(plan(&world, &to(RecoveryTarget::Lsn(lsn(111)))).is_ok(), "what the error promised");
    assert!(plan(&world, &to(RecoveryTarget::Time(time(100)))).is_ok());
    world.0.segments = vec![(1, 1..=3), (1, 5..=9)];
    let (kind, report) = refusal(&world, &to(RecoveryTarget::Latest));
    assert_eq!(kind, ErrorKind::Hole, "the backup itself needs it");
    assert!(report.contains("backup b needs it"), "{report}");
}

#[test]
fn the_latest_timeline_is_followed() {
    let world = two_timelines();
    let found = plan(&world, &to(RecoveryTarget::Latest)).unwrap();
    assert_eq!((found.backup.as_str(), found.history.timeline()), ("c", timeline(2)));
    assert_eq!(found.settings.timeline, TargetTimeline::Id(timeline(2)));
    // Before, at and after the switch at second 85.
    for (clock, second, segment) in [
        (79, 79, "000000020000000000000005"),
        (84, 84, "000000020000000000000005"),
        (105, 85, "000000020000000000000005"),
        (120, 100, "000000020000000000000006"),
    ] {
        let found = plan(&world, &to(RecoveryTarget::Time(time(clock)))).unwrap();
        assert_eq!((found.backup.as_str(), last_xid(&found)), ("a", 1000 + second), "{second}");
        assert_eq!(found.last_segment.to_string(), segment, "{second}");
        assert_eq!(found.first_segment.to_string(), "000000010000000000000001");
    }
}

#[test]
fn the_old_timeline_can_be_wanted() {
    let world = two_living_timelines();
    let mut old = to(RecoveryTarget::Time(time(150)));
    old.timeline = TargetTimeline::Id(timeline(1));
    let found = plan(&world, &old).unwrap();
    assert_eq!((found.backup.as_str(), found.last_segment.timeline()), ("b", timeline(1)));
    old.timeline = TargetTimeline::Id(timeline(7));
    assert_eq!(refusal(&world, &old).0, ErrorKind::Absent);
    let mut current = to(RecoveryTarget::Latest);
    current.timeline = TargetTimeline::Current;
    current.backup = Some("b".to_owned());
    assert_eq!(plan(&world, &current).unwrap().history.timeline(), timeline(1));
    let mut after_the_fork = to(RecoveryTarget::Latest);
    after_the_fork.backup = Some("b".to_owned());
    assert_eq!(
        plan(&world, &after_the_fork).unwrap().history.timeline(),
        timeline(1),
        "it leads nowhere else"
    );
    after_the_fork.timeline = TargetTimeline::Id(timeline(2));
    let (kind, report) = refusal(&world, &after_the_fork);
    assert_eq!(kind, ErrorKind::Absent);
    assert!(report.starts_with("no backup leads to timeline 2\n"), "{report}");
    assert!(report.ends_with("A backup leads to: --target-timeline 1."), "{report}");
}

#[test]
fn what_a_failover_has_lost_is_told() {
    let world = two_timelines();
    let found = plan(&world, &to(RecoveryTarget::Latest)).unwrap();
    let note = "timeline 1 continued after the switch at 0/550000: 11 transactions until 2026-01-01 00:01:35.000000+00 are \
                not on the path to timeline 2";
    assert_eq!(found.warnings, [note]);
    // A time that was lived there, before the first transaction on timeline 2.
    let found = plan(&world, &to(RecoveryTarget::Time(time(90)))).unwrap();
    assert_eq!((last_xid(&found), found.warnings.len()), (1084, 1));
    assert!(
        found.warnings[0].ends_with("was also reached there: --target-timeline 1"),
        "{:?}",
        found.warnings
    );
}

#[test]
fn nobody_but_the_operator_knows_which_of_two_living_timelines_is_meant() {
    let refuses = |world: &(MadeUp, Vec<BackupCandidate>), request: &TargetRequest| {
        let (kind, report) = refusal(world, request);
        assert_eq!(kind, ErrorKind::Conflict, "{report}");
        assert!(report.contains("--target-timeline 2") && report.contains("--target-timeline 1"), "{report}");
    };
    let mut world = two_living_timelines();
    for request in [
        to(RecoveryTarget::Latest),
        to(RecoveryTarget::Time(time(120))),
        request(Goal::LatestBefore(time(500))),
    ] {
        refuses(&world, &request);
    }
    // Whichever has the newest backup; and where only the times show it.
    world.1 = vec![backup("a", 1, 20, 30), backup("b", 1, 140, 150)];
    refuses(&world, &to(RecoveryTarget::Latest));
    world.1 = vec![backup("a", 1, 20, 30), backup("c", 2, 140, 150)];
    refuses(&world, &to(RecoveryTarget::Latest));
    let mut patient = to(RecoveryTarget::Latest);
    patient.forks = ForkRule::Refuse(Duration::from_secs(3600));
    assert_eq!(plan(&world, &patient).unwrap().history.timeline(), timeline(2));
    patient.forks = ForkRule::FollowPrimary;
    assert_eq!(plan(&world, &patient).unwrap().history.timeline(), timeline(2));
}

/// A copy that was recovered and forgotten archives on timeline 2, and wrote nothing that anybody misses.
#[test]
fn the_newest_backup_decides_and_no_fork_is_taken_before_it() {
    let mut world = two_living_timelines();
    world.0.segments = vec![(1, 1..=9), (2, 5..=5)];
    world.0.clock_steps = vec![(2, 85, -60)];
    world.1.truncate(2);
    let found = plan(&world, &to(RecoveryTarget::Latest)).unwrap();
    assert_eq!((found.backup.as_str(), found.history.timeline()), ("b", timeline(1)));
    let found = plan(&world, &to(RecoveryTarget::Time(time(130)))).unwrap();
    assert_eq!((last_xid(&found), found.history.timeline()), (1130, timeline(1)));
}

#[test]
fn a_time_that_only_another_timeline_reaches_is_proposed_there() {
    let mut world = two_living_timelines();
    world.0.segments = vec![(1, 1..=9), (2, 5..=5)];
    world.1.truncate(2);
    let mut second = to(RecoveryTarget::Time(time(130)));
    second.timeline = TargetTimeline::Id(timeline(2));
    let (_, report) = refusal(&world, &second);
    assert!(
        report.ends_with("--target-time '2026-01-01 00:02:10.000000+00' --target-timeline 1"),
        "{report}"
    );
}

#[test]
fn a_time_ends_at_the_first_transaction_past_it_however_the_clock_stepped() {
    // Forward by an hour at second 100, back again at second 110.
    let mut world = one_timeline();
    world.0.clock_steps = vec![(1, 100, 3600), (1, 110, -3600)];
    let found = plan(&world, &to(RecoveryTarget::Time(time(130)))).unwrap();
    assert_eq!((last_xid(&found), found.expected.end), (1099, Some(lsn(100))), "the server stops there");
    // Within the newer backup: only the older one leads to a time after it, and stops within the newer one.
    world.0.clock_steps = vec![(1, 65, 3600), (1, 66, -3600)];
    let found = plan(&world, &to(RecoveryTarget::Time(time(130)))).unwrap();
    assert_eq!((found.backup.as_str(), last_xid(&found)), ("a", 1064));
    // With too much WAL to be read, only rising times are understood, and the plan says so.
    let mut short = to(RecoveryTarget::Time(time(130)));
    short.prove_bytes = 0;
    let found = plan(&world, &short).unwrap();
    assert!(found.warnings[0].contains("unless the server's clock was set back"), "{:?}", found.warnings);
}

#[test]
fn settings_that_were_raised_on_the_way_are_known() {
    let mut world = one_timeline();
    world.0.restarts = vec![(100, 500, false), (120, 200, false), (150, 900, false)];
    let raised =
        |request: &TargetRequest| plan(&world, request).unwrap().limits.map(|limits| limits.max_connections);
    assert_eq!(raised(&to(RecoveryTarget::Time(time(90)))), None);
    assert_eq!(raised(&to(RecoveryTarget::Time(time(130)))), Some(500));
    assert_eq!(raised(&to(RecoveryTarget::Lsn(lsn(110)))), Some(500));
    assert_eq!(raised(&to(RecoveryTarget::Xid(Xid::new(1130)))), Some(500));
    assert_eq!(raised(&to(RecoveryTarget::Latest)), Some(900));
    assert_eq!(raised(&to(RecoveryTarget::Immediate)), None);
}

#[test]
fn no_target_lies_behind_minimal_wal() {
    let mut world = one_timeline();
    world.0.restarts = vec![(100, 100, true), (110, 100, false)];
    for request in [
        to(RecoveryTarget::Latest),
        to(RecoveryTarget::Time(time(130))),
        to(RecoveryTarget::Lsn(lsn(130))),
        to(RecoveryTarget::Xid(Xid::new(1130))),
    ] {
        let (kind, report) = refusal(&world, &request);
        assert_eq!(kind, ErrorKind::Hole);
        assert!(report.starts_with("WAL was written with wal_level = minimal after 0/640000"), "{report}");
        assert!(report.ends_with("To recover that far: pgark recover --target-lsn 0/630000"), "{report}");
    }
    assert!(plan(&world, &to(RecoveryTarget::Lsn(lsn(99)))).is_ok(), "what the error promised");
    assert!(plan(&world, &to(RecoveryTarget::Time(time(90)))).is_ok());
    // A backup that was taken after it leads further.
    world.1.push(backup("c", 1, 115, 120));
    assert_eq!(plan(&world, &to(RecoveryTarget::Latest)).unwrap().backup, "c");
}

#[test]
fn a_timeline_without_wal_ends_with_its_parent() {
    let mut world = two_timelines();
    world.1.truncate(1);
    world.0.segments = vec![(1, 1..=4)];
    let found = plan(&world, &to(RecoveryTarget::Latest)).unwrap();
    assert_eq!(
        (last_xid(&found), found.last_segment.to_string().as_str()),
        (1079, "000000010000000000000004")
    );
    assert_eq!(found.warnings.len(), 1, "{:?}", found.warnings);
    // With the parent's copy of its first segment, more could be recovered: that copy is not served on this way.
    world.0.segments = vec![(1, 1..=5)];
    let (kind, report) = refusal(&world, &to(RecoveryTarget::Latest));
    assert_eq!(kind, ErrorKind::Hole);
    assert!(
        report.ends_with("pgark recover --target-lsn 0/550000 --exclusive --target-timeline 1"),
        "{report}"
    );
    let mut up_to_the_switch = just_before(RecoveryTarget::Lsn(lsn(85)));
    up_to_the_switch.timeline = TargetTimeline::Id(timeline(1));
    assert_eq!(
        plan(&world, &up_to_the_switch).unwrap().expected.end,
        Some(lsn(85)),
        "what the error promised"
    );
    world.0.segments = vec![(1, 1..=5), (2, 6..=9)];
    assert_eq!(
        refusal(&world, &to(RecoveryTarget::Latest)).0,
        ErrorKind::Hole,
        "its first segment is missing"
    );
}

#[test]
fn a_timeline_without_its_history_is_not_passed_over() {
    let mut world = two_timelines();
    world.1.truncate(1);
    world.0.histories.clear();
    let (kind, report) = refusal(&world, &to(RecoveryTarget::Latest));
    assert_eq!(kind, ErrorKind::Hole);
    assert!(
        report.starts_with("00000002.history is missing from the repository, but timeline 2 is stored\n"),
        "{report}"
    );
    let mut old = to(RecoveryTarget::Latest);
    old.timeline = TargetTimeline::Id(timeline(1));
    assert!(plan(&world, &old).is_ok(), "whoever names it means it");
}
