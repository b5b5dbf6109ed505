//! Every small archive with up to three timelines, every hole in it, every way. A model that knows what was lost judges
//! what PostgreSQL makes of the answers.
//!
//! The model does not use the rules under test. It knows everything that was ever written, and that a stored file
//! proves whatever had to exist before it could be written.

use super::absence::{ArchiveEnd, divergence, judge_segment};
use super::held::PathWal;
use super::made_up::MadeUpCatalog;
use super::timeline_path::TimelinePath;
use crate::postgres::{SegmentName, SegmentNumber, TimelineHistory, TimelineId};
use std::collections::BTreeSet;

/// Where a recovery begins: the first segment of timeline 1.
const FIRST: u64 = 1;

/// What was written, before anything was lost.
#[derive(Clone, Debug)]
struct Shape {
    /// The content of the history files, by timeline.
    histories: Vec<(u32, String)>,
    /// The segments, as (timeline, number).
    written: Vec<(u32, u64)>,
}

/// The end of a recovery.
#[derive(Debug, PartialEq, Eq)]
enum RecoveryEnd {
    /// Promotion, after reading all segments before this one.
    Promoted { next: u64 },
    /// `archive-get` stopped it at the request for this segment.
    Stopped { at: u64 },
}

/// Timeline 1 alone; 2 from 1; 3 from 1 or from 2; ancestors that ended at the switch or continued.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    let last_of_first = 6;
    let segments = |timeline: u32, from: u64, to: u64| (from..=to).map(move |number| (timeline, number));
    shapes.push(Shape { histories: vec![], written: segments(1, FIRST, last_of_first).collect() });
    for switch in 2..=last_of_first {
        for goes_on in [0, 2] {
            for length in [0, 1, 3] {
                let second_end = switch + length;
                let mut written: Vec<_> = segments(1, FIRST, switch - 1 + goes_on).collect();
                written.extend(segments(2, switch, second_end).take(length as usize));
                let second = format!("1 0/{switch}00100 x\n");
                let two = Shape { histories: vec![(2, second.clone())], written };
                shapes.push(two.clone());
                if length == 0 {
                    continue;
                }
                for (parent, third_switch) in [(2, switch), (2, second_end), (1, switch.saturating_sub(1))] {
                    if parent == 1 && third_switch < 2 {
                        continue;
                    }
                    for third_length in [0, 2] {
                        let mut three = two.clone();
                        let history = match parent {
                            2 => format!("{second}2 0/{third_switch}00200 x\n"),
                            _ => format!("1 0/{third_switch}00050 x\n"),
                        };
                        three.histories.push((3, history));
                        let third = segments(3, third_switch, third_switch + third_length);
                        three.written.extend(third.take(third_length as usize));
                        shapes.push(three);
                    }
                }
            }
        }
    }
    shapes
}

/// Every set of consecutive segments of one timeline that may be lost together.
fn holes(shape: &Shape) -> Vec<BTreeSet<(u32, u64)>> {
    let mut holes = vec![BTreeSet::new()];
    for &(timeline, from) in &shape.written {
        for length in 1..=3 {
            let hole: BTreeSet<_> = shape
                .written
                .iter()
                .copied()
                .filter(|(on, number)| *on == timeline && (from..from + length).contains(number))
                .collect();
            if hole.len() as u64 == length {
                holes.push(hole);
            }
        }
    }
    holes
}

fn name(timeline: TimelineId, number: u64) -> SegmentName {
    SegmentName::new(timeline, SegmentNumber::new(number), MadeUpCatalog::size()).unwrap()
}

/// What PostgreSQL reads on the way to a timeline, and where it stops, given the answers of `archive-get`.
///
/// Source: PostgreSQL `access/transam/xlogrecovery.c`, `XLogFileReadAnyTLI`: for each segment it asks for the timelines
/// of the way, the newest first, omits those that begin later, and never returns to an older one.
fn recover(catalog: &MadeUpCatalog, history: &TimelineHistory, read: &mut Vec<SegmentName>) -> RecoveryEnd {
    let size = MadeUpCatalog::size();
    let destination = history.timeline();
    let mut way: Vec<(TimelineId, u64)> = vec![(TimelineId::FIRST, 0)];
    let mut switches = history.switches().iter().peekable();
    while let Some(switch) = switches.next() {
        let next = switches.peek().map_or(destination, |next| next.timeline);
        way.push((next, switch.switch_point.segment(size).as_u64()));
    }
    let mut reading = TimelineId::FIRST;
    'segments: for number in FIRST.. {
        for &(timeline, begins) in way.iter().rev() {
            if timeline < reading {
                break;
            }
            if number < begins {
                continue;
            }
            let asked = name(timeline, number);
            let off_the_way = divergence(catalog, destination, asked, size).unwrap().is_some();
            if catalog.holds(asked) {
                if off_the_way {
                    return RecoveryEnd::Stopped { at: number };
                }
                read.push(asked);
                reading = timeline;
                continue 'segments;
            }
            if !off_the_way
                && judge_segment(catalog, Some(destination), asked, size).unwrap() != ArchiveEnd::End
            {
                return RecoveryEnd::Stopped { at: number };
            }
        }
        return RecoveryEnd::Promoted { next: number };
    }
    unreachable!()
}

