//! The names of the files that PostgreSQL archives, and one more kind that pgark adds.

use crate::error::{Error, Result};
use crate::postgres::value::lsn::{Lsn, SegmentNumber, SegmentSize};
use crate::postgres::value::timeline::TimelineId;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// The name of a complete WAL segment: 24 upper-case hexadecimal digits (timeline, log, segment).
///
/// The segment size determines which bytes of the WAL it contains. Source: PostgreSQL `access/xlog_internal.h`,
/// `XLogFileName`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    timeline: TimelineId,
    log: u32,
    segment: u32,
}

/// The name of a file in the archive: the four forms that PostgreSQL archives or requests, and one of pgark's own.
///
/// Names are ordered as PostgreSQL archives them: history files first, then by the bytes of the name. Source: PostgreSQL
/// `access/xlog_internal.h`, `IsXLogFileName` and following; `postmaster/pgarch.c`, `ready_file_comparator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WalFileName {
    /// `000000010000000000000003`: a complete segment.
    Segment(SegmentName),
    /// `000000010000000000000003.partial`: the last, incomplete segment of a timeline at a promotion.
    Partial(SegmentName),
    /// `000000010000000000000003.partial.0123456789abcdef`: a partial segment that arrived after a different one of the
    /// same name, with the first eight bytes of its BLAKE3 digest. PostgreSQL does not know this form.
    FurtherPartial(SegmentName, u64),
    /// `00000002.history`: the ancestors of a timeline.
    History(TimelineId),
    /// `000000010000000000000003.00000028.backup`: the start point of a base backup, as an offset in a segment.
    BackupHistory(SegmentName, u32),
}

impl SegmentName {
    /// The name of segment `number` on `timeline`; `None` past the last log number.
    pub fn new(timeline: TimelineId, number: SegmentNumber, size: SegmentSize) -> Option<SegmentName> {
        let per_log = size.segments_per_log();
        let log = u32::try_from(number.as_u64() / per_log).ok()?;
        let segment = u32::try_from(number.as_u64() % per_log).ok()?;
        Some(SegmentName { timeline, log, segment })
    }

    /// The name of the segment of `timeline` that holds the byte at `position`.
    pub fn holding(timeline: TimelineId, position: Lsn, size: SegmentSize) -> SegmentName {
        // A position divided by the segment size cannot have a log number above 32 bits.
        let number = position.segment(size).as_u64();
        let per_log = size.segments_per_log();
        SegmentName { timeline, log: (number / per_log) as u32, segment: (number % per_log) as u32 }
    }

    /// The timeline, the first eight digits.
    pub fn timeline(self) -> TimelineId {
        self.timeline
    }

    /// The log number, the middle eight digits.
    pub fn log(self) -> u32 {
        self.log
    }

    /// Whether this name directly follows `other` in the same log; the result does not depend on the segment size.
    pub fn follows(self, other: SegmentName) -> bool {
        self.is_beside(other) && other.segment.checked_add(1) == Some(self.segment)
    }

    /// The name halfway between this one and a later one of the same log; this one if there is none between them.
    #[must_use]
    pub fn middle(self, later: SegmentName) -> SegmentName {
        let distance = if self.is_beside(later) { later.segment.saturating_sub(self.segment) } else { 0 };
        SegmentName { segment: self.segment + distance / 2, ..self }
    }

    fn is_beside(self, other: SegmentName) -> bool {
        (self.timeline, self.log) == (other.timeline, other.log)
    }

    /// The ordinal number of the segment; `None` if the last eight digits are too large for this segment size.
    pub fn number(self, size: SegmentSize) -> Option<SegmentNumber> {
        let per_log = size.segments_per_log();
        (u64::from(self.segment) < per_log)
            .then(|| SegmentNumber::new(u64::from(self.log) * per_log + u64::from(self.segment)))
    }
}

impl WalFileName {
    /// The segment in the name of a segment, partial segment or backup history file.
    pub fn segment(self) -> Option<SegmentName> {
        match self {
            WalFileName::Segment(segment)
            | WalFileName::Partial(segment)
            | WalFileName::FurtherPartial(segment, _)
            | WalFileName::BackupHistory(segment, _) => Some(segment),
            WalFileName::History(_) => None,
        }
    }

    /// The timeline in the name.
    pub fn timeline(self) -> TimelineId {
        match self {
            WalFileName::History(timeline) => timeline,
            WalFileName::Segment(segment)
            | WalFileName::Partial(segment)
            | WalFileName::FurtherPartial(segment, _)
            | WalFileName::BackupHistory(segment, _) => segment.timeline,
        }
    }

    /// Whether PostgreSQL archives files with such names.
    pub fn is_of_postgresql(self) -> bool {
        !matches!(self, WalFileName::FurtherPartial(..))
    }
}

impl Ord for WalFileName {
    fn cmp(&self, other: &WalFileName) -> Ordering {
        // `None` comes first. A name that extends another one follows it, and digits precede letters.
        let key = |name: &WalFileName| match *name {
            WalFileName::History(timeline) => (None, timeline, 0, 0),
            WalFileName::Segment(segment) => (Some(segment), segment.timeline, 0, 0),
            WalFileName::BackupHistory(segment, offset) => {
                (Some(segment), segment.timeline, 1, u64::from(offset))
            }
            WalFileName::Partial(segment) => (Some(segment), segment.timeline, 2, 0),
            WalFileName::FurtherPartial(segment, digest) => (Some(segment), segment.timeline, 3, digest),
        };
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for WalFileName {
    fn partial_cmp(&self, other: &WalFileName) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.as_u32(), self.log, self.segment)
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalFileName::Segment(segment) => write!(f, "{segment}"),
            WalFileName::Partial(segment) => write!(f, "{segment}.partial"),
            WalFileName::FurtherPartial(segment, digest) => write!(f, "{segment}.partial.{digest:016x}"),
            WalFileName::History(timeline) => write!(f, "{}.history", timeline.file_digits()),
            WalFileName::BackupHistory(segment, offset) => write!(f, "{segment}.{offset:08X}.backup"),
        }
    }
}

