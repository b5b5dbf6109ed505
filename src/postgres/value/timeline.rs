//! Timelines, and the history files that list their ancestors.

use super::lsn::{Lsn, SegmentNumber, SegmentSize};
use crate::error::{Error, Result};
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// One timeline of a cluster: 1 for a new cluster, a new one after each recovery or promotion.
///
/// `Display` prints decimal digits, as accepted by `recovery_target_timeline`; file names contain eight hexadecimal
/// digits ([`TimelineId::file_digits`]). Source: PostgreSQL `access/xlogdefs.h`, `TimeLineID`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct TimelineId(NonZeroU32);

/// The ancestors of a timeline: the content of `<timeline>.history`.
///
/// Source: PostgreSQL `access/transam/timeline.c`, `readTimeLineHistory` and `writeTimeLineHistory`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    timeline: TimelineId,
    switches: Vec<TimelineSwitch>,
}

/// A line of a history file: the ancestor `timeline` ends at `switch_point`, where the next timeline begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineSwitch {
    /// The ancestor.
    pub timeline: TimelineId,
    /// The first position that no longer belongs to the ancestor.
    pub switch_point: Lsn,
}

/// Upper limit for the size of a history file, in bytes. A line has about 60 bytes, so four thousand promotions fit.
pub const HISTORY_BYTES_MAX: usize = 256 << 10;

impl TimelineId {
    /// The timeline of every new cluster.
    pub const FIRST: TimelineId = TimelineId(NonZeroU32::MIN);

    /// The timeline with this number; `None` for 0.
    pub const fn new(number: u32) -> Option<TimelineId> {
        match NonZeroU32::new(number) {
            Some(number) => Some(TimelineId(number)),
            None => None,
        }
    }

    /// The number.
    pub const fn as_u32(self) -> u32 {
        self.0.get()
    }

    /// The eight upper-case hexadecimal digits in file names.
    pub fn file_digits(self) -> String {
        format!("{:08X}", self.as_u32())
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_u32())
    }
}

impl fmt::Debug for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TimelineId {
    type Err = Error;

    /// Parses decimal digits, or hexadecimal ones after `0x`, as `recovery_target_timeline` does.
    fn from_str(text: &str) -> Result<TimelineId> {
        let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
                u32::from_str_radix(digits, 16).ok()
            }
            None if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        };
        number.and_then(TimelineId::new).ok_or_else(|| {
            Error::usage(format!("\"{text}\" is not a timeline"))
                .hint("Specify a number from 1, such as 2 or 0x0000000A.")
        })
    }
}

impl TimelineHistory {
    /// The history of timeline 1, which has no ancestors and no history file.
    pub fn of_first() -> TimelineHistory {
        TimelineHistory::without_ancestors(TimelineId::FIRST)
    }

    /// The history of a timeline without known ancestors.
    pub fn without_ancestors(timeline: TimelineId) -> TimelineHistory {
        TimelineHistory { timeline, switches: Vec::new() }
    }