/// How the recovery must end, and what it must have read.
fn model(
    shape: &Shape,
    lost: &BTreeSet<(u32, u64)>,
    history: &TimelineHistory,
) -> (RecoveryEnd, Vec<SegmentName>) {
    let size = MadeUpCatalog::size();
    let stored = |timeline: u32, number: u64| {
        shape.written.contains(&(timeline, number)) && !lost.contains(&(timeline, number))
    };
    let on_the_way = |number: u64| {
        let switches = history.switches();
        let of = switches.iter().find(|switch| number < switch.switch_point.segment(size).as_u64());
        of.map_or(history.timeline(), |switch| switch.timeline).as_u32()
    };
    // Whatever is stored proves that what had to be written before it existed.
    let proven = |timeline: u32, number: u64| {
        let by_later =
            shape.written.iter().any(|&(on, later)| on == timeline && later > number && stored(on, later));
        let is_destination = timeline == history.timeline().as_u32();
        let by_switch = shape.histories.iter().any(|(newer, text)| {
            let newer = TimelineHistory::parse(TimelineId::new(*newer).unwrap(), text.as_bytes()).unwrap();
            let relevant = is_destination || newer.timeline() == history.timeline();
            let left = newer.end_of(TimelineId::new(timeline).unwrap());
            relevant && left.is_some_and(|left| number < left.segment(size).as_u64())
        });
        by_later || by_switch
    };
    let mut read = Vec::new();
    for number in FIRST.. {
        let timeline = on_the_way(number);
        if stored(timeline, number) {
            read.push(name(TimelineId::new(timeline).unwrap(), number));
            continue;
        }
        if proven(timeline, number) {
            return (RecoveryEnd::Stopped { at: number }, read);
        }
        // The parents' copies of the segment in which they were left must not be read, and must not be lost silently.
        let ancestors = history.switches().iter().filter(|switch| {
            switch.switch_point.segment(size).as_u64() == number
                && read.last().is_none_or(|last| last.timeline() <= switch.timeline)
        });
        let is_held_by_a_parent =
            ancestors.into_iter().any(|switch| stored(switch.timeline.as_u32(), number));
        let end = if is_held_by_a_parent {
            RecoveryEnd::Stopped { at: number }
        } else {
            RecoveryEnd::Promoted { next: number }
        };
        return (end, read);
    }
    unreachable!()
}

/// The archive of a shape without what was lost.
fn archive(shape: &Shape, lost: &BTreeSet<(u32, u64)>) -> MadeUpCatalog {
    let histories: Vec<(u32, &str)> =
        shape.histories.iter().map(|(timeline, text)| (*timeline, text.as_str())).collect();
    let stored: Vec<(u32, u64)> =
        shape.written.iter().copied().filter(|segment| !lost.contains(segment)).collect();
    MadeUpCatalog::new(&histories, &stored)
}

#[test]
fn no_recovery_ends_early_or_leaves_its_path() {
    let mut cells = 0;
    for shape in shapes() {
        for lost in holes(&shape) {
            let catalog = archive(&shape, &lost);
            for timeline in 1..=1 + shape.histories.len() as u32 {
                let history = catalog.history_of(timeline);
                let mut read = Vec::new();
                let end = recover(&catalog, &history, &mut read);
                let (expected, expected_read) = model(&shape, &lost, &history);
                assert_eq!(
                    (&end, &read),
                    (&expected, &expected_read),
                    "to {timeline}: {shape:?} without {lost:?}"
                );
                cells += 1;

                // Planning finds the same: how far the WAL can be read, and whether something is missing there.
                let path = TimelinePath::find(&catalog, history, MadeUpCatalog::size()).unwrap();
                let wal = PathWal::find(path, SegmentNumber::new(FIRST), &catalog).unwrap();
                let readable = wal.readable().map_or(FIRST, |run| run.last.as_u64() + 1);
                assert_eq!(readable, FIRST + read.len() as u64, "to {timeline}: {shape:?} without {lost:?}");
                if let Some(gap) = wal.gap() {
                    assert_eq!(
                        end,
                        RecoveryEnd::Stopped { at: gap.first.as_u64() },
                        "{shape:?} without {lost:?}"
                    );
                } else if let RecoveryEnd::Stopped { at } = end {
                    assert!(
                        wal.path().history().switches().iter().any(|switch| {
                            switch.switch_point.segment(MadeUpCatalog::size()).as_u64() == at
                        }),
                        "{at} to {timeline}: {shape:?} without {lost:?}"
                    );
                }
            }
        }
    }
    assert!(cells > 3000, "{cells}");
}