/// Exactly eight upper-case hexadecimal digits, as PostgreSQL writes them.
fn eight_digits(text: &str) -> Option<u32> {
    let well_formed = text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    if well_formed { u32::from_str_radix(text, 16).ok() } else { None }
}

/// Exactly sixteen lower-case hexadecimal digits, as in pgark's digests.
fn sixteen_digits(text: &str) -> Option<u64> {
    let well_formed = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if well_formed { u64::from_str_radix(text, 16).ok() } else { None }
}

fn segment_name(text: &str) -> Option<SegmentName> {
    let timeline = TimelineId::new(eight_digits(text.get(0..8)?)?)?;
    Some(SegmentName {
        timeline,
        log: eight_digits(text.get(8..16)?)?,
        segment: eight_digits(text.get(16..)?)?,
    })
}

fn wal_file_name(text: &str) -> Option<WalFileName> {
    let mut parts = text.split('.');
    let stem = parts.next()?;
    match (parts.next(), parts.next(), parts.next()) {
        (None, _, _) => segment_name(stem).map(WalFileName::Segment),
        (Some("partial"), None, _) => segment_name(stem).map(WalFileName::Partial),
        (Some("partial"), Some(digest), None) => {
            Some(WalFileName::FurtherPartial(segment_name(stem)?, sixteen_digits(digest)?))
        }
        (Some("history"), None, _) => eight_digits(stem).and_then(TimelineId::new).map(WalFileName::History),
        (Some(offset), Some("backup"), None) => {
            Some(WalFileName::BackupHistory(segment_name(stem)?, eight_digits(offset)?))
        }
        _ => None,
    }
}

impl FromStr for SegmentName {
    type Err = Error;

    fn from_str(text: &str) -> Result<SegmentName> {
        segment_name(text).ok_or_else(|| Error::usage(format!("\"{text}\" is not the name of a WAL segment")))
    }
}

impl FromStr for WalFileName {
    type Err = Error;

    fn from_str(text: &str) -> Result<WalFileName> {
        wal_file_name(text).ok_or_else(|| {
            Error::usage(format!("\"{text}\" is not the name of a file that PostgreSQL archives"))
                .hint("WAL segments have 24 upper-case hexadecimal digits, history files 8 and \".history\".")
        })
    }
}

/// Serializes the name as text.
macro_rules! serialize_as_text {
    ($($name:ty),*) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<$name, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

serialize_as_text!(SegmentName, WalFileName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ordered_as_postgresql_archives_them() {
        let names = [
            "00000002.history",
            "0000000A.history",
            "000000010000000000000003",
            "000000010000000000000003.00000028.backup",
            "000000010000000000000003.000000A0.backup",
            "000000010000000000000003.partial",
            "000000010000000000000003.partial.0123456789abcdef",
            "000000010000000000000003.partial.1123456789abcdef",
            "000000010000000000000004",
            "000000010000000100000000",
            "000000020000000000000003",
        ];
        let parsed: Vec<WalFileName> = names.iter().map(|name| name.parse().unwrap()).collect();
        for (index, name) in parsed.iter().enumerate() {
            for (other_index, other) in parsed.iter().enumerate() {
                assert_eq!(name.cmp(other), index.cmp(&other_index), "{name} {other}");
            }
        }
        assert!(names.get(2..).unwrap().is_sorted(), "that is the order of the names' bytes");
    }

    #[test]
    fn every_form_round_trips() {
        for text in [
            "000000010000000000000003",
            "FFFFFFFE000000AB000000FF.partial",
            "FFFFFFFE000000AB000000FF.partial.00f3456789abcdef",
            "0000000A.history",
            "000000010000000000000003.00000028.backup",
        ] {
            assert_eq!(text.parse::<WalFileName>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_every_other_name() {
        for text in [
            "",
            "00000001000000000000000",
            "0000000100000000000000033",
            "00000001000000000000000a",
            "000000000000000000000003",
            "00000000.history",
            "000000010000000000000003.part",
            "000000010000000000000003.partial.partial",
            "000000010000000000000003.partial.0123456789ABCDEF",
            "000000010000000000000003.partial.0123456789abcde",
            "000000010000000000000003.partial.0123456789abcdef.x",
            "000000010000000000000003.28.backup",
            "000000010000000000000003.00000028.backup.x",
            "../000000010000000000000003",
            "0000002.history",
            "00000002.history.tmp",
            "+0000001000000000000000+3",
            "ééééééééÉÉÉÉ",
        ] {
            assert!(text.parse::<WalFileName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn numbers_follow_the_segment_size() {
        for (mib, name, number) in [
            (16, "0000000100000000000000FF", 0xFF),
            (16, "000000010000000100000000", 0x100),
            (64, "00000001000000010000003F", 0x7F),
            (1, "000000010000000100000FFF", 0x1FFF),
            (1024, "000000010000000200000003", 11),
        ] {
            let size = SegmentSize::new(mib << 20).unwrap();
            let parsed: SegmentName = name.parse().unwrap();
            assert_eq!(parsed.number(size).unwrap().as_u64(), number, "{name} at {mib} MiB");
            assert_eq!(
                SegmentName::new(TimelineId::FIRST, SegmentNumber::new(number), size).unwrap(),
                parsed
            );
        }
        let beyond: SegmentName = "000000010000000000000100".parse().unwrap();
        assert_eq!(beyond.number(SegmentSize::DEFAULT), None, "16 MiB segments end at FF");
    }
}