    /// Parses the content of `<timeline>.history`.
    ///
    /// Text form: a line for each ancestor, oldest first, with number, LSN and reason, separated by whitespace; `#`
    /// starts a comment. Numbers increase, positions do not decrease, and all numbers are less than `timeline`.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) for content that PostgreSQL would reject, for a file
    /// without ancestors, and for a file larger than [`HISTORY_BYTES_MAX`].
    pub fn parse(timeline: TimelineId, content: &[u8]) -> Result<TimelineHistory> {
        let damaged =
            |why: String| Error::damaged(format!("history file of timeline {timeline} is damaged: {why}"));
        if content.len() > HISTORY_BYTES_MAX {
            return Err(damaged(format!("it has {} bytes", content.len())));
        }
        // The reason may contain a restore point's name in any encoding; only the first two fields are used.
        let text = String::from_utf8_lossy(content);
        let mut switches: Vec<TimelineSwitch> = Vec::new();
        for (line, number) in text.lines().zip(1_u32..) {
            let mut fields = line.split_ascii_whitespace();
            let Some(first) = fields.next().filter(|field| !field.starts_with('#')) else { continue };
            let switch = first
                .bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| first.parse().ok().and_then(TimelineId::new))
                .flatten()
                .zip(fields.next().and_then(|field| field.parse::<Lsn>().ok()))
                .map(|(timeline, switch_point)| TimelineSwitch { timeline, switch_point })
                .ok_or_else(|| damaged(format!("line {number} is not a timeline and an LSN")))?;
            if let Some(last) = switches.last()
                && (switch.timeline <= last.timeline || switch.switch_point < last.switch_point)
            {
                return Err(damaged(format!("line {number} does not continue the line before it")));
            }
            switches.push(switch);
        }
        match switches.last() {
            None => Err(damaged("it names no ancestor".into())),
            Some(parent) if parent.timeline >= timeline => {
                Err(damaged(format!("it names timeline {} as an ancestor", parent.timeline)))
            }
            Some(_) => Ok(TimelineHistory { timeline, switches }),
        }
    }

    /// The timeline that this history describes.
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The ancestors, oldest first, each with the position at which it ends.
    pub fn switches(&self) -> &[TimelineSwitch] {
        &self.switches
    }

    /// The switch at which this timeline began; `None` for timeline 1.
    pub fn parent(&self) -> Option<TimelineSwitch> {
        self.switches.last().copied()
    }

    /// The timeline to which the byte at `position` belongs, on the path to this timeline.
    pub fn timeline_at(&self, position: Lsn) -> TimelineId {
        self.switches
            .iter()
            .find(|switch| position < switch.switch_point)
            .map_or(self.timeline, |switch| switch.timeline)
    }

    /// The timeline in the name of the segment that PostgreSQL reads on the path to this timeline: a segment with
    /// switch points is read from the newest timeline that begins in it.
    ///
    /// Source: PostgreSQL `access/transam/xlogrecovery.c`, `XLogFileReadAnyTLI`.
    pub fn timeline_of_segment(&self, segment: SegmentNumber, size: SegmentSize) -> TimelineId {
        self.switches
            .iter()
            .find(|switch| segment < switch.switch_point.segment(size))
            .map_or(self.timeline, |switch| switch.timeline)
    }

    /// The first segment with this timeline in its name; `None` for timeline 1, which begins before its first WAL.
    pub fn first_segment(&self, size: SegmentSize) -> Option<SegmentNumber> {
        self.parent().map(|parent| parent.switch_point.segment(size))
    }

    /// Whether `timeline` is this timeline or one of its ancestors.
    pub fn contains(&self, timeline: TimelineId) -> bool {
        timeline == self.timeline || self.switches.iter().any(|switch| switch.timeline == timeline)
    }

    /// The position at which `timeline` ends on the path to this one; `None` if it is this one, or not an ancestor.
    pub fn end_of(&self, timeline: TimelineId) -> Option<Lsn> {
        self.switches.iter().find(|switch| switch.timeline == timeline).map(|switch| switch.switch_point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    const THIRD: &[u8] = b"1\t0/3000148\tno recovery target specified\n\n# by hand\n2\t0/50000A0\tbefore 2026-01-01 00:00:00+00\n";

    #[test]
    fn reads_what_postgresql_writes() {
        let history = TimelineHistory::parse(timeline(3), THIRD).unwrap();
        assert_eq!(history.switches().len(), 2);
        assert_eq!(
            history.parent().unwrap(),
            TimelineSwitch { timeline: timeline(2), switch_point: lsn("0/50000A0") }
        );
        assert!(
            history.contains(timeline(1)) && history.contains(timeline(3)) && !history.contains(timeline(4))
        );
    }

    #[test]
    fn knows_the_timeline_of_each_byte_and_each_segment() {
        let history = TimelineHistory::parse(timeline(3), THIRD).unwrap();
        assert_eq!(history.timeline_at(lsn("0/3000147")), timeline(1));
        assert_eq!(history.timeline_at(lsn("0/3000148")), timeline(2));
        assert_eq!(history.timeline_at(lsn("0/50000A0")), timeline(3));
        let size = SegmentSize::DEFAULT;
        let of = |number| history.timeline_of_segment(SegmentNumber::new(number), size).as_u32();
        assert_eq!([of(2), of(3), of(4), of(5), of(6)], [1, 2, 2, 3, 3]);
        assert_eq!(history.first_segment(size), Some(SegmentNumber::new(5)));
    }

    #[test]
    fn refuses_what_postgresql_would_refuse() {
        for content in [
            &b""[..],
            b"# nothing\n",
            b"1\n",
            b"x\t0/1\n",
            b"0\t0/1\tr\n",
            b"1\t0/0\tr\n",
            b"2\t0/1\tr\n1\t0/2\tr\n",
            b"1\t0/5\tr\n2\t0/4\tr\n",
            b"3\t0/1\tr\n",
        ] {
            assert!(
                TimelineHistory::parse(timeline(3), content).is_err(),
                "{:?}",
                String::from_utf8_lossy(content)
            );
        }
    }

    #[test]
    fn timelines_are_decimal_in_settings_and_hexadecimal_in_names() {
        assert_eq!("0x0A".parse::<TimelineId>().unwrap(), timeline(10));
        assert_eq!("10".parse::<TimelineId>().unwrap().file_digits(), "0000000A");
        assert_eq!(timeline(u32::MAX - 1).file_digits(), "FFFFFFFE");
        for text in ["0", "", "-1", "+1", "0x", "latest", "4294967296"] {
            assert!(text.parse::<TimelineId>().is_err(), "{text:?}");
        }
    }
}
