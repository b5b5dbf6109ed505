//! Positions in the WAL, and segments.

use crate::error::{Error, Result};
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

/// A byte position in the WAL of one timeline, written `high/low` in hexadecimal (`0/3000028`).
///
/// Source: PostgreSQL `access/xlogdefs.h`, `XLogRecPtr`; `0/0` is never a valid position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(NonZeroU64);

/// The size of a WAL segment in bytes: a power of two from 1 MiB to 1 GiB, set by `initdb --wal-segsize`.
///
/// Source: PostgreSQL `access/xlog_internal.h`, `IsValidWalSegSize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentSize(u32);

/// The ordinal number of a WAL segment: the position of its first byte divided by the segment size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNumber(u64);

impl Lsn {
    /// The position `bytes` after the beginning of the WAL; `None` for 0, which is invalid in PostgreSQL.
    pub const fn new(bytes: u64) -> Option<Lsn> {
        match NonZeroU64::new(bytes) {
            Some(position) => Some(Lsn(position)),
            None => None,
        }
    }

    /// The position as a number of bytes.
    pub const fn as_u64(self) -> u64 {
        self.0.get()
    }

    /// The position `bytes` later; `None` past the end of the address space.
    pub fn checked_add(self, bytes: u64) -> Option<Lsn> {
        self.0.checked_add(bytes).map(Lsn)
    }

    /// The position of the byte before this one; `None` at the first.
    pub fn previous(self) -> Option<Lsn> {
        Lsn::new(self.as_u64() - 1)
    }

    /// The segment that holds the byte at this position.
    pub fn segment(self, size: SegmentSize) -> SegmentNumber {
        SegmentNumber(self.as_u64() / size.as_u64())
    }

    /// The offset of this position within its segment, in bytes.
    pub fn segment_offset(self, size: SegmentSize) -> u32 {
        // The remainder of a division by a u32 fits into a u32.
        (self.as_u64() % size.as_u64()) as u32
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.as_u64() >> 32, self.as_u64() & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    /// Parses `high/low`: one to eight hexadecimal digits each, as PostgreSQL's type `pg_lsn`.
    fn from_str(text: &str) -> Result<Lsn> {
        let part = |digits: &str| -> Option<u64> {
            let well_formed =
                (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if well_formed { u64::from_str_radix(digits, 16).ok() } else { None }
        };
        text.split_once('/')
            .and_then(|(high, low)| Some((part(high)? << 32) | part(low)?))
            .and_then(Lsn::new)
            .ok_or_else(|| {
                Error::usage(format!("\"{text}\" is not an LSN"))
                    .hint("Specify an LSN such as 0/3000028; 0/0 is not valid.")
            })
    }
}

impl serde::Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Lsn, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl SegmentSize {
    /// The default of `initdb`, 16 MiB.
    pub const DEFAULT: SegmentSize = SegmentSize(16 << 20);

    /// The segment size of `bytes`; `None` unless it is a power of two from 1 MiB to 1 GiB.
    pub const fn new(bytes: u32) -> Option<SegmentSize> {
        if bytes.is_power_of_two() && bytes >= 1 << 20 && bytes <= 1 << 30 {
            Some(SegmentSize(bytes))
        } else {
            None
        }
    }

    /// The size in bytes.
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// The size in bytes.
    pub const fn as_u64(self) -> u64 {
        self.0 as u64
    }

    /// Number of segments that share a log number (the middle eight digits of a file name).
    pub const fn segments_per_log(self) -> u64 {
        (1 << 32) / self.as_u64()
    }
}

impl SegmentNumber {
    /// The segment with this ordinal number.
    pub const fn new(number: u64) -> SegmentNumber {
        SegmentNumber(number)
    }

    /// The ordinal number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The next segment. PostgreSQL's WAL address space ends long before this overflows.
    #[must_use]
    pub const fn next(self) -> SegmentNumber {
        SegmentNumber(self.0.saturating_add(1))
    }

    /// The previous segment; `None` for the first one.
    pub fn previous(self) -> Option<SegmentNumber> {
        self.0.checked_sub(1).map(SegmentNumber)
    }

    /// The position of the first byte of this segment; `None` for segment 0, which PostgreSQL never writes.
    pub fn start(self, size: SegmentSize) -> Option<Lsn> {
        self.0.checked_mul(size.as_u64()).and_then(Lsn::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses_as_postgresql_does() {
        for (text, value) in
            [("0/3000028", 0x300_0028), ("16/B374D848", 0x16_B374_D848), ("FFFFFFFF/0", 0xFFFF_FFFF << 32)]
        {
            let lsn: Lsn = text.parse().unwrap();
            assert_eq!(lsn.as_u64(), value);
            assert_eq!(lsn.to_string(), text);
        }
        for text in ["", "0", "0/", "/0", "0/0", "0/123456789", "g/1", "0/1/2", "+1/2", "-1/2", " 0/1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?} is no LSN");
        }
    }

    #[test]
    fn segment_sizes_are_powers_of_two_between_1_mib_and_1_gib() {
        for bytes in [1 << 20, 16 << 20, 64 << 20, 1 << 30] {
            assert!(SegmentSize::new(bytes).is_some());
        }
        for bytes in [0, 1, 1 << 19, 3 << 20, 1 << 31, u32::MAX] {
            assert!(SegmentSize::new(bytes).is_none());
        }
    }

    #[test]
    fn positions_fall_into_segments() {
        let size = SegmentSize::DEFAULT;
        let lsn = Lsn::new(0x300_0028).unwrap();
        assert_eq!(lsn.segment(size), SegmentNumber::new(3));
        assert_eq!(lsn.segment_offset(size), 0x28);
        assert_eq!(SegmentNumber::new(3).start(size).unwrap().to_string(), "0/3000000");
        assert_eq!(SegmentNumber::new(0).start(size), None);
    }
}
